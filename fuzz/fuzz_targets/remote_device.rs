//! The VMM's end of a channel under whatever a device sends: `cargo +nightly fuzz run remote_device`.
//!
//! The first byte says what a full channel does and whether commands have ids, each further one what
//! happens: so many bytes of the rest arrive, or the guest makes an access, or a vCPU is called away, and may
//! not come back.

#![no_main]
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use trapline_device::{Requester, Size};
use trapline_remote::{Ends, Link, LinkOptions, WhenFull};
use trapline::{Answer, Channel, Forwarded, Waiter};

struct CalledAway;

impl Waiter for CalledAway {
    fn is_wanted(&self) -> bool {
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    theirs.set_nonblocking(true).unwrap();
    let Ok(ends) = Ends::socket(OwnedFd::from(ours)) else { return };
    let options = LinkOptions {
        reply_patience: Some(Duration::ZERO),
        post_patience: Duration::ZERO,
        when_full: if bytes.first().is_some_and(|b| b & 1 == 0) { WhenFull::Drop } else { WhenFull::Dead },
        ids: bytes.first().is_some_and(|b| b & 2 != 0),
        ..LinkOptions::default()
    };
    let link = Link::new(ends, options);
    let mut rest = bytes.get(1..).unwrap_or_default();
    while let Some((action, after)) = rest.split_first() {
        rest = after;
        let access = Forwarded {
            requester: Requester::Vcpu(u32::from(action >> 6)),
            user_data: u64::from(*action),
            offset: 0,
            size: [None, Some(Size::Byte), Some(Size::Dword), Some(Size::Qword)]
                [usize::from(action >> 3 & 3)],
            posted: action & 0x20 != 0,
            more: action & 0x40 != 0,
        };
        match action & 7 {
            0 | 1 => {
                let count = rest.len().min(usize::from(action >> 3));
                let (now, later) = rest.split_at(count);
                let _ = std::io::Write::write(&mut &theirs, now);
                rest = later;
            }
            2 => {
                let mut sink = [0; 4096];
                let _ = std::io::Read::read(&mut &theirs, &mut sink);
            }
            3 => drop(link.write(&access, 1, None)),
            4 => drop(link.read(&Forwarded { posted: false, ..access }, None)),
            5 if access.posted => link.forget(access.requester),
            5 => link.cancel(access.user_data),
            6 => {
                let answer = link.read(&Forwarded { posted: false, ..access }, Some(&CalledAway));
                assert!(link.is_alive() || answer != Answer::Interrupted);
            }
            _ => link.flush(),
        }
    }
    let stats = link.stats();
    assert!(stats.deaths <= 1 && link.is_alive() == (stats.deaths == 0));
});
