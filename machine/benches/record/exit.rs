//! A whole exit: a guest in real mode that reads a port again and again.

use std::sync::Arc;

use trapline::Region;
use trapline_kvm::Kvm;
use trapline_testkit::realmode::Asm;

use crate::guest::{self, PORT};
use crate::{Recorded, Recording, Register, goal};

/// Exits of a pass, and passes of each.
const EXITS: u16 = 400;
const PASSES: usize = 300;
/// What an exit may take, as a multiple of one with nothing recorded.
const MOST_FLIGHT: f64 = 1.01;
const MOST_RECORDING: f64 = 1.02;

struct Guest {
    recording: Recording,
    guest: guest::Guest,
    times: Vec<f64>,
    _recorded: Recorded,
}

impl Guest {
    fn new(kvm: &Kvm, recording: Recording) -> Self {
        let mut guest = guest::Guest::new(kvm);
        let recorded = Recorded::start(&guest.registry, recording);
        guest.map(Region::pio(PORT, 1, "device", "port", Arc::new(Register)));
        guest.load(EXITS, Asm::new().in_al());
        Self { recording, guest, times: Vec::new(), _recorded: recorded }
    }

    fn pass(&mut self) {
        self.times.push(self.guest.pass());
    }
}

fn least(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::MAX, f64::min)
}

/// The middle of the ratios of passes that followed one another, which meet the same of whatever else the
/// machine does.
fn middle_ratio(these: &[f64], those: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = these.iter().zip(those).map(|(this, that)| this / that).collect();
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// Prints nanoseconds an exit; whether the goals are met.
pub(crate) fn measure() -> bool {
    let kvm = match Kvm::open("/dev/kvm") {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("SKIPPED exits: {error}");
            return true;
        }
    };
    let mut guests = Recording::EACH.map(|recording| Guest::new(&kvm, recording));
    for pass in 0..PASSES {
        // Each comes first as often as the others.
        guests.rotate_left(1);
        guests.iter_mut().for_each(Guest::pass);
        if pass < 10 {
            guests.iter_mut().for_each(|guest| guest.times.clear());
        }
    }
    let of = |wanted| guests.iter().find(|guest| guest.recording == wanted).unwrap();
    let off = &of(Recording::Off).times;
    println!(
        "\nnanoseconds an exit, {PASSES} passes of {EXITS} reads of a port, in turns\n{:<18} {:>8} {:>9} {:>9}",
        "", "least", "of least", "of passes"
    );
    let mut met = true;
    for recording in Recording::EACH {
        let times = &of(recording).times;
        let (of_least, of_passes) = (least(times) / least(off), middle_ratio(times, off));
        println!("{:<18} {:>8.0} {of_least:>9.3} {of_passes:>9.3}", recording.name(), least(times));
        // Both say so.
        let within = |most: f64| of_least <= most && of_passes <= most;
        met &= match recording {
            Recording::Off => true,
            Recording::Flight => within(MOST_FLIGHT),
            Recording::All => within(MOST_RECORDING),
        };
    }
    println!();
    goal("the flight recorder at most 1.01 and a recording 1.02 of an exit", met)
}
