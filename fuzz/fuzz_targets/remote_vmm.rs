//! The device's end of a channel under whatever a VMM sends: `cargo +nightly fuzz run remote_vmm`.
//!
//! All bytes are sent at once, to a UART and a clock; the responses are thrown away.

#![no_main]
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use trapline_device::{CharBackend, Line};
use trapline_platform::rtc::{CmosConfig, Rtc};
use trapline_platform::serial::Serial;
use trapline_remote::{Ends, Server};
use trapline_testkit::TestClock;

struct Nowhere;

impl CharBackend for Nowhere {
    fn transmit(&self, data: &[u8]) -> usize {
        data.len()
    }

    fn receive(&self, _buf: &mut [u8]) -> usize {
        0
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok((ours, mut theirs)) = UnixStream::pair() else { return };
    let reader = theirs.try_clone().unwrap();
    let clock = Arc::new(TestClock::default());
    let mut server = Server::new();
    let uart = Serial::new(Arc::new(Nowhere), Line::unconnected(), clock.clone());
    server.region(0, 8, uart).unwrap();
    let cmos = CmosConfig { below_4g: 0, above_4g: 0, cpus: 1 };
    server.region(1, 2, Rtc::new(Line::unconnected(), clock, cmos)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut sink = [0; 4096];
            while (&reader).read(&mut sink).is_ok_and(|n| n > 0) {}
        });
        scope.spawn(move || {
            let _ = theirs.write_all(bytes);
            let _ = theirs.shutdown(Shutdown::Write);
        });
        let ends = Ends::socket(OwnedFd::from(ours)).unwrap();
        let _ended = server.serve(&ends, None);
        drop(ends);
    });
});
