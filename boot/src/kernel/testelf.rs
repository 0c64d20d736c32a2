//! Minimal ELF files for tests.

/// An ELF file in the making: 64-bit, little-endian, without sections.
pub(crate) struct ElfBuilder {
    pub(crate) kind: u16,
    pub(crate) machine: u16,
    pub(crate) entry: u64,
    /// Virtual address, physical address, size in memory, contents.
    pub(crate) loads: Vec<(u64, u64, u64, Vec<u8>)>,
    /// Contents of note segments.
    pub(crate) notes: Vec<Vec<u8>>,
    pub(crate) interpreter: Option<String>,
    pub(crate) needed: Vec<String>,
}

impl Default for ElfBuilder {
    fn default() -> Self {
        Self {
            kind: 2,
            machine: 62,
            entry: 0x100_0000,
            loads: Vec::new(),
            notes: Vec::new(),
            interpreter: None,
            needed: Vec::new(),
        }
    }
}

/// A note segment's contents: one note with a 4-byte name.
pub(crate) fn note(name: &[u8; 4], kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let words = [4, u32::try_from(descriptor.len()).unwrap(), kind];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(name);
    bytes.extend(descriptor);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

impl ElfBuilder {
    /// A program or library with these needs.
    pub(crate) fn program(interpreter: Option<&str>, needed: &[&str]) -> Vec<u8> {
        Self {
            kind: 3,
            interpreter: interpreter.map(str::to_owned),
            needed: needed.iter().map(|name| (*name).to_owned()).collect(),
            ..Self::default()
        }
        .build()
    }

    /// The file.
    pub(crate) fn build(&self) -> Vec<u8> {
        const PT_LOAD: u32 = 1;
        const PT_DYNAMIC: u32 = 2;
        const PT_INTERP: u32 = 3;
        const PT_NOTE: u32 = 4;
        let mut segments: Vec<(u32, u64, u64, u64, Vec<u8>)> = Vec::new();
        for (virt, phys, size, bytes) in &self.loads {
            segments.push((PT_LOAD, *virt, *phys, *size, bytes.clone()));
        }
        for note in &self.notes {
            segments.push((PT_NOTE, 0, 0, 0, note.clone()));
        }
        if let Some(interpreter) = &self.interpreter {
            segments.push((PT_INTERP, 0, 0, 0, format!("{interpreter}\0").into_bytes()));
        }
        if !self.needed.is_empty() {
            const STRINGS: u64 = 0x5000;
            let mut strings = vec![0];
            let mut lines: Vec<[u64; 2]> = Vec::new();
            for name in &self.needed {
                lines.push([1, strings.len() as u64]);
                strings.extend(format!("{name}\0").into_bytes());
            }
            lines.extend([[5, STRINGS], [10, strings.len() as u64], [0, 0]]);
            let lines = lines.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
            segments.push((PT_LOAD, STRINGS, STRINGS, strings.len() as u64, strings));
            segments.push((PT_DYNAMIC, 0, 0, 0, lines));
        }
        let mut file = self.header(segments.len());
        let mut offset = file.len() + 56 * segments.len();
        let mut contents = Vec::new();
        for (kind, virt, phys, size, bytes) in segments {
            let len = bytes.len() as u64;
            file.extend(kind.to_le_bytes());
            file.extend(7u32.to_le_bytes());
            for word in [offset as u64, virt, phys, len, size.max(len), 4] {
                file.extend(word.to_le_bytes());
            }
            offset += bytes.len();
            contents.extend(bytes);
        }
        file.extend(contents);
        file
    }

    fn header(&self, segments: usize) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [self.entry, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64, 56, u16::try_from(segments).unwrap(), 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file
    }
}
