//! Extended attributes. A client reads one by a fid of it, and writes one by another, which sets it
//! when it is given back.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::files::errno;
use super::{Payload, Request, Server};
use crate::fids::{Fid, NewValue, What};
use crate::share::Share;
use crate::wire::{Put, Reader};

/// The longest value, and the longest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const VALUE_MAX: usize = 65_536;
/// The longest name (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

const CREATE: u32 = 1;
const REPLACE: u32 = 2;

impl Server {
    /// `fid[4] newfid[4] name[s]`: a fid to read an attribute by; without a name, the list of them.
    pub(super) fn xattrwalk(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (number, new, name) = (fields.u32()?, fields.u32()?, fields.string()?);
        let fid = self.fids.get(number)?;
        let path = Share::proc_path(fid.file()?.as_fd());
        let value = match name {
            [] => self.names(&path)?,
            name => {
                let name = attribute(name)?;
                if self.share.is_private(name.to_bytes()) {
                    return Err(Errno::NODATA);
                }
                let mut value = vec![0; VALUE_MAX];
                let len = rustix::fs::getxattr(&path, &name, &mut value[..])?;
                value.truncate(len);
                value
            }
        };
        let len = value.len();
        let held = self.fids.hold(value, len)?;
        request.reply.u64(len as u64);
        let what = What::Value(Arc::new(held));
        match new == number {
            true => self.fids.change(number, what),
            false => self.fids.add(new, Fid { uid: fid.uid, what }),
        }
    }

    fn names(&self, path: &std::path::Path) -> Result<Vec<u8>, Errno> {
        let mut list = vec![0; VALUE_MAX];
        let len = rustix::fs::listxattr(path, &mut list[..])?;
        list.truncate(len);
        let names = list.split_inclusive(|byte| *byte == 0);
        Ok(names.filter(|name| !self.share.is_private(name)).flatten().copied().collect())
    }

    /// `fid[4] name[s] attr_size[8] flags[4]`: makes a fid one to write an attribute by.
    pub(super) fn xattrcreate(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (number, name) = (fields.u32()?, fields.string()?);
        let (len, flags) = (fields.u64()?, fields.u32()?);
        let fid = self.fids.get(number)?;
        self.writing()?;
        if flags & !(CREATE | REPLACE) != 0 {
            return Err(Errno::INVAL);
        }
        let name = attribute(name)?.into_bytes();
        if self.share.is_private(&name) {
            return Err(Errno::ACCESS);
        }
        let len = usize::try_from(len).ok().filter(|len| *len <= VALUE_MAX).ok_or(Errno::TOOBIG)?;
        let file = fid.place()?;
        let value = Mutex::new(self.fids.hold(Vec::new(), len)?);
        self.fids
            .change(number, What::NewValue(Arc::new(NewValue { file, name, flags, len, value })))
    }

    /// Takes a part of an attribute's value: they come in order.
    pub(super) fn write_value(
        &self,
        new: &NewValue,
        payload: &mut dyn Payload,
        offset: u64,
        count: u32,
    ) -> Result<(), Errno> {
        let held = &mut *new.value.lock();
        let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
        let there = held.bytes.len();
        if offset != there as u64 {
            return Err(Errno::INVAL);
        }
        let end = there.checked_add(count).filter(|end| *end <= new.len).ok_or(Errno::NOSPC)?;
        held.bytes.resize(end, 0);
        let copied = payload.copy(held.bytes.get_mut(there..).unwrap_or_default());
        copied.map_err(|error| {
            held.bytes.truncate(there);
            errno(error)
        })
    }

    /// Sets an attribute, all of which has been written. None of it is what removes one: the client
    /// replaces it by nothing.
    pub(super) fn set_value(&self, new: &NewValue) -> Result<(), Errno> {
        let held = new.value.lock();
        if held.bytes.len() != new.len {
            return Err(Errno::INVAL);
        }
        let (path, name) = (Share::proc_path(new.file.as_fd()), &new.name[..]);
        match (new.len, new.flags) {
            (0, REPLACE) => rustix::fs::removexattr(path, name),
            (_, flags) => {
                rustix::fs::setxattr(path, name, &held.bytes, XattrFlags::from_bits_retain(flags))
            }
        }
    }
}

/// An attribute's name.
fn attribute(name: &[u8]) -> Result<CString, Errno> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Errno::RANGE);
    }
    CString::new(name).map_err(|_| Errno::INVAL)
}
