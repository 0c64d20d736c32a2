//! The state of fw_cfg: the item that is selected, and its DMA operations.

use std::collections::BTreeMap;

use trapline_guestmem::GuestMem;

use super::items::Item;
use super::regs::{ACCESS_LEN, Control, WRITE_CHANNEL, key};
use super::state::State;

/// Zeros that a read beyond an item's end gives, this many at a time.
const ZEROS: [u8; 0x1000] = [0; 0x1000];

/// The items and which one is read.
#[derive(Debug)]
pub(super) struct Chip {
    pub(super) items: BTreeMap<u16, Item>,
    pub(super) state: State,
}

impl Chip {
    /// "Setting the selector register will cause the data offset to be set to zero."
    pub(super) fn select(&mut self, key: u16) {
        self.state.selector = key;
        self.state.offset = 0;
    }

    /// The next bytes of the item, zeros past its end. The offset stops at the end.
    pub(super) fn read(&mut self, to: &mut [u8]) {
        let rest = rest(&self.items, &self.state);
        let count = rest.len().min(to.len());
        let (from_item, beyond) = to.split_at_mut(count);
        from_item.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        beyond.fill(0);
        self.advance(count);
    }

    /// Carries out the operation that the structure at `addr` describes, and tells its end there.
    /// What is not RAM is refused, also for a part: a guest cannot make this write anywhere else.
    pub(super) fn operate(&mut self, mem: &GuestMem, addr: u64) {
        let mut access = [0; ACCESS_LEN];
        let done = match mem.read(addr, &mut access) {
            Ok(()) => self.obey(mem, access),
            Err(_) => Err(()),
        };
        let control = Control::new().with_error(done.is_err());
        // Without RAM there, nobody can be told.
        let _ = mem.write(addr, &control.into_bits().to_be_bytes());
    }

    fn obey(&mut self, mem: &GuestMem, access: [u8; ACCESS_LEN]) -> Result<(), ()> {
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = access;
        let control = Control::from_bits(u32::from_be_bytes([c0, c1, c2, c3]));
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let address = u64::from_be_bytes(address);
        if control.select() {
            self.select(control.key());
        }
        if control.read() {
            self.read_to(mem, address, len)
        } else if control.write() {
            self.write_from(mem, address, len)
        } else {
            if control.skip() {
                self.advance(len);
            }
            Ok(())
        }
    }

    /// Copies the item's bytes into memory, then zeros. Bounded by RAM, as it all has to be there.
    fn read_to(&mut self, mem: &GuestMem, address: u64, len: usize) -> Result<(), ()> {
        if !mem.contains(address, len) && len > 0 {
            return Err(());
        }
        let rest = rest(&self.items, &self.state);
        let from_item = rest.get(..len).unwrap_or(rest);
        let count = from_item.len();
        mem.write(address, from_item).map_err(drop)?;
        let end = address + len as u64;
        let beyond = (address + count as u64..end).step_by(ZEROS.len());
        for at in beyond {
            let some = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            mem.write(at, ZEROS.get(..some).unwrap_or(&ZEROS)).map_err(drop)?;
        }
        self.advance(count);
        Ok(())
    }

    /// Copies memory into the item. "Truncated writes are dropped entirely. Writes to read-only
    /// items are also rejected."
    fn write_from(&mut self, mem: &GuestMem, address: u64, len: usize) -> Result<(), ()> {
        let item = self.items.get_mut(&item_key(self.state.selector)).filter(|item| item.writable);
        let item = item.ok_or(())?;
        let start = self.state.offset;
        let end = start.checked_add(len).ok_or(())?;
        let to = item.bytes.get_mut(start..end).ok_or(())?;
        if !mem.contains(address, len) && len > 0 {
            return Err(());
        }
        mem.read(address, to).map_err(drop)?;
        self.state.offset = end;
        Ok(())
    }

    /// Moves on by `count` bytes, to the end at most.
    fn advance(&mut self, count: usize) {
        let rest = rest(&self.items, &self.state).len();
        self.state.offset += count.min(rest);
    }

    /// The signature is selected; what a guest has written to items stays, as files of a board do.
    pub(super) fn reset(&mut self) {
        self.state = State::default();
    }
}

/// Bit 14 does not make another item.
pub(super) const fn item_key(selector: u16) -> u16 {
    selector & !WRITE_CHANNEL
}

/// What is left of the selected item; nothing of an item that is not there.
fn rest<'a>(items: &'a BTreeMap<u16, Item>, state: &State) -> &'a [u8] {
    let item = items.get(&item_key(state.selector));
    item.and_then(|item| item.bytes.get(state.offset..)).unwrap_or_default()
}

const _: () = assert!(key::SIGNATURE == 0, "which is what reset selects");
