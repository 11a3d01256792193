//! What is asked of a connection that has ended, or whose end was asked for, does nothing and is counted.

use std::time::Duration;

use tidewheel::sim::{Faults, Reach, Sim};
use tidewheel::{Address, ConnId, Context, Limits, Options, Shared};

use super::{Notebook, assert_nothing_leaks, simulate};

#[test]
fn what_is_asked_of_a_connection_that_has_ended_or_is_to_end_is_counted() {
    type Effect = fn(ConnId, &mut Context<'_>);
    const EFFECTS: [(&str, Effect); 10] = [
        ("send", |conn, cx| cx.send(conn, b"late")),
        ("a long send", |conn, cx| cx.send(conn, &[b'l'; 100_000])),
        ("send_shared", |conn, cx| cx.send_shared(conn, &Shared::from(&b"late"[..]))),
        ("half_close", |conn, cx| cx.half_close(conn)),
        ("pause", |conn, cx| cx.pause(conn)),
        ("resume", |conn, cx| cx.resume(conn)),
        ("offer_again", |conn, cx| cx.offer_again(conn)),
        ("set_deadline", |conn, cx| cx.set_deadline(conn, cx.now())),
        ("notify_writable", |conn, cx| cx.notify_writable(conn)),
        ("subscribe", |conn, cx| {
            let topic = cx.create_topic();
            cx.subscribe(topic, conn);
        }),
    ];
    for (name, effect) in EFFECTS {
        let mut sim = simulate(1, Faults::none(), Limits::default());
        let notebook = sim.listen("127.0.0.1:7", Notebook::default());
        let stale = |sim: &mut Sim, at: &str, count: u64| {
            assert_eq!(sim.metrics().stale_effects, count, "{name} {at}");
        };
        sim.connect(notebook);
        sim.settle();
        sim.reactor().with(notebook.service, |notebook: &mut Notebook, cx| {
            let conn = notebook.last.unwrap();
            effect(conn, cx);
            cx.close(conn);
            effect(conn, cx);
        });
        stale(&mut sim, "behind close", 1);
        sim.run();
        stale(&mut sim, "later", 1);
        sim.reactor().with(notebook.service, |notebook: &mut Notebook, cx| {
            effect(notebook.last.unwrap(), cx);
        });
        stale(&mut sim, "when it is gone", 2);
        assert_nothing_leaks(&mut sim, 1);
    }
}

#[test]
fn a_deadline_of_a_connection_that_is_not_established_is_counted_as_without_effect() {
    let mut sim = simulate(1, Faults::none(), Limits::default());
    sim.remote("192.0.2.1:80", Reach::Silent);
    let notebook = sim.reactor().add_service(Notebook::default(), Options::new("notebook"));
    sim.reactor().with(notebook, |_: &mut Notebook, cx| {
        let conn = cx.connect(Address::Tcp(([192, 0, 2, 1], 80).into()), notebook);
        cx.set_deadline(conn, cx.now() + Duration::from_secs(1));
        cx.clear_deadline(conn);
    });
    sim.run();
    assert_eq!(sim.metrics().stale_effects, 1);
    assert_eq!(Notebook::of(&mut sim, notebook).0, ["closed: connect_timeout"]);
}
