//! Durations that are as large as can be: what they bound never ends by itself, and nothing overflows.

use std::time::Duration;

use tidewheel::{Limits, services::echo::Echo};

use super::{Burst, assert_served};
use crate::harness::{Served, any_tcp, ask, listen, read_to_end, tcp, with};

#[test]
fn they_never_come() {
    for ever in [
        Duration::MAX,
        Duration::from_secs(u64::MAX),
        Duration::from_millis(u64::MAX),
        Duration::from_secs(1 << 32),
    ] {
        let limits = with!(
            Limits::default(),
            idle_timeout = Some(ever),
            read_deadline = Some(ever),
            progress_timeout = Some(ever),
            connect_timeout = Some(ever),
            linger_timeout = ever,
            output_soft_grace = ever,
            linger_time_max = ever,
            failure_pause = ever,
            failure_timeout = ever
        );
        let served = Served::start_to_drain(limits, |reactor| {
            let burst = Burst { bytes: b"goodbye".to_vec(), closes: true };
            vec![listen(reactor, Echo, &any_tcp()), listen(reactor, burst, &any_tcp())]
        });
        let mut stream = tcp(&served.addresses[0]);
        assert_served(&mut stream);
        // One that lingers as long as it may.
        let mut lingers = tcp(&served.addresses[1]);
        ask(&mut lingers, b"hello", b"goodbye");
        assert_eq!(read_to_end(&mut lingers).0, b"");
        assert_served(&mut stream);
        drop((stream, lingers));
        served.await_metrics("both are gone", |metrics| metrics.connections_open == 0);
        served.stop();
    }
}
