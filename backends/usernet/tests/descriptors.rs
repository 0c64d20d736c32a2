//! A host without a descriptor for another connection. Alone in its process, as descriptors are the
//! process's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod support;

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::Guest;

#[test]
fn a_connection_waits_for_a_descriptor_and_the_loop_does_not() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut guest = Guest::new(&[&format!("tcp:{port}:22")]);
    let handle = guest.socket();
    guest.tcp(handle).listen(22).unwrap();
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();

    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..before }).unwrap();
    let all: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(all.len() < 64);
    let busy = (0..20).filter(|_| guest.event_loop.turn()).count();
    assert!((1..4).contains(&busy), "{busy} turns of 20 had something to do");
    assert_eq!(guest.net.counts().connections, 0);

    drop(all);
    guest.clock.step_ns(1_000_000_000);
    guest.until(|guest| guest.tcp(handle).may_send().then_some(()));
    setrlimit(Resource::Nofile, before).unwrap();
}
