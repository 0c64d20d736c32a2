//! Guest addresses and interrupt numbers are in the boards' `layout.rs` and nowhere else
//! (ARCHITECTURE.md's invariant).
//!
//! In code that is no test, these give one away:
//!
//! * a literal with the value of one in a `layout.rs`;
//! * a literal where a call takes an address or a number;
//! * a page below 4 GiB, where a PC has its devices;
//! * a constant whose name says that it is the number of an interrupt.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, Group, Literal, TokenStream, TokenTree};

use super::{Finding, Source, Tree};

/// Whose code knows no place and no number.
const FOLDERS: [&str; 9] = [
    "backends/",
    "boot/src/",
    "contract/",
    "devices/",
    "interrupts/",
    "machine/src/",
    "sources/",
    "trap/src/",
    "vmm/src/",
];

/// The files that have them.
const LAYOUT: &str = "layout.rs";

/// Calls whose first argument is an address, a port or an interrupt's number.
const PLACING: [&str; 8] =
    ["pio", "mmio", "ports", "line", "resampled_input", "set_irq_line", "spi", "pci"];

/// Words of a constant's name that say so.
const NUMBERS: [&str; 5] = ["IRQ", "GSI", "SPI", "PPI", "INTID"];

/// Files, the literals that are something else there, and what they are.
const ALLOWED: [(&str, &[u128], &str); 13] = [
    ("devices/pci/src/piix.rs", &[0x7000], "the identity of the ISA bridge"),
    ("devices/pci/src/regs.rs", &[0xff00], "the write mask of a register"),
    ("devices/pci/src/regs.rs", &[0x80, 0x01], "bits of the educational device's registers"),
    ("interrupts/its/src/gic/registers.rs", &[0x6000], "an offset in the GIC"),
    ("interrupts/its/src/gic/mod.rs", &[1020], "the architecture's end of the SPIs"),
    ("machine/src/arm64_virt/frame.rs", &[32], "the architecture's first SPI"),
    ("machine/src/arm64_virt/kvm.rs", &[16], "the architecture's first PPI"),
    ("machine/src/arm64_virt/tree/mod.rs", &[0, 1, 8], "cells of interrupts in a device tree"),
    ("machine/src/x86_pc/boot.rs", &[0x600], "a processor's signature"),
    ("machine/src/x86_pc/qtest.rs", &[0], "the first and only output of a chip, for qtest"),
    ("sources/kvm/src/aarch64/chips.rs", &[32], "the architecture's first SPI"),
    ("sources/kvm/src/aarch64/gic_state.rs", &[0x6000], "an offset in the GIC"),
    ("sources/kvm/src/x86_64/options.rs", &[0xfffb_d000], "of a VM that has no board"),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut places = BTreeMap::new();
    for file in tree.files.iter().filter(|file| is_layout(file)) {
        each(file, &mut |literal| {
            if is_telling(literal.value) {
                places.insert(literal.value, file.path.clone());
            }
        });
    }
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| is_judged(file)) {
        let allowed: Vec<u128> = ALLOWED
            .iter()
            .filter(|(path, ..)| file.path == *path)
            .flat_map(|(_, values, _)| values.iter().copied())
            .collect();
        each(file, &mut |literal| {
            if allowed.contains(&literal.value) {
                return;
            }
            if let Some(layout) = places.get(&literal.value) {
                let message = format!("{:#x} is a place or a number of {layout}", literal.value);
                findings.push(file.at(literal.line, message));
            } else if literal.places || is_device_page(literal.value) {
                let message = "an address or an interrupt's number: give it a name in layout.rs";
                findings.push(file.at(literal.line, message));
            }
        });
    }
    findings
}

fn is_layout(file: &Source) -> bool {
    file.path.starts_with("machine/src/") && file.path.ends_with(LAYOUT)
}

/// Tests, benches and examples play a board.
fn is_judged(file: &Source) -> bool {
    let tests = |path: &str| {
        ["/tests/", "/benches/", "/examples/"].iter().any(|folder| path.contains(folder))
            || path.ends_with("tests.rs")
    };
    file.is_rust()
        && FOLDERS.iter().any(|folder| file.path.starts_with(folder))
        && !tests(&file.path)
        && !is_layout(file)
}

/// Whether a value is hardly ever anything but a place: no power of two, no mask, no small number.
fn is_telling(value: u128) -> bool {
    value > 0xff && !value.is_power_of_two() && !(value + 1).is_power_of_two()
}

/// Whether a value is a page in the last GiB below 4 GiB, and no mask.
fn is_device_page(value: u128) -> bool {
    (0xc000_0001..1 << 32).contains(&value)
        && value.is_multiple_of(0x1000)
        && !((1 << 32) - value).is_power_of_two()
}

/// An integer in the code.
struct Integer {
    value: u128,
    line: usize,
    /// Whether it is in the first argument of one of [`PLACING`], or of a constant of that kind.
    places: bool,
}

/// Calls `found` with every integer in the file's code that is no test.
fn each(file: &Source, found: &mut impl FnMut(&Integer)) {
    // What does not parse, other lints complain of.
    if let Ok(tokens) = file.text.parse() {
        walk(tokens, false, found);
    }
}

fn walk(tokens: TokenStream, places: bool, found: &mut impl FnMut(&Integer)) {
    // Whether the last word was one of `PLACING`, or announced the name of a constant; whether code
    // for tests comes; whether the constant being defined is the number of an interrupt.
    let (mut call, mut constant, mut test, mut number) = (false, false, false, false);
    for token in tokens {
        let placing = std::mem::take(&mut call);
        let named = std::mem::take(&mut constant);
        match token {
            TokenTree::Group(group) if test && group.delimiter() == Delimiter::Brace => {
                test = false;
            }
            TokenTree::Group(group) if is_cfg_test(&group) => test = true,
            TokenTree::Group(group) if placing && group.delimiter() == Delimiter::Parenthesis => {
                let (first, rest) = first_argument(group.stream());
                walk(first, true, found);
                walk(rest, false, found);
            }
            TokenTree::Group(group) => walk(group.stream(), places || number, found),
            TokenTree::Ident(word) => {
                let word = word.to_string();
                call = PLACING.contains(&word.as_str());
                constant = word == "const" || word == "static";
                number |= named && word.split('_').any(|part| NUMBERS.contains(&part));
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => (test, number) = (false, false),
            TokenTree::Punct(_) => {}
            TokenTree::Literal(literal) => {
                let places = places || number;
                if let Some(value) = integer(&literal) {
                    found(&Integer { value, line: literal.span().start().line, places });
                }
            }
        }
    }
}

/// Whether this is what follows `#` before code for tests.
fn is_cfg_test(group: &Group) -> bool {
    let text = group.stream().to_string().replace(' ', "");
    let tests = ["cfg(test)", "cfg(all(test,"].iter().any(|start| text.starts_with(start));
    group.delimiter() == Delimiter::Bracket && tests
}

/// The tokens before the first comma, and the others.
fn first_argument(tokens: TokenStream) -> (TokenStream, TokenStream) {
    let mut after = false;
    tokens.into_iter().partition(|token| {
        after |= matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
        !after
    })
}

/// The value of an integer literal, whatever its base and type.
fn integer(literal: &Literal) -> Option<u128> {
    let text = literal.to_string().replace('_', "");
    let types = ["u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "isize"];
    let digits = types.iter().find_map(|suffix| text.strip_suffix(suffix)).unwrap_or(&text);
    match digits.split_at_checked(2) {
        Some(("0x", hex)) => u128::from_str_radix(hex, 16).ok(),
        Some(("0b", binary)) => u128::from_str_radix(binary, 2).ok(),
        Some(("0o", octal)) => u128::from_str_radix(octal, 8).ok(),
        _ => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{texts, tree};
    use super::*;

    const LAYOUT_RS: &str =
        "const IO: u32 = 0xfec0_0000; const UART: u16 = 0x3f8; const A: u8 = 4;";

    fn found(path: &str, code: &str) -> Vec<String> {
        let files = [("machine/src/pc/layout.rs", LAYOUT_RS), (path, code)];
        texts(&check(&tree(&files))).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn each_sign_of_a_place_or_a_number_is_found() {
        for code in [
            "let a = 0xFEC0_0000_u64;",
            "f(1016)",
            "Region::pio(0x60, 1, a, b, c)",
            "part.mmio(base + 0x10, len, names, c)",
            "lines.line(5)",
            "let page = 0xfed4_0000;",
            "const IRQ: u8 = 5;",
            "static UART_GSI: [u32; 2] = [4, 3];",
        ] {
            let found = found("devices/a/src/b.rs", &format!("fn f() {{\n{code}\n}}"));
            assert!(!found.is_empty(), "{code}");
            assert!(found[0].starts_with("devices/a/src/b.rs:2: "), "{found:?}");
        }
    }

    #[test]
    fn lengths_masks_tests_and_the_layout_itself_are_left_alone() {
        for code in [
            "Region::pio(base, 8, a, b, c)",
            "lines.line(pci(device, pin - 1))",
            "let mask = 0xffff_f000_u32 | 0x1000;",
            "const IRQ: u8 = layout::IRQ;",
            "const LEN: u64 = 4; // 0xfec0_0000",
            "#[cfg(test)] mod tests { const IRQ: u8 = 5; fn f() { line(5) } }",
            "#[cfg(all(test, not(loom)))] mod tests { fn f() { g(0x3f8) } }",
            "fn line(&self) -> u8 { 3 }",
        ] {
            assert!(found("devices/a/src/b.rs", code).is_empty(), "{code}");
        }
        for path in ["devices/a/tests/b.rs", "devices/a/src/b_tests.rs", "xtask/src/b.rs"] {
            assert!(found(path, "f(0x3f8)").is_empty(), "{path}");
        }
        assert!(found("machine/src/arm/layout.rs", "const A: u16 = 0x3f8;").is_empty());
        assert_eq!(found("machine/src/arm/b.rs", "#[cfg(test)] mod t; fn f() { 0x3f8 }").len(), 1);
    }

    #[test]
    fn what_is_something_else_is_allowed_where_it_is() {
        let code = "const MP_CPU_SIGNATURE: u32 = 0x600;";
        let layout = ("machine/src/pc/layout.rs", "const PM: u16 = 0x600;");
        let files = [layout, ("machine/src/x86_pc/boot.rs", code), ("machine/src/b.rs", code)];
        let message =
            "machine/src/b.rs:1: 0x600 is a place or a number of machine/src/pc/layout.rs";
        assert_eq!(texts(&check(&tree(&files))), [message]);
    }
}
