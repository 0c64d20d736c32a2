//! Names of registers, as handlers said them when they were reached, for whoever follows the records.
//!
//! A record has no room for a name, and a register's name is its own only at the moment of the access. So
//! names have numbers, and beside a ring that is followed are those of its records.

use std::collections::HashMap;
use std::num::NonZero;

use parking_lot::Mutex;

/// The number of a name.
pub(crate) type Number = NonZero<u16>;

/// All names that were said to a recorder, in the order of their numbers, which begin with 1.
#[derive(Default)]
pub(crate) struct Names(Mutex<Table>);

#[derive(Default)]
struct Table {
    all: Vec<&'static str>,
    numbers: HashMap<&'static str, Number>,
}

impl Names {
    /// The names after the first `known` ones.
    pub(crate) fn since(&self, known: usize) -> Vec<&'static str> {
        self.0.lock().all.get(known..).unwrap_or_default().to_vec()
    }

    /// The number of a name; none, if there are too many.
    fn number(&self, name: &'static str) -> Option<Number> {
        let mut table = self.0.lock();
        if let Some(number) = table.numbers.get(name) {
            return Some(*number);
        }
        let number = Number::new(u16::try_from(table.all.len() + 1).ok()?)?;
        table.all.push(name);
        table.numbers.insert(name, number);
        Some(number)
    }
}

/// The numbers of the names that one stream's last accesses had.
pub(crate) struct NameCache([Option<(&'static str, Number)>; CACHED]);

const CACHED: usize = 64;

impl Default for NameCache {
    fn default() -> Self {
        Self([None; CACHED])
    }
}

impl NameCache {
    /// The number of a name; none, if there are too many.
    pub(crate) fn find(&mut self, names: &Names, name: &'static str) -> Option<Number> {
        // They are as far from each other as they are long.
        let place = self.0.get_mut((name.as_ptr().addr() >> 2) % CACHED)?;
        match place {
            Some((known, number)) if std::ptr::eq(*known, name) => Some(*number),
            _ => {
                let number = names.number(name)?;
                *place = Some((name, number));
                Some(number)
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    #[test]
    fn a_name_has_one_number_however_many_there_are() {
        let (names, mut caches) = (Names::default(), [NameCache::default(), NameCache::default()]);
        static ALL: LazyLock<Vec<String>> =
            LazyLock::new(|| (0..500).map(|n| format!("R{n}")).collect());
        let all: Vec<&'static str> = ALL.iter().map(String::as_str).collect();
        for _ in 0..2 {
            for cache in &mut caches {
                for (number, name) in (1..).zip(&all) {
                    assert_eq!(cache.find(&names, name), Number::new(number), "{name}");
                }
            }
        }
        assert_eq!(names.since(498), ["R498", "R499"]);
        assert_eq!(names.since(500), Vec::<&str>::new());
    }
}
