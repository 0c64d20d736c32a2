//! Writes that may be late besides those that devices say themselves, as a user has found out with
//! `trapline tune`.

use trapline::{Delivery, Direction, RegionStats, Registry, Window};

use crate::Error;
use crate::recorded_map::Known;

/// A register whose writes may queue up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateWrites {
    /// The device, by its name on the board.
    pub device: String,
    /// Which of its regions.
    pub region: String,
    /// The register, by its data sheet's name.
    pub register: String,
    /// Its offset in the region.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl LateWrites {
    /// Whether these are all of `others`, too.
    fn cover(&self, others: &Self) -> bool {
        (&self.device, &self.region) == (&others.device, &others.region)
            && self.offset <= others.offset
            && others.offset.saturating_add(others.len) <= self.offset.saturating_add(self.len)
    }

    fn refused(&self, why: impl Into<String>) -> Error {
        let Self { device, region, register, .. } = self;
        Error::LateWrites { register: format!("{device}/{region} {register}"), why: why.into() }
    }
}

/// Has the writes to these registers queue up, from now on. All or none of them.
///
/// # Errors
/// A register is not there, has another name there, must not be written late by its device's register
/// map, or is delivered in a way that does not go with it.
pub fn apply(registry: &Registry, late: &[LateWrites]) -> Result<(), Error> {
    let regions = registry.stats().regions;
    let mut windows = Vec::new();
    for (number, writes) in late.iter().enumerate() {
        let is = |of: &&RegionStats| {
            *of.name.device == *writes.device && *of.name.region == *writes.region
        };
        let region = regions.iter().find(is);
        let region = region.ok_or_else(|| writes.refused("this board has no such region"))?;
        check(registry, region, writes)?;
        let others = late.iter().enumerate().filter(|(other, _)| *other != number);
        let within = |(other, of): (usize, &LateWrites)| {
            of.cover(writes) && (other < number || !writes.cover(of))
        };
        if !queues_already(region, writes) && !others.into_iter().any(within) {
            let (offset, len) = (writes.offset, writes.len);
            windows.push((region.id, Window { offset, len, delivery: Delivery::Coalesced }));
        }
    }
    let added = registry.edit(|edit| {
        windows.into_iter().for_each(|(id, window)| edit.add_window(id, window));
        Ok(())
    });
    added.map_err(Error::Map)
}

/// Whether the register is the one that is named, and its map lets writes be late.
fn check(registry: &Registry, region: &RegionStats, writes: &LateWrites) -> Result<(), Error> {
    let end = writes.offset.checked_add(writes.len);
    if !matches!(writes.len, 1 | 2 | 4 | 8) || end.is_none_or(|end| end > region.len) {
        return Err(writes.refused("the region does not reach that far"));
    }
    let known = Known::of(&writes.device);
    let first = registry.register_at(region.id, writes.offset, Direction::Write);
    if first != Some(writes.register.as_str()) {
        let there = first.unwrap_or("no register that can be written");
        return Err(writes.refused(format!("there is {there} at offset {:#x}", writes.offset)));
    }
    for offset in writes.offset..writes.offset + writes.len {
        let name = registry.register_at(region.id, offset, Direction::Write);
        if let Some(name) = name.filter(|name| known.traits(name).prompt) {
            return Err(writes.refused(format!("writes to {name} must not be late, says its map")));
        }
    }
    Ok(())
}

fn queues_already(region: &RegionStats, writes: &LateWrites) -> bool {
    let covers = |window: &Window| {
        window.delivery == Delivery::Coalesced
            && window.offset <= writes.offset
            && writes.offset + writes.len <= window.offset + window.len
    };
    region.deliveries.iter().any(|(window, _)| covers(window))
}

#[cfg(test)]
mod tests {
    use trapline_qtest::Target;

    use super::*;
    use crate::qtest::BoardKind;
    use crate::recorded_map::machine;

    fn writes(device: &str, region: &str, register: &str, offset: u64, len: u64) -> LateWrites {
        let [device, region, register] = [device, region, register].map(str::to_owned);
        LateWrites { device, region, register, offset, len }
    }

    fn window(registry: &Registry, name: &str, offset: u64) -> bool {
        let regions = registry.stats().regions;
        let region = regions.iter().find(|region| region.name.to_string() == name).unwrap();
        region
            .deliveries
            .iter()
            .any(|(window, _)| window.delivery == Delivery::Coalesced && window.offset == offset)
    }

    #[test]
    fn what_the_maps_allow_queues_up_and_what_they_forbid_does_not() {
        let machine = machine(BoardKind::X86Pc).unwrap();
        let registry = machine.registry();
        assert!(!window(registry, "rtc/cmos", 0));
        apply(registry, &[writes("rtc", "cmos", "RTC index", 0, 1)]).unwrap();
        assert!(window(registry, "rtc/cmos", 0));
        // A part of a register is in its window.
        let part = writes("pci", "conf1", "CONFIG_ADDRESS", 3, 1);
        apply(registry, &[part.clone(), writes("pci", "conf1", "CONFIG_ADDRESS", 0, 4), part])
            .unwrap();
        assert!(window(registry, "pci/conf1", 0) && !window(registry, "pci/conf1", 3));
        // Twice is once.
        apply(registry, &[writes("rtc", "cmos", "RTC index", 0, 1)]).unwrap();
        for (late, why) in [
            (
                writes("serial0", "uart", "IER", 1, 1),
                "writes to IER must not be late, says its map",
            ),
            (writes("pic", "primary", "OCW1", 1, 1), "writes to OCW1 must not be late"),
            (writes("pci", "conf1", "CONFIG_DATA", 4, 4), "writes to CONFIG_DATA must not be late"),
            (writes("serial9", "uart", "THR", 0, 1), "this board has no such region"),
            (writes("serial0", "uart", "THR", 1, 1), "there is IER at offset 0x1"),
            (writes("serial0", "uart", "LSR", 5, 1), "there is no register that can be written"),
            (writes("serial0", "uart", "SCR", 7, 2), "the region does not reach that far"),
            (writes("serial0", "uart", "SCR", u64::MAX, 1), "the region does not reach that far"),
            (writes("serial0", "uart", "THR", 0, 2), "writes to IER must not be late"),
        ] {
            let both = [writes("serial1", "uart", "SCR", 7, 1), late];
            let said = apply(registry, &both).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
            assert!(!window(registry, "serial1/uart", 7), "all or none");
        }
    }
}
