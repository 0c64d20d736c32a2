//! A region: who answers which addresses, and how accesses are delivered.

use std::ops::Range;
use std::sync::Arc;

use trapline_device::{EditError, Handler, RegionName, Rules, Space};

use crate::channel::ChannelRef;
use crate::offload::{EventFd, Zone, ZoneKind};

/// A region to be mapped: built, then given to [`crate::Registry::map`] or [`crate::Edit::map`].
#[derive(Clone)]
pub struct Region {
    pub(crate) space: Space,
    pub(crate) base: Option<u64>,
    pub(crate) len: u64,
    pub(crate) name: RegionName,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) rules: Rules,
    pub(crate) device_offset: u64,
    pub(crate) windows: Vec<Window>,
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
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Delivery {
    /// Writes may queue up; they reach the handler in order, before anything can observe that
    /// they had not.
    Coalesced,
    /// A write at exactly this offset signals an event and reaches no handler.
    Doorbell {
        /// What to signal.
        event: EventFd,
        /// Only for writes of this value.
        datamatch: Option<u64>,
    },
    /// Somebody outside answers instead of the handler, as with `ioregionfd`.
    Forward {
        /// Where accesses go.
        channel: ChannelRef,
        /// What the other end knows the window by.
        user_data: u64,
        /// Whether writes are not waited for.
        posted: bool,
    },
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

    /// Rings `event` on a write of `len` bytes (1, 2, 4, 8, or 0 for any) at `offset`, of the
    /// value `datamatch` if given ([`Delivery::Doorbell`]; a value needs a length).
    #[must_use]
    pub fn doorbell(self, offset: u64, len: u64, datamatch: Option<u64>, event: EventFd) -> Self {
        self.window(Window { offset, len, delivery: Delivery::Doorbell { event, datamatch } })
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
        let delivery = Delivery::Forward { channel, user_data, posted };
        self.window(Window { offset: offsets.start, len, delivery })
    }

    /// Adds a delivery.
    #[must_use]
    pub fn window(mut self, window: Window) -> Self {
        self.windows.push(window);
        self
    }

    /// Refuses what no placement could make right.
    pub(crate) fn check(&self) -> Result<(), EditError> {
        if self.len == 0 {
            return Err(EditError::Empty { name: self.name.clone() });
        }
        for (i, window) in self.windows.iter().enumerate() {
            window.check(self)?;
            if self.windows.iter().take(i).any(|other| window.collides(other)) {
                let offset = window.offset;
                return Err(EditError::Delivery { name: self.name.clone(), offset });
            }
        }
        Ok(())
    }
}

impl Window {
    fn check(&self, region: &Region) -> Result<(), EditError> {
        let end = self.offset.checked_add(self.len.max(1));
        if !self.has_valid_len() || end.is_none_or(|end| end > region.len) {
            return Err(EditError::Window {
                name: region.name.clone(),
                start: self.offset,
                end: end.unwrap_or(u64::MAX),
            });
        }
        Ok(())
    }

    fn has_valid_len(&self) -> bool {
        match self.delivery {
            Delivery::Coalesced => self.len != 0,
            // The kernel takes no value for a write of any length (`kvm_assign_ioeventfd`).
            Delivery::Doorbell { datamatch, .. } => {
                matches!(self.len, 1 | 2 | 4 | 8) || (self.len == 0 && datamatch.is_none())
            }
            Delivery::Forward { posted, .. } => self.len != 0 || posted,
        }
    }

    /// Two doorbells exclude each other under the kernel's rule (Linux `virt/kvm/eventfd.c`,
    /// `ioeventfd_check_collision`): same address, and either takes any length, or both take the
    /// same length and not different values. Any two other deliveries must not share a byte; beside
    /// a forward, what takes any length counts as eight bytes (the `ioregionfd` series' rule for
    /// its own and for doorbells).
    fn collides(&self, other: &Self) -> bool {
        if let (Delivery::Doorbell { datamatch: a, .. }, Delivery::Doorbell { datamatch: b, .. }) =
            (&self.delivery, &other.delivery)
        {
            let same_value = a.is_none() || b.is_none() || a == b;
            let any_length = self.len == 0 || other.len == 0;
            return self.offset == other.offset
                && (any_length || (self.len == other.len && same_value));
        }
        let forward = self.is_forward() || other.is_forward();
        let bytes = |window: &Self| match window.len {
            0 if forward => 8,
            len => len.max(1),
        };
        let end = |window: &Self| window.offset.saturating_add(bytes(window));
        self.offset < end(other) && other.offset < end(self)
    }

    /// The zone a source is asked for when the region sits at `base`.
    pub(crate) fn zone(&self, space: Space, base: u64) -> Zone {
        let kind = match &self.delivery {
            Delivery::Coalesced => ZoneKind::Coalesced,
            Delivery::Doorbell { event, datamatch } => {
                ZoneKind::Doorbell { event: event.clone(), datamatch: *datamatch }
            }
            Delivery::Forward { channel, user_data, posted } => ZoneKind::Forward {
                channel: channel.clone(),
                user_data: *user_data,
                posted: *posted,
            },
        };
        Zone { space, addr: base + self.offset, len: self.len, kind }
    }

    pub(crate) fn is_coalesced(&self) -> bool {
        matches!(self.delivery, Delivery::Coalesced)
    }

    fn is_forward(&self) -> bool {
        matches!(self.delivery, Delivery::Forward { .. })
    }

    /// What an error or a table calls this delivery.
    pub(crate) fn what(&self) -> &'static str {
        match self.delivery {
            Delivery::Coalesced => "coalesced zone",
            Delivery::Doorbell { .. } => "doorbell",
            Delivery::Forward { .. } => "forwarded zone",
        }
    }
}
