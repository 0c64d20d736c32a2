//! The commands to guests that run: kvmtool's, by their control sockets.

mod attach;
mod debug;
mod life;
mod list;
mod rates;
mod stat;
mod top;
mod why;

use std::process::ExitCode;

use anyhow::{Context, bail};
use rustix::io::Errno;
use trapline_control::{AskError, Client, Folder, GuestName};

use crate::cli::{GuestsCommand, WhichGuests};
pub use attach::{BreakOptions, FollowOptions, follow};
pub use rates::Sort;
pub use top::TopOptions;

use crate::{logging, status, stream};

/// Does what was asked; the exit status is kvmtool's.
pub fn run(command: &GuestsCommand) -> ExitCode {
    let done = match command {
        GuestsCommand::List { running } => list::list(*running),
        GuestsCommand::Pause(which) => each(which, life::pause),
        GuestsCommand::Resume(which) => each(which, life::resume),
        GuestsCommand::Stat { which, memory: true, json } => {
            each(which, |guest| stat::memory(guest, *json))
        }
        GuestsCommand::Stat { which, json, .. } => each(which, |guest| stat::traps(guest, *json)),
        GuestsCommand::Debug { which, request } => {
            each(which, |guest| debug::debug(guest, request))
        }
        GuestsCommand::Balloon { name, inflate, mib } => {
            let which = WhichGuests::One(name.clone());
            each(&which, |guest| debug::balloon(guest, *inflate, *mib))
        }
        GuestsCommand::Break(options) => attach::breaks(options).map(done),
        GuestsCommand::Top(options) => top::top(options).map(done),
        GuestsCommand::Why { name, json } => {
            this(name.as_ref(), "why").and_then(|mut guest| why::why(&mut guest, *json)).map(done)
        }
        GuestsCommand::Stop(which) => each(which, life::stop),
    };
    done.unwrap_or_else(|error| logging::fatal(&error))
}

/// A guest, and where it is.
pub(super) struct Found {
    pub(super) folder: Folder,
    pub(super) name: GuestName,
}

impl Found {
    pub(super) fn connect(&self) -> Result<Client, AskError> {
        Client::connect(&self.folder, &self.name)
    }
}

/// All guests of this user.
pub(super) fn all() -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for folder in Folder::all_of_user()? {
        let names = folder.names().with_context(|| folder.path().display().to_string())?;
        found.extend(names.into_iter().map(|name| Found { folder: folder.clone(), name }));
    }
    Ok(found)
}

/// The guest of a name.
pub(super) fn one(name: &GuestName) -> anyhow::Result<Client> {
    for folder in Folder::all_of_user()? {
        match Client::connect(&folder, name) {
            Err(AskError::NoGuest(_)) => {}
            connected => return Ok(connected?),
        }
    }
    Err(AskError::NoGuest(name.clone()).into())
}

/// The guest of a name; without one the only guest there is.
pub(super) fn this(name: Option<&GuestName>, command: &str) -> anyhow::Result<Client> {
    if let Some(name) = name {
        return one(name);
    }
    let guests = all()?;
    match guests.as_slice() {
        [] => bail!("no guest is running"),
        [guest] => Ok(guest.connect()?),
        several => {
            let names: Vec<&str> = several.iter().map(|guest| guest.name.as_str()).collect();
            bail!("trapline {command}: which guest? There are {}", names.join(", "))
        }
    }
}

const fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Does `what` to one guest or to all. Of all, the others follow one that fails, which is said; one
/// that has ended meanwhile is none of them any more.
fn each(
    which: &WhichGuests,
    what: impl Fn(&mut Client) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    if let WhichGuests::One(name) = which {
        what(&mut one(name)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut status = ExitCode::SUCCESS;
    for guest in all()? {
        let done = guest.connect().map_err(anyhow::Error::from).and_then(|mut it| what(&mut it));
        if let Err(error) = done
            && !has_ended(&error)
        {
            stream::message(&format!(
                "  Error: {}: {}\n",
                guest.name,
                logging::one_sentence(&error)
            ));
            status = ExitCode::from(status::SOME_FAILED);
        }
    }
    Ok(status)
}

fn has_ended(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<AskError>();
    matches!(error, Some(AskError::NoGuest(_) | AskError::Ended(_)))
}

/// Prints what was asked for. Who does not read on has seen what it wanted.
pub(super) fn say(text: &str) -> anyhow::Result<()> {
    say_on(text).map(|_| ())
}

/// Prints a piece of what has no end of its own; whether somebody reads on.
pub(super) fn say_on(text: &str) -> anyhow::Result<bool> {
    match stream::write_all(rustix::stdio::stdout(), text.as_bytes(), None) {
        Ok(()) => Ok(true),
        Err(Errno::PIPE) => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
