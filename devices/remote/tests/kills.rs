//! A device that is killed at random moments, while two vCPUs have accesses under way, and replaced.
//! `TRAPLINE_KILLS` says how often.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on failed")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use support::{Fds, KINDS, channel, until};
use trapline::{Answer, Channel, Forwarded, Requester, Size};
use trapline_remote::{Link, LinkOptions};

/// Kills without `TRAPLINE_KILLS`.
const KILLS: u32 = 30;

/// The example in C, if there is a compiler.
fn compiled(dir: &Path) -> Option<PathBuf> {
    let (here, program) = (Path::new(env!("CARGO_MANIFEST_DIR")), dir.join("counter"));
    let mut cc = Command::new("cc");
    cc.arg("-I").arg(here.join("include")).arg("-o").arg(&program);
    let status = cc.arg(here.join("examples/counter.c")).status().ok()?;
    assert!(status.success());
    Some(program)
}

fn start(program: &Path, device: Fds) -> Child {
    let to = device.to.unwrap_or_else(|| device.from.try_clone().unwrap());
    let mut command = Command::new(program);
    command.stdin(Stdio::from(device.from)).stdout(Stdio::from(to)).spawn().unwrap()
}

/// What a vCPU does until it is told to stop: reads, writes, and posted writes, and counts them.
fn drive(link: &Link, vcpu: u32, stop: &AtomicBool, made: &AtomicU64) {
    for n in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let access = Forwarded {
            requester: Requester::Vcpu(vcpu),
            user_data: 0,
            offset: 0,
            size: Some(Size::Qword),
            posted: n % 3 == 2,
            more: false,
        };
        let answer = match n % 3 {
            0 => link.read(&access, None),
            _ => link.write(&access, n, None),
        };
        assert_ne!(answer, Answer::Interrupted);
        made.fetch_add(1, Ordering::SeqCst);
        if answer == Answer::Gone {
            thread::yield_now();
        }
    }
}

#[test]
fn a_device_is_killed_at_random_moments_and_nobody_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = compiled(dir.path()) else {
        println!(
            "SKIPPED a_device_is_killed_at_random_moments_and_nobody_hangs: no C compiler (cc)"
        );
        return;
    };
    let kills = std::env::var("TRAPLINE_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let deaths = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&deaths);
    let on_death = Arc::new(move |_: &_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let options = LinkOptions { on_death, reply_patience: None, ..LinkOptions::default() };
    let (vmm_end, device_end) = channel(KINDS[0]);
    let link = Link::new(vmm_end.ends(), options);
    let mut device = start(&program, device_end);
    let (stop, made) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    let mut random = fastrand::Rng::with_seed(0x1234);
    thread::scope(|scope| {
        let _end = StopAtEnd(&stop);
        for (vcpu, made) in (0..).zip(&made) {
            let (link, stop) = (&link, &stop);
            scope.spawn(move || drive(link, vcpu, stop, made));
        }
        for kill in 1..=kills {
            let answered = link.stats().responses;
            if kill % 4 != 0 {
                // It is at work, and not only on its way.
                until("an answer", || link.stats().responses > answered + random_few(kill));
            }
            thread::sleep(Duration::from_micros(random.u64(..500)));
            device.kill().unwrap();
            device.wait().unwrap();
            until("the death", || deaths.load(Ordering::SeqCst) == u64::from(kill));
            let before = made.each_ref().map(|made| made.load(Ordering::SeqCst));
            until("an access of each vCPU after it", || {
                made.iter().zip(before).all(|(made, n)| made.load(Ordering::SeqCst) > n + 1)
            });
            let (vmm_end, device_end) = channel(KINDS[kill as usize % 3]);
            link.replace(vmm_end.ends());
            device = start(&program, device_end);
        }
    });
    device.kill().unwrap();
    device.wait().unwrap();
    assert_eq!(deaths.load(Ordering::SeqCst), u64::from(kills));
}

fn random_few(kill: u32) -> u64 {
    u64::from(kill % 7)
}

/// Ends the vCPUs, also of a test that fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
