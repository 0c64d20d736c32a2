//! What connections leave behind: nothing. Alone in its process, as descriptors are the process's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![forbid(unsafe_code)]

mod support;

use std::net::{Ipv4Addr, TcpListener};

use smoltcp::socket::tcp::State;
use support::Guest;

/// In all, and how many at a time.
const CONNECTIONS: usize = 1000;
const AT_A_TIME: usize = 50;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::new(&[]);
    let before = descriptors();
    for round in 0..CONNECTIONS / AT_A_TIME {
        let handles: Vec<_> = (0..AT_A_TIME).map(|_| guest.connect(port)).collect();
        let mut peers = Vec::new();
        for handle in &handles {
            guest.until(|guest| guest.tcp(*handle).may_send().then_some(()));
            peers.push(listener.accept().unwrap().0);
        }
        assert_eq!(guest.net.counts().connections, AT_A_TIME);
        // Each of the ways in which they end.
        let peer_first = round % 3 == 0;
        if peer_first {
            peers.clear();
        }
        for (handle, number) in handles.iter().zip(0..) {
            match (round % 3, number % 2) {
                (2, 0) => guest.tcp(*handle).abort(),
                (0, _) => {
                    guest.until(|guest| {
                        (guest.tcp(*handle).state() == State::CloseWait).then_some(())
                    });
                    guest.tcp(*handle).close();
                }
                _ => guest.tcp(*handle).close(),
            }
        }
        guest.rest();
        peers.clear();
        guest.until(|guest| (guest.net.counts().connections == 0).then_some(()));
        guest.rest();
        for handle in handles {
            guest.sockets.remove(handle);
        }
    }
    let counts = guest.net.counts();
    assert_eq!((counts.opened, counts.closed), (1000, 1000));
    assert_eq!(descriptors(), before);
}
