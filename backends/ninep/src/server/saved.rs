//! What a snapshot keeps of a session: which files the client has, by their paths.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::Server;
use crate::fids::{Fid, What};
use crate::wire::open;

/// A file that a client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedFid {
    /// The client's number for it.
    pub fid: u32,
    /// The user that it attached for.
    pub uid: u32,
    /// Where the file is below the folder; nothing is the folder.
    pub path: Vec<u8>,
    /// The flags (`P9_DOTL_*`) it was opened with, if it was.
    pub open: Option<u32>,
}

impl Server {
    /// The longest message settled on, 0 before that, and the files that the client has. Those that
    /// have no name any more, extended attributes on their way, and locks are not among them.
    pub fn save(&self) -> (u32, Vec<SavedFid>) {
        let all = self.fids.all();
        let mut fids: Vec<SavedFid> =
            all.into_iter().filter_map(|(number, fid)| self.save_fid(number, &fid)).collect();
        fids.sort_unstable_by_key(|fid| fid.fid);
        (self.msize.load(Ordering::Relaxed), fids)
    }

    fn save_fid(&self, fid: u32, what: &Fid) -> Option<SavedFid> {
        let open = match &what.what {
            What::Place(_) => None,
            What::File(open) => Some(open.flags),
            What::Dir(_) => Some(open::DIRECTORY),
            What::Value(_) | What::NewValue(_) => return None,
        };
        let path = self.share.path_below(what.file().ok()?.as_fd()).ok()?;
        Some(SavedFid { fid, uid: what.uid, path, open })
    }

    /// Goes on with a session that was saved, as far as the files are where they were: to the client
    /// the others are files that it never had.
    pub fn restore(&self, msize: u32, fids: impl IntoIterator<Item = SavedFid>) {
        self.reset();
        self.msize.store(msize.min(super::MSIZE_MAX), Ordering::Relaxed);
        for saved in fids {
            // A client that has lost a file is told when it asks for it.
            let _ = self.restore_fid(&saved);
        }
    }

    fn restore_fid(&self, saved: &SavedFid) -> Result<(), Errno> {
        let place = self.share.at(&saved.path)?;
        let what = match saved.open {
            None => What::Place(Arc::new(place)),
            Some(flags) => self.open_place(place.as_fd(), flags)?,
        };
        self.fids.add(saved.fid, Fid { uid: saved.uid, what })
    }
}
