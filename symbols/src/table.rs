//! Symbols in order of their addresses.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};

use elf::ElfStream;
use elf::abi::{STT_FILE, STT_SECTION};
use elf::endian::AnyEndian;

/// A kernel's symbols, where they are in its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    /// In order of their addresses.
    entries: Vec<Entry>,
    /// All names, one after the other.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    addr: u64,
    /// The name's place in `text`.
    start: u32,
    len: u16,
    /// It is code.
    code: bool,
}

/// A symbol, and how far behind its beginning an address is. `Display` is Linux' `name+0x12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Bytes between its address and the one that was looked up.
    pub offset: u64,
}

impl fmt::Display for Symbol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.name, self.offset)
    }
}

/// Why a file has no symbols for us.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is an ELF file of which something is not where it says.
    #[error("a damaged ELF file: {0}")]
    Elf(#[from] elf::ParseError),
    /// It is an ELF file without a symbol table.
    #[error(
        "an ELF file without symbols (a stripped vmlinux has none; Debian's are in linux-image-…-dbg)"
    )]
    Stripped,
    /// It is neither an ELF file nor has any line of a System.map.
    #[error("neither a vmlinux with symbols nor a System.map")]
    NeitherKind,
    /// Debian's packages have a file of one line in the place of the map.
    #[error("a System.map with no symbol in it (Debian's real one is in linux-image-…-dbg)")]
    Placeholder,
}

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// The most symbols that are kept: more than any kernel has, and a bound for what a guest says.
pub(crate) const SYMBOLS_MAX: usize = 1 << 20;
/// The most text of names that is kept, for the same reason: a large kernel has a tenth of it.
const TEXT_MAX: usize = 64 << 20;
/// The longest name that is kept (Linux `KSYM_NAME_LEN`).
pub(crate) const NAME_MAX: usize = 512;

impl Symbols {
    /// Symbols out of a file: `vmlinux`, or `System.map`. They are where the kernel was linked to;
    /// [`Symbols::shifted`] puts them where it runs. Of a `vmlinux`, most of which is for debuggers, only
    /// the tables of symbols are read.
    ///
    /// # Errors
    /// It cannot be read, or has none.
    pub fn from_file(mut file: impl Read + Seek) -> Result<Self, FileError> {
        let mut start = Vec::new();
        file.by_ref().take(ELF_MAGIC.len() as u64).read_to_end(&mut start)?;
        if start != ELF_MAGIC {
            return Self::from_map(BufReader::new(Cursor::new(start).chain(file)));
        }
        if file.rewind().is_ok() {
            return Self::from_elf(file);
        }
        // A pipe.
        file.read_to_end(&mut start)?;
        Self::from_elf(Cursor::new(start))
    }

    fn from_elf(file: impl Read + Seek) -> Result<Self, FileError> {
        let mut file = ElfStream::<AnyEndian, _>::open_stream(file)?;
        let (symbols, names) = file.symbol_table()?.ok_or(FileError::Stripped)?;
        let mut made = Self::default();
        for symbol in symbols.iter() {
            let named = !matches!(symbol.st_symtype(), STT_FILE | STT_SECTION);
            if !named || symbol.st_shndx == 0 {
                continue;
            }
            if let Ok(name) = names.get(usize::try_from(symbol.st_name).unwrap_or(usize::MAX)) {
                // What a kernel's map says of them is not in the table: data is taken for code only
                // where no code is.
                let code = symbol.st_symtype() != elf::abi::STT_OBJECT;
                made.push(symbol.st_value, name, code);
            }
        }
        if made.entries.is_empty() { Err(FileError::Stripped) } else { Ok(made.sorted()) }
    }

    fn from_map(file: impl BufRead) -> Result<Self, FileError> {
        let mut made = Self::default();
        for line in file.lines() {
            let line = line.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => FileError::NeitherKind,
                _ => FileError::Read(error),
            })?;
            let mut words = line.split_whitespace();
            let (addr, kind, name) = (words.next(), words.next(), words.next());
            let addr = addr.and_then(|addr| u64::from_str_radix(addr, 16).ok());
            let (Some(addr), Some(kind), Some(name)) = (addr, kind, name) else {
                return Err(FileError::NeitherKind);
            };
            if addr == u64::MAX && line.contains("-dbg package") {
                return Err(FileError::Placeholder);
            }
            made.push(addr, name, is_code(kind.bytes().next().unwrap_or_default()));
        }
        if made.entries.is_empty() { Err(FileError::NeitherKind) } else { Ok(made.sorted()) }
    }

    /// Adds a symbol, as long as there is room. [`Symbols::sorted`] is to follow.
    pub(crate) fn push(&mut self, addr: u64, name: &str, code: bool) {
        let start = u32::try_from(self.text.len());
        let len = u16::try_from(name.len()).ok().filter(|len| usize::from(*len) <= NAME_MAX);
        // `$x` and `$d` say where arm64's code and data begin. What is no letter, number or sign would
        // do something to the terminal that the name is shown on.
        let shown = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        let is_name = shown && !name.starts_with('$') && !name.starts_with(".L");
        if let (Ok(start), Some(len), true) = (start, len, is_name)
            && self.entries.len() < SYMBOLS_MAX
            && self.text.len() < TEXT_MAX
        {
            self.entries.push(Entry { addr, start, len, code });
            self.text.push_str(name);
        }
    }

    pub(crate) fn sorted(mut self) -> Self {
        self.entries.sort_by_key(|entry| entry.addr);
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The same, each so many bytes further up.
    #[must_use]
    pub fn shifted(mut self, slide: u64) -> Self {
        for entry in &mut self.entries {
            entry.addr = entry.addr.wrapping_add(slide);
        }
        self.sorted()
    }

    /// The code that `addr` is in: of several names for one place the first.
    pub fn lookup(&self, addr: u64) -> Option<Symbol<'_>> {
        let end = self.entries.partition_point(|entry| entry.addr <= addr);
        let before = self.entries.get(..end)?;
        let found = before.iter().rev().find(|entry| entry.code)?;
        let start = before.partition_point(|entry| entry.addr < found.addr);
        let first = before.get(start..)?.iter().find(|entry| entry.code)?;
        Some(Symbol { name: self.name(first), offset: addr - first.addr })
    }

    /// The address of the first symbol of that name.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.entries.iter().find(|entry| self.name(entry) == name).map(|entry| entry.addr)
    }

    /// All of them, in order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        self.entries.iter().map(|entry| (entry.addr, self.name(entry)))
    }

    fn name(&self, entry: &Entry) -> &str {
        let start = usize::try_from(entry.start).unwrap_or(usize::MAX);
        self.text.get(start..start.saturating_add(entry.len.into())).unwrap_or_default()
    }
}

/// Whether a symbol of this kind, as `nm` writes it, is code.
pub(crate) const fn is_code(kind: u8) -> bool {
    matches!(kind.to_ascii_lowercase(), b't' | b'w')
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "0000000000000000 D __per_cpu_start\n\
        ffffffff81000000 T _text\n\
        ffffffff81000000 T startup_64\n\
        ffffffff81000100 t io_serial_in\n\
        ffffffff81000180 W weak\n\
        ffffffff82000000 D data\n";

    #[test]
    fn a_map_gives_code_by_address_and_everything_by_name() {
        let symbols = Symbols::from_file(Cursor::new(MAP)).unwrap();
        let told = |addr| symbols.lookup(addr).map(|symbol| symbol.to_string());
        assert_eq!(told(0xffff_ffff_8100_0000).unwrap(), "_text+0x0", "the first of two names");
        assert_eq!(told(0xffff_ffff_8100_0112).unwrap(), "io_serial_in+0x12");
        assert_eq!(told(0xffff_ffff_8200_0001).unwrap(), "weak+0xfffe81", "data is no code");
        assert_eq!(told(0xffff_ffff_80ff_ffff), None);
        assert_eq!(symbols.address("data"), Some(0xffff_ffff_8200_0000));
        assert_eq!(symbols.address("nothing"), None);
        let shifted = symbols.shifted(0x1e0_0000);
        assert_eq!(shifted.address("io_serial_in"), Some(0xffff_ffff_82e0_0100));
        let symbol = shifted.lookup(0xffff_ffff_82e0_0101).unwrap();
        assert_eq!(symbol, Symbol { name: "io_serial_in", offset: 1 });
    }

    /// What cannot be read a second time.
    struct Pipe<R>(R);

    impl<R: Read> Read for Pipe<R> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl<R> Seek for Pipe<R> {
        fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
            Err(io::ErrorKind::NotSeekable.into())
        }
    }

    #[test]
    fn an_elf_file_gives_its_symbols_as_a_file_and_from_a_pipe() {
        let open = || std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let symbols = Symbols::from_file(open()).unwrap();
        let main = symbols.address("main").unwrap();
        assert_eq!(symbols.lookup(main + 1), Some(Symbol { name: "main", offset: 1 }));
        assert_eq!(Symbols::from_file(Pipe(open())).unwrap(), symbols);
        let map = Symbols::from_file(Pipe(MAP.as_bytes())).unwrap();
        assert_eq!(map, Symbols::from_file(Cursor::new(MAP)).unwrap());
    }

    #[test]
    fn a_name_that_would_move_the_cursor_is_none() {
        let mut symbols = Symbols::default();
        for name in ["\x1b[2J", "two\nlines", "", "\u{202e}", "_RNvCs_7___rust.llvm.1", "~"] {
            symbols.push(1, name, true);
        }
        let names: Vec<_> = symbols.iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["_RNvCs_7___rust.llvm.1", "~"]);
    }

    #[test]
    fn what_is_no_map_says_so() {
        let told =
            |content: &[u8]| Symbols::from_file(Cursor::new(content)).unwrap_err().to_string();
        assert_eq!(told(b"hello"), "neither a vmlinux with symbols nor a System.map");
        assert_eq!(told(b""), told(b"hello"));
        assert_eq!(told(b"\xff\xfe\x00"), told(b"hello"));
        assert!(told(b"\x7fELF").starts_with("a damaged ELF file"));
        let debian =
            b"ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n";
        assert!(told(debian).contains("with no symbol in it"));
    }
}
