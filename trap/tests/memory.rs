//! Memory that the guest sees: logs of what is written to it, and listeners to where it is.
#![cfg(not(loom))]
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use parking_lot::Mutex;
use support::Recorder;
use trapline::{
    Delivery, DirtyBitmap, DirtyLog, EditError, Memory, MemoryListener, MemorySection, Offload,
    Region, RegionEdit, Regions, Registry, Space, Window, Zone,
};

const PAGE: u64 = 0x1000;

/// Memory of zeroed pages that knows what is written to it.
#[derive(Default)]
struct Pages {
    bytes: Mutex<Vec<u8>>,
    logging: Mutex<bool>,
    written: Mutex<Vec<u64>>,
}

impl Pages {
    fn memory(pages: usize) -> Arc<dyn Memory> {
        Arc::new(Self { bytes: Mutex::new(vec![0; pages * 0x1000]), ..Self::default() })
    }
}

impl Memory for Pages {
    fn len(&self) -> u64 {
        self.bytes.lock().len() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let at = usize::try_from(offset).unwrap();
        data.copy_from_slice(&self.bytes.lock()[at..at + data.len()]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap();
        self.bytes.lock()[at..at + data.len()].copy_from_slice(data);
        if *self.logging.lock() {
            self.written.lock().push(offset);
        }
    }

    fn log_writes(&self, on: bool) {
        *self.logging.lock() = on;
        self.written.lock().clear();
    }

    fn take_written(&self, written: &mut DirtyBitmap) {
        self.written.lock().drain(..).for_each(|at| written.set(at..at + 1));
    }
}

/// A memory, and where the guest wrote in it.
type Logged = (Arc<dyn Memory>, Vec<u64>);

/// A source that has all memory, logs the guest's writes to it, and can be told to refuse.
#[derive(Default)]
struct Slots {
    zones: Mutex<Vec<u64>>,
    logged: Mutex<Vec<Logged>>,
    refuse_log: Mutex<bool>,
}

impl Slots {
    /// The guest writes without coming to the registry.
    fn guest_writes(&self, memory: &Arc<dyn Memory>, offset: u64) {
        for (other, pages) in &mut *self.logged.lock() {
            if Arc::ptr_eq(other, memory) {
                pages.push(offset);
            }
        }
    }
}

impl Offload for Slots {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        self.zones.lock().push(zone.addr);
        Ok(true)
    }

    fn remove(&self, zone: &Zone) {
        self.zones.lock().retain(|addr| *addr != zone.addr);
    }

    fn log_dirty(&self, memory: &Arc<dyn Memory>, on: bool) -> Result<(), String> {
        if *self.refuse_log.lock() {
            return Err("Invalid argument".to_owned());
        }
        let mut logged = self.logged.lock();
        logged.retain(|(other, _)| !Arc::ptr_eq(other, memory));
        if on {
            logged.push((Arc::clone(memory), Vec::new()));
        }
        Ok(())
    }

    fn take_dirty(&self, memory: &Arc<dyn Memory>, dirty: &mut DirtyBitmap) {
        for (other, pages) in &mut *self.logged.lock() {
            if Arc::ptr_eq(other, memory) {
                pages.drain(..).for_each(|at| dirty.set(at..at + 1));
            }
        }
    }
}

fn pages(log: &dyn DirtyLog) -> Vec<u64> {
    log.take().pages().map(|start| start / PAGE).collect()
}

#[test]
fn a_log_has_what_guest_and_devices_write_and_each_has_its_own() {
    let source = Arc::<Slots>::default();
    let registry = Registry::builder().offload(source.clone()).build();
    let [memory, other] = [Pages::memory(4), Pages::memory(4)];
    let region = Region::ram(0x1000, "card", "vram", Arc::clone(&memory));
    let _map = registry.map(region).unwrap();
    let mut handle = registry.handle(0);
    handle.write(Space::Mmio, 0x1000, &[1]);
    let one = registry.log_dirty(Arc::clone(&memory)).unwrap();
    assert_eq!(pages(&*one), []);
    handle.write(Space::Mmio, 0x2000, &[1]);
    source.guest_writes(&memory, 3 * PAGE);
    let two = registry.log_dirty(Arc::clone(&memory)).unwrap();
    memory.write(0x10, &[1]);
    other.write(0x10, &[1]);
    assert_eq!(pages(&*two), [0], "what is written from when it was asked for");
    assert_eq!(pages(&*one), [0, 1, 3]);
    assert_eq!((pages(&*one), pages(&*two)), (vec![], vec![]));
    drop(one);
    source.guest_writes(&memory, 2 * PAGE);
    assert_eq!(pages(&*two), [2]);
    drop(two);
    assert!(source.logged.lock().is_empty(), "nobody wants to know any more");
    *source.refuse_log.lock() = true;
    let refused = registry.log_dirty(memory).map(drop).unwrap_err().to_string();
    assert_eq!(
        refused,
        "the kernel does not log which pages of memory are written: Invalid argument"
    );
}

#[test]
fn memory_that_does_not_know_says_that_all_of_it_was_written() {
    struct Unknown;
    impl Memory for Unknown {
        fn len(&self) -> u64 {
            3 * PAGE
        }
        fn read(&self, _offset: u64, _data: &mut [u8]) {}
        fn write(&self, _offset: u64, _data: &[u8]) {}
    }
    let registry = Registry::builder().build();
    let log = registry.downgrade().log_dirty(Arc::new(Unknown)).unwrap();
    assert_eq!(pages(&*log), [0, 1, 2]);
    let weak = registry.downgrade();
    drop(registry);
    assert_eq!(pages(&*log), [0; 0]);
    assert!(matches!(weak.log_dirty(Arc::new(Unknown)).err(), Some(EditError::NoRegistry)));
}

/// Writes down what it hears, and what then is mapped; refuses what it is told to.
#[derive(Default)]
struct Listener {
    heard: Mutex<Vec<String>>,
    mapped: Mutex<Vec<MemorySection>>,
    refuse_at: Mutex<Option<u64>>,
}

impl Listener {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock())
    }

    fn say(&self, what: &str, section: &MemorySection) {
        self.heard.lock().push(format!("{what} {} {:#x}", section.name.region, section.addr));
    }
}

impl MemoryListener for Listener {
    fn begin(&self) {
        self.heard.lock().push("begin".to_owned());
    }

    fn add(&self, section: &MemorySection) -> Result<(), String> {
        if *self.refuse_at.lock() == Some(section.addr) {
            return Err("Cannot allocate memory".to_owned());
        }
        self.say("add", section);
        assert!(!self.mapped.lock().contains(section), "{section:?} is there already");
        self.mapped.lock().push(section.clone());
        Ok(())
    }

    fn remove(&self, section: &MemorySection) {
        self.say("remove", section);
        let mut mapped = self.mapped.lock();
        let at = mapped.iter().position(|other| other == section);
        mapped.remove(at.unwrap());
    }

    fn commit(&self) {
        self.heard.lock().push("commit".to_owned());
    }
}

#[test]
fn a_listener_hears_of_what_there_is_and_of_every_change_as_it_is_made() {
    let registry = Registry::builder().build();
    let ram = registry.map(Region::ram(0x1_0000, "memory", "ram", Pages::memory(4))).unwrap();
    let _rom = registry.map(Region::rom(0x8000, "memory", "rom", Pages::memory(1))).unwrap();
    let nowhere = Region::ram(0, "card", "bar", Pages::memory(1));
    let card = registry.map(Region { base: None, ..nowhere }).unwrap();
    let regs = Region::mmio(0x4000, 0x100, "card", "regs", Recorder::new());
    let regs = registry.map(regs).unwrap();
    let listener = Arc::<Listener>::default();
    let listening = registry.listen(listener.clone()).unwrap();
    assert_eq!(listener.take(), ["begin", "add rom 0x8000", "add ram 0x10000", "commit"]);
    let sections = listener.mapped.lock().clone();
    let facts = |section: &MemorySection| (section.addr, section.len, section.readonly);
    assert_eq!(
        sections.iter().map(facts).collect::<Vec<_>>(),
        [(0x8000, PAGE, true), (0x1_0000, 4 * PAGE, false)]
    );
    let place = |moves: &[_]| registry.place(moves);
    place(&[(regs.id(), Some(0x5000))]).unwrap();
    assert_eq!(listener.take(), [""; 0], "registers are no memory");
    place(&[(ram.id(), Some(0x2_0000)), (card.id(), Some(0x1_0000))]).unwrap();
    let swapped = ["begin", "remove ram 0x10000", "add ram 0x20000", "add bar 0x10000", "commit"];
    assert_eq!(listener.take(), swapped);
    assert!(place(&[(ram.id(), Some(0x8000))]).is_err());
    assert_eq!(listener.take(), [""; 0], "nothing has happened");
    drop(card);
    assert_eq!(listener.take(), ["begin", "remove bar 0x10000", "commit"]);
    drop(listening);
    assert_eq!(listener.take(), ["begin", "remove rom 0x8000", "remove ram 0x20000", "commit"]);
    drop(ram);
    assert_eq!(listener.take(), [""; 0]);
}

#[test]
fn a_window_that_comes_and_goes_is_heard_of_and_one_that_stays_is_not() {
    let registry = Registry::builder().build();
    let listener = Arc::<Listener>::default();
    let _listening = registry.listen(listener.clone()).unwrap();
    listener.take();
    let memory = Pages::memory(4);
    let window = |at: u64| {
        let delivery = Delivery::Memory { memory: Arc::clone(&memory), offset: at, readonly: true };
        Window { offset: at, len: PAGE, delivery }
    };
    let flash = Region::mmio(0x1_0000, 4 * PAGE, "flash", "cfi", Recorder::new());
    let flash = registry.map(flash.window(window(0))).unwrap();
    let id = flash.id();
    let edit = |edits| Regions::edit(&registry, edits).map(drop).unwrap();
    assert_eq!(listener.take(), ["begin", "add cfi 0x10000", "commit"]);
    edit(vec![RegionEdit::AddWindow(id, window(PAGE))]);
    assert_eq!(listener.take(), ["begin", "add cfi 0x11000", "commit"]);
    assert_eq!(listener.mapped.lock()[1].offset, PAGE);
    edit(vec![RegionEdit::RemoveWindow(id, window(0))]);
    assert_eq!(listener.take(), ["begin", "remove cfi 0x10000", "commit"]);
}

#[test]
fn an_edit_that_a_listener_refuses_is_undone_for_source_and_listeners() {
    let source = Arc::<Slots>::default();
    let registry = Registry::builder().offload(source.clone()).build();
    let [first, second] = [0, 1].map(|_| Arc::<Listener>::default());
    let _first = registry.listen(first.clone()).unwrap();
    let _second = registry.listen(second.clone()).unwrap();
    let ram = registry.map(Region::ram(0x1_0000, "memory", "ram", Pages::memory(4))).unwrap();
    *second.refuse_at.lock() = Some(0x3_0000);
    let before = [first.mapped.lock().clone(), second.mapped.lock().clone()];
    let refused = Regions::edit(
        &registry,
        vec![
            RegionEdit::Place(ram.id(), Some(0x2_0000)),
            RegionEdit::Map(Region::ram(0x3_0000, "card", "bar", Pages::memory(1))),
        ],
    );
    let text = "card/bar: a device cannot reach this memory: Cannot allocate memory";
    assert_eq!(refused.unwrap_err().to_string(), text);
    assert_eq!([first.mapped.lock().clone(), second.mapped.lock().clone()], before);
    assert_eq!(*source.zones.lock(), [0x1_0000]);
    let regions = registry.stats().regions;
    assert_eq!((regions.len(), regions[0].range), (1, Some((0x1_0000, 0x1_3fff))));
    // Who cannot map what there is hears of nothing later.
    *second.refuse_at.lock() = Some(0x1_0000);
    drop(_second);
    let refused = registry.listen(second.clone()).map(drop).unwrap_err();
    assert!(matches!(refused, EditError::Listener { .. }), "{refused}");
    second.take();
    drop(ram);
    assert_eq!((second.take(), second.mapped.lock().len()), (vec![], 0));
}
