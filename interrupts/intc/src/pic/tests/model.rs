//! Random drivers, and a second opinion on priorities: inputs as a list, most urgent first.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Input {
    number: u8,
    level: bool,
    edge: bool,
    in_service: bool,
    masked: bool,
    by_level: bool,
}

/// One chip after its initialization.
#[derive(Clone, Debug)]
struct ModelChip {
    /// Most urgent first.
    inputs: Vec<Input>,
    auto: bool,
    auto_rotates: bool,
    special_mask: bool,
    nests: Option<u8>,
    show_isr: bool,
}

impl ModelChip {
    fn new(icw4: u8, nests: bool) -> Self {
        let input = |number| Input {
            number,
            level: false,
            edge: false,
            in_service: false,
            masked: false,
            by_level: false,
        };
        Self {
            inputs: (0..8).map(input).collect(),
            auto: icw4 & AEOI != 0,
            auto_rotates: false,
            special_mask: false,
            nests: (nests && icw4 & SFNM != 0).then_some(2),
            show_isr: false,
        }
    }

    fn input(&mut self, number: u8) -> &mut Input {
        self.inputs.iter_mut().find(|input| input.number == number).unwrap()
    }

    fn set_level(&mut self, number: u8, level: bool) {
        let input = self.input(number);
        input.edge = level && (input.edge || !input.level);
        input.level = level;
    }

    fn wants(input: &Input) -> bool {
        if input.by_level { input.level } else { input.edge }
    }

    fn busy(&self, input: &Input) -> bool {
        input.in_service && !(self.special_mask && input.masked)
    }

    fn next(&self) -> Option<u8> {
        let blocked_from = self.inputs.iter().position(|input| self.busy(input)).unwrap_or(8);
        let allowed = self.inputs.iter().enumerate().filter(|(rank, input)| {
            *rank < blocked_from || (*rank == blocked_from && self.nests == Some(input.number))
        });
        let mut wanting = allowed.filter(|(_, input)| Self::wants(input) && !input.masked);
        wanting.next().map(|(_, input)| input.number)
    }

    fn make_last(&mut self, number: u8) {
        let rank = self.inputs.iter().position(|input| input.number == number).unwrap();
        self.inputs.rotate_left(rank + 1);
    }

    fn take(&mut self) -> Option<u8> {
        let number = self.next()?;
        let auto = self.auto;
        let input = self.input(number);
        input.edge = false;
        input.in_service |= !auto;
        if auto && self.auto_rotates {
            self.make_last(number);
        }
        Some(number)
    }

    fn ocw2(&mut self, value: u8) {
        let level = value & 7;
        let urgent = self.inputs.iter().find(|input| self.busy(input)).map(|input| input.number);
        match value & 0xe0 {
            0x00 => self.auto_rotates = false,
            0x80 => self.auto_rotates = true,
            0x20 | 0xa0 => {
                if let Some(number) = urgent {
                    self.input(number).in_service = false;
                    if value & 0x80 != 0 {
                        self.make_last(number);
                    }
                }
            }
            0x60 => self.input(level).in_service = false,
            0xc0 => self.make_last(level),
            0xe0 => {
                self.input(level).in_service = false;
                self.make_last(level);
            }
            _ => {}
        }
    }

    fn bits(&self, flag: impl Fn(&Input) -> bool) -> u8 {
        self.inputs.iter().filter(|input| flag(input)).fold(0, |bits, i| bits | 1 << i.number)
    }
}

#[derive(Clone, Debug)]
struct Model {
    chips: [ModelChip; 2],
}

impl Model {
    fn cascade(&mut self) {
        let level = self.chips[1].next().is_some();
        self.chips[0].set_level(2, level);
    }

    fn acknowledge(&mut self) -> Option<u8> {
        let number = self.chips[0].take()?;
        if number != 2 {
            return Some(0x08 + number);
        }
        let number = self.chips[1].take().unwrap_or(7);
        self.chips[0].set_level(2, false);
        Some(0x70 + number)
    }

    fn poll(&mut self, chip: usize) -> u8 {
        let word = self.chips[chip].take().map_or(0, |number| 0x80 | number);
        if chip == 1 {
            self.chips[0].set_level(2, false);
        }
        word
    }
}

#[derive(Clone, Debug)]
enum Op {
    Line(u8, bool),
    Mask(usize, u8),
    Ocw2(usize, u8),
    SpecialMask(usize, bool),
    Elcr(usize, u8),
    Acknowledge,
    Poll(usize),
    Read(usize),
    ReadSelect(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let chip = || 0usize..2;
    prop_oneof![
        8 => (0u8..16, any::<bool>()).prop_map(|(pin, level)| Op::Line(pin, level)),
        2 => (chip(), any::<u8>()).prop_map(|(chip, bits)| Op::Mask(chip, bits)),
        1 => chip().prop_map(|chip| Op::Mask(chip, 0)),
        4 => (chip(), any::<u8>()).prop_map(|(chip, value)| Op::Ocw2(chip, value & 0xe7)),
        2 => chip().prop_map(|chip| Op::Ocw2(chip, EOI)),
        1 => (chip(), any::<bool>()).prop_map(|(chip, on)| Op::SpecialMask(chip, on)),
        1 => (chip(), any::<u8>()).prop_map(|(chip, bits)| Op::Elcr(chip, bits)),
        6 => Just(Op::Acknowledge),
        1 => chip().prop_map(Op::Poll),
        2 => chip().prop_map(Op::Read),
        1 => (chip(), any::<bool>()).prop_map(|(chip, isr)| Op::ReadSelect(chip, isr)),
    ]
}

/// Does `op` to both; returns what each answered.
fn step(pc: &Pc, model: &mut Model, op: &Op) -> (u8, u8) {
    let command = |chip: usize| [CMD, CMD2][chip];
    match *op {
        Op::Line(2, _) => (0, 0),
        Op::Line(pin, level) => {
            pc.lines[usize::from(pin)].set(level);
            model.chips[usize::from(pin / 8)].set_level(pin % 8, level);
            (0, 0)
        }
        Op::Mask(chip, bits) => {
            pc.out(command(chip) + 1, bits);
            for input in &mut model.chips[chip].inputs {
                input.masked = bits & 1 << input.number != 0;
            }
            (0, 0)
        }
        Op::Ocw2(chip, value) => {
            pc.out(command(chip), value);
            model.chips[chip].ocw2(value);
            (0, 0)
        }
        Op::SpecialMask(chip, on) => {
            pc.out(command(chip), if on { SPECIAL_MASK } else { 0x48 });
            model.chips[chip].special_mask = on;
            (0, 0)
        }
        Op::Elcr(chip, bits) => {
            pc.out([ELCR, ELCR2][chip], bits);
            for input in &mut model.chips[chip].inputs {
                let fixed = [0b0000_0111, 0b0010_0001][chip] & 1 << input.number != 0;
                input.by_level = !fixed && bits & 1 << input.number != 0;
            }
            (0, 0)
        }
        Op::Acknowledge => {
            // No vector of these chips is 0.
            (pc.pic.acknowledge().unwrap_or(0), model.acknowledge().unwrap_or(0))
        }
        Op::Poll(chip) => {
            pc.out(command(chip), POLL);
            (pc.read(command(chip)), model.poll(chip))
        }
        Op::Read(chip) => {
            let inputs = &model.chips[chip];
            let wanted = if inputs.show_isr {
                inputs.bits(|i| i.in_service)
            } else {
                inputs.bits(ModelChip::wants)
            };
            (pc.read(command(chip)), wanted)
        }
        Op::ReadSelect(chip, isr) => {
            pc.out(command(chip), if isr { READ_ISR } else { READ_IRR });
            model.chips[chip].show_isr = isr;
            (0, 0)
        }
    }
}

fn icw4() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(UPM), 1 => Just(UPM | AEOI), 1 => Just(UPM | SFNM), 1 => Just(0x1f)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_pair_serves_what_a_list_of_inputs_serves(
        icw4s in (icw4(), icw4()),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let pc = Pc::with_icw4(icw4s.0, icw4s.1);
        let chips = [ModelChip::new(icw4s.0, true), ModelChip::new(icw4s.1, false)];
        let mut model = Model { chips };
        for op in ops {
            let (found, wanted) = step(&pc, &mut model, &op);
            model.cascade();
            prop_assert_eq!(found, wanted, "{:?}", op);
            prop_assert_eq!(!pc.quiet(), model.chips[0].next().is_some(), "INTR after {:?}", op);
        }
    }

    #[test]
    fn any_driver_is_survived_and_a_saved_pair_behaves_the_same(
        before in prop::collection::vec((0u64..6, any::<u8>(), 0usize..16, any::<bool>()), 0..60),
        after in prop::collection::vec((0u64..6, any::<u8>(), 0usize..16, any::<bool>()), 0..60),
    ) {
        let run = |pc: &Pc, ops: &[(u64, u8, usize, bool)]| {
            let mut seen = Vec::new();
            for &(offset, value, pin, level) in ops {
                pc.lines[pin].set(level);
                pc.out(offset, value);
                seen.push((pc.read(offset ^ 1), pc.quiet()));
                if value & 3 == 3 {
                    seen.push((pc.pic.acknowledge().unwrap_or(0), pc.quiet()));
                }
            }
            seen
        };
        let pc = Pc::uninitialized();
        run(&pc, &before);
        let other = Pc::uninitialized();
        other.pic.restore(&pc.pic.save()).unwrap();
        for (line, twin) in pc.lines.iter().zip(&other.lines) {
            twin.set(line.level());
        }
        prop_assert_eq!(pc.pic.save(), other.pic.save());
        prop_assert_eq!(run(&pc, &after), run(&other, &after));
        prop_assert_eq!(pc.pic.save(), other.pic.save());
    }

    #[test]
    fn whatever_is_restored_is_refused_or_kept(bytes in prop::collection::vec(0u8..20, 28..34)) {
        let pc = Pc::new();
        let before = pc.pic.save();
        let saved = Saved { bytes, ..before.clone() };
        let after = if pc.pic.restore(&saved).is_ok() { saved } else { before };
        prop_assert_eq!(pc.pic.save(), after);
        pc.pic.acknowledge();
    }
}
