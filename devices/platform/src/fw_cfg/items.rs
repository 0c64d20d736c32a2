//! What there is to read: items by key, files by name.

use std::collections::BTreeMap;

use super::regs::{FILE_ENTRY_LEN, FILE_NAME_LEN, FILES_MAX, ID, SIGNATURE, WRITE_CHANNEL, key};

/// One item's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) bytes: Vec<u8>,
    /// Whether a guest may change them, by DMA.
    pub(super) writable: bool,
}

/// The items of a machine in the making.
#[derive(Clone, Debug, Default)]
pub struct Items {
    keyed: BTreeMap<u16, Item>,
    files: BTreeMap<String, Item>,
}

/// Why a file cannot be an item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// The directory has no room for the name.
    #[error("fw_cfg item `{name}`: a name has 1 to 55 printable ASCII characters")]
    Name {
        /// The name.
        name: String,
    },
    /// There is one already.
    #[error("fw_cfg item `{name}` is there already")]
    Twice {
        /// The name.
        name: String,
    },
    /// Sizes have 32 bits.
    #[error("fw_cfg item `{name}` is larger than 4 GiB")]
    Size {
        /// The name.
        name: String,
    },
    /// There are no more keys.
    #[error("more than {FILES_MAX} fw_cfg files")]
    TooMany,
}

impl Items {
    /// Nothing but what every machine has: signature, features, and an empty directory.
    pub fn new() -> Self {
        let mut items = Self::default();
        items.set(key::SIGNATURE, SIGNATURE);
        items.set(key::ID, ID.to_le_bytes());
        items
    }

    /// Says what the item at `key` holds, in place of what was said before.
    pub fn set(&mut self, key: u16, bytes: impl Into<Vec<u8>>) {
        let item = Item { bytes: bytes.into(), writable: false };
        self.keyed.insert(key & !WRITE_CHANNEL, item);
    }

    /// Adds a file. Its key is given when all are known: files are in the order of their names.
    ///
    /// # Errors
    /// A name or contents no directory can list, or a name that is taken.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), ItemError> {
        self.insert(name, Item { bytes, writable: false })
    }

    /// Adds a file that a guest may write to, within its size.
    ///
    /// # Errors
    /// See [`Items::add_file`].
    pub fn add_writable_file(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), ItemError> {
        self.insert(name, Item { bytes, writable: true })
    }

    fn insert(&mut self, name: &str, item: Item) -> Result<(), ItemError> {
        let named = || name.to_owned();
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if name.is_empty() || name.len() >= FILE_NAME_LEN || !printable {
            return Err(ItemError::Name { name: named() });
        }
        if u32::try_from(item.bytes.len()).is_err() {
            return Err(ItemError::Size { name: named() });
        }
        if self.files.contains_key(name) {
            return Err(ItemError::Twice { name: named() });
        }
        if self.files.len() == FILES_MAX {
            return Err(ItemError::TooMany);
        }
        self.files.insert(named(), item);
        Ok(())
    }

    /// All items by key, the directory among them.
    pub(super) fn finish(self) -> BTreeMap<u16, Item> {
        let Self { mut keyed, files } = self;
        let mut directory = Vec::with_capacity(4 + FILE_ENTRY_LEN * files.len());
        directory.extend(u32::try_from(files.len()).unwrap_or(0).to_be_bytes());
        for ((name, item), key) in files.into_iter().zip(key::FILE_FIRST..) {
            let mut padded = name.into_bytes();
            padded.resize(FILE_NAME_LEN, 0);
            directory.extend(u32::try_from(item.bytes.len()).unwrap_or(0).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(padded);
            keyed.insert(key, item);
        }
        keyed.insert(key::FILE_DIR, Item { bytes: directory, writable: false });
        keyed
    }
}
