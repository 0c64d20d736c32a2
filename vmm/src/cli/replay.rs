//! The command line of `trapline replay`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

/// Play a recording into the same machine without KVM
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ReplayOptions {
    /// The recording
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Stop before this record, counted over all streams from 0
    #[arg(long, value_name = "RECORD")]
    pub until: Option<u64>,
    /// Print the state of this device where the replay ends
    #[arg(long, value_name = "DEVICE", action = ArgAction::Append)]
    pub dump: Vec<String>,
}

#[cfg(test)]
mod tests {
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
