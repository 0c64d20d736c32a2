//! Which configurations an ITS can have, and what follows from them.
#![allow(clippy::unwrap_used, reason = "a test that can not go on fails")]

mod support;

use gicv3_its::regs::Baser;
use gicv3_its::{CommandError, Config, ConfigError, Its};
use support::{Bench, mapc};

#[test]
fn there_is_one_device_table_and_one_collection_table() {
    let [device, collection, none, ..] = Config::new().basers;
    let with = |first: Baser, second: Baser, third: Baser| {
        let mut config = Config::new();
        let [one, two, three, ..] = &mut config.basers;
        (*one, *two, *three) = (first, second, third);
        Its::new(config).map(|_| ())
    };
    assert_eq!(with(device, collection, none), Ok(()));
    assert_eq!(with(none, collection, device), Ok(()));
    for [first, second, third] in [
        [device, none, none],
        [none, collection, none],
        [none, none, none],
        [device, device, collection],
        [device, collection, collection],
    ] {
        assert_eq!(with(first, second, third), Err(ConfigError::Tables));
    }
}

#[test]
fn collections_have_sixteen_bits_unless_typer_says_how_many() {
    for (cil, bits, last) in [(false, 3, 0xffff), (true, 3, 0xf), (true, 0, 1), (true, 7, 0xff)] {
        let mut config = Config::new();
        config.typer = config.typer.with_cil(cil).with_collection_bits(bits);
        let mut bench = Bench::new(config);
        // A table of 64 KiB has 8,192 entries.
        let last = u16::min(last, 0x1fff);
        bench.run(&[mapc(last, 0), mapc(last + 1, 0)]);
        assert_eq!(bench.its.collections().map(|(id, _)| id.0).collect::<Vec<_>>(), [last]);
        let counters = bench.its.counters();
        assert_eq!(
            (counters.all_refused(), counters.refused(CommandError::MapcCollection)),
            (1, 1)
        );
    }
}
