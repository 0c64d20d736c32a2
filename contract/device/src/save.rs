//! Saved state: what a device gives to a snapshot, and takes back.
//!
//! A device keeps its run-time `State` and its saved form apart. The saved form is a plain struct
//! that is never edited once released; the next version is a new struct. [`saved_form!`] declares
//! one, and writes both conversions so that a new field does not compile until somebody has decided
//! about it.
//!
//! [`saved_form!`]: crate::saved_form!

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One released layout of one device's saved state.
pub trait Form: Serialize + DeserializeOwned {
    /// The kind of device, the same in every version: `i8259`.
    const NAME: &'static str;
    /// Counts from 1; a new layout is a new number.
    const VERSION: u32;
}

/// A device's state as it goes into a snapshot. It serializes itself, for the file around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The kind of device ([`Form::NAME`]). Borrowed from the device, owned when read from a file.
    pub name: Cow<'static, str>,
    /// The layout of `bytes` ([`Form::VERSION`]).
    pub version: u32,
    /// The form, in postcard's encoding.
    pub bytes: Vec<u8>,
}

impl Saved {
    /// Encodes a saved form.
    ///
    /// # Panics
    /// If the form's own `Serialize` fails, which derived ones of plain data never do.
    pub fn encode<F: Form>(form: &F) -> Self {
        match postcard::to_allocvec(form) {
            Ok(bytes) => Self { name: Cow::Borrowed(F::NAME), version: F::VERSION, bytes },
            Err(error) => panic!("a saved form of {} is plain data: {error}", F::NAME),
        }
    }

    /// Decodes the saved form `F`. A device that knows several versions looks at
    /// [`Saved::version`] first, and decodes with the newest when it knows none.
    ///
    /// # Errors
    /// When this is another device's state, another version's, or its bytes are not one whole `F`.
    pub fn decode<F: Form>(&self) -> Result<F, StateError> {
        if self.name != F::NAME {
            return Err(StateError::Name { wanted: F::NAME, found: self.name.to_string() });
        }
        if self.version != F::VERSION {
            return Err(StateError::Version {
                name: F::NAME,
                found: self.version,
                newest: F::VERSION,
            });
        }
        match postcard::take_from_bytes(&self.bytes) {
            Ok((form, [])) => Ok(form),
            Ok((_, rest)) => Err(StateError::Encoding {
                name: F::NAME,
                reason: format!("{} bytes too many", rest.len()),
            }),
            Err(error) => Err(StateError::Encoding { name: F::NAME, reason: error.to_string() }),
        }
    }
}

/// A register file or the like in a saved form: `N` bytes, of which there may be more than serde
/// knows arrays of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct SavedBytes<const N: usize>([u8; N]);

impl<const N: usize> From<[u8; N]> for SavedBytes<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> From<SavedBytes<N>> for [u8; N] {
    fn from(saved: SavedBytes<N>) -> Self {
        saved.0
    }
}

impl<const N: usize> From<SavedBytes<N>> for Vec<u8> {
    fn from(saved: SavedBytes<N>) -> Self {
        saved.0.to_vec()
    }
}

impl<const N: usize> TryFrom<Vec<u8>> for SavedBytes<N> {
    type Error = WrongLength;

    fn try_from(bytes: Vec<u8>) -> Result<Self, WrongLength> {
        bytes.try_into().map(Self).map_err(|_| WrongLength)
    }
}

/// There are more or fewer bytes than the register file has.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a register file of another length")]
pub struct WrongLength;

/// Why a device did not take a saved state. It is as it was before, then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The state is of another kind of device.
    #[error("this is the state of `{found}`, not of `{wanted}`")]
    Name {
        /// The device's kind.
        wanted: &'static str,
        /// The state's.
        found: String,
    },
    /// The state's layout is not known here.
    #[error("the state of {name} has version {found}, and the newest known here is {newest}")]
    Version {
        /// The device's kind.
        name: &'static str,
        /// The state's version.
        found: u32,
        /// The newest version this program reads.
        newest: u32,
    },
    /// The bytes are not what their version says.
    #[error("the state of {name} can not be read: {reason}")]
    Encoding {
        /// The device's kind.
        name: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The bytes can be read, but no device is ever in that state.
    #[error("the state of {name} is not a possible one: {rule} does not hold")]
    Inconsistent {
        /// The device's kind.
        name: &'static str,
        /// The rule that is broken, as a sentence.
        rule: &'static str,
    },
}

impl StateError {
    /// Nothing if `holds`, else [`StateError::Inconsistent`] for the device of `F` and `rule`, a
    /// sentence that should have been true.
    ///
    /// # Errors
    /// If not `holds`.
    pub const fn check<F: Form>(holds: bool, rule: &'static str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Inconsistent { name: F::NAME, rule }) }
    }
}

/// A device a snapshot can keep.
///
/// State is what the guest and time have made of the device; wiring and configuration are the
/// board's, which builds the same device before it restores. Inputs are part of the state (the
/// level of a pin, say), outputs are not: they follow from it, and `restore` drives them. So a
/// machine restores its interrupt controllers last: the levels of their inputs are what they were
/// by then, and what the lines did meanwhile is forgotten.
///
/// Times in a state are the machine's ([`Clock::now_ns`](crate::Clock::now_ns)), which goes on from
/// where it was: whoever restores a machine sets its clock first.
pub trait SaveState {
    /// Everything the device remembers, as of now. Called with every vCPU stopped.
    fn save(&self) -> Saved;

    /// Becomes what `saved` says, and drives its outputs accordingly. Called with every vCPU
    /// stopped.
    ///
    /// # Errors
    /// When `saved` is not a possible state of this device. Nothing has changed then.
    fn restore(&self, saved: &Saved) -> Result<(), StateError>;

    /// Whether a device restored from its state would go on exactly as this one: nothing is under way
    /// that it would begin anew, or look at once more. Such a state can be the beginning of a replay.
    fn is_at_rest(&self) -> bool {
        true
    }
}

/// Restores several devices, or none of them.
///
/// # Errors
/// The first device's that refuses; those before it are what they were again.
pub fn restore_all<'a>(
    parts: impl IntoIterator<Item = (&'a dyn SaveState, &'a Saved)>,
) -> Result<(), StateError> {
    let mut done: Vec<(&dyn SaveState, Saved)> = Vec::new();
    for (device, saved) in parts {
        let before = device.save();
        if let Err(error) = device.restore(saved) {
            for (device, before) in done {
                let undone = device.restore(&before);
                assert!(undone.is_ok(), "a device takes back what it has just saved: {undone:?}");
            }
            return Err(error);
        }
        done.push((device, before));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct ToyV1 {
        a: u8,
        b: Option<u16>,
    }

    impl Form for ToyV1 {
        const NAME: &'static str = "toy";
        const VERSION: u32 = 1;
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct ToyV2 {
        a: u8,
    }

    impl Form for ToyV2 {
        const NAME: &'static str = "toy";
        const VERSION: u32 = 2;
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct OtherV1 {}

    impl Form for OtherV1 {
        const NAME: &'static str = "other";
        const VERSION: u32 = 1;
    }

    #[test]
    fn what_was_saved_comes_back_and_its_bytes_stay_the_same() {
        let saved = Saved::encode(&ToyV1 { a: 7, b: Some(300) });
        assert_eq!(saved.bytes, [7, 1, 0xac, 0x02]);
        assert_eq!(saved.decode::<ToyV1>(), Ok(ToyV1 { a: 7, b: Some(300) }));
    }

    #[test]
    fn another_devices_state_and_another_version_are_refused_by_name() {
        let saved = Saved::encode(&ToyV1 { a: 7, b: None });
        let other = saved.decode::<OtherV1>().unwrap_err().to_string();
        assert_eq!(other, "this is the state of `toy`, not of `other`");
        let version = saved.decode::<ToyV2>().unwrap_err().to_string();
        assert_eq!(version, "the state of toy has version 1, and the newest known here is 2");
    }

    #[test]
    fn bytes_that_are_too_few_or_too_many_are_refused() {
        let whole = Saved::encode(&ToyV1 { a: 7, b: None });
        let short = Saved { bytes: vec![7], ..whole.clone() };
        assert!(matches!(short.decode::<ToyV1>(), Err(StateError::Encoding { .. })));
        let long = Saved { bytes: vec![7, 0, 0], ..whole };
        assert!(matches!(long.decode::<ToyV1>(), Err(StateError::Encoding { .. })));
    }

    #[test]
    fn a_register_file_has_one_length() {
        let file = postcard::to_allocvec(&SavedBytes::from([7; 40])).unwrap();
        assert_eq!(postcard::from_bytes::<SavedBytes<40>>(&file), Ok(SavedBytes([7; 40])));
        assert!(postcard::from_bytes::<SavedBytes<41>>(&file).is_err());
        assert!(postcard::from_bytes::<SavedBytes<39>>(&file).is_err());
    }

    #[test]
    fn a_saved_state_survives_being_written_to_a_file_and_read_back() {
        let saved = Saved::encode(&ToyV1 { a: 7, b: None });
        let file = postcard::to_allocvec(&saved).unwrap();
        assert_eq!(postcard::from_bytes::<Saved>(&file), Ok(saved));
    }

    struct Toy(std::cell::Cell<u8>);

    impl SaveState for Toy {
        fn save(&self) -> Saved {
            Saved::encode(&ToyV1 { a: self.0.get(), b: None })
        }

        fn restore(&self, saved: &Saved) -> Result<(), StateError> {
            self.0.set(saved.decode::<ToyV1>()?.a);
            Ok(())
        }
    }

    #[test]
    fn of_several_devices_all_are_restored_or_none() {
        let [one, two] = [1, 2].map(|a| Toy(a.into()));
        let [three, four] = [3, 4].map(|a| Saved::encode(&ToyV1 { a, b: None }));
        let bad = Saved { version: 9, ..four.clone() };
        let refused = restore_all([(&one as &dyn SaveState, &three), (&two, &bad)]).unwrap_err();
        assert!(matches!(refused, StateError::Version { found: 9, .. }));
        assert_eq!((one.0.get(), two.0.get()), (1, 2));
        restore_all([(&one as &dyn SaveState, &three), (&two, &four)]).unwrap();
        assert_eq!((one.0.get(), two.0.get()), (3, 4));
    }
}
