//! A PCI function: a device, and around it what the bus has of each.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use trapline_device::{
    Delivery, Device, Direction, Handler, Interrupt, IoCx, Line, Memory, Mirror, MsiController,
    NoHandler, Region, Ring, Rules, SaveState, Saved, Size, StateError, Window, saved_form,
};

use crate::bar_regions::BarRegions;
use crate::bus::Devfn;
use crate::config::{Bar, BarWindow, ConfigSpace, DECODERS, Identity, ROM_BAR};
use crate::device::PciDevice;
use crate::interrupts::Interrupts;
use crate::mirror::ConfigPage;
use crate::msi::{MsiCapability, MsiLayout};
use crate::msix::{MsixLayout, MsixState, MsixV1, PendingWindow, TableWindow};
use crate::regs::{HEADER, STATUS, STATUS_INTERRUPT};
use crate::reset::Resets;
use crate::state::{ConfigState, ConfigV1};

/// A place on a bus, with the wires that lead to it.
pub struct Slot<'a> {
    /// The name of what goes there, as the user knows it: `edu0`. No other function has it.
    pub name: &'a str,
    /// The place.
    pub devfn: Devfn,
    /// The interrupt pin.
    pub pin: Option<Line>,
    /// Where messages go, if somebody takes any.
    pub messages: Option<&'a dyn MsiController>,
}

impl fmt::Debug for Slot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.devfn)
    }
}

/// A function that is being put together: its identity, BARs, capabilities and interrupts, before
/// there is a device.
pub struct FunctionBuilder<'a> {
    slot: Slot<'a>,
    config: ConfigSpace,
    interrupts: Option<Interrupts>,
    msi: Option<MsiLayout>,
    msix: Option<MsixLayout>,
    /// Where the MSI-X capability goes, if that is said.
    msix_at: Option<u16>,
    resets: Resets,
    handlers: Vec<(usize, Arc<dyn Handler>)>,
    windows: Vec<(usize, Window)>,
    followed: Vec<(usize, BarRegions)>,
}

impl<'a> FunctionBuilder<'a> {
    /// A conventional function, with nothing but a header.
    pub fn new(slot: Slot<'a>, identity: &Identity) -> Self {
        Self::with(slot, ConfigSpace::new(identity))
    }

    /// A PCI Express function (an endpoint integrated in the root complex) with function-level
    /// reset, and 4,096 bytes of configuration space.
    pub fn express(slot: Slot<'a>, identity: &Identity) -> Self {
        let mut builder = Self::with(slot, ConfigSpace::extended(identity));
        builder.resets.add_express(&mut builder.config);
        builder
    }

    /// A function with 4,096 bytes of configuration space, and nothing but a header in them.
    pub fn extended(slot: Slot<'a>, identity: &Identity) -> Self {
        Self::with(slot, ConfigSpace::extended(identity))
    }

    fn with(slot: Slot<'a>, config: ConfigSpace) -> Self {
        Self {
            slot,
            config,
            interrupts: None,
            msi: None,
            msix: None,
            msix_at: None,
            resets: Resets::default(),
            handlers: Vec::new(),
            windows: Vec::new(),
            followed: Vec::new(),
        }
    }

    /// Adds BAR `index`; see [`ConfigSpace::with_bar`]. The device answers it.
    #[must_use]
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        self.config = self.config.with_bar(index, bar);
        self
    }

    /// Adds BAR `index`, which `handler` answers instead of the device.
    #[must_use]
    pub fn bar_handler(mut self, index: usize, bar: Bar, handler: Arc<dyn Handler>) -> Self {
        self.handlers.push((index, handler));
        self.bar(index, bar)
    }

    /// Adds BAR `index`, all of which is `memory`, for the guest to read and write. The memory is as
    /// long as the BAR at least, or the bus refuses the function.
    #[must_use]
    pub fn bar_memory(self, index: usize, bar: Bar, memory: Arc<dyn Memory>) -> Self {
        let delivery = Delivery::Memory { memory, offset: 0, readonly: false };
        let whole = Window { offset: 0, len: bar.len_bytes(), delivery };
        self.bar_handler(index, bar, Arc::new(NoHandler)).window(index, whole)
    }

    /// Adds an expansion ROM of `len` bytes, which the device answers as [`ROM_BAR`].
    #[must_use]
    pub fn rom(mut self, len: u32) -> Self {
        self.config = self.config.with_rom(len);
        self
    }

    /// Delivers a part of a BAR in another way than by calling the device: from memory, through a
    /// doorbell, queued. The window's offset is one in the BAR. What of the MSI-X table or its
    /// pending bits is in a window of memory or of queued writes is not delivered so.
    #[must_use]
    pub fn window(mut self, bar: usize, window: Window) -> Self {
        self.windows.push((bar, window));
        self
    }

    /// Has writes of `len` bytes (0 for any) at `offset` of a BAR ring instead of being passed on.
    #[must_use]
    pub fn doorbell(self, bar: usize, offset: u64, len: u64, target: Arc<dyn Ring>) -> Self {
        let delivery = Delivery::Doorbell { target: target.into(), datamatch: None };
        self.window(bar, Window { offset, len, delivery })
    }

    /// The regions of a BAR, for a device that changes how a part of it is delivered.
    pub fn bar_regions(&mut self, bar: usize) -> BarRegions {
        let regions = BarRegions::default();
        self.followed.push((bar, regions.clone()));
        regions
    }

    /// Adds the MSI capability, with one message.
    #[must_use]
    pub fn msi(mut self) -> Self {
        self.msi = Some(MsiLayout::default());
        self
    }

    /// [`FunctionBuilder::msi`], with the capability at `offset`, and with an address of 64 bits or of
    /// 32.
    #[must_use]
    pub fn msi_at(mut self, offset: u16, wide: bool) -> Self {
        self.msi = Some(MsiLayout { offset: Some(offset), narrow: !wide });
        self
    }

    /// Adds MSI-X; the BARs it is in come before it.
    #[must_use]
    pub fn msix(mut self, layout: MsixLayout) -> Self {
        self.msix = Some(layout);
        self
    }

    /// [`FunctionBuilder::msix`], with the capability at `offset`.
    #[must_use]
    pub fn msix_at(mut self, offset: u16, layout: MsixLayout) -> Self {
        self.msix_at = Some(offset);
        self.msix(layout)
    }

    /// Adds power management: D0 and D3hot, which is left through a reset.
    #[must_use]
    pub fn power_management(mut self) -> Self {
        self.resets.add_power_management(&mut self.config, None);
        self
    }

    /// [`FunctionBuilder::power_management`], with the capability at `offset`.
    #[must_use]
    pub fn power_management_at(mut self, offset: u16) -> Self {
        self.resets.add_power_management(&mut self.config, Some(offset));
        self
    }

    /// Has a write to the PCI Express capability that was added at `offset`
    /// ([`ConfigSpace::add_capability_at`]) and tells of function-level reset begin one.
    #[must_use]
    pub fn reset_by_express(mut self, offset: u16) -> Self {
        self.resets.reset_by_express(offset, &mut self.config);
        self
    }

    /// Adds function-level reset to a conventional function.
    #[must_use]
    pub fn function_level_reset(mut self) -> Self {
        self.resets.add_advanced_features(&mut self.config, None);
        self
    }

    /// [`FunctionBuilder::function_level_reset`], with the capability at `offset`.
    #[must_use]
    pub fn function_level_reset_at(mut self, offset: u16) -> Self {
        self.resets.add_advanced_features(&mut self.config, Some(offset));
        self
    }

    /// Configuration space, for registers and capabilities of the device's own.
    pub fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    /// The interrupt with this number, for the device to hold: MSI-X vector `number`, the MSI
    /// message, or the pin, whichever the driver has enabled.
    pub fn interrupt(&mut self, number: usize) -> Interrupt {
        self.interrupts().either(number)
    }

    /// The pin alone, for a device that tells it from messages. It is low while messages are used.
    pub fn pin(&mut self) -> Interrupt {
        self.interrupts().pin()
    }

    /// Message `number` alone. Nothing is sent while the pin is used.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn message(&mut self, number: usize) -> Interrupt {
        self.interrupts().message(number)
    }

    fn interrupts(&mut self) -> &mut Interrupts {
        let Self { slot, config, interrupts, msi, msix, msix_at, .. } = self;
        interrupts.get_or_insert_with(|| {
            let vectors = msix.map_or(u16::from(msi.is_some()), |layout| layout.vectors);
            let mut interrupts = Interrupts::new(slot, vectors);
            interrupts.msi = msi.map(|layout| MsiCapability::add(layout, config));
            interrupts.msix = msix.map(|layout| layout.add(*msix_at, config));
            interrupts
        })
    }

    /// The function, with its device.
    pub fn build(mut self, device: Arc<dyn PciDevice>) -> Function {
        self.interrupts();
        let Self { slot, config, interrupts, msix, resets, handlers, .. } = self;
        let (windows, followed) = (self.windows, self.followed);
        let interrupts = interrupts.unwrap_or_else(|| unreachable!("made right above"));
        let mut bars: [Vec<(u64, Region)>; DECODERS] = Default::default();
        for (index, pieces) in bars.iter_mut().enumerate() {
            let Some(bar) = config.bar(index) else { continue };
            let handler = handlers.iter().find(|(bar, _)| *bar == index);
            let handler = handler.map_or_else(
                || -> Arc<dyn Handler> {
                    Arc::new(BarOf { device: Arc::clone(&device), bar: index })
                },
                |(_, handler)| Arc::clone(handler),
            );
            let windows = windows.iter().filter(|(bar, _)| *bar == index);
            let windows = windows.map(|(_, window)| window.clone()).collect();
            let whole = Pieces { name: slot.name, bar: index, decodes: bar, handler, windows };
            *pieces = whole.cut(msix.as_ref(), &interrupts);
        }
        let user: Weak<dyn PciDevice> = Arc::downgrade(&device);
        interrupts.vectors.set_user(user);
        let function = Function {
            name: slot.name.into(),
            device,
            interrupts,
            has_table: msix.is_some(),
            resets,
            bars,
            followed,
            config: Mutex::new(config),
            page: Arc::default(),
        };
        function.interrupts.sync(&function.config.lock(), true);
        function
    }
}

/// A BAR that is to become regions.
struct Pieces<'a> {
    name: &'a str,
    bar: usize,
    decodes: Bar,
    handler: Arc<dyn Handler>,
    windows: Vec<Window>,
}

impl Pieces<'_> {
    /// The regions of the BAR with their offsets: the MSI-X table and its pending bits are regions
    /// of their own, and the handler's is cut around them.
    fn cut(self, msix: Option<&MsixLayout>, interrupts: &Interrupts) -> Vec<(u64, Region)> {
        let mut cuts: Vec<(Range<u64>, &str, Arc<dyn Handler>)> = Vec::new();
        if let Some(layout) = msix {
            let vectors = || Arc::clone(&interrupts.vectors);
            if usize::from(layout.table_bar) == self.bar {
                cuts.push((layout.table_range(), "msix-table", Arc::new(TableWindow(vectors()))));
            }
            if usize::from(layout.pba_bar) == self.bar {
                cuts.push((layout.pba_range(), "msix-pba", Arc::new(PendingWindow(vectors()))));
            }
        }
        cuts.sort_by_key(|(range, ..)| range.start);
        let (mut pieces, mut start) = (Vec::new(), 0);
        let name = if self.bar == ROM_BAR { "rom".to_owned() } else { format!("bar{}", self.bar) };
        for (range, part, handler) in cuts {
            pieces.extend(self.piece(start..range.start, &name));
            let names = (self.name, part);
            let len = range.end - range.start;
            pieces
                .push((range.start, Region::new(self.decodes.space(), None, len, names, handler)));
            start = range.end;
        }
        pieces.extend(self.piece(start..self.decodes.len_bytes(), &name));
        pieces
    }

    /// What the handler answers of `range`, with the windows that are in it.
    fn piece(&self, range: Range<u64>, name: &str) -> Option<(u64, Region)> {
        let len = range.end.checked_sub(range.start).filter(|len| *len > 0)?;
        let (space, handler) = (self.decodes.space(), Arc::clone(&self.handler));
        let region = Region::new(space, None, len, (self.name, name), handler);
        let region = region.device_offset(range.start);
        let windows = self.windows.iter().filter_map(|window| clip(window, &range));
        Some((range.start, windows.fold(region, Region::window)))
    }
}

/// What of a window of a BAR is in the piece `range` of it, with its offset there. One that cannot be
/// divided is of the piece in which it begins.
fn clip(window: &Window, range: &Range<u64>) -> Option<Window> {
    let (mut delivery, end) = (window.delivery.clone(), window.offset.saturating_add(window.len));
    let start = window.offset.max(range.start);
    match &mut delivery {
        Delivery::Memory { offset, .. } => *offset += start - window.offset,
        Delivery::Coalesced => {}
        Delivery::Doorbell { .. } | Delivery::Forward { .. } | Delivery::Mirrored { .. } => {
            let offset = window.offset.checked_sub(range.start)?;
            return (window.offset < range.end).then(|| Window { offset, ..window.clone() });
        }
    }
    let len = end.min(range.end).checked_sub(start).filter(|len| *len > 0)?;
    Some(Window { offset: start - range.start, len, delivery })
}

/// A BAR that the device answers.
struct BarOf {
    device: Arc<dyn PciDevice>,
    bar: usize,
}

impl Handler for BarOf {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        self.device.bar_read(cx, self.bar, offset, size)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        self.device.bar_write(cx, self.bar, offset, size, value);
    }

    fn rules(&self) -> Rules {
        self.device.bar_rules(self.bar)
    }

    fn register(&self, offset: u64, direction: Direction) -> Option<&'static str> {
        self.device.bar_register(self.bar, offset, direction)
    }
}

/// A PCI function, ready to be plugged into a [`crate::Bus`]: configuration space, what its
/// interrupts go through, the regions behind its BARs, and the device.
pub struct Function {
    name: Arc<str>,
    device: Arc<dyn PciDevice>,
    interrupts: Interrupts,
    /// Whether the vectors are MSI-X'.
    has_table: bool,
    resets: Resets,
    /// The regions of each BAR, with their offsets in it. Templates: the bus maps copies.
    bars: [Vec<(u64, Region)>; DECODERS],
    followed: Vec<(usize, BarRegions)>,
    /// Held while the device is asked about configuration space, so the device's own lock comes
    /// after it, and that of its interrupts last.
    config: Mutex<ConfigSpace>,
    /// Where a guest can read configuration space without an access, if it can.
    page: Arc<ConfigPage>,
}

impl Function {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Answers a read of configuration space; bytes past its end are all ones. `offset` is below
    /// 4,096, and a multiple of `size`.
    pub(crate) fn config_read(&self, offset: u16, size: Size) -> u32 {
        let config = self.config.lock();
        let value = self.device.config_read(&config, offset, size);
        // A level may have taken it away that has changed since.
        self.reflect(&config);
        self.page.read(offset);
        // The status register's lower byte.
        let byte = u32::from(STATUS).checked_sub(u32::from(offset));
        match byte.filter(|byte| *byte < 4 && *byte < size.bits() / 8) {
            Some(byte) if self.interrupts.pin_pending(&config) => {
                value | STATUS_INTERRUPT << (8 * byte)
            }
            _ => value,
        }
    }

    /// Takes a write of configuration space. Returns whether a BAR decodes something else now.
    pub(crate) fn config_write(&self, offset: u16, size: Size, value: u32) -> bool {
        let mut config = self.config.lock();
        let before = self.decoded(&config);
        let state = self.resets.state(&config);
        self.device.config_write(&mut config, offset, size, value);
        if self.resets.take(&mut config, state) {
            config.reset();
            self.interrupts.vectors.reset();
            self.device.reset();
        }
        self.reflect(&config);
        self.interrupts.sync(&config, self.resets.awake(&config));
        before != self.decoded(&config)
    }

    /// Has a guest read configuration space by itself, at `offset` of `mirror`, where it makes no
    /// difference.
    pub(crate) fn show(&self, mirror: &Arc<Mirror>, offset: u64) {
        let config = self.config.lock();
        self.page.show(mirror, offset);
        let page = Arc::downgrade(&self.page);
        let withdraw = move || {
            if let Some(page) = page.upgrade() {
                page.withdraw();
            }
        };
        let observer: Arc<dyn Fn() + Send + Sync> = Arc::new(withdraw);
        self.interrupts.observe_pins(&observer);
        self.reflect(&config);
    }

    /// Ends that.
    pub(crate) fn conceal(&self) {
        self.page.conceal();
    }

    /// Says what configuration space reads as now, if reading it changes nothing. Before the pin
    /// moves, of which the status register tells.
    fn reflect(&self, config: &ConfigSpace) {
        if !self.page.is_there() {
            return;
        }
        let mut bytes = config.bytes().to_vec();
        if !self.device.config_shown(config, &mut bytes) {
            return self.page.withdraw();
        }
        let pending = self.interrupts.pin_pending(config);
        if pending && let Some(status) = bytes.get_mut(usize::from(STATUS)) {
            *status |= STATUS_INTERRUPT.to_le_bytes()[0];
        }
        self.page.vouch(&bytes);
        // Whoever moves a pin withdraws the page, but what is vouched for after that stays.
        if self.interrupts.pin_pending(config) != pending {
            self.page.withdraw();
        }
    }

    /// Where each BAR decodes, in addresses of the bus.
    pub(crate) fn windows(&self) -> [Option<BarWindow>; DECODERS] {
        self.decoded(&self.config.lock())
    }

    /// The same, unless somebody has the registers locked.
    pub(crate) fn try_windows(&self) -> Option<[Option<BarWindow>; DECODERS]> {
        Some(self.decoded(&*self.config.try_lock()?))
    }

    fn decoded(&self, config: &ConfigSpace) -> [Option<BarWindow>; DECODERS] {
        if self.resets.awake(config) { config.windows() } else { [None; DECODERS] }
    }

    /// Length of a BAR, if there is one.
    pub(crate) fn bar_len(&self, index: usize) -> Option<u64> {
        self.config.lock().bar(index).map(Bar::len_bytes)
    }

    /// Whoever wants to know of the regions behind BAR `index`.
    pub(crate) fn followed(&self, index: usize) -> impl Iterator<Item = &BarRegions> {
        self.followed.iter().filter(move |(bar, _)| *bar == index).map(|(_, regions)| regions)
    }

    /// The regions are none of a registry's any more.
    pub(crate) fn unplugged(&self) {
        self.followed.iter().for_each(|(_, regions)| regions.vanish());
        self.device.unplugged();
    }

    /// The regions of each BAR.
    pub(crate) fn bars(&self) -> &[Vec<(u64, Region)>; DECODERS] {
        &self.bars
    }

    /// The name of a register in configuration space.
    pub(crate) fn register(&self, offset: u16, direction: Direction) -> Option<&'static str> {
        let row = match direction {
            Direction::Read => HEADER.for_read(u64::from(offset)),
            Direction::Write => HEADER.for_write(u64::from(offset)),
        };
        row.map(|row| row.name).or_else(|| self.device.config_register(offset))
    }
}

impl Device for Function {
    /// As after power-on. The bus moves the BARs.
    fn reset(&self) {
        let mut config = self.config.lock();
        config.reset();
        self.interrupts.vectors.reset();
        self.device.reset();
        self.reflect(&config);
        self.interrupts.sync(&config, true);
    }
}

/// What a snapshot keeps of a function.
#[derive(Clone)]
struct State {
    config: ConfigState,
    /// Without vectors where there is no table.
    msix: MsixState,
    device: Saved,
}

saved_form! {
    /// [`State`], version 1. What can be is the function's to say.
    struct FunctionV1 of State, "pci-function" version 1 unchecked {
        config: ConfigV1,
        msix: MsixV1,
        device: Saved,
    }
}

impl SaveState for Function {
    fn save(&self) -> Saved {
        let config = self.config.lock();
        let msix =
            if self.has_table { self.interrupts.vectors.state() } else { MsixState::default() };
        let state = State { config: config.state(), msix, device: self.device.save() };
        Saved::encode(&FunctionV1::from(&state))
    }

    /// The bus moves the BARs afterwards.
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let State { config: state, msix, device } = State::try_from(saved.decode::<FunctionV1>()?)?;
        let check = StateError::check::<FunctionV1>;
        let mut config = self.config.lock();
        check(config.can_be(&state), "hard-wired bits are what they are")?;
        let vectors = &self.interrupts.vectors;
        let possible = if self.has_table { vectors.can_be(&msix) } else { msix.is_empty() };
        check(possible, "the MSI-X table is as long as it is")?;
        let mut restored = config.clone();
        restored.restore(state);
        check(self.device.config_possible(&restored), "configuration space is a possible one")?;
        self.device.restore(&device)?;
        *config = restored;
        vectors.restore(&msix);
        self.reflect(&config);
        self.interrupts.sync(&config, self.resets.awake(&config));
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        self.device.is_at_rest()
    }
}
