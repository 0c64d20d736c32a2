//! At which accesses a machine stops, as a user says it.

use std::fmt;

use trapline::{Direction, Registry, TraceRecord, Watch};

use crate::recorded_map;

/// Accesses to stop at: `NAME[:REGISTER][=r|w|rw][,value=N]`. `NAME` is a device, `device/region`, or
/// `unclaimed` (what nobody answers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Break {
    text: String,
    /// The device or region; `None` for what nobody answers.
    name: Option<String>,
    /// The register, as the device's data sheet calls it.
    register: Option<String>,
    /// Only in this direction.
    direction: Option<Direction>,
    /// Only this value.
    value: Option<u64>,
}

/// Why a break cannot be had, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakError {
    /// No device or region has the name.
    #[error("{text}: no device or region is called {name}; {near}")]
    Name {
        /// The break.
        text: String,
        /// The name.
        name: String,
        /// Those like it.
        near: String,
    },
    /// The device has no such register.
    #[error("{text}: {name} has no register {register}; {near}")]
    Register {
        /// The break.
        text: String,
        /// The device or region.
        name: String,
        /// The register.
        register: String,
        /// Those like it.
        near: String,
    },
    /// The register is never accessed so.
    #[error("{text}: {register} is never {never}, only {only}")]
    Direction {
        /// The break.
        text: String,
        /// The register.
        register: String,
        /// What is not done.
        never: &'static str,
        /// What is done.
        only: &'static str,
    },
    /// The words are others.
    #[error("{text}: {wrong}; write NAME[:REGISTER][=r|w|rw][,value=N]")]
    Syntax {
        /// The break.
        text: String,
        /// What is wrong.
        wrong: String,
    },
    /// There are enough.
    #[error("there are {max} breaks already, and no more")]
    TooMany {
        /// How many there can be.
        max: usize,
    },
    /// The registry refuses.
    #[error("{0}")]
    Watch(String),
    /// There is nothing to stop.
    #[error("the machine is over")]
    Over,
}

/// What nobody answers.
const UNCLAIMED: &str = "unclaimed";

/// How many names like a wrong one are told.
const NEAREST: usize = 3;

impl Break {
    /// The break that `text` says, of the devices that there are now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, registry: &Registry) -> Result<Self, BreakError> {
        let mut made = Self::words(text)?;
        let Some(name) = made.name.clone() else { return Ok(made) };
        let map = recorded_map::of_registry(registry);
        let regions = || {
            let called = |region: &&trapline_trace::MapRegion| {
                region.device == name || format!("{}/{}", region.device, region.region) == name
            };
            map.regions.iter().filter(called)
        };
        if regions().next().is_none() {
            let devices = map.devices.iter().cloned();
            let regions =
                map.regions.iter().map(|region| format!("{}/{}", region.device, region.region));
            let near = nearest(&name, devices.chain(regions));
            return Err(BreakError::Name { text: text.to_owned(), name, near });
        }
        let Some(wanted) = made.register.clone() else { return Ok(made) };
        let mut known: Vec<String> = Vec::new();
        for region in regions() {
            let registers = map.registers.iter().filter(|registers| registers.id == region.id);
            for registers in registers {
                let present = &registers.registers;
                known.extend(present.iter().map(|one| one.name.clone()));
                let banked = recorded_map::names_of(&region.device, present);
                known.extend(banked.into_iter().map(str::to_owned));
            }
        }
        let same = |name: &str| name.eq_ignore_ascii_case(&wanted);
        let Some(register) = known.iter().find(|name| same(name)).cloned() else {
            let near = nearest(&wanted, known.into_iter());
            let (text, register) = (text.to_owned(), wanted);
            return Err(BreakError::Register { text, name, register, near });
        };
        let placed: Vec<_> = regions()
            .flat_map(|region| map.registers.iter().filter(|registers| registers.id == region.id))
            .flat_map(|registers| &registers.registers)
            .filter(|one| one.name == register)
            .collect();
        let read = placed.is_empty() || placed.iter().any(|one| one.read);
        let write = placed.is_empty() || placed.iter().any(|one| one.write);
        let wrong = match made.direction {
            Some(Direction::Read) if !read => Some(("read", "written")),
            Some(Direction::Write) if !write => Some(("written", "read")),
            _ => None,
        };
        if let Some((never, only)) = wrong {
            return Err(BreakError::Direction { text: text.to_owned(), register, never, only });
        }
        made.register = Some(register);
        Ok(made)
    }

    /// The words, of whatever devices.
    fn words(text: &str) -> Result<Self, BreakError> {
        let syntax = |wrong: String| BreakError::Syntax { text: text.to_owned(), wrong };
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let (place, direction) = match place.split_once('=') {
            None => (place, None),
            Some((place, "r")) => (place, Some(Direction::Read)),
            Some((place, "w")) => (place, Some(Direction::Write)),
            Some((place, "rw" | "wr")) => (place, None),
            Some((_, other)) => return Err(syntax(format!("{other:?} is not r, w or rw"))),
        };
        let (name, register) = match place.split_once(':') {
            Some((_, "")) => {
                return Err(syntax("there is no register behind the colon".to_owned()));
            }
            Some((name, register)) => (name, Some(register.to_owned())),
            None => (place, None),
        };
        if name.is_empty() {
            return Err(syntax("there is no device".to_owned()));
        }
        let mut value = None;
        for part in parts {
            let number = part.strip_prefix("value=");
            let number = number.ok_or_else(|| syntax(format!("{part:?} is not value=N")))?;
            let parsed = parse_number(number);
            value = Some(parsed.ok_or_else(|| syntax(format!("{number:?} is no number")))?);
        }
        if name == UNCLAIMED && register.is_some() {
            return Err(syntax("what nobody answers has no registers".to_owned()));
        }
        let name = (name != UNCLAIMED).then(|| name.to_owned());
        Ok(Self { text: text.to_owned(), name, register, direction, value })
    }

    /// What has to be watched for it.
    pub(super) fn watch(&self) -> Watch {
        match &self.name {
            Some(name) => Watch::new().named(name),
            None => Watch::new().unclaimed(),
        }
    }

    /// Whether an access that was made is one of its.
    pub(super) fn matches(&self, record: &TraceRecord<'_>) -> bool {
        let register = record.region.and_then(|region| region.register);
        let claimed = record.region.is_some();
        let elements = || record.data.chunks(record.width.max(1));
        claimed == self.name.is_some()
            && self.direction.is_none_or(|wanted| wanted == record.direction)
            && self.register.as_deref().is_none_or(|wanted| register == Some(wanted))
            && self.value.is_none_or(|wanted| elements().any(|bytes| number(bytes) == wanted))
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A number as C writes it.
fn parse_number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The number that these bytes are, lowest first; of more than eight the first ones.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Which of `names` are most like `wrong`, in words.
fn nearest(wrong: &str, names: impl Iterator<Item = String>) -> String {
    let lower = wrong.to_ascii_lowercase();
    let far = |name: &str| strsim::damerau_levenshtein(&name.to_ascii_lowercase(), &lower);
    let mut names: Vec<_> = names.map(|name| (far(&name), name)).collect();
    names.sort();
    names.dedup();
    let names: Vec<_> = names.into_iter().take(NEAREST).map(|(_, name)| name).collect();
    match &*names {
        [] => "it has none with a name".to_owned(),
        [one] => format!("there is {one}"),
        [others @ .., last] => format!("the nearest are {} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trapline_qtest::Target;

    fn parse(text: &str) -> Result<Break, String> {
        let machine = recorded_map::machine(crate::qtest::BoardKind::X86Pc).unwrap();
        Break::parse(text, machine.registry()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_break_says_device_register_direction_and_value() {
        let made = parse("serial0:lcr=w,value=0x83").unwrap();
        assert_eq!(made.register.as_deref(), Some("LCR"));
        assert_eq!((made.direction, made.value), (Some(Direction::Write), Some(0x83)));
        assert_eq!(made.to_string(), "serial0:lcr=w,value=0x83");
        assert_eq!(parse("serial0/uart:LSR=r").unwrap().name.as_deref(), Some("serial0/uart"));
        assert_eq!(parse("rtc=rw").unwrap().direction, None);
        assert_eq!(parse("unclaimed,value=12").unwrap().value, Some(12));
        // Of the other bank, and what an index selects.
        for text in ["serial0:DLL=w", "ioapic:IOAPICVER=r", "ioapic:ioredtbl[31:0]=w"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_wrong_break_is_one_sentence_with_the_nearest_names() {
        let told = |text| parse(text).unwrap_err();
        assert_eq!(
            told("serial0:LRC=w"),
            "serial0:LRC=w: serial0 has no register LRC; the nearest are LCR, FCR and LSR"
        );
        let name = told("seriol0:LCR");
        assert!(name.starts_with("seriol0:LCR: no device or region is called seriol0; the nearest are serial0, serial1"), "{name}");
        assert_eq!(told("serial0:THR=r"), "serial0:THR=r: THR is never read, only written");
        assert_eq!(
            told("serial0:LSR=x"),
            "serial0:LSR=x: \"x\" is not r, w or rw; write NAME[:REGISTER][=r|w|rw][,value=N]"
        );
        for text in ["", ":LCR", "serial0:", "serial0,value=x", "serial0,5", "unclaimed:X"] {
            let told = told(text);
            assert!(told.ends_with("write NAME[:REGISTER][=r|w|rw][,value=N]"), "{told}");
        }
    }

    #[test]
    fn a_value_is_as_wide_as_its_element() {
        assert_eq!(number(&[0x34, 0x12]), 0x1234);
        assert_eq!(number(&[1; 16]), 0x0101_0101_0101_0101);
        assert_eq!(parse_number("0xFF"), Some(255));
        assert_eq!(parse_number("-1"), None);
    }
}
