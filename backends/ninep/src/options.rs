//! What a user says about a shared folder.

use std::path::PathBuf;

/// The most bytes of a mount tag, as of QEMU and kvmtool.
pub const TAG_LEN: usize = 32;

/// Whose files a guest's files are on the host. The names are QEMU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityModel {
    /// New files are given to the guest's user if the host's user can do that; if not, they are the
    /// host's user's, and nobody complains.
    #[default]
    None,
    /// As `None`, but what cannot be given to the guest's user is an error.
    Passthrough,
    /// All files are the host's user's. What the guest sees of owners, modes and devices is kept in
    /// extended attributes (`user.virtfs.*`), which QEMU's `mapped-xattr` understands, too.
    Mapped,
}

impl SecurityModel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Passthrough, Self::Mapped];

    /// What a user calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Passthrough => "passthrough",
            Self::Mapped => "mapped",
        }
    }
}

/// A shared folder, as its user describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareOptions {
    /// The folder on the host.
    pub path: PathBuf,
    /// The name by which the guest mounts it, 1 to [`TAG_LEN`] bytes.
    pub tag: String,
    /// The guest changes nothing.
    pub read_only: bool,
    /// Whose files are the guest's.
    pub security: SecurityModel,
}

impl ShareOptions {
    /// A folder that the guest may change, under this tag.
    pub fn new(path: impl Into<PathBuf>, tag: impl Into<String>) -> Self {
        let (path, tag) = (path.into(), tag.into());
        Self { path, tag, read_only: false, security: SecurityModel::default() }
    }
}
