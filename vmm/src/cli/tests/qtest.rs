//! The options of the command `qtest`.

use super::*;

#[test]
fn qtest_takes_a_machine_and_a_client() {
    use trapline_machine::qtest::BoardKind;
    use trapline_qtest::Way;
    let qtest = |args: &str| match parse(&format!("qtest {args}")) {
        Ok(Parsed::Qtest(options)) => *options,
        other => panic!("{args}: {other:?}"),
    };
    let address = |text: &str| text.parse().unwrap();
    let options = qtest("--machine x86-pc --socket unix:a/b");
    assert_eq!(options.way, Some(Way::Listen(address("unix:a/b"))));
    assert_eq!((options.mem_bytes, options.exit_port), (64 << 20, false));
    assert_eq!(options.utc_start_ns, 946_684_800_000_000_000);
    assert_eq!(options.board, BoardKind::X86Pc);
    assert_eq!(qtest("--stdio --machine arm64-virt").board, BoardKind::Arm64Virt);
    let connect = qtest("--socket tcp:127.0.0.1:7 --connect --mem 1G --exit-port");
    assert_eq!(connect.way, Some(Way::Connect(address("tcp:127.0.0.1:7"))));
    assert_eq!((connect.mem_bytes, connect.exit_port), (1 << 30, true));
    let stdio = qtest("--stdio --rtc-base 2026-01-01T00:00:00");
    assert_eq!((stdio.way, stdio.utc_start_ns), (None, 1_767_225_600_000_000_000));
    let refusals = [
        ("", "trapline qtest: where is the client? Give --socket or --stdio"),
        ("--stdio --machine vax", "--machine vax: no such board; there are x86-pc and arm64-virt"),
        (
            "--stdio --machine arm64-virt --exit-port",
            "--exit-port: the board arm64-virt has no such port",
        ),
        (
            "--stdio --machine arm64-virt --firmware f",
            "--firmware: the board arm64-virt has no place for it without a processor",
        ),
        ("--stdio -m x", "-m x: not a memory size"),
        ("--stdio --rtc-base noon", "--rtc-base noon: write it as 2000-01-01T00:00:00"),
        ("--socket x", "x: a socket is unix:PATH or tcp:HOST:PORT"),
    ];
    for (args, sentence) in refusals {
        assert_eq!(refusal(&format!("qtest {args}")), sentence);
    }
    assert!(text("qtest --help").contains("--connect"));
}
