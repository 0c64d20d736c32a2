//! Checks of one region and its windows, which do not depend on what else is mapped.

use trapline_access::{Delivery, EditError, Region, RegionName, Space, Window};

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
        Delivery::Forward { posted, .. } => window.len != 0 || *posted,
        Delivery::Memory { memory, offset, .. } => {
            let end = offset.checked_add(window.len);
            space == Space::Mmio && window.len != 0 && end.is_some_and(|end| end <= memory.len())
        }
        Delivery::Mirrored { .. } => space == Space::Mmio && window.len != 0,
    }
}

/// Two doorbells exclude each other under the kernel's rule (Linux `virt/kvm/eventfd.c`,
/// `ioeventfd_check_collision`): same address, and either takes any length, or both take the same
/// length and not different values. Any two other deliveries must not share a byte; beside a
/// forward, what takes any length counts as eight bytes (the `ioregionfd` series' rule for its own
/// and for doorbells). What is mirrored is read, and what is queued or rings is written, so they do
/// not meet.
fn collide(one: &Window, other: &Window) -> bool {
    if let (Delivery::Doorbell { datamatch: a, .. }, Delivery::Doorbell { datamatch: b, .. }) =
        (&one.delivery, &other.delivery)
    {
        let same_value = a.is_none() || b.is_none() || a == b;
        let any_length = one.len == 0 || other.len == 0;
        return one.offset == other.offset && (any_length || (one.len == other.len && same_value));
    }
    let is_mirrored = |window: &Window| matches!(window.delivery, Delivery::Mirrored { .. });
    let takes_writes = |window: &Window| {
        matches!(window.delivery, Delivery::Coalesced | Delivery::Doorbell { .. })
    };
    if (is_mirrored(one) && takes_writes(other)) || (takes_writes(one) && is_mirrored(other)) {
        return false;
    }
    let is_forward = |window: &Window| matches!(window.delivery, Delivery::Forward { .. });
    let forward = is_forward(one) || is_forward(other);
    let bytes = |window: &Window| match window.len {
        0 if forward => 8,
        len => len.max(1),
    };
    let end = |window: &Window| window.offset.saturating_add(bytes(window));
    one.offset < end(other) && other.offset < end(one)
}
