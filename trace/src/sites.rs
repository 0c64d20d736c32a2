//! What records name: device, region, register, and the address at their time.

use std::collections::HashMap;

use trapline_access::record::{Op, Outcome, Record};
use trapline_access::{Direction, Space};

use crate::map::register_of;
use crate::{Bank, Class, Event, Field, Map, Place, Register};

/// The longest name that is shown, in characters.
const NAME_MAX: usize = 64;
/// The most bit fields of a register that are shown: it has no more bits.
const FIELDS_MAX: usize = 64;

/// One way to reach a register: of a region, by its direction and width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The region's number; `None` for addresses that nobody has claimed.
    pub id: Option<u64>,
    /// The device; `unclaimed` where there is none.
    pub device: String,
    /// The region: `device/region`, or the device alone where it has one.
    pub region: String,
    /// The register, or its offset (`+0x5`) where it has no name that is known.
    pub register: String,
    /// The space of its address.
    pub space: Space,
    /// Its offset in the region; the address itself where nobody has claimed it.
    pub offset: u64,
    /// The direction.
    pub direction: Direction,
    /// Width in bytes.
    pub bytes: usize,
    /// What kind of values it has.
    pub class: Class,
    /// Whether a write must not be late.
    pub prompt: bool,
    /// Its bit fields, 64 at most.
    pub fields: Vec<Field>,
}

impl Site {
    /// `serial0 LSR`.
    pub fn name(&self) -> String {
        format!("{} {}", self.region, self.register)
    }

    /// It is this register, so many bytes into it.
    fn reaches(&mut self, register: &Register, inside: u64) {
        self.register = clean(&register.name);
        self.fields.clear();
        if inside > 0 {
            self.register += &format!("+{inside}");
        } else {
            let shown = |of: &Field| Field { name: clean(&of.name), ..*of };
            self.fields.extend(register.fields.iter().take(FIELDS_MAX).map(shown));
        }
        (self.class, self.prompt) = (register.class, register.prompt);
    }

    /// It is what a bank has there.
    fn reaches_behind(&mut self, bank: &Bank, index: u64) {
        match register_of(&bank.registers, index, self.direction) {
            Some(register) => self.reaches(register, index - register.offset),
            None if bank.others.is_empty() => {}
            None => {
                self.register = clean(&bank.others);
                (self.class, self.fields) = (Class::Exact, Vec::new());
            }
        }
    }

    /// Whether the map says what the register is called.
    pub fn is_named(&self) -> bool {
        !without_offset(&self.register).is_empty()
    }

    /// The bit fields of a value, where they are known: `THRE TEMT trigger=2`. Fields of zero are
    /// left out.
    pub fn decode(&self, value: u64) -> String {
        let mut words = Vec::new();
        for Field { name, bit, bits } in &self.fields {
            let (bit, bits) = (u32::from(*bit).min(63), u32::from(*bits).clamp(1, 64));
            let field = value >> bit & u64::MAX >> (64 - bits);
            match (field, bits) {
                (0, _) => {}
                (_, 1) => words.push(name.clone()),
                _ => words.push(format!("{name}={field:#x}")),
            }
        }
        words.join(" ")
    }
}

/// A register's name without how far into it an access was: `CONFIG_ADDRESS` of `CONFIG_ADDRESS+1`,
/// nothing of `+0x5`.
pub(crate) fn without_offset(register: &str) -> &str {
    register.rsplit_once('+').map_or(register, |(name, _)| name)
}

/// Finds the sites of records, as the map says them. A record's address depends on time, and so does the
/// name of a register behind an index, so records are given in their order.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    map: Map,
    sites: Vec<Site>,
    known: HashMap<Key, usize>,
    generation: u64,
    /// Whether what banks have is called by what is selected.
    banked: bool,
    /// What the selectors of the map's banks have been told, by the banks' numbers.
    selected: HashMap<usize, u64>,
}

/// Slot, offset, direction, width and space of an access, and where in which bank it is.
type Key = (u16, u16, Direction, usize, Space, Option<(usize, u64)>);

impl Sites {
    /// For the records of a recording with this map.
    pub fn new(map: &Map) -> Self {
        Self { banked: true, ..Self::of_registers(map) }
    }

    /// The same, which calls what banks have by the region's own register there, whatever is selected.
    pub(crate) fn of_registers(map: &Map) -> Self {
        let generation = map.first_generation();
        Self { map: map.clone(), generation, ..Self::default() }
    }

    /// The sites that there have been records of, in the order of their first one.
    pub fn all(&self) -> &[Site] {
        &self.sites
    }

    /// The map.
    pub const fn map(&self) -> &Map {
        &self.map
    }

    /// The number of an access's site; `None` for a record of something else. Takes notice of edits.
    pub fn of(&mut self, event: &Event) -> Option<usize> {
        let record = &event.record;
        match record.op {
            Op::Edit => self.generation = record.value,
            Op::Reset => self.selected.clear(),
            _ => {}
        }
        let (direction, bytes, space, _) = record.access()?;
        let bank = if self.banked { self.bank(event) } else { None };
        let key = (record.slot, record.offset, direction, bytes, space, bank);
        if let Some(&known) = self.known.get(&key) {
            return Some(known);
        }
        let site = self.make(record, direction, bytes, space, bank);
        self.sites.push(site);
        self.known.insert(key, self.sites.len() - 1);
        Some(self.sites.len() - 1)
    }

    /// Where in which bank an access is, by what was selected before it; takes notice of what it selects.
    fn bank(&mut self, event: &Event) -> Option<(usize, u64)> {
        let record = &event.record;
        let Some(Place::Region { id, page }) = self.map.slot(record.slot) else { return None };
        let banks = self.map.banks_of(id);
        let offset = page << 16 | u64::from(record.offset);
        let found = banks.iter().find_map(|&number| {
            let bank = self.map.banks().get(number)?;
            let selected = self.selected.get(&number).copied().or_else(|| bank.unselected());
            Some((number, bank.index(selected?, offset)?))
        });
        let (direction, bytes, ..) = record.access()?;
        if direction == Direction::Write {
            let whole = record.value.to_le_bytes();
            // Of a string the last element stays.
            let last = event.data.len().saturating_sub(bytes);
            let written = match record.op {
                Op::String(_) => event.data.get(last..),
                _ => whole.get(..bytes),
            };
            for &number in banks {
                let Some(bank) = self.map.banks().get(number) else { continue };
                let before = self.selected.get(&number).copied().unwrap_or(0);
                if let Some(now) = bank.written(before, offset, written.unwrap_or_default()) {
                    self.selected.insert(number, now);
                }
            }
        }
        found
    }

    /// The site of a number that [`Sites::of`] gave.
    pub fn get(&self, number: usize) -> Option<&Site> {
        self.sites.get(number)
    }

    /// The guest's address of a site at the last record that was given; `None` while its region has
    /// no place.
    pub fn address(&self, site: &Site) -> Option<u64> {
        match site.id {
            None => Some(site.offset),
            Some(id) => self.map.base(id, self.generation)?.checked_add(site.offset),
        }
    }

    /// What a device's number in turns, inputs and outputs stands for.
    pub fn device(&self, number: u16) -> String {
        let name = self.map.devices().get(usize::from(number));
        name.map_or_else(|| format!("device {number}"), |name| clean(name))
    }

    fn make(
        &self,
        record: &Record,
        direction: Direction,
        bytes: usize,
        space: Space,
        bank: Option<(usize, u64)>,
    ) -> Site {
        let low = u64::from(record.offset);
        let place = self.map.slot(record.slot);
        let region = match place {
            Some(Place::Region { id, .. }) => self.map.region(id),
            _ => None,
        };
        let offset = match place {
            Some(Place::Region { page, .. } | Place::Unclaimed { page, .. }) => page << 16 | low,
            None => low,
        };
        let mut site = Site {
            id: region.map(|region| region.id),
            device: "unclaimed".to_owned(),
            region: "unclaimed".to_owned(),
            register: format!("{space} {offset:#x}"),
            space,
            offset,
            direction,
            bytes,
            class: Class::Exact,
            prompt: false,
            fields: Vec::new(),
        };
        match (region, place) {
            (Some(region), _) => {
                (site.device, site.region) = (clean(&region.device), clean(&region.name()));
                site.register = format!("+{offset:#x}");
            }
            // A slot that no map has told of, or of a region that none has.
            (None, Some(Place::Unclaimed { .. })) => {}
            (None, _) => {
                (site.device, site.region) = ("unknown".to_owned(), "unknown".to_owned());
                site.register = format!("slot {} +{low:#x}", record.slot);
            }
        }
        if let Some(register) = site.id.and_then(|id| self.map.register(id, offset, direction)) {
            site.reaches(register, offset - register.offset);
        }
        let bank = bank.and_then(|(number, index)| Some((self.map.banks().get(number)?, index)));
        if let Some((bank, index)) = bank {
            site.reaches_behind(bank, index);
        }
        site
    }
}

/// A name out of a file, fit for a terminal.
pub(crate) fn clean(name: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    name.chars().take(NAME_MAX).map(shown).collect()
}

/// Whether an access was an exit of its own: a queued write was not.
pub(crate) fn is_exit(record: &Record) -> bool {
    record.access().is_some_and(|(_, _, _, outcome)| outcome != Outcome::Coalesced)
}
