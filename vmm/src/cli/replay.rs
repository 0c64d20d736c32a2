//! The command line of `trapline replay`.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use trapline_machine::record::replay::Begin;

use super::trace::time_ns;

/// Play a recording into the same machine without KVM
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ReplayOptions {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Begin at this snapshot, counted from 0, or at the last one up to a time in seconds, as 2.5s
    #[arg(long, value_name = "N|TIME", value_parser = from)]
    pub from_snapshot: Option<Begin>,
    /// Stop before this record, counted over all streams from 0
    #[arg(long, value_name = "RECORD")]
    pub until: Option<u64>,
    /// Print the state of this device where the replay ends
    #[arg(long, value_name = "DEVICE", action = ArgAction::Append)]
    pub dump: Vec<String>,
}

/// A number, or a time in seconds with an `s` behind it.
fn from(text: &str) -> Result<Begin, String> {
    if let Some(seconds) = text.strip_suffix('s') {
        let time = time_ns("--from-snapshot", seconds);
        return time.map(Begin::Time).map_err(|_| "not a time in seconds".to_owned());
    }
    let number = text.parse().map(Begin::Snapshot);
    number.map_err(|_| "neither the number of a snapshot nor a time in seconds, as 2.5s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::Begin;
    use crate::cli::{Parsed, parse};

    fn replay(line: &str) -> Result<super::ReplayOptions, String> {
        let words = ["trapline", "replay"].into_iter().chain(line.split_whitespace());
        match parse(words.map(Into::into)) {
            Ok(Parsed::Replay(options)) => Ok(*options),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_replay_has_a_file_and_where_it_ends() {
        let options = replay("run.trp --dump rtc --until 811 --dump serial0").unwrap();
        assert_eq!(options.file.to_str(), Some("run.trp"));
        assert_eq!((options.until, options.dump.len()), (Some(811), 2));
        assert!(replay("run.trp").is_ok());
        assert!(replay("").unwrap_err().contains("<FILE>"));
        assert!(replay("run.trp --until soon").unwrap_err().contains("soon"));
    }

    #[test]
    fn a_replay_begins_at_a_snapshot_by_its_number_or_by_a_time() {
        let from = |value: &str| replay(&format!("run.trp --from-snapshot {value}"));
        let found = |value| from(value).unwrap().from_snapshot;
        assert_eq!(found("0"), Some(Begin::Snapshot(0)));
        assert_eq!(found("12"), Some(Begin::Snapshot(12)));
        assert_eq!(found("2.5s"), Some(Begin::Time(2_500_000_000)));
        assert_eq!(found("0s"), Some(Begin::Time(0)));
        for wrong in ["2.5", "s", "-1", "1.s2", "4294967296", "soon", "1e3s", "99999999999s"] {
            let error = from(wrong).unwrap_err();
            assert!(error.contains("--from-snapshot") || error.contains(wrong), "{wrong}: {error}");
        }
        assert_eq!(replay("run.trp").unwrap().from_snapshot, None);
    }

    #[test]
    fn a_recording_is_exact_only_where_there_is_one() {
        let run = |line: &str| {
            let words = ["trapline", "run"].into_iter().chain(line.split_whitespace());
            parse(words.map(Into::into))
        };
        let Ok(Parsed::Run(options)) = run("--record run.trp --record-exact") else {
            panic!("it is refused")
        };
        assert_eq!(options.record.as_deref(), Some("run.trp".as_ref()));
        assert!(options.record_exact);
        assert!(run("--record-exact").unwrap_err().to_string().contains("--record"));
    }
}
