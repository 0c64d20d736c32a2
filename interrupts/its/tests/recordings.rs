//! Recordings of another implementation, driven over qtest with its processors stopped, replayed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]

#[path = "../examples/replay/machine.rs"]
mod machine;
#[path = "../examples/replay/player.rs"]
mod player;
#[path = "../examples/replay/ram.rs"]
mod ram;
#[path = "../examples/replay/record.rs"]
mod record;

fn replay(text: &str) -> (u64, u64) {
    let report = player::play(text).unwrap();
    report.lines.iter().for_each(|line| eprintln!("{line}"));
    (report.checks, report.differences)
}

macro_rules! recordings {
    ($($test:ident: $file:literal, $checks:literal;)*) => {$(
        #[test]
        fn $test() {
            assert_eq!(replay(include_str!(concat!("data/", $file, ".jsonl"))), ($checks, 0));
        }
    )*};
}

recordings! {
    all_twelve_commands: "commands", 103;
    illegal_commands_of_every_kind: "illegal", 86;
    flat_and_two_level_tables_of_all_page_sizes: "two_level", 183;
    the_queue_wraps_at_1_2_and_256_pages: "wrap", 1086;
    registers_whole_and_by_halves: "registers", 132;
    enable_bits_tables_and_queues_change: "toggle", 115;
    acknowledgements_in_order: "acknowledge", 44;
}

#[test]
fn a_recording_that_differs_is_noticed() {
    let meta = r#"{"op":"meta","ncpu":1}"#;
    let play = |line: &str| replay(&format!("{meta}\n{line}\n"));
    assert_eq!(play(r#"{"op":"its_r","off":"0x90","size":8,"val":"0x20"}"#), (1, 1));
    assert_eq!(play(r#"{"op":"expect","what":"pending","cpu":0,"lpi":8192,"val":1}"#), (1, 1));
    assert_eq!(play(r#"{"op":"expect","what":"pending_set","cpu":0,"lpis":[8192]}"#), (1, 1));
    assert_eq!(play(r#"{"op":"ack","cpu":0,"intid":8192}"#), (1, 1));
    assert_eq!(play(r#"{"op":"msi","devid":0,"data":0,"size":4,"lpi":8192,"cpu":0}"#), (1, 1));
    assert_eq!(play(r#"{"op":"exec","cmd":"SYNC"}"#), (1, 1));
    assert_eq!(play(r#"{"op":"gicr_r","cpu":0,"off":112,"size":8,"val":1}"#), (1, 1));
    // What is marked as specific to its origin is executed and not compared.
    let quirk = "{\"op\":\"quirk\",\"on\":true}\n{\"op\":\"exec\",\"cmd\":\"SYNC\"}";
    assert_eq!(play(quirk), (0, 0));
}

#[test]
fn what_other_implementations_may_do_can_be_replayed() {
    let play = |lines: &[&str]| replay(&lines.join("\n"));
    let meta = r#"{"op":"meta","ncpu":1}"#;
    let lpis = [
        meta,
        r#"{"op":"gicr_w","cpu":0,"off":"0x70","size":8,"val":"0x4230000f"}"#,
        r#"{"op":"gicr_w","cpu":0,"off":"0x78","size":8,"val":"0x42400000"}"#,
        r#"{"op":"gicr_w","cpu":0,"off":0,"size":4,"val":1}"#,
    ];
    // The pending table is written although it is the redistributor's.
    let set = r#"{"op":"memw","pa":"0x42400400","hex":"05"}"#;
    let seen = r#"{"op":"expect","what":"pending_set","cpu":0,"lpis":[8192,8194]}"#;
    assert_eq!(play(&[&lpis[..], &[set, seen]].concat()), (1, 0));
    // A signal that comes to nothing may be said to be one, and memory may be no RAM.
    let blocked = r#"{"op":"msi","devid":8,"data":0,"size":4,"lpi":0}"#;
    let nowhere = r#"{"op":"memset","pa":"0x1000","len":8,"byte":1}"#;
    assert_eq!(play(&[meta, blocked, nowhere]), (1, 0));
    // An implementation that stalls at a table outside RAM.
    let stalls = [
        meta,
        r#"{"op":"its_w","off":"0x100","size":8,"val":"0x8000000090000200"}"#,
        r#"{"op":"its_w","off":"0x108","size":8,"val":"0x8000000042200200"}"#,
        r#"{"op":"its_w","off":"0x80","size":8,"val":"0x8000000042000000"}"#,
        r#"{"op":"its_w","off":0,"size":4,"val":1}"#,
        r#"{"op":"memw","pa":"0x42000000","hex":"08"}"#,
        r#"{"op":"its_w","off":"0x88","size":8,"val":"0x20"}"#,
    ];
    let stalled = r#"{"op":"its_r","off":"0x90","size":8,"val":1}"#;
    let skipped = r#"{"op":"its_r","off":"0x90","size":8,"val":"0x20"}"#;
    assert_eq!(play(&[&stalls[..], &[stalled]].concat()), (1, 0));
    assert_eq!(play(&[&stalls[..], &[skipped]].concat()), (1, 0));
    // What is not to be compared does not say that it stalls.
    let on = r#"{"op":"quirk","on":true}"#;
    let off = r#"{"op":"quirk","on":false}"#;
    assert_eq!(play(&[&[on, meta, stalled, off], &stalls[1..], &[skipped]].concat()), (1, 0));
    // A GICv4 is not modelled, whether its record says so or its TYPER.
    let typer = r#"{"op":"its_r","off":8,"size":8,"val":"0x3f0001efb3"}"#;
    assert_eq!(play(&[meta, typer]), (0, 0));
    assert_eq!(play(&[r#"{"op":"meta","ncpu":1,"gic":4}"#, skipped]), (0, 0));
}

#[test]
fn what_is_said_before_a_machine_is_said_of_its_records() {
    let meta = r#"{"op":"meta","ncpu":1}"#;
    let differs = r#"{"op":"expect","what":"pending","cpu":0,"lpi":8192,"val":1}"#;
    let test = r#"{"op":"test","name":"first"}"#;
    let note = r#"{"op":"note","text":"boot"}"#;
    let quirk = r#"{"op":"quirk","on":true}"#;
    let play = |lines: &[&str]| player::play(&lines.join("\n")).unwrap();
    let report = play(&[note, test, meta, differs]);
    assert_eq!((report.checks, report.differences), (1, 1));
    let [line] = report.lines.as_slice() else { panic!("one difference, one line") };
    assert!(line.starts_with("4: [first] "), "{line}");
    // Between two machines as before the first one, also if one of them is left out.
    for left_out in [meta, r#"{"op":"meta","ncpu":1,"gic":4}"#] {
        let report = play(&[left_out, test, meta, differs]);
        assert!(report.lines.last().is_some_and(|line| line.starts_with("4: [first] ")));
        assert_eq!(play(&[left_out, quirk, meta, differs]).checks, 0);
    }
    assert_eq!(play(&[quirk, meta, differs]).checks, 0);
}

#[test]
fn text_that_is_not_of_the_format_is_an_error_with_its_line() {
    let meta = r#"{"op":"meta","ncpu":1}"#;
    for (text, line) in [
        ("{\"op\":\"note\"}", "1:"),
        ("", "1:"),
        (&format!("{{\"op\":\"eoi\",\"cpu\":0,\"intid\":1}}\n{meta}"), "1:"),
        (&format!("{{\"op\":\"test\"}}\n{{\"no\":\"op\"}}\n{meta}"), "2:"),
        (&format!("{meta}\n{{\"op\":\"what\"}}"), "2:"),
        (&format!("{meta}\n{{\"op\":\"its_w\",\"off\":0,\"size\":4}}"), "2:"),
        (&format!("{meta}\nnonsense"), "2:"),
    ] {
        assert!(player::play(text).is_err_and(|error| error.starts_with(line)), "{text}");
    }
}
