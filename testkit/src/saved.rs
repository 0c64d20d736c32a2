//! What every device's saved state has to stand.

use std::sync::Arc;

use trapline_device::{Device, Handler, SaveState, Saved, Size};

use crate::{CX, TestClock, TestLine};

/// All a board wants of a device.
pub trait Whole: Handler + Device + SaveState {}

impl<D: Handler + Device + SaveState> Whole for D {}

/// A device with what is around it.
pub struct Rig {
    /// The device.
    pub device: Arc<dyn Whole>,
    /// Its clock, at the time when it was made.
    pub clock: TestClock,
    /// Its lines.
    pub lines: Vec<TestLine>,
}

/// Something that is done to a device.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// A read of this width at this offset.
    Read(u64, Size),
    /// A write of this width at this offset.
    Write(u64, Size, u64),
    /// So many nanoseconds pass.
    Step(u64),
    /// A reset.
    Reset,
}

impl Rig {
    /// Does something; returns what was read, and the level of every line.
    pub fn act(&self, act: Act) -> (u64, Vec<bool>) {
        let mut value = 0;
        match act {
            Act::Read(offset, size) => value = self.device.read(&CX, offset, size) & size.ones(),
            Act::Write(offset, size, value) => {
                self.device.write(&CX, offset, size, value & size.ones());
            }
            Act::Step(ns) => self.clock.step_ns(ns),
            Act::Reset => self.device.reset(),
        }
        (value, self.lines.iter().map(TestLine::level).collect())
    }
}

/// Asserts that a device which has gone through `before` can be saved, and that a new one that is
/// restored from it does the same as the old one in all that comes `after`. Then damages the state,
/// as `junk` says (where, and what to put there): a device takes it or is as before.
///
/// # Panics
/// When the device does not stand it.
pub fn check_saved(make: &dyn Fn() -> Rig, before: &[Act], after: &[Act], junk: &[(usize, u8)]) {
    let (old, new) = (make(), make());
    for act in before {
        old.act(*act);
        if let Act::Step(ns) = act {
            new.clock.step_ns(*ns);
        }
    }
    let saved = old.device.save();
    check_refusals(&old, &saved);
    let restored = new.device.restore(&saved);
    assert_eq!(restored, Ok(()), "a device takes its own state");
    assert_eq!(new.device.save(), saved, "what was restored is what was saved");
    for act in after {
        assert_eq!(new.act(*act), old.act(*act), "after {act:x?}");
    }
    assert_eq!(new.device.save(), old.device.save());

    let mut bytes = saved.bytes.clone();
    for (at, byte) in junk {
        let at = at % bytes.len();
        bytes.iter_mut().skip(at).take(1).for_each(|old| *old = *byte);
        let before = old.device.save();
        let damaged = Saved { bytes: bytes.clone(), ..saved.clone() };
        if old.device.restore(&damaged).is_err() {
            assert_eq!(old.device.save(), before, "a refused state changes nothing");
        } else {
            after.iter().for_each(|act| drop(old.act(*act)));
        }
    }
}

/// Another device's state, another version's, and one that is cut short.
fn check_refusals(rig: &Rig, saved: &Saved) {
    let other = Saved { name: "another device".into(), ..saved.clone() };
    let newer = Saved { version: saved.version + 1, ..saved.clone() };
    let mut short = saved.clone();
    short.bytes.pop();
    for bad in [other, newer, short] {
        assert!(rig.device.restore(&bad).is_err(), "{} of version {}", bad.name, bad.version);
        assert_eq!(rig.device.save(), *saved, "a refused state changes nothing");
    }
}
