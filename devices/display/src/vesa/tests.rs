use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use trapline_device::{
    Device, DirtyBitmap, DirtyLog, EditError, Memory, RegionEdit, RegionId, Regions, SaveState,
    Size,
};
use trapline_guestmem::GuestMem;
use trapline_pci::{BridgeWindow, Bus, Devfn, Slot, WindowKind};

use super::*;
use crate::Mode;

const FRAME: u32 = 0xd000_0000;
const PORTS: u16 = 0x6200;
const PORTS_ID: RegionId = RegionId(7);
const FRAME_ID: RegionId = RegionId(8);
const DEVFN: Devfn = Devfn::from_bits(0xf8);

/// Remembers where the frame buffer and the ports were put.
#[derive(Default)]
struct Places {
    frame: Mutex<Vec<Option<u64>>>,
    ports: Mutex<Vec<Option<u64>>>,
    /// No region fits here.
    taken: Option<u64>,
}

impl Regions for Places {
    fn edit(&self, edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        let mut ids = Vec::new();
        for edit in edits {
            match edit {
                RegionEdit::Map(region) => {
                    let ports = &*region.name.region == "bar0";
                    ids.push(if ports { PORTS_ID } else { FRAME_ID });
                }
                RegionEdit::Place(_, base) if base.is_some() && base == self.taken => {
                    let name = ("vesa".into(), "bar0".into());
                    let name = trapline_device::RegionName { device: name.0, region: name.1 };
                    return Err(EditError::Empty { name });
                }
                RegionEdit::Place(PORTS_ID, base) => self.ports.lock().push(base),
                RegionEdit::Place(_, base) => self.frame.lock().push(base),
                _ => {}
            }
        }
        Ok(ids)
    }
}

/// Nothing is written.
struct Nothing;

impl DirtyLog for Nothing {
    fn take(&self) -> DirtyBitmap {
        DirtyBitmap::new(0, 1)
    }
}

fn display(places: &Arc<Places>) -> Bus {
    let frame = GuestMem::new(&[(0, Mode::VESA.memory_len().into())]).unwrap();
    let memory: Arc<dyn Memory> = Arc::new(frame.pieces().remove(0));
    let screen = Arc::new(Screen::new(Mode::VESA, frame, Box::new(Nothing)));
    let slot = Slot { name: "vesa", devfn: DEVFN, pin: None, messages: None };
    let function = Vesa::function(slot, screen, memory, Place { ports: PORTS, frame: FRAME });
    let windows = vec![
        BridgeWindow::identity(WindowKind::Io, 0..0x1_0000),
        BridgeWindow::identity(WindowKind::Memory, 0x4000_0000..0xfec0_0000),
    ];
    let bus = Bus::new(places.clone(), windows);
    bus.insert(DEVFN, function).unwrap();
    assert_eq!(places.frame.lock().last(), Some(&Some(FRAME.into())));
    assert_eq!(*places.ports.lock(), [Some(PORTS.into())]);
    places.frame.lock().clear();
    places.ports.lock().clear();
    bus
}

fn read(bus: &Bus, offset: u16) -> u32 {
    bus.config_read(DEVFN, offset, Size::Dword)
}

fn write(bus: &Bus, offset: u16, value: u32) {
    bus.config_write(DEVFN, offset, Size::Dword, value);
}

#[test]
fn the_header_is_kvmtools_and_both_bars_are_placed() {
    let bus = display(&Arc::default());
    assert_eq!(read(&bus, 0x00), 0x2000_1af4);
    assert_eq!(read(&bus, 0x04) & 0xffff, 3, "answers ports and memory");
    assert_eq!(read(&bus, 0x08) >> 8, 0x03_0000);
    assert_eq!(read(&bus, 0x2c), 0x0004_1af4);
    assert_eq!(read(&bus, 0x10), u32::from(PORTS) | 1);
    assert_eq!(read(&bus, 0x14), FRAME | 8, "prefetchable memory of 32 bits");
    assert_eq!(read(&bus, 0x18), 0);
}

#[test]
fn a_driver_that_sizes_the_bars_finds_256_ports_and_2_mib() {
    let places = Arc::<Places>::default();
    let bus = display(&places);
    write(&bus, 0x04, 0);
    assert_eq!(
        (places.frame.lock().clone(), places.ports.lock().clone()),
        (vec![None], vec![None])
    );
    write(&bus, 0x10, u32::MAX);
    assert_eq!(read(&bus, 0x10), 0xffff_ff01);
    write(&bus, 0x14, u32::MAX);
    assert_eq!(read(&bus, 0x14), 0xffe0_0008);
    write(&bus, 0x10, 0x7000);
    write(&bus, 0x14, 0xd200_0000);
    assert_eq!(*places.frame.lock(), [None], "a BAR that does not answer is nowhere");
    write(&bus, 0x04, 3);
    assert_eq!(places.frame.lock().last(), Some(&Some(0xd200_0000)));
    assert_eq!(*places.ports.lock(), [None, Some(0x7000)]);
}

#[test]
fn ports_on_top_of_others_are_nowhere_and_the_frame_buffer_moves_all_the_same() {
    let places = Arc::new(Places { taken: Some(0x300), ..Places::default() });
    let bus = display(&places);
    write(&bus, 0x10, 0x300);
    assert_eq!(*places.frame.lock(), [], "it has not moved");
    write(&bus, 0x14, 0xe000_0000);
    assert_eq!(places.frame.lock().last(), Some(&Some(0xe000_0000)));
}

#[test]
fn a_reset_and_a_restored_state_put_everything_back() {
    let places = Arc::<Places>::default();
    let bus = display(&places);
    write(&bus, 0x14, 0xe000_0000);
    write(&bus, 0x10, 0x7000);
    let saved = bus.save();
    bus.reset();
    let now = || (*places.frame.lock().last().unwrap(), *places.ports.lock().last().unwrap());
    assert_eq!(now(), (Some(FRAME.into()), Some(PORTS.into())));
    bus.restore(&saved).unwrap();
    assert_eq!(now(), (Some(0xe000_0000), Some(0x7000)));
}

proptest! {
    #[test]
    fn the_frame_buffer_is_always_where_the_header_says(
        writes in prop::collection::vec((0u16..16, any::<u32>()), 0..40),
    ) {
        let places = Arc::<Places>::default();
        let bus = display(&places);
        let identity = (read(&bus, 0), read(&bus, 8));
        for (register, value) in writes {
            write(&bus, register * 4, value);
            let answers = read(&bus, 0x04) & 2 != 0;
            let base = u64::from(read(&bus, 0x14) & !0xf);
            let window = 0x4000_0000..=0xfec0_0000 - u64::from(Mode::VESA.memory_len());
            let header = (answers && window.contains(&base)).then_some(base);
            let now = places.frame.lock().last().copied();
            prop_assert_eq!(now.unwrap_or(Some(FRAME.into())), header);
        }
        prop_assert_eq!((read(&bus, 0), read(&bus, 8)), identity);

        let twin = display(&Arc::default());
        twin.restore(&bus.save()).unwrap();
        for offset in (0..256).step_by(4) {
            prop_assert_eq!(read(&twin, offset), read(&bus, offset));
        }
    }
}
