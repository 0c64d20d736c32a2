//! The options of `trapline trace` and `trapline diff`.

use trapline_trace::Filter;
use trapline_trace::export::Format;

use super::*;

fn options(args: &str) -> TraceOptions {
    match parsed(args) {
        Parsed::Trace(options) => *options,
        other => panic!("{args}: {other:?}"),
    }
}

fn parsed(args: &str) -> Parsed {
    let words = std::iter::once("trapline").chain(args.split_whitespace());
    parse_on(words.map(OsString::from), &HOST).unwrap()
}

fn filter(args: &str) -> Filter {
    match options(&format!("trace show f {args}")) {
        TraceOptions::Show { filter, .. } => filter,
        other => panic!("{args}: {other:?}"),
    }
}

#[test]
fn a_file_alone_is_told_about() {
    let TraceOptions::About { file } = options("trace f.trace") else { panic!("another command") };
    assert_eq!(file.to_str(), Some("f.trace"));
}

#[test]
fn filters_are_read() {
    assert_eq!(filter("--device serial0 --device rtc").devices, ["serial0", "rtc"]);
    assert_eq!(filter("--register LSR").registers, ["LSR"]);
    assert_eq!(filter("--from 1.5").from_ns, Some(1_500_000_000));
    assert_eq!(filter("--until 0.000000001").until_ns, Some(1));
    assert_eq!(filter("--cpu 3").vcpus, [3]);
    assert_eq!(filter("--value 0x41").value, Some((0x41, u64::MAX)));
    assert_eq!(filter("--value 1/0xf").value, Some((1, 15)));
    assert_eq!(filter("--read").direction, Some(trapline_device::Direction::Read));
    assert_eq!(filter("--write").direction, Some(trapline_device::Direction::Write));
}

#[test]
fn formats_and_boards_are_read() {
    let TraceOptions::Export { format, output, .. } =
        options("trace export f --format pcapng -o g")
    else {
        panic!("another command")
    };
    assert_eq!((format, output.as_deref()), (Format::Pcapng, Some(std::path::Path::new("g"))));
    let TraceOptions::Import { text, board, .. } = options("trace import - -o f --machine none")
    else {
        panic!("another command")
    };
    assert_eq!((text, board), (None, None));
    let Parsed::Diff(options) = parsed("diff a b --costs 3") else { panic!("another command") };
    assert_eq!(options.costs, 3);
    let Parsed::Tune(options) = parsed("tune a -o b") else { panic!("another command") };
    assert_eq!(options.output.as_deref(), Some(std::path::Path::new("b")));
}

#[test]
fn mistakes_are_one_sentence() {
    for (args, wanted) in [
        ("trace", "<FILE|NAME>: missing; see --help"),
        ("diff a", "<SECOND>: missing; see --help"),
        ("tune", "<FILE>: missing; see --help"),
        (
            "run --deliveries /nonexistent",
            "--deliveries /nonexistent: No such file or directory (os error 2)",
        ),
        ("run --deliveries /", "--deliveries /: not a regular file"),
        ("trace show f --from x", "--from x: not a time in seconds"),
        ("trace show f --from 1.0000000001", "--from 1.0000000001: not a time in seconds"),
        ("trace show f --from 99999999999999", "--from 99999999999999: not a time in seconds"),
        ("trace show f --cpu -1", "--cpu -1: not a number from 0 to 65535"),
        ("trace show f --value y", "--value y: not a number"),
        ("trace show f -n 0", "--lines 0: not a number from 1 to 18446744073709551615"),
        (
            "trace export f --format gif",
            "--format gif: no such format; there are perfetto, pcapng, qtest, plan, mmiotrace and json",
        ),
        (
            "trace import t -o f --machine pdp11",
            "--machine pdp11: no such board; there are x86-pc, arm64-virt and none",
        ),
    ] {
        assert_eq!(refusal(args), wanted);
    }
}
