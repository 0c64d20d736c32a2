//! A tap of the host's kernel, where there are any and this process may have one.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use trapline_guestmem::GuestMem;
use trapline_testkit::event_loop;

use super::*;
use crate::{HEADER_LEN, PACKET_MAX};

fn options(source: TapSource) -> TapOptions {
    TapOptions { source, pairs: 1, script: None, downscript: None, host_mac: None }
}

/// Opens a tap, or says why this cannot be tried.
fn open(options: &TapOptions) -> Option<Arc<Tap>> {
    match Tap::open(options, &*event_loop()) {
        Ok(tap) => Some(tap),
        Err(error) if matches!(error.raw_os_error(), Some(1 | 2 | 13 | 19)) => {
            eprintln!("SKIPPED: no tap can be had here: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the kernel says of an interface.
fn sys(name: &str, file: &str) -> String {
    let path = format!("/sys/class/net/{name}/{file}");
    std::fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

#[test]
fn a_new_tap_has_an_address_is_up_and_carries_frames() {
    let mac = Mac([2, 1, 1, 1, 1, 1]);
    let new = TapSource::New([198, 18, 33, 1]);
    let Some(tap) = open(&TapOptions { host_mac: Some(mac), ..options(new) }) else { return };
    assert_eq!(sys(tap.name(), "address"), mac.to_string());
    assert!(u32::from_str_radix(&sys(tap.name(), "flags")[2..], 16).unwrap() & 1 != 0, "up");
    // Who asks for it gets an answer: frames go both ways.
    let ours = [2, 0x15, 0x15, 0x15, 0x15, 0x15];
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
    let request =
        [&[0xff; 6], &ours[..], &head, &ours, &[198, 18, 33, 2], &[0; 6], &[198, 18, 33, 1]]
            .concat();
    let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
    mem.write(0x100, &request).unwrap();
    let mut frame = Buffers::new(&mem);
    frame.push(0x100, 20).unwrap();
    frame.push(0x114, request.len() - 20).unwrap();
    tap.send(0, &Header::default(), &mut frame).unwrap();
    let mut packet = vec![0; PACKET_MAX];
    let mut frames =
        std::iter::repeat_with(|| tap.receive(0, &mut packet).map(|len| packet[..len].to_vec()));
    // The kernel itself has things to say, too; it has answered before the request was written.
    let answer = frames.find_map(|frame| {
        let frame = frame.unwrap();
        (frame[HEADER_LEN + 12..][..2] == [8, 6] && frame[HEADER_LEN + 21] == 2).then_some(frame)
    });
    let answer = answer.unwrap();
    assert_eq!(answer[HEADER_LEN..][..12], [ours, mac.0].concat());
    assert_eq!(answer[HEADER_LEN + 28..][..4], [198, 18, 33, 1]);
}

#[test]
fn scripts_run_with_the_taps_name_and_their_failure_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let script = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let (up, down) = (
        script("up", &format!("echo up $1 >> {}", log.display())),
        script("down", &format!("echo down $1 >> {}", log.display())),
    );
    let fails = script("fails", "exit 3");
    let new = || options(TapSource::New([198, 18, 34, 1]));
    let both = TapOptions { script: Some(up), downscript: Some(down), ..new() };
    let Some(tap) = open(&both) else { return };
    let name = tap.name().to_owned();
    drop(tap);
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(said, format!("up {name}\ndown {name}\n"));
    assert_eq!(sys(&name, "flags"), "", "it is gone");
    let refused = |script| {
        let options = TapOptions { script: Some(script), ..new() };
        Tap::open(&options, &*event_loop()).err().unwrap().to_string()
    };
    assert!(refused(fails).ends_with("/fails: it failed (exit status: 3)"));
    assert_eq!(
        refused("/no/such/script".into()),
        "/no/such/script: No such file or directory (os error 2)"
    );
}

#[test]
fn queues_and_offloads_follow_the_driver() {
    let named = TapSource::Named("trltest%d".to_owned());
    let Some(tap) = open(&TapOptions { pairs: 3, ..options(named) }) else { return };
    let abilities = tap.abilities();
    assert_eq!((abilities.pairs, abilities.sends.csum, abilities.receives.tso4), (3, true, true));
    tap.set_offloads(abilities.receives);
    tap.set_offloads(Offloads { csum: true, ..Offloads::NONE });
    tap.set_offloads(Offloads::NONE);
    // The kernel shows the queues that are in use.
    let used = || {
        let queues = std::fs::read_dir(format!("/sys/class/net/{}/queues", tap.name())).unwrap();
        let names = queues.map(|queue| queue.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("rx-")).count()
    };
    assert_eq!(used(), 1);
    for pairs in [3, 1, 2, 2, 1] {
        tap.set_pairs(pairs);
        assert_eq!(used(), usize::from(pairs));
    }
    let long = TapSource::Named("sixteen-letters-".to_owned());
    let error = Tap::open(&options(long), &*event_loop()).err().unwrap().to_string();
    assert_eq!(error, "the name of an interface has at most 15 bytes");
    let none = std::fs::File::open("/dev/null").unwrap();
    assert!(Tap::open(&options(TapSource::Fd(none.as_raw_fd())), &*event_loop()).is_err());
}

#[test]
fn a_tap_that_somebody_deletes_is_a_link_that_is_down() {
    let event_loop = event_loop();
    let named = options(TapSource::New([198, 18, 35, 1]));
    let Some(probe) = open(&named) else { return };
    drop(probe);
    let tap = Tap::open(&named, &*event_loop).unwrap();
    let card = Arc::<Card>::default();
    let weak: Weak<Card> = Arc::downgrade(&card);
    tap.attach(weak);
    tap.set_receiving(0, true);
    assert!(tap.has_link());
    let deleted = Command::new("ip").args(["link", "delete", tap.name()]).status();
    if !deleted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: there is no ip(8) here");
        return;
    }
    while tap.receive(0, &mut vec![0; PACKET_MAX]).is_ok() {}
    assert!(!tap.has_link());
    event_loop.turn();
    assert!(card.0.swap(false, std::sync::atomic::Ordering::Relaxed), "the card is told");
    event_loop.turn();
    assert!(!card.0.load(std::sync::atomic::Ordering::Relaxed), "once");
}

/// A card that notes whether it was told of its link.
#[derive(Default)]
struct Card(std::sync::atomic::AtomicBool);

impl NetCard for Card {
    fn ready(&self, _pair: u16) {}

    fn room(&self, _pair: u16) {}

    fn link_changed(&self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
