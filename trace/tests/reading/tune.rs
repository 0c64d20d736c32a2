//! Which accesses could be delivered in another way.

use trapline_trace::tune::Late;

use super::*;

/// A step of the vCPU, and an output in it.
fn with_output(records: &[Record], outputs: &[(usize, u16)]) -> Vec<u8> {
    let meta = Meta { levels: vec![Level::Accesses, Level::Outputs], ..Meta::default() };
    let mut writer = Writer::new(Vec::new(), &meta).expect("memory takes it");
    let mut map = map();
    let late = |name: &str, offset| register(name, offset, Class::Exact);
    let mut forbidden = late("PROMPT", 2);
    forbidden.prompt = true;
    map.registers[0].registers.extend([forbidden, late("SCR", 7)]);
    writer.map(0, &map).expect("memory takes it");
    let words: Vec<_> = records.iter().map(|record| record.encode()).collect();
    writer.access(Stream::vcpu(0), 1_600, &words).expect("memory takes it");
    for &(number, kind) in outputs {
        let record = Record { op: Op::Out, slot: 0, offset: kind, delta: 0, value: 9 };
        let time = 1_600 * (number as u64 + 1);
        writer.access(Stream::EXTERNAL, time, &[record.encode()]).expect("memory takes it");
    }
    writer.finish().expect("memory takes it")
}

fn advice(file: &[u8]) -> Advice {
    tune(&mut reader(file), |_| {}).expect("it is valid")
}

#[test]
fn writes_that_nothing_comes_of_may_be_late() {
    let write = |offset| access(0, offset, Write, Size::Byte, 1);
    let scratch = [write(7), write(7), write(7), lsr(0x60)];
    let file = with_output(&[&scratch[..], &[write(1), write(2), lsr(0x60)]].concat(), &[(4, 1)]);
    let advice = advice(&file);
    let [late] = advice.late.as_slice() else { panic!("{advice:?}") };
    assert_eq!((late.register.as_str(), late.offset, late.len), ("SCR", 7, 1));
    // Until the read that delivers them.
    assert_eq!((late.writes, late.saves, late.latest_ns), (3, 3, 4_800));
    assert_eq!((advice.exits, advice.exits_then, advice.proved), (8, 5, true));
    let said = |name: &str| {
        let other = advice.others.iter().find(|other| other.register == name);
        other.map(|other| other.said.as_str())
    };
    assert_eq!(said("serial0 IER"), Some("made 1 changes of interrupt lines"));
    assert_eq!(said("serial0 PROMPT"), Some("must not be late, says its map"));
    let text = deliveries(&advice, "a \"b\".trace");
    assert!(text.contains("register = \"SCR\"\noffset = 7\nlen = 1\n"), "{text}");
    assert!(text.lines().next().is_some_and(|line| line.starts_with('#')), "{text}");
}

#[test]
fn a_register_is_told_by_the_name_that_it_has_where_it_begins_and_one_without_is_not() {
    let file = with_output(&[access(0, 6, Write, Size::Byte, 1), lsr(0x60)], &[(1, 1)]);
    let nameless = advice(&file);
    assert_eq!(nameless.late, []);
    let [other, ..] = nameless.others.as_slice() else { panic!("{nameless:?}") };
    assert_eq!((other.register.as_str(), &*other.said), ("serial0 +0x6", "no map says what it is"));
    let late = Late {
        device: "pci".to_owned(),
        region: "conf1".to_owned(),
        register: "CONFIG_ADDRESS+1".to_owned(),
        offset: 1,
        len: 1,
        writes: 1,
        saves: 1,
        latest_ns: 0,
    };
    let text = deliveries(&Advice { late: vec![late], ..Advice::default() }, "f");
    assert!(text.contains("register = \"CONFIG_ADDRESS\"\noffset = 1\n"), "{text}");
}

#[test]
fn sent_bytes_may_be_late_and_messages_not() {
    let write = |offset| access(0, offset, Write, Size::Byte, 1);
    let file = with_output(&[write(7), write(1)], &[(0, 3), (1, 2)]);
    let names: Vec<String> = advice(&file).late.into_iter().map(|late| late.register).collect();
    assert_eq!(names, ["SCR"]);
}

#[test]
fn a_full_queue_costs_an_exit() {
    let write = access(0, 7, Write, Size::Byte, 1);
    let count = |writes: usize| {
        let advice = advice(&with_output(&vec![write; writes], &[]));
        (advice.exits, advice.exits_then)
    };
    assert_eq!(count(169), (170, 1));
    assert_eq!(count(170), (171, 2));
    assert_eq!(count(340), (341, 3));
}

#[test]
fn a_recording_without_outputs_proves_nothing() {
    let advice = advice(&recorded(&[access(0, 1, Write, Size::Byte, 1)]));
    assert!(!advice.proved);
    assert!(advice.to_string().contains("not proved"), "{advice}");
    assert!(deliveries(&advice, "f").contains("not proved"));
}

#[test]
fn reads_of_one_value_and_doorbells_are_told() {
    let rang = Op::Access(Access {
        direction: Write,
        size: Size::Byte,
        space: Space::Pio,
        outcome: Outcome::Rang,
    });
    let mut records = vec![lsr(0x60); 150];
    records.push(Record { op: rang, ..access(0, 7, Write, Size::Byte, 1) });
    let advice = advice(&with_output(&records, &[]));
    assert!(advice.late.is_empty());
    let said: Vec<&str> = advice.others.iter().map(|other| other.said.as_str()).collect();
    assert!(said[0].starts_with("read as 0x60 {THRE TOP=0x1} 150 of 150 times"), "{said:?}");
    assert!(said[1].starts_with("a doorbell that 1 writes of 1 values rang"), "{said:?}");
}
