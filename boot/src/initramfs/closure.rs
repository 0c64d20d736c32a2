//! Which files a program needs beside itself: its interpreter and its libraries' libraries.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use elf::ElfStream;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, PT_INTERP, PT_LOAD};
use elf::endian::AnyEndian;
use elf::segment::ProgramHeader;
use elf::string_table::StringTable;

use crate::error::Error;

/// Where dynamic linkers look without being told, relative to the root. The guest has no
/// `ld.so.cache`, so a library must be in one of these, or where a run path points.
const LIBRARIES: &[&str] = &[
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
    "usr/local/lib",
];

/// More than any real program's; a bound for a damaged file.
const STRINGS_MAX: u64 = 64 << 20;

/// Files a program needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    pub(super) files: Vec<Needed>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Needed {
    /// Its path in the guest, without the leading slash.
    pub(super) guest: String,
    /// Its path on the host.
    pub(super) host: PathBuf,
}

/// Everything `program` needs, empty when it is statically linked.
pub(super) fn of(host: &Path, program: &Path) -> Result<Needs, Error> {
    let mut needs = Needs::default();
    let mut seen = BTreeSet::new();
    let first = Object::read(program)?;
    if let Some(interpreter) = &first.interpreter {
        let guest = interpreter.trim_start_matches('/').to_owned();
        let path = host.join(&guest);
        // The linker is also a library that programs name; it is found by its short name then.
        seen.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        Object::read(&path)?;
        needs.files.push(Needed { guest, host: path });
    }
    let mut open = vec![(program.to_path_buf(), first)];
    while let Some((user, object)) = open.pop() {
        for name in &object.needed {
            if !seen.insert(name.clone()) {
                continue;
            }
            let (guest, path, library) = find(host, &user, &object, name)?;
            needs.files.push(Needed { guest, host: path.clone() });
            open.push((path, library));
        }
    }
    Ok(needs)
}

/// Looks for library `name` as the dynamic linker would on behalf of `user`.
fn find(
    host: &Path,
    user: &Path,
    object: &Object,
    name: &str,
) -> Result<(String, PathBuf, Object), Error> {
    // A run path relative to the program ($ORIGIN) would lead elsewhere in the guest, where the
    // program has another place.
    let fixed = |directory: &&str| directory.starts_with('/') && !directory.contains(['$', '.']);
    let run_path = object.run_path.split(':').filter(fixed).map(str::to_owned);
    let usual = LIBRARIES.iter().map(|directory| format!("/{directory}"));
    for directory in run_path.chain(usual) {
        let guest = format!("{}/{name}", directory.trim_start_matches('/'));
        let path = host.join(&guest);
        // A library of another architecture is passed over, as the linker does.
        if let Some(found) = Object::read(&path).ok().filter(|found| found.runs_with(object)) {
            return Ok((guest, path, found));
        }
    }
    let reason = format!("its library {name} is not in the usual directories");
    Err(Error::Initramfs { name: user.display().to_string(), reason })
}

/// What an ELF file says about its surroundings.
struct Object {
    machine: u16,
    class: elf::file::Class,
    interpreter: Option<String>,
    needed: Vec<String>,
    /// Directories, separated by colons.
    run_path: String,
}

impl Object {
    fn runs_with(&self, other: &Self) -> bool {
        self.machine == other.machine && self.class == other.class
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let refused =
            |reason: String| Error::Initramfs { name: path.display().to_string(), reason };
        let file = File::open(path).map_err(|error| refused(error.to_string()))?;
        Self::parse(&file).map_err(|error| refused(error.to_string()))
    }

    fn parse(file: &File) -> Result<Self, elf::ParseError> {
        let mut stream = ElfStream::<AnyEndian, _>::open_stream(file)?;
        let segments = stream.segments().clone();
        let interpreter = segments.iter().find(|segment| segment.p_type == PT_INTERP);
        let interpreter = match interpreter {
            Some(segment) => Some(StringTable::new(stream.segment_data(segment)?).get(0)?.into()),
            None => None,
        };
        let dynamic: Vec<(i64, u64)> = match stream.dynamic()? {
            Some(table) => table.iter().map(|line| (line.d_tag, line.d_val())).collect(),
            None => Vec::new(),
        };
        let strings = strings(file, &segments, &dynamic)?;
        let strings = StringTable::new(&strings);
        let texts = |tag: i64| {
            dynamic.iter().filter(move |line| line.0 == tag).map(|line| {
                let offset =
                    usize::try_from(line.1).map_err(|_| elf::ParseError::BadOffset(line.1))?;
                strings.get(offset).map(str::to_owned)
            })
        };
        let run_path = match texts(DT_RUNPATH).next().or_else(|| texts(DT_RPATH).next()) {
            Some(path) => path?,
            None => String::new(),
        };
        let needed = texts(DT_NEEDED).collect::<Result<_, _>>()?;
        let (machine, class) = (stream.ehdr.e_machine, stream.ehdr.class);
        Ok(Self { machine, class, interpreter, needed, run_path })
    }
}

/// The dynamic section's strings; it names them by their address in memory.
fn strings(
    file: &File,
    segments: &[ProgramHeader],
    dynamic: &[(i64, u64)],
) -> Result<Vec<u8>, elf::ParseError> {
    let value = |tag: i64| dynamic.iter().find(|line| line.0 == tag).map(|line| line.1);
    let (Some(addr), Some(len)) = (value(DT_STRTAB), value(DT_STRSZ)) else {
        return Ok(Vec::new());
    };
    let holds = |segment: &&ProgramHeader| {
        let offset = addr.checked_sub(segment.p_vaddr);
        segment.p_type == PT_LOAD && offset.is_some_and(|offset| offset < segment.p_filesz)
    };
    let segment = segments.iter().find(holds).ok_or(elf::ParseError::BadOffset(addr))?;
    let len = usize::try_from(len.min(STRINGS_MAX)).unwrap_or(0);
    let mut bytes = vec![0; len];
    let offset = segment.p_offset.saturating_add(addr - segment.p_vaddr);
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
