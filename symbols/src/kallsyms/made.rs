//! Tables as `scripts/kallsyms.c` of different times writes them.

/// The first symbol's address.
pub(crate) const BASE: u64 = 0xffff_ffff_8100_0000;

/// The first symbols of [`Made`], 256 bytes apart; the others are called `function_N`.
pub(crate) const SYMBOLS: [(char, &str); 6] = [
    ('T', "_stext"),
    ('t', "io_serial_in"),
    ('T', "uart_insert_char"),
    ('d', "some_data"),
    ('T', "asm_exc_divide_error"),
    ('T', "entry_SYSCALL_64"),
];

/// How the arrays are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// Until 6.1.
    First,
    /// 6.2, 6.3, and stable kernels: the order of names is before the tokens.
    Order,
    /// Since 6.4.
    Latest,
}

/// A table to be.
pub(crate) struct Made {
    pub(crate) era: Era,
    pub(crate) symbols: Vec<(char, String)>,
    pub(crate) relative_base: u64,
    /// With absolute addresses of per-CPU data, of which there is one.
    pub(crate) absolute: bool,
}

impl Made {
    /// 700 symbols, `_etext` the last one.
    pub(crate) fn new(era: Era) -> Self {
        let mut symbols: Vec<_> = SYMBOLS.map(|(kind, name)| (kind, name.to_owned())).to_vec();
        symbols.extend((symbols.len()..698).map(|n| ('t', format!("function_{n}"))));
        // Longer than 127 tokens: two bytes of length.
        symbols.push(('t', "x".repeat(200)));
        symbols.push(('T', "_etext".to_owned()));
        Self { era, symbols, relative_base: BASE, absolute: false }
    }

    /// The arrays, beginning at a multiple of eight.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut image = Image(vec![0xaa; 64]);
        if self.era != Era::Latest {
            self.put_addresses(&mut image);
        }
        let (names, markers) = self.names();
        image.array(&u32::try_from(self.symbols.len()).unwrap().to_le_bytes());
        image.array(&names);
        image.array(&markers.iter().flat_map(|marker| marker.to_le_bytes()).collect::<Vec<_>>());
        if self.era == Era::Order {
            let order = (0..u32::try_from(self.symbols.len()).unwrap()).rev();
            image.array(&order.flat_map(|n| n.to_be_bytes()[1..].to_vec()).collect::<Vec<_>>());
        }
        self.put_tokens(&mut image);
        if self.era == Era::Latest {
            self.put_addresses(&mut image);
        }
        image.0.extend([0xbb; 64]);
        image.0
    }

    fn put_addresses(&self, image: &mut Image) {
        let offset = |n: u32| match (self.absolute, n) {
            (true, 0) => 0x40,
            (true, n) => (-1 - i32::try_from(0x100 * n).unwrap()).cast_unsigned(),
            (false, n) => 0x100 * n,
        };
        let count = u32::try_from(self.symbols.len()).unwrap();
        image.array(&(0..count).flat_map(|n| offset(n).to_le_bytes()).collect::<Vec<_>>());
        image.array(&self.relative_base.to_le_bytes());
    }

    /// The compressed names, and where each 256th begins.
    fn names(&self) -> (Vec<u8>, Vec<u32>) {
        let (mut names, mut markers) = (Vec::new(), Vec::new());
        for (n, (kind, name)) in self.symbols.iter().enumerate() {
            if n % 256 == 0 {
                markers.push(u32::try_from(names.len()).unwrap());
            }
            // One token is a word; all others are their letter.
            let text = format!("{kind}{name}").replace("function_", "\x01");
            let len = text.len();
            if len > 0x7f {
                names.push(u8::try_from(len & 0x7f | 0x80).unwrap());
                names.push(u8::try_from(len >> 7).unwrap());
            } else {
                names.push(u8::try_from(len).unwrap());
            }
            names.extend(text.bytes());
        }
        (names, markers)
    }

    fn put_tokens(&self, image: &mut Image) {
        let (mut table, mut index) = (Vec::new(), Vec::new());
        for token in 0..=255 {
            index.extend(u16::try_from(table.len()).unwrap().to_le_bytes());
            match token {
                1 => table.extend(b"function_"),
                b' '..=b'~' => table.push(token),
                _ => table.extend(format!("t{token}").bytes()),
            }
            table.push(0);
        }
        image.array(&table);
        image.array(&index);
    }
}

struct Image(Vec<u8>);

impl Image {
    /// Adds an array, at a multiple of eight.
    fn array(&mut self, bytes: &[u8]) {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }
}
