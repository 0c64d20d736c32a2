//! `trapline stat`.

use std::fmt::Write;

use trapline_control::Client;
use trapline_control::api::{BalloonStatistics, GetBalloonStatistics, GetStatistics};

use super::say;
use crate::statistics;

/// Shows what the guest has done, as a table or as JSON.
pub(super) fn traps(guest: &mut Client, json: bool) -> anyhow::Result<()> {
    let statistics = guest.ask::<GetStatistics>(&())?;
    if json {
        return say(&(serde_json::to_string(&statistics)? + "\n"));
    }
    let table = statistics::table(&statistics, statistics::columns());
    say(&format!("guest {}\n{table}\n", guest.name()))
}

/// Shows what the guest says of its memory, in kvmtool's words.
pub(super) fn memory(guest: &mut Client, json: bool) -> anyhow::Result<()> {
    let statistics = guest.ask::<GetBalloonStatistics>(&())?;
    if json {
        return say(&(serde_json::to_string(&statistics)? + "\n"));
    }
    say(&words(&statistics))
}

fn words(statistics: &BalloonStatistics) -> String {
    let of = statistics;
    let lines = [
        ("The amount of memory that has been swapped in (in bytes)", of.swap_in),
        ("The amount of memory that has been swapped out to disk (in bytes)", of.swap_out),
        ("The number of major page faults that have occurred", of.major_faults),
        ("The number of minor page faults that have occurred", of.minor_faults),
        ("The amount of memory not being used for any purpose (in bytes)", of.free_memory),
        ("The total amount of memory (in bytes)", of.total_memory),
        ("The estimated available memory (in bytes)", of.available_memory),
        ("The amount of memory in use for file caching (in bytes)", of.disk_caches),
        ("The number of successful HugeTLB allocations", of.hugetlb_allocations),
        ("The number of failed HugeTLB allocations", of.hugetlb_failures),
    ];
    let mut text = "\n\n\t*** Guest memory statistics ***\n\n".to_owned();
    for (what, value) in lines {
        if let Some(value) = value {
            let _ = writeln!(text, "{what}:{value}");
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_kvmtools_words_as_far_as_the_guest_says() {
        let statistics =
            BalloonStatistics { swap_in: Some(0), total_memory: Some(4096), ..Default::default() };
        let wanted = "\n\n\t*** Guest memory statistics ***\n\n\
                      The amount of memory that has been swapped in (in bytes):0\n\
                      The total amount of memory (in bytes):4096\n\n";
        assert_eq!(words(&statistics), wanted);
    }
}
