//! A region: who answers which addresses, and how accesses are delivered.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{
    ChannelRef, DoorbellTarget, Handler, Memory, Mirror, NoHandler, RegionName, Rules, Space,
};

/// A region to be mapped: built, then given to a registry ([`crate::RegionEdit::Map`]).
#[derive(Clone)]
pub struct Region {
    /// The space its addresses are in.
    pub space: Space,
    /// Its first address; `None` while it has no place, like the BAR of a disabled function.
    pub base: Option<u64>,
    /// Its length in bytes.
    pub len: u64,
    /// Whose it is, and which.
    pub name: RegionName,
    /// What answers accesses that no window delivers otherwise.
    pub handler: Arc<dyn Handler>,
    /// The widths it accepts and codes for.
    pub rules: Rules,
    /// Added to the offsets the handler sees.
    pub device_offset: u64,
    /// Where accesses are delivered in another way.
    pub windows: Vec<Window>,
}

/// How accesses to a part of a region are delivered, where that is not an ordinary trap.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// First offset in the region.
    pub offset: u64,
    /// Length in bytes; for a doorbell the length of the write, 0 for any (see also
    /// [`Region::forward`]).
    pub len: u64,
    /// The delivery.
    pub delivery: Delivery,
}

/// The ways to deliver an access. What no window covers is an ordinary trap.
///
/// A source can take each of them over; what it cannot do, the registry does itself, with the same
/// meaning.
#[derive(Clone)]
pub enum Delivery {
    /// Writes may queue up (KVM: `KVM_REGISTER_COALESCED_MMIO`, with its PIO flag); they reach the
    /// handler in order, before anything can observe that they had not.
    Coalesced,
    /// A write at exactly this offset rings and reaches no handler (KVM: `KVM_IOEVENTFD`).
    Doorbell {
        /// What to ring.
        target: DoorbellTarget,
        /// Only for writes of this value, compared at the length of the write.
        datamatch: Option<u64>,
    },
    /// Somebody outside answers instead of the handler (`KVM_SET_IOREGION`, which no kernel has).
    Forward(Forward),
    /// Memory answers instead of the handler (KVM: `KVM_SET_USER_MEMORY_REGION`, with
    /// `KVM_MEM_READONLY`). Only in [`Space::Mmio`]. A hypervisor has whole pages of it; the registry
    /// answers what comes to it of the rest, from the same memory.
    Memory {
        /// The memory.
        memory: Arc<dyn Memory>,
        /// Where in it the window starts.
        offset: u64,
        /// Whether the guest can only read it. Its writes reach the handler then, as those to flash
        /// memory must.
        readonly: bool,
    },
    /// Reads may be answered from read-only memory with the registers' values in it, where and while
    /// the device vouches that this makes no difference (KVM: `KVM_SET_USER_MEMORY_REGION` with
    /// `KVM_MEM_READONLY`). All other reads, and writes, are delivered as if this were not there, so
    /// coalesced windows and doorbells may be in the same place. Only in [`Space::Mmio`].
    Mirrored {
        /// What the device vouches for; of this window alone.
        mirror: Arc<Mirror>,
    },
}

/// Who answers a forwarded window ([`Delivery::Forward`]), and what of.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Where accesses go.
    pub channel: ChannelRef,
    /// What the other end knows the window by.
    pub user_data: u64,
    /// Whether writes are not waited for.
    pub posted: bool,
    /// Whether all that is passed on is that there was an access: as a write without size and value,
    /// also when the guest reads, which is told nothing (`KVM_IOREGION_FAST_MMIO`). Only in
    /// [`Space::Mmio`].
    pub no_data: bool,
    /// Only writes of this value, of exactly the window's length and at its start; other accesses
    /// are delivered as if the window were not there. So several can be in the same place.
    pub datamatch: Option<u64>,
}

impl Forward {
    /// All accesses, with their data, which are waited for.
    pub const fn new(channel: ChannelRef, user_data: u64) -> Self {
        Self { channel, user_data, posted: false, no_data: false, datamatch: None }
    }
}

impl Region {
    /// A region of `len` bytes of `space`, named `device`/`region`, at `base` (or declared but
    /// nowhere yet, like a disabled BAR). Its access rules are the handler's.
    pub fn new(
        space: Space,
        base: Option<u64>,
        len: u64,
        (device, region): (&str, &str),
        handler: Arc<dyn Handler>,
    ) -> Self {
        let name = RegionName { device: device.into(), region: region.into() };
        let rules = handler.rules();
        Self { space, base, len, name, handler, rules, device_offset: 0, windows: Vec::new() }
    }

    /// `len` ports from `base`.
    pub fn pio(base: u16, len: u64, device: &str, region: &str, handler: Arc<dyn Handler>) -> Self {
        Self::new(Space::Pio, Some(base.into()), len, (device, region), handler)
    }

    /// `len` bytes of guest physical address space from `base`.
    pub fn mmio(
        base: u64,
        len: u64,
        device: &str,
        region: &str,
        handler: Arc<dyn Handler>,
    ) -> Self {
        Self::new(Space::Mmio, Some(base), len, (device, region), handler)
    }

    /// All of `memory` as guest RAM from `base`: one window of [`Delivery::Memory`].
    pub fn ram(base: u64, device: &str, region: &str, memory: Arc<dyn Memory>) -> Self {
        Self::of_memory(base, device, region, memory, false)
    }

    /// All of `memory` from `base`, for the guest to read only; its writes vanish.
    pub fn rom(base: u64, device: &str, region: &str, memory: Arc<dyn Memory>) -> Self {
        Self::of_memory(base, device, region, memory, true)
    }

    fn of_memory(
        base: u64,
        device: &str,
        region: &str,
        memory: Arc<dyn Memory>,
        readonly: bool,
    ) -> Self {
        let len = memory.len();
        let delivery = Delivery::Memory { memory, offset: 0, readonly };
        Self::mmio(base, len, device, region, Arc::new(NoHandler)).window(Window {
            offset: 0,
            len,
            delivery,
        })
    }

    /// Overrides the handler's access rules.
    #[must_use]
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Adds `offset` to the offsets the handler sees: one device can so answer several regions
    /// (the i8042's 0x60 and 0x64) as one run of registers.
    #[must_use]
    pub fn device_offset(mut self, offset: u64) -> Self {
        self.device_offset = offset;
        self
    }

    /// Lets writes to these offsets queue up ([`Delivery::Coalesced`]).
    #[must_use]
    pub fn coalesce(self, offsets: Range<u64>) -> Self {
        let len = offsets.end.saturating_sub(offsets.start);
        self.window(Window { offset: offsets.start, len, delivery: Delivery::Coalesced })
    }

    /// Lets reads of these offsets be answered from what `mirror` has ([`Delivery::Mirrored`]).
    #[must_use]
    pub fn mirror(self, offsets: Range<u64>, mirror: Arc<Mirror>) -> Self {
        let len = offsets.end.saturating_sub(offsets.start);
        let delivery = Delivery::Mirrored { mirror };
        self.window(Window { offset: offsets.start, len, delivery })
    }

    /// Rings `target` on a write of `len` bytes (1, 2, 4, 8, or 0 for any) at `offset`, of the
    /// value `datamatch` if given ([`Delivery::Doorbell`]; a value needs a length).
    #[must_use]
    pub fn doorbell(
        self,
        offset: u64,
        len: u64,
        datamatch: Option<u64>,
        target: impl Into<DoorbellTarget>,
    ) -> Self {
        let delivery = Delivery::Doorbell { target: target.into(), datamatch };
        self.window(Window { offset, len, delivery })
    }

    /// Has somebody outside answer accesses to these offsets ([`Delivery::Forward`]). An empty range
    /// passes on writes of any length at its start without their value, and needs `posted`
    /// (`ioregionfd`'s zero `memory_size`).
    #[must_use]
    pub fn forward(
        self,
        offsets: Range<u64>,
        channel: ChannelRef,
        user_data: u64,
        posted: bool,
    ) -> Self {
        let len = offsets.end.saturating_sub(offsets.start);
        let delivery = Delivery::Forward(Forward { posted, ..Forward::new(channel, user_data) });
        self.window(Window { offset: offsets.start, len, delivery })
    }

    /// Adds a delivery.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.windows.push(window);
        self
    }
}

impl PartialEq for Delivery {
    /// Whether both deliver to the same target in the same way.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Coalesced, Self::Coalesced) => true,
            (
                Self::Doorbell { target: a, datamatch: value_a },
                Self::Doorbell { target: b, datamatch: value_b },
            ) => (a, value_a) == (b, value_b),
            (Self::Forward(a), Self::Forward(b)) => a == b,
            (
                Self::Memory { memory: a, offset: at_a, readonly: ro_a },
                Self::Memory { memory: b, offset: at_b, readonly: ro_b },
            ) => Arc::ptr_eq(a, b) && (at_a, ro_a) == (at_b, ro_b),
            (Self::Mirrored { mirror: a }, Self::Mirrored { mirror: b }) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coalesced => f.write_str("Coalesced"),
            Self::Doorbell { target, datamatch } => f
                .debug_struct("Doorbell")
                .field("target", target)
                .field("datamatch", datamatch)
                .finish(),
            Self::Forward(forward) => forward.fmt(f),
            Self::Memory { memory, offset, readonly } => f
                .debug_struct("Memory")
                .field("len", &memory.len())
                .field("offset", offset)
                .field("readonly", readonly)
                .finish(),
            Self::Mirrored { mirror } => f.debug_tuple("Mirrored").field(mirror).finish(),
        }
    }
}

impl Delivery {
    /// What an error or a table calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Coalesced => "coalesced zone",
            Self::Doorbell { .. } => "doorbell",
            Self::Forward { .. } => "forwarded zone",
            Self::Memory { .. } => "memory",
            Self::Mirrored { .. } => "mirrored pages",
        }
    }
}
