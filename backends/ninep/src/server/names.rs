//! Names: what makes, moves and removes them.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Request, Server};
use crate::fids::What;
use crate::share::Inode;
use crate::wire::{Put, Reader};

/// A name of a folder is to be removed (`P9_DOTL_AT_REMOVEDIR`).
const REMOVEDIR: u32 = 0x200;

impl Server {
    /// `fid[4]`.
    pub(super) fn readlink(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let fid = self.fids.get(fields.u32()?)?;
        request.reply.string(&self.share.read_link(fid.file()?.as_fd())?);
        Ok(())
    }

    /// `fid[4] name[s] symtgt[s] gid[4]`.
    pub(super) fn symlink(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (dir, name, target) = (fields.u32()?, fields.string()?, fields.string()?);
        let gid = fields.u32()?;
        if target.contains(&0) {
            return Err(Errno::INVAL);
        }
        self.make(request, (dir, name), Inode::Link(target), 0o777, gid)
    }

    /// `dfid[4] name[s] mode[4] major[4] minor[4] gid[4]`.
    pub(super) fn mknod(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (dir, name, mode) = (fields.u32()?, fields.string()?, fields.u32()?);
        let (device, gid) = ((fields.u32()?, fields.u32()?), fields.u32()?);
        if mode & crate::attr::TYPE == crate::attr::DIR
            || mode & crate::attr::TYPE == crate::attr::LINK
        {
            return Err(Errno::INVAL);
        }
        self.make(request, (dir, name), Inode::Node(device), mode, gid)
    }

    /// `dfid[4] name[s] mode[4] gid[4]`.
    pub(super) fn mkdir(
        &self,
        request: &mut Request<'_>,
        fields: &mut Reader<'_>,
    ) -> Result<(), Errno> {
        let (dir, name) = (fields.u32()?, fields.string()?);
        let (mode, gid) = (fields.u32()?, fields.u32()?);
        self.make(request, (dir, name), Inode::Dir, mode, gid)
    }

    fn make(
        &self,
        request: &mut Request<'_>,
        (dir, name): (u32, &[u8]),
        inode: Inode<'_>,
        mode: u32,
        gid: u32,
    ) -> Result<(), Errno> {
        self.writing()?;
        let fid = self.fids.get(dir)?;
        let owner = Self::owner(&fid, gid);
        let attr = self.share.make((fid.file()?.as_fd(), name), inode, mode, owner)?;
        request.reply.qid(self.qid_of(&attr)?);
        Ok(())
    }

    /// `dfid[4] fid[4] name[s]`: another name for a file.
    pub(super) fn link(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (dir, file) = (self.fids.get(fields.u32()?)?, self.fids.get(fields.u32()?)?);
        let name = fields.string()?;
        self.writing()?;
        self.share.link(file.file()?.as_fd(), dir.file()?.as_fd(), name)
    }

    /// `fid[4] dfid[4] name[s]`: a fid's file gets another name.
    pub(super) fn rename(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (fid, dir) = (self.fids.get(fields.u32()?)?, self.fids.get(fields.u32()?)?);
        let name = fields.string()?;
        self.writing()?;
        let (parent, old) = self.share.place(fid.file()?.as_fd())?;
        self.share.rename((parent.as_fd(), &old), (dir.file()?.as_fd(), name))
    }

    /// `olddirfid[4] oldname[s] newdirfid[4] newname[s]`.
    pub(super) fn renameat(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (old, from) = (self.fids.get(fields.u32()?)?, fields.string()?);
        let (new, to) = (self.fids.get(fields.u32()?)?, fields.string()?);
        self.writing()?;
        self.share.rename((old.file()?.as_fd(), from), (new.file()?.as_fd(), to))
    }

    /// `dirfd[4] name[s] flags[4]`.
    pub(super) fn unlinkat(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let (dir, name, flags) = (self.fids.get(fields.u32()?)?, fields.string()?, fields.u32()?);
        self.writing()?;
        if flags & !REMOVEDIR != 0 {
            return Err(Errno::INVAL);
        }
        self.share.unlink(dir.file()?.as_fd(), name, flags == REMOVEDIR)
    }

    /// `fid[4]`: removes a file, and gives its fid back whatever comes of that.
    pub(super) fn remove(&self, fields: &mut Reader<'_>) -> Result<(), Errno> {
        let number = fields.u32()?;
        let fid = self.fids.remove(number)?;
        if let What::File(_) | What::Dir(_) = fid.what {
            self.locks.forget(number);
        }
        self.writing()?;
        let file = fid.file()?.as_fd();
        let (parent, name) = self.share.place(file)?;
        let is_dir = self.share.stat(file)?.is_dir();
        self.share.unlink(parent.as_fd(), &name, is_dir)
    }
}
