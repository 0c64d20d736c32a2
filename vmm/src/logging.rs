//! What we say on standard error, in kvmtool's look: `  Info: ...`, `  Error: ...`.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::LogLevel;
use crate::{status, stream};

/// Starts logging, once per process; what is above `level` is not said.
pub fn start(level: LogLevel) {
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(filter)
        .event_format(KvmtoolLook)
        .with_writer(|| Stderr)
        .finish();
    // A second subscriber is a second call, which changes nothing.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Says `text`, lines that stand for themselves, if messages of `level` are said.
pub fn text(level: Level, text: &str) {
    // Whether a level is on is part of what each place that logs has of its own.
    let on = match level {
        Level::ERROR => tracing::enabled!(Level::ERROR),
        Level::WARN => tracing::enabled!(Level::WARN),
        Level::INFO => tracing::enabled!(Level::INFO),
        _ => tracing::enabled!(Level::DEBUG),
    };
    if on {
        stream::message(text);
    }
}

/// Whether standard error and standard output are the same file, pipe or terminal.
pub fn shares_standard_output() -> bool {
    let place = |fd| rustix::fs::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino));
    place(rustix::stdio::stdout()).is_some_and(|out| place(rustix::stdio::stderr()) == Some(out))
}

/// Says why the run cannot go on, on one line of standard error; returns the exit status for it.
pub fn fatal(error: &anyhow::Error) -> ExitCode {
    stream::message(&format!("Fatal: {}\n", one_sentence(error)));
    ExitCode::from(status::failure())
}

/// Says what is wrong with the arguments, as [`fatal`] does; returns the exit status for it.
pub fn wrong_usage(error: &anyhow::Error) -> ExitCode {
    fatal(error);
    ExitCode::from(status::wrong_usage())
}

/// An error and its causes in one line. A cause that the error before it already quotes is not
/// said twice; the number of an operating system's error means nothing to a user.
pub fn one_sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let text = plain(&cause.to_string());
        if sentence.is_empty() {
            sentence = text;
        } else if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
    }
    sentence
}

/// `text` as one line that a terminal shows as it is, without ` (os error 2)`.
fn plain(text: &str) -> String {
    let text = match text.rsplit_once(" (os error ") {
        Some((before, number)) if number.trim_end_matches(')').parse::<i32>().is_ok() => before,
        _ => text,
    };
    text.split(|c: char| c.is_control())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Standard error. It takes everything: a line that cannot be written is lost.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        stream::message(&String::from_utf8_lossy(data));
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct KvmtoolLook;

impl<S, N> FormatEvent<S, N> for KvmtoolLook
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "  {}: {}{}", word(*event.metadata().level()), fields.message, fields.rest)
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "Error",
        Level::WARN => "Warning",
        Level::INFO => "Info",
        Level::DEBUG | Level::TRACE => "Debug",
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.rest.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn an_error_and_its_causes_are_one_sentence() {
        let missing = Err::<(), _>(io::Error::from_raw_os_error(2));
        let error = missing.context("Unable to open kernel x").unwrap_err();
        assert_eq!(one_sentence(&error), "Unable to open kernel x: No such file or directory");
    }

    #[test]
    fn a_cause_that_is_quoted_already_is_not_said_twice() {
        let error = anyhow!("out of ink").context("cannot print: out of ink");
        assert_eq!(one_sentence(&error), "cannot print: out of ink");
    }

    #[test]
    fn a_message_can_not_break_the_line_or_drive_the_terminal() {
        assert_eq!(one_sentence(&anyhow!("no kernel in a\nb\x1b[2J")), "no kernel in a b [2J");
    }
}
