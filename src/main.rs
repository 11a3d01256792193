fn main() {
    let mut reactor = tidewheel::Reactor::new(tidewheel::Limits::default()).unwrap();
    let echo = reactor.add_service(
        tidewheel::services::echo::Echo,
        tidewheel::Options { messages: false, ..tidewheel::Options::new("echo") },
    );
    let port: u16 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(0);
    let (_, a) = reactor.listen(&tidewheel::Address::Tcp(([127, 0, 0, 1], port).into()), echo).unwrap();
    println!("listening echo {a}");
    let (_, a) = reactor.listen(&tidewheel::Address::Udp(([127, 0, 0, 1], port).into()), echo).unwrap();
    println!("listening echo {a}\nready");
    reactor.run().unwrap();
}
