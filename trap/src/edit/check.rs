//! Checks of one region and its windows, which do not depend on what else is mapped.

use trapline_access::{Delivery, EditError, Forward, Region, RegionName, Space, Window};

/// Refuses a region that no placement could make right.
pub(crate) fn region(region: &Region) -> Result<(), EditError> {
    if region.len == 0 {
        return Err(EditError::Empty { name: region.name.clone() });
    }
    windows(&region.name, region.space, region.len, region.windows.iter())
}

/// Refuses windows that the region `name`, of `len` bytes, cannot have together.
pub(crate) fn windows<'a>(
    name: &RegionName,
    space: Space,
    len: u64,
    windows: impl Iterator<Item = &'a Window> + Clone,
) -> Result<(), EditError> {
    for (i, window) in windows.clone().enumerate() {
        let start = window.offset;
        let end = start.checked_add(window.len.max(1)).filter(|end| *end <= len);
        if end.is_none() || !has_valid_len(window, space) {
            let end = start.saturating_add(window.len.max(1));
            return Err(EditError::Window { name: name.clone(), start, end });
        }
        if windows.clone().take(i).any(|other| collide(window, other)) {
            return Err(EditError::Delivery { name: name.clone(), offset: start });
        }
    }
    Ok(())
}

fn has_valid_len(window: &Window, space: Space) -> bool {
    match &window.delivery {
        Delivery::Coalesced => window.len != 0,
        // The kernel takes no value for a write of any length (`kvm_assign_ioeventfd`).
        Delivery::Doorbell { datamatch, .. } => {
            matches!(window.len, 1 | 2 | 4 | 8) || (window.len == 0 && datamatch.is_none())
        }
        Delivery::Forward(Forward { posted, no_data, datamatch, .. }) => match datamatch {
            Some(_) => matches!(window.len, 1 | 2 | 4 | 8) && !no_data,
            None => (window.len != 0 || *posted || *no_data) && !(*no_data && space == Space::Pio),
        },
        Delivery::Memory { memory, offset, .. } => {
            let end = offset.checked_add(window.len);
            space == Space::Mmio && window.len != 0 && end.is_some_and(|end| end <= memory.len())
        }
        Delivery::Mirrored { .. } => space == Space::Mmio && window.len != 0,
    }
}

/// Two doorbells exclude each other under the kernel's rule (Linux `virt/kvm/eventfd.c`,
/// `ioeventfd_check_collision`): same address, and either takes any length, or both take the same
/// length and not different values. So do forwards of one value, among each other and with doorbells;
/// they may be on top of a forward of all. Any two other deliveries must not share a byte; beside a
/// forward, what takes any length counts as eight bytes (the `ioregionfd` series' rule for its own
/// and for doorbells). What is mirrored is read, and what is queued or rings is written, so they do
/// not meet; and writes that are queued can be on their way to a forward that does not wait.
fn collide(one: &Window, other: &Window) -> bool {
    if let (Some(a), Some(b)) = (rung_by(one), rung_by(other)) {
        let same_value = a.is_none() || b.is_none() || a == b;
        let any_length = one.len == 0 || other.len == 0;
        return one.offset == other.offset && (any_length || (one.len == other.len && same_value));
    }
    let is_one_value = |window: &Window| forward(window).is_some_and(|f| f.datamatch.is_some());
    let is_any_value = |window: &Window| forward(window).is_some_and(|f| f.datamatch.is_none());
    let takes_queued = |window: &Window| {
        forward(window).is_some_and(|f| f.posted && !f.no_data && f.datamatch.is_none())
    };
    let is_queued = |window: &Window| matches!(window.delivery, Delivery::Coalesced);
    let beside = |a: &Window, b: &Window| {
        (is_one_value(a) && is_any_value(b)) || (takes_queued(a) && is_queued(b) && a.len != 0)
    };
    if beside(one, other) || beside(other, one) {
        return false;
    }
    let is_mirrored = |window: &Window| matches!(window.delivery, Delivery::Mirrored { .. });
    let takes_writes = |window: &Window| {
        matches!(window.delivery, Delivery::Coalesced | Delivery::Doorbell { .. })
    };
    if (is_mirrored(one) && takes_writes(other)) || (takes_writes(one) && is_mirrored(other)) {
        return false;
    }
    let any_forward = forward(one).is_some() || forward(other).is_some();
    let bytes = |window: &Window| match window.len {
        0 if any_forward => 8,
        len => len.max(1),
    };
    let end = |window: &Window| window.offset.saturating_add(bytes(window));
    one.offset < end(other) && other.offset < end(one)
}

/// The value that a write of exactly the window's length and at its start must have to be taken by
/// it, if it takes no other accesses.
fn rung_by(window: &Window) -> Option<Option<u64>> {
    match &window.delivery {
        Delivery::Doorbell { datamatch, .. } => Some(*datamatch),
        Delivery::Forward(Forward { datamatch: Some(value), .. }) => Some(Some(*value)),
        _ => None,
    }
}

fn forward(window: &Window) -> Option<&Forward> {
    match &window.delivery {
        Delivery::Forward(forward) => Some(forward),
        _ => None,
    }
}
