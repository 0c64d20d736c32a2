//! The ITS and its redistributors under whatever bytes the fuzzer finds, over RAM that is made of
//! them too: `cargo +nightly fuzz run its`.
//!
//! Every 12 bytes are one action: what, a place, a width or processor, and a value.

#![no_main]
#![forbid(unsafe_code)]

use std::cell::RefCell;

use gicv3_its::redist::Redistributors;
use gicv3_its::{Config, DeviceId, GuestMemory, Its, MemoryError, MemoryErrors, Target};
use libfuzzer_sys::fuzz_target;

/// Tables of every kind fit in, many times over, and guests reach past it easily.
const RAM: usize = 1 << 18;
const BUDGET: u32 = 64;

struct Ram(RefCell<Vec<u8>>);

impl GuestMemory for Ram {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let start = usize::try_from(address).map_err(|_| MemoryError)?;
        let end = start.checked_add(data.len()).ok_or(MemoryError)?;
        data.copy_from_slice(self.0.borrow().get(start..end).ok_or(MemoryError)?);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let start = usize::try_from(address).map_err(|_| MemoryError)?;
        let end = start.checked_add(data.len()).ok_or(MemoryError)?;
        self.0.borrow_mut().get_mut(start..end).ok_or(MemoryError)?.copy_from_slice(data);
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let memory_errors = if first & 1 == 0 { MemoryErrors::Skip } else { MemoryErrors::Stall };
    let base = if first & 2 == 0 { Config::new() } else { Config::kvm() };
    let config = Config { memory_errors, budget: BUDGET, ..base };
    let Ok(mut its) = Its::new(config) else { return };
    let mut redist = Redistributors::of(2);
    let mut ram = vec![0; RAM];
    // What the guest's memory is made of, again and again.
    ram.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
    let ram = Ram(RefCell::new(ram));
    for action in bytes.as_chunks::<12>().0 {
        let [what, low, high, width, value @ ..] = *action;
        let place = u64::from(u16::from_le_bytes([low, high]));
        let value = u64::from_le_bytes(value);
        let size = 1 << (width & 3);
        let cpu = Target(u32::from(width >> 6));
        let commands = its.counters().commands;
        match what % 10 {
            0 | 1 => drop(its.write(place & 0x1ff, size, value, &ram, &mut redist.sink(&ram))),
            2 => drop(its.read(place | value << 16, size, &ram, &mut redist.sink(&ram))),
            3 => redist.write(cpu, place & 0xff, size, value, &ram),
            4 => drop(redist.read(cpu, place, size)),
            5 => drop(ram.write(place << (width >> 5), &value.to_le_bytes())),
            6 => {
                let (device, [a, b, c, d, ..]) = (DeviceId(place as u32), value.to_le_bytes());
                let data = u32::from_le_bytes([a, b, c, d]);
                let _blocked = its.msi(&ram, &mut redist.sink(&ram), device, size, data);
            }
            7 => drop(its.process(&ram, &mut redist.sink(&ram), BUDGET)),
            8 => {
                if let Some(next) = redist.next(cpu, &ram) {
                    redist.acknowledge(cpu, next.lpi);
                }
            }
            _ => {
                // What can be saved can be restored.
                if let Ok(state) = its.save(&ram, 2) {
                    let restored = its.restore(&state, &ram, &mut redist.sink(&ram));
                    assert!(restored.is_ok(), "{restored:?}");
                }
            }
        }
        let done = its.counters().commands - commands;
        assert!(done <= u64::from(BUDGET), "an access executed {done} commands");
        assert!(its.collections().count() * 4 <= Its::MEMORY_BOUND);
    }
});
