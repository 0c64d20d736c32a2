//! Multiboot modules: files that are loaded beside the kernel, named as an initial RAM disk is.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use trapline_guestmem::GuestMem;

use super::room::Room;
use crate::error::{Error, placing};
use crate::image::Image;
use crate::kernel::Initrd;

/// Modules begin on a page whether the kernel asks for it or not.
const ALIGN: u64 = 0x1000;

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The file, which is the first word of the string.
    pub(super) file: PathBuf,
    /// What the kernel is told of it.
    pub(super) string: Vec<u8>,
}

/// A module in memory.
pub(super) struct Module {
    pub(super) place: Range<u64>,
    pub(super) string: Vec<u8>,
}

/// Understands `FILE[ ARGUMENTS][,FILE[ ARGUMENTS]...]`, where two commas are one in a name: what
/// QEMU's `-initrd` takes for Multiboot kernels. A name with spaces in it is known by its file.
pub(super) fn parse(list: &Path) -> Vec<Entry> {
    let mut strings = vec![Vec::new()];
    let mut bytes = list.as_os_str().as_bytes().iter().peekable();
    while let Some(&byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&&b',').is_none() {
            strings.push(Vec::new());
        } else if let Some(string) = strings.last_mut() {
            string.push(byte);
        }
    }
    strings.into_iter().map(|string| Entry { file: file_of(&string), string }).collect()
}

/// The file of one entry: what is before the first space behind which a file's name ends. If
/// there is no such file, its name is the first word.
fn file_of(string: &[u8]) -> PathBuf {
    let spaces = string.iter().enumerate().filter(|(_, byte)| **byte == b' ').map(|(at, _)| at);
    let mut names = spaces.chain([string.len()]).filter_map(|end| string.get(..end));
    let path = |name: &[u8]| PathBuf::from(OsStr::from_bytes(name));
    let there = names.clone().map(path).find(|path| path.exists());
    there.unwrap_or_else(|| names.next().map(path).unwrap_or_default())
}

/// The files of a list of modules: `FILE[ ARGUMENTS][,FILE[ ARGUMENTS]...]`, where two commas are
/// one in a name.
pub fn module_files(list: &Path) -> Vec<PathBuf> {
    parse(list).into_iter().map(|entry| entry.file).collect()
}

/// Loads the modules, one after the other from the lowest place there is.
pub(super) fn load(
    mem: &GuestMem,
    initrd: Option<Initrd<'_>>,
    room: &mut Room<'_>,
    kernel: &str,
) -> Result<Vec<Module>, Error> {
    match initrd {
        None => Ok(Vec::new()),
        Some(Initrd::Bytes { name, bytes }) => {
            let place = find(room, name, bytes.len() as u64, kernel)?;
            mem.write(place.start, bytes).map_err(placing("module"))?;
            Ok(vec![Module { place, string: name.as_bytes().to_vec() }])
        }
        Some(Initrd::File(list)) => parse(list)
            .into_iter()
            .map(|Entry { file, string }| {
                let mut image =
                    Image::open(&file, |name, source| Error::OpenInitrd { name, source })?;
                let place = find(room, &image.name, image.len, kernel)?;
                image.load(mem, "module", 0, image.len, place.start)?;
                Ok(Module { place, string })
            })
            .collect(),
    }
}

fn find(room: &mut Room<'_>, name: &str, len: u64, kernel: &str) -> Result<Range<u64>, Error> {
    if len == 0 {
        return Err(Error::Empty { name: name.to_owned() });
    }
    room.lowest(len, ALIGN).ok_or_else(|| {
        if room.has_above(len) {
            Error::initrd_limit(name, len, kernel, Room::TOP)
        } else {
            Error::initrd_does_not_fit(name, len, room.ram_bytes().div_ceil(1 << 20))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_split_at_commas_and_its_files_at_spaces() {
        let list = parse(Path::new("a.bin root=/dev/x,dir/b,,c.bin,d"));
        let told: Vec<_> = list.iter().map(|entry| entry.string.as_slice()).collect();
        assert_eq!(told, [&b"a.bin root=/dev/x"[..], b"dir/b,c.bin", b"d"]);
        let files = module_files(Path::new("a.bin root=/dev/x,dir/b,,c.bin,d"));
        assert_eq!(files, ["a.bin", "dir/b,c.bin", "d"].map(PathBuf::from));
    }
}
