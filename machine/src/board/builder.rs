//! The builder of a board: devices with their regions, collected to be added in one edit.

use std::ops::Range;
use std::sync::Arc;

use trapline::{ChannelRef, Handler, Mirror, Region, RegionId};
use trapline_device::{Device, SaveState};
use trapline_guestmem::GuestMem;

/// A device as a board keeps it: it can be reset, saved and restored.
pub(crate) trait BoardDevice: Device + SaveState {}

impl<D: Device + SaveState> BoardDevice for D {}

/// When a device is reset and restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// First: whatever drives interrupt lines.
    Device,
    /// Last: interrupt controllers, whose state then is what was saved, whatever the lines into
    /// them did while the other devices were restored.
    Controller,
}

/// Devices and their regions, to be added to a board together: see
/// [`super::Devices::add`].
#[derive(Default)]
pub(crate) struct Builder {
    pub(super) parts: Vec<Part>,
}

/// One device on its way to a board.
pub(crate) struct Part {
    pub(super) name: String,
    pub(super) stage: Stage,
    pub(super) device: Option<Arc<dyn BoardDevice>>,
    pub(super) regions: Vec<PartRegion>,
    pub(super) follower: Option<Follower>,
}

/// See [`Part::after_reset`].
pub(super) type Follower = Arc<dyn Fn() + Send + Sync>;

/// A region, and what of its accesses the source can spare us on a board that has it do so.
pub(super) struct PartRegion {
    pub(super) region: Region,
    /// Who answers in the place of the handler: a device's process.
    pub(super) forwarded: Option<ChannelRef>,
    pub(super) coalesced: Option<Range<u64>>,
    /// The offsets at which reads are mirrored on a board that does so, and what of.
    pub(super) mirrored: Option<(Range<u64>, Arc<Mirror>)>,
    /// Told which region it has become.
    pub(super) mapped: Option<Mapped>,
}

/// See [`Part::when_mapped`].
pub(super) type Mapped = Box<dyn FnOnce(RegionId)>;

impl PartRegion {
    /// The region with windows for the channel, one of them for writes that may be late.
    pub(super) fn region(&self) -> Region {
        let region = self.region.clone();
        let Some(channel) = &self.forwarded else { return region };
        let late = self.coalesced.clone().unwrap_or(0..0);
        let len = region.len;
        let windows = [(0..late.start, false), (late.clone(), true), (late.end..len, false)];
        windows.into_iter().filter(|(range, _)| !range.is_empty()).fold(
            region,
            |region, (range, posted)| {
                // The register that the window begins with, as its offsets are its own.
                let first = self.region.device_offset + range.start;
                region.forward(range, channel.clone(), first, posted)
            },
        )
    }
}

impl Builder {
    /// A device with state, under a name that no other device of the board has.
    pub(crate) fn device(
        &mut self,
        name: &str,
        device: Arc<impl BoardDevice + 'static>,
    ) -> &mut Part {
        self.part(name, Stage::Device, Some(device))
    }

    /// An interrupt controller.
    pub(crate) fn controller(
        &mut self,
        name: &str,
        device: Arc<impl BoardDevice + 'static>,
    ) -> &mut Part {
        self.part(name, Stage::Controller, Some(device))
    }

    /// The guest's RAM.
    pub(crate) fn ram(&mut self, ram: &GuestMem) {
        let part = self.stateless("ram");
        for (number, piece) in ram.pieces().into_iter().enumerate() {
            let (base, name) = (piece.region().guest_addr, number.to_string());
            part.region(Region::ram(base, "ram", &name, Arc::new(piece)));
        }
    }

    /// A device without state, which has regions only.
    pub(crate) fn stateless(&mut self, name: &str) -> &mut Part {
        self.part(name, Stage::Device, None)
    }

    fn part(
        &mut self,
        name: &str,
        stage: Stage,
        device: Option<Arc<dyn BoardDevice>>,
    ) -> &mut Part {
        let name = name.to_owned();
        let part = Part { name, stage, device, regions: Vec::new(), follower: None };
        self.parts.push_mut(part)
    }
}

impl Part {
    /// Adds ports, under the names of device and region.
    pub(crate) fn ports(
        &mut self,
        base: u16,
        len: u64,
        (device, region): (&str, &str),
        handler: Arc<dyn Handler>,
    ) -> &mut Self {
        self.region(Region::pio(base, len, device, region, handler))
    }

    /// Adds guest physical addresses, under the names of device and region.
    pub(crate) fn mmio(
        &mut self,
        base: u64,
        len: u64,
        (device, region): (&str, &str),
        handler: Arc<dyn Handler>,
    ) -> &mut Self {
        self.region(Region::mmio(base, len, device, region, handler))
    }

    /// Adds a region.
    pub(crate) fn region(&mut self, region: Region) -> &mut Self {
        self.regions.push(PartRegion {
            region,
            forwarded: None,
            coalesced: None,
            mirrored: None,
            mapped: None,
        });
        self
    }

    /// Lets the source queue the writes to these offsets of the last region: they change nothing
    /// that anybody sees before the next access, ahead of which they are delivered.
    pub(crate) fn coalesce(&mut self, offsets: Range<u64>) -> &mut Self {
        if let Some(last) = self.regions.last_mut() {
            last.coalesced = Some(offsets);
        }
        self
    }

    /// Lets the source answer reads of these offsets of the last region where the device vouches that
    /// it makes no difference.
    pub(crate) fn mirror(&mut self, offsets: Range<u64>, mirror: Arc<Mirror>) -> &mut Self {
        if let Some(last) = self.regions.last_mut() {
            last.mirrored = Some((offsets, mirror));
        }
        self
    }

    /// Has a process answer the accesses to the last region. The guest does not wait for writes that
    /// may be late.
    pub(crate) fn forward(&mut self, channel: ChannelRef) -> &mut Self {
        if let Some(last) = self.regions.last_mut() {
            last.forwarded = Some(channel);
        }
        self
    }

    /// Has `mapped` told which region the last one has become, for a device that changes how a part
    /// of it is delivered. It is called in the middle of an edit.
    pub(crate) fn when_mapped(&mut self, mapped: impl FnOnce(RegionId) + 'static) -> &mut Self {
        if let Some(last) = self.regions.last_mut() {
            last.mapped = Some(Box::new(mapped));
        }
        self
    }

    /// Has `follow` called after each reset and restore of the board's devices, to put what is
    /// outside of the device where its state says.
    pub(crate) fn after_reset(&mut self, follow: impl Fn() + Send + Sync + 'static) -> &mut Self {
        self.follower = Some(Arc::new(follow));
        self
    }
}
