//! What drivers do, and what they never do: phrases for random sequences.

use crate::steps::{Rng, Step};

/// A device's way of being talked to.
pub(crate) trait Grammar {
    /// Its name in `differences.toml`.
    fn device(&self) -> &'static str;

    /// A few steps that belong together.
    fn phrase(&self, rng: &mut Rng) -> Vec<Step>;
}

/// A 16550 at 0x3f8.
pub(crate) struct Serial;

impl Grammar for Serial {
    fn device(&self) -> &'static str {
        "16550"
    }

    fn phrase(&self, rng: &mut Rng) -> Vec<Step> {
        const BASE: u16 = 0x3f8;
        let (read, write) = (|offset| Step::In(BASE + offset), |at, v| Step::Out(BASE + at, v));
        match rng.below(10) {
            // A driver sets the port up.
            0 => vec![
                write(3, 0x80),
                write(0, rng.byte()),
                write(1, rng.below(4)),
                write(3, rng.one_of(&[0x03, 0x1b, 0x07, 0x0b, 0x3b, 0x02])),
                write(2, rng.one_of(&[0x00, 0x01, 0x03, 0x41, 0x83, 0xc1, 0xc3])),
                write(4, rng.one_of(&[0x0b, 0x1b, 0x1f, 0x13])),
                write(1, rng.below(16)),
            ],
            // An interrupt handler.
            1 | 2 => vec![read(2), read(5), read(0), read(6), read(2)],
            // Some characters out, and back in loopback.
            3 | 4 => (0..rng.below(20)).map(|_| write(0, rng.byte())).chain([read(5)]).collect(),
            5 => (0..rng.below(20)).flat_map(|_| [read(5), read(0)]).collect(),
            6 => vec![write(4, rng.byte() & 0x1f), read(6), read(4)],
            7 => vec![write(1, rng.byte()), read(2)],
            // Characters at the fastest rate, and much longer than the timeout for the rest.
            8 if rng.once_in(4) => {
                let fast = [write(3, 0x83), write(0, 1), write(1, 0), write(3, 3)];
                let some = (0..rng.below(6)).map(|_| write(0, 0x55));
                let late = [Step::Wait(3000), read(2), read(5), read(0), read(2)];
                fast.into_iter().chain(some).chain(late).collect()
            }
            _ if rng.once_in(2) => vec![read(u16::from(rng.below(8)))],
            _ => vec![write(u16::from(rng.below(8)), rng.byte())],
        }
    }
}

/// The real-time clock and its RAM.
pub(crate) struct Rtc;

impl Grammar for Rtc {
    fn device(&self) -> &'static str {
        "mc146818"
    }

    fn phrase(&self, rng: &mut Rng) -> Vec<Step> {
        // RAM that no machine's setup fills.
        const RAM: u8 = 0x60;
        let read_all = || (0..=0x0d).chain([0x32]).map(Step::CmosIn);
        match rng.below(13) {
            // An update cycle ends, at the time of the alarm or not.
            12 if rng.once_in(6) => {
                let mut steps = vec![
                    Step::CmosOut(0x0b, rng.one_of(&[0x02, 0x12, 0x22, 0x32])),
                    Step::CmosOut(1, rng.one_of(&[0xff, 0x00, 0x59])),
                    Step::CmosOut(3, 0xff),
                    Step::CmosOut(5, 0xff),
                    Step::CmosIn(0x0c),
                    Step::Wait(1_070_000),
                    Step::CmosIn(0x0c),
                ];
                steps.extend(read_all());
                steps
            }
            // A driver reads the time.
            0 | 1 | 12 => read_all().collect(),
            // A driver sets the time, in another format first.
            2 => {
                let format = rng.one_of(&[0x02, 0x06, 0x06, 0x02]);
                let mut steps = set_time(rng, format);
                steps.extend(read_all());
                steps.extend(set_time(rng, 0x02));
                steps.extend(read_all());
                steps
            }
            // An alarm a moment ahead, or at any second.
            3 => vec![
                Step::CmosOut(1, 0xff),
                Step::CmosOut(3, 0xff),
                Step::CmosOut(5, 0xff),
                Step::CmosOut(0x0b, 0x22),
                Step::Wait(u32::from(rng.byte()) * 100),
                Step::CmosIn(0x0c),
            ],
            4 => vec![Step::CmosOut(0x0b, 0x12), Step::CmosIn(0x0c), Step::CmosIn(0x0b)],
            5 => vec![Step::Wait(u32::from(rng.byte()) * 200), Step::CmosIn(0x0c)],
            6 => {
                let index = RAM + rng.below(0x10);
                vec![Step::CmosOut(index, rng.byte()), Step::CmosIn(index)]
            }
            7 => vec![Step::CmosOut(0x0a, rng.byte()), Step::CmosIn(0x0a)],
            8 => vec![Step::CmosOut(0x0b, (rng.byte() & 0xfb) | 0x02), Step::CmosIn(0x0b)],
            9 => vec![Step::CmosOut(0x0a, 0x26), Step::CmosOut(0x0b, 0x02)],
            10 => vec![Step::CmosIn(rng.below(0x0e))],
            _ => {
                let index = rng.one_of(&[0x01, 0x03, 0x05, 0x0a, 0x0c, 0x0d, 0x0e, 0x7f]);
                vec![Step::CmosOut(index, rng.byte()), Step::CmosIn(index)]
            }
        }
    }
}

/// Writes all of date and time, with updates stopped: bit 1 of the format says that hours are 0 to
/// 23, bit 2 that numbers are binary.
fn set_time(rng: &mut Rng, format: u8) -> Vec<Step> {
    let binary = format & 4 != 0;
    let digits = |value: u8| if binary { value } else { ((value / 10) << 4) | (value % 10) };
    let mut steps = vec![Step::CmosOut(0x0b, format | 0x80)];
    // Days beyond the 28th are not in every month.
    for (index, first, count) in
        [(0, 0, 60), (2, 0, 60), (4, 0, 24), (7, 1, 28), (8, 1, 12), (9, 0, 100)]
    {
        steps.push(Step::CmosOut(index, digits(first + rng.below(count))));
    }
    steps.extend([Step::CmosOut(0x32, digits(20)), Step::CmosOut(0x0b, format)]);
    steps
}

/// The keyboard controller with both devices.
pub(crate) struct I8042;

impl Grammar for I8042 {
    fn device(&self) -> &'static str {
        "i8042"
    }

    fn phrase(&self, rng: &mut Rng) -> Vec<Step> {
        const DATA: u16 = 0x60;
        const COMMAND: u16 = 0x64;
        let (data, command) = (|v| Step::Out(DATA, v), |v| Step::Out(COMMAND, v));
        let mut steps = match rng.below(11) {
            0 => vec![command(rng.one_of(&[0x20, 0xa1, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xad, 0xae]))],
            1 => vec![command(0x60), data(rng.byte() & 0x6f)],
            2 => vec![command(rng.one_of(&[0xd2, 0xd3])), data(rng.byte())],
            3 => vec![data(rng.one_of(&[0xee, 0xf2, 0xf4, 0xf5, 0xf6, 0xff, 0xfe]))],
            4 => vec![data(rng.one_of(&[0xed, 0xf3])), data(rng.below(128))],
            5 => vec![data(0xf0), data(rng.below(4))],
            6 => {
                let byte =
                    rng.one_of(&[0xe6, 0xe7, 0xe9, 0xea, 0xeb, 0xf0, 0xf2, 0xf4, 0xf5, 0xf6, 0xff]);
                vec![command(0xd4), data(byte)]
            }
            7 => {
                const RATES: [u8; 7] = [10, 20, 40, 60, 80, 100, 200];
                let choice = [(0xe8, rng.below(4)), (0xf3, rng.one_of(&RATES))];
                let (byte, value) = rng.one_of(&choice);
                vec![command(0xd4), data(byte), command(0xd4), data(value)]
            }
            8 => vec![command(0xd0)],
            // In wrap mode the mouse sends back what it is sent.
            9 => vec![
                command(0xd4),
                data(0xee),
                Step::In(DATA),
                command(0xd4),
                data(rng.below(0xec)),
                Step::In(DATA),
                command(0xd4),
                data(0xec),
            ],
            // No output port and no pulses: they reach the processor's reset line.
            _ if rng.once_in(2) => vec![command(rng.below(0xd0))],
            _ => vec![data(rng.below(0xed))],
        };
        // Mostly, a driver waits for the answer; here, it always reads a fixed number of times.
        if !rng.once_in(4) {
            steps.extend((0..4).flat_map(|_| [Step::In(COMMAND), Step::In(DATA)]));
        }
        steps
    }
}

/// The pair of 8259s. The requests are those of two 16550s, whose lines are level-triggered.
pub(crate) struct Pic;

impl Grammar for Pic {
    fn device(&self) -> &'static str {
        "8259"
    }

    fn phrase(&self, rng: &mut Rng) -> Vec<Step> {
        const LEVELS: u8 = 0x18;
        let base = rng.one_of(&[0x20u16, 0x20, 0xa0]);
        let (command, mask) = (|v| Step::Out(base, v), |v| Step::Out(base + 1, v));
        let cascade = if base == 0x20 { 4 } else { 2 };
        match rng.below(12) {
            // Edges on both chips, each acknowledged before its line falls.
            10 | 11 => edges(rng),
            // A driver sets a chip up.
            0 => vec![
                command(0x11 | (rng.byte() & 0x08)),
                mask(rng.byte() & 0xf8),
                mask(cascade),
                mask(rng.one_of(&[0x01, 0x01, 0x03, 0x11])),
                mask(rng.byte()),
            ],
            // Requests come and go.
            1 => vec![Step::Out(0x3fc, 0x08), Step::Out(0x3f9, rng.one_of(&[0, 2, 2]))],
            2 => vec![Step::Out(0x2fc, 0x08), Step::Out(0x2f9, rng.one_of(&[0, 2, 2]))],
            3 => vec![Step::In(rng.one_of(&[0x3fa, 0x2fa]))],
            4 => vec![command(0x0a), Step::In(base), command(0x0b), Step::In(base)],
            5 => vec![Step::In(base + 1), mask(rng.byte()), Step::In(base + 1)],
            // A poll is an acknowledge.
            6 => vec![command(0x0c), Step::In(base), command(0x0b), Step::In(base)],
            // Every end of interrupt and rotation.
            7 => vec![command(rng.byte() & 0xe7), command(0x0b), Step::In(base)],
            8 => vec![
                Step::Out(0x4d0, rng.byte() | LEVELS),
                Step::Out(0x4d1, rng.byte()),
                Step::In(0x4d0),
                Step::In(0x4d1),
            ],
            _ => vec![command(rng.one_of(&[0x48, 0x68, 0x20, 0xa0, 0x0a, 0x0b]))],
        }
    }
}

/// Lines that no device drives: two of the primary chip, two of the secondary.
const FREE_LINES: [u8; 4] = [5, 7, 10, 11];

/// Both chips are set up, some of their inputs rise, and all requests are polled for, each with an
/// end of interrupt of some kind, before the lines fall.
fn edges(rng: &mut Rng) -> Vec<Step> {
    let write = |port, bytes: &[u8]| -> Vec<Step> {
        bytes.iter().map(|byte| Step::Out(port, *byte)).collect()
    };
    // Nobody else asks, and requests are edges.
    let mut steps = [0x3f9, 0x2f9, 0x4d1].map(|port| Step::Out(port, 0)).to_vec();
    steps.push(Step::Out(0x4d0, 0x18));
    // A secondary chip has no automatic EOI, by the older data sheets.
    let icw4 = rng.one_of(&[0x01, 0x01, 0x11, 0x03]);
    steps.extend([write(0x20, &[0x11]), write(0x21, &[0x20, 4, icw4, 0])].concat());
    steps.extend([write(0xa0, &[0x11]), write(0xa1, &[0x28, 2, 0x01, 0])].concat());
    if rng.once_in(3) {
        steps.extend([Step::Out(0x20, 0xc0 | rng.below(8)), Step::Out(0xa0, 0xc0 | rng.below(8))]);
    }
    let lines: Vec<u8> = FREE_LINES.into_iter().filter(|_| rng.once_in(2)).collect();
    steps.extend(lines.iter().map(|line| Step::Line(*line, true)));
    for _ in 0..=lines.len() {
        for base in [0x20, 0xa0] {
            let look = |ocw3| [Step::Out(base, ocw3), Step::In(base)];
            steps.extend([look(0x0a), look(0x0b)].concat());
        }
        steps.push(Step::Poll);
        let end = rng.one_of(&[0x20, 0x20, 0xa0]);
        steps.extend([Step::Out(0xa0, end), Step::Out(0x20, end)]);
    }
    steps.extend(lines.iter().map(|line| Step::Line(*line, false)));
    // As random sequences begin.
    steps.extend([write(0x20, &[0x11]), write(0x21, &[0x08, 4, 1])].concat());
    steps.extend([write(0xa0, &[0x11]), write(0xa1, &[0x70, 2, 1])].concat());
    steps
}

/// The 8254, with channel 2's gate and output in port B.
pub(crate) struct Pit;

impl Grammar for Pit {
    fn device(&self) -> &'static str {
        "8254"
    }

    fn phrase(&self, rng: &mut Rng) -> Vec<Step> {
        const CONTROL: u16 = 0x43;
        let channel = rng.below(3);
        let port = 0x40 + u16::from(channel);
        let status = [Step::Out(CONTROL, 0xe0 | (2 << channel)), Step::In(port)];
        // Counts so high that none ends while it is looked at.
        let program = |rng: &mut Rng, mode: u8| {
            let control = (channel << 6) | 0x30 | (mode << 1);
            let (low, high) = (rng.byte(), 0xf0 | rng.byte());
            vec![Step::Out(CONTROL, control), Step::Out(port, low), Step::Out(port, high)]
        };
        match rng.below(6) {
            // A count that ends, and what its output does.
            4 => {
                let mode = rng.one_of(&[0, 3]);
                let low = rng.byte() & 0xfe;
                let mut steps = vec![
                    Step::Out(0x61, 0),
                    Step::Out(CONTROL, (channel << 6) | 0x30 | (mode << 1)),
                    Step::Out(port, low),
                    Step::Out(port, 1 + rng.below(8)),
                    Step::Out(0x61, 1),
                ];
                for _ in 0..3 {
                    steps.extend([Step::Wait(u32::from(rng.byte()) * 4), Step::PitOut(channel)]);
                }
                steps
            }
            // The timer's interrupt, which an 8259 sees rise at the end of the count.
            5 => {
                let mut steps = vec![
                    Step::Out(CONTROL, 0x30),
                    Step::Out(0x40, rng.byte()),
                    Step::Out(0x40, rng.below(4)),
                ];
                steps.extend([Step::Wait(u32::from(rng.byte()) * 4), Step::PitOut(0)]);
                steps.extend([Step::Wait(2500), Step::PitOut(0)]);
                steps.extend([Step::Out(0x20, 0x0a), Step::In(0x20)]);
                steps.extend([Step::Out(0x20, 0x0c), Step::In(0x20), Step::Out(0x20, 0x20)]);
                steps.extend([Step::Out(0x20, 0x0a), Step::In(0x20)]);
                steps
            }
            0 | 1 => {
                let mode = rng.one_of(&[0, 2, 3, 4]);
                let mut steps = vec![Step::Out(0x61, 1)];
                steps.extend(program(rng, mode));
                steps.extend([Step::Wait(200), Step::PitCount(channel)]);
                steps.extend([Step::Wait(300), Step::PitCount(channel)]);
                steps.extend(status);
                steps
            }
            // A gate that falls stops the count, and one that rises starts it.
            2 => {
                let mode = rng.one_of(&[1, 2, 3, 5]);
                let mut steps = vec![Step::Out(0x61, 0)];
                steps.extend(program(rng, mode));
                steps.extend([Step::Wait(100), Step::Out(0x61, 1), Step::Wait(200)]);
                steps.extend([Step::In(0x61), Step::Out(0x61, 0), Step::In(0x61)]);
                steps.extend(status);
                steps
            }
            _ => vec![Step::Out(0x61, rng.below(4)), Step::In(0x61)],
        }
    }
}
