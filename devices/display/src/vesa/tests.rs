use proptest::prelude::*;
use trapline_device::{EditError, NoRegions, RegionEdit, Regions, Requester};
use trapline_guestmem::GuestMem;

use super::*;
use crate::Mode;

const FRAME: u32 = 0xd000_0000;
const PORTS: u16 = 0x6200;

/// Remembers where the frame buffer and the regions were put.
#[derive(Default)]
struct Places {
    frame: Mutex<Vec<Option<u64>>>,
    regions: Mutex<Vec<(RegionId, Option<u64>)>>,
    /// No region fits here.
    taken: Option<u64>,
}

impl FrameMemory for Places {
    fn place(&self, base: Option<u64>) {
        self.frame.lock().push(base);
    }

    fn take_dirty(&self) -> Vec<u64> {
        Vec::new()
    }

    fn touch(&self) {}
}

impl Regions for Places {
    fn edit(&self, _edits: Vec<RegionEdit>) -> Result<Vec<RegionId>, EditError> {
        panic!("a function only places its regions")
    }

    fn place(&self, moves: &[(RegionId, Option<u64>)]) -> Result<(), EditError> {
        if let Some((id, _)) = moves.iter().find(|(_, base)| base.is_some() && *base == self.taken)
        {
            return Err(EditError::Unknown(*id));
        }
        self.regions.lock().extend(moves);
        Ok(())
    }
}

fn display(places: &Arc<Places>) -> Vesa {
    let frame = GuestMem::new(&[(0, Mode::VESA.memory_len().into())]).unwrap();
    let memory: Arc<dyn FrameMemory> = places.clone();
    let screen = Arc::new(Screen::new(Mode::VESA, frame, Arc::clone(&memory)));
    let vesa = Vesa::new(screen, memory, Place { ports: PORTS, frame: FRAME });
    vesa.connect(PORTS_BAR, RegionId(7));
    vesa
}

fn read(vesa: &Vesa, offset: u16) -> u32 {
    vesa.config_read(&IoCx::new(Requester::Vcpu(0), &NoRegions), offset, Size::Dword)
}

fn write(vesa: &Vesa, places: &Places, offset: u16, value: u32) {
    vesa.config_write(&IoCx::new(Requester::Vcpu(0), places), offset, Size::Dword, value);
}

#[test]
fn the_header_is_kvmtools_and_both_bars_are_placed() {
    let vesa = display(&Arc::default());
    assert_eq!(read(&vesa, 0x00), 0x2000_1af4);
    assert_eq!(read(&vesa, 0x04) & 0xffff, 3, "answers ports and memory");
    assert_eq!(read(&vesa, 0x08) >> 8, 0x03_0000);
    assert_eq!(read(&vesa, 0x2c), 0x0004_1af4);
    assert_eq!(read(&vesa, 0x10), u32::from(PORTS) | 1);
    assert_eq!(read(&vesa, 0x14), FRAME | 8, "prefetchable memory of 32 bits");
    assert_eq!(read(&vesa, 0x18), 0);
}

#[test]
fn a_driver_that_sizes_the_bars_finds_256_ports_and_2_mib() {
    let places = Arc::<Places>::default();
    let vesa = display(&places);
    write(&vesa, &places, 0x04, 0);
    assert_eq!(*places.frame.lock(), [None]);
    write(&vesa, &places, 0x10, u32::MAX);
    assert_eq!(read(&vesa, 0x10), 0xffff_ff01);
    write(&vesa, &places, 0x14, u32::MAX);
    assert_eq!(read(&vesa, 0x14), 0xffe0_0008);
    write(&vesa, &places, 0x10, 0x7000);
    write(&vesa, &places, 0x14, 0xd200_0000);
    assert_eq!(*places.frame.lock(), [None], "a BAR that does not answer is nowhere");
    write(&vesa, &places, 0x04, 3);
    assert_eq!(*places.frame.lock(), [None, Some(0xd200_0000)]);
    assert_eq!(*places.regions.lock(), [(RegionId(7), None), (RegionId(7), Some(0x7000))]);
}

#[test]
fn ports_that_are_put_on_top_of_others_are_nowhere_and_the_frame_buffer_moves_all_the_same() {
    let places = Arc::new(Places { taken: Some(0x300), ..Places::default() });
    let vesa = display(&places);
    write(&vesa, &places, 0x10, 0x300);
    assert_eq!(*places.regions.lock(), [(RegionId(7), None)]);
    assert_eq!(*places.frame.lock(), [], "it has not moved");
    write(&vesa, &places, 0x14, 0xe000_0000);
    assert_eq!(*places.frame.lock(), [Some(0xe000_0000)]);
}

#[test]
fn a_reset_and_a_restored_state_put_everything_back() {
    let places = Arc::<Places>::default();
    let vesa = display(&places);
    write(&vesa, &places, 0x14, 0xe000_0000);
    write(&vesa, &places, 0x10, 0x7000);
    let saved = vesa.save();
    vesa.reset();
    assert_eq!(places.frame.lock().last(), Some(&Some(u64::from(FRAME))));
    assert_eq!(vesa.places(), [(RegionId(7), Some(u64::from(PORTS)))]);
    vesa.restore(&saved).unwrap();
    assert_eq!(places.frame.lock().last(), Some(&Some(0xe000_0000)));
    assert_eq!(vesa.places(), [(RegionId(7), Some(0x7000))]);
}

#[test]
fn an_impossible_state_is_refused_and_changes_nothing() {
    let places = Arc::<Places>::default();
    let vesa = display(&places);
    let good = vesa.state();
    for bad in [
        State { command: 0xffff, ..good },
        State { ports: 0x6201 | 2, ..good },
        State { frame: FRAME | 0x1000, ..good },
    ] {
        let refused = vesa.restore(&Saved::encode(&SavedV1::from(bad))).unwrap_err();
        assert!(matches!(refused, StateError::Inconsistent { .. }), "{bad:?}");
        assert_eq!(vesa.state(), good);
    }
    let other = Saved { name: "serial".into(), ..vesa.save() };
    assert!(vesa.restore(&other).is_err());
    assert_eq!(*places.frame.lock(), []);
}

#[test]
fn the_ports_are_all_ones() {
    let cx = IoCx::new(Requester::Vcpu(0), &NoRegions);
    EmptyPorts.write(&cx, 0, Size::Dword, 0);
    assert_eq!(EmptyPorts.read(&cx, 0, Size::Word), 0xffff);
}

proptest! {
    #[test]
    fn the_frame_buffer_is_always_where_the_header_says(
        writes in prop::collection::vec((0u16..16, any::<u32>()), 0..40),
    ) {
        let places = Arc::<Places>::default();
        let vesa = display(&places);
        let identity = (read(&vesa, 0), read(&vesa, 8));
        for (register, value) in writes {
            write(&vesa, &places, register * 4, value);
            let answers = read(&vesa, 0x04) & 2 != 0;
            let header = answers.then(|| u64::from(read(&vesa, 0x14) & !0xf));
            let now = places.frame.lock().last().copied();
            prop_assert_eq!(now.unwrap_or(Some(FRAME.into())), header);
        }
        prop_assert_eq!((read(&vesa, 0), read(&vesa, 8)), identity);

        let twin = display(&Arc::default());
        twin.restore(&vesa.save()).unwrap();
        for offset in (0..256).step_by(4) {
            prop_assert_eq!(read(&twin, offset), read(&vesa, offset));
        }
        prop_assert_eq!(twin.places(), vesa.places());
    }
}
