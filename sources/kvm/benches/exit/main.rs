//! What an exit costs through our whole path (a [`trapline_kvm::VcpuSet`] thread, decoding, the
//! registry, a device) beside a bare `KVM_RUN` loop that answers by itself, on the real `/dev/kvm`.
//!
//! Both run the same guests in VMs of the same making. A guest brackets its loop with two writes to
//! a port of its own, and what lies between them is the time taken. Passes alternate between the
//! two and change places each time, so that whatever else the machine does meets both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot go on fails"
)]

mod bare;
mod cases;
mod ours;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bare::Bare;
use cases::{Case, Offloaded};
use ours::Ours;
use report::Row;

/// How often both start over with new VMs: where their memory happens to lie makes some per cent.
const ROUNDS: usize = 8;
/// How long the passes of one round may take together.
const ROUND: Duration = Duration::from_secs(5);
/// Passes of each round that only warm up.
const WARM_UP: usize = 2;

/// One way to run a guest.
trait Contender {
    /// Runs the guest to its end.
    fn pass(&mut self) -> Pass;
}

/// What one pass took.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// Between the guest's marks.
    time: Duration,
    /// Exits the whole guest made.
    exits: u64,
    /// A sum over everything the device was given, which must be the same for both.
    sum: u64,
}

/// The same guest in both.
struct Duel {
    bare: Bare,
    ours: Ours,
}

fn main() {
    let cases = cases::all();
    let mut rows: Vec<Row> = cases.iter().map(|_| Row::default()).collect();
    for _ in 0..ROUNDS {
        let duel = |case| Duel { bare: Bare::new(case), ours: Ours::new(case) };
        let mut duels: Vec<Duel> = cases.iter().map(duel).collect();
        let begin = Instant::now();
        for pass in 0.. {
            if begin.elapsed() > ROUND {
                break;
            }
            for ((case, duel), row) in cases.iter().zip(&mut duels).zip(&mut rows) {
                let (bare, ours) = duel.fight(pass, case);
                if pass >= WARM_UP {
                    row.add(bare, ours);
                }
            }
        }
    }
    print!("{}", report::table(&cases, &rows));
}

impl Duel {
    fn fight(&mut self, pass: usize, case: &Case) -> (Pass, Pass) {
        let (bare, ours) = if pass.is_multiple_of(2) {
            let bare = self.bare.pass();
            (bare, self.ours.pass())
        } else {
            let ours = self.ours.pass();
            (self.bare.pass(), ours)
        };
        let name = case.name;
        assert_eq!(bare.sum, ours.sum, "{name}: the devices saw the same");
        if case.offloaded != Offloaded::Coalesced {
            // Where KVM queues, when the ring is full depends on when it was emptied.
            assert_eq!(bare.exits, ours.exits, "{name}: the guests are the same");
        }
        (bare, ours)
    }
}
