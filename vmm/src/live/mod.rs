//! The control socket of a guest that runs: its name, and who answers what is asked there.

mod attach;
mod look;
pub mod metrics;
mod metrics_file;
mod poke;
mod routes;

use anyhow::Context;
use trapline_control::{Claim, ClaimError, Folder, Server};

use crate::cli::RunOptions;

pub use attach::Sessions;
pub use look::Look;
pub use metrics_file::{MetricsFile, MetricsWriter};
pub use routes::Guest;

/// A guest's name, taken before there is a machine, so that of two who want it one hears so at once.
pub struct Name(Result<Claim, anyhow::Error>);

impl Name {
    /// Takes the name of the guest that is to run.
    ///
    /// # Errors
    /// Its user chose a name that it cannot have. Without one it runs all the same.
    pub fn take(options: &RunOptions) -> anyhow::Result<Self> {
        let claimed = claim(options);
        if options.named {
            return Ok(Self(Ok(claimed.context("--name")?)));
        }
        Ok(Self(claimed))
    }

    /// Has `guest` answer on its socket until what is returned goes; nothing, if it has none.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn serve(self, guest: Guest) -> anyhow::Result<Option<Server>> {
        match self.0 {
            Ok(claim) => {
                let server = claim.serve(guest.routes());
                Ok(Some(server.context("cannot serve the control socket")?))
            }
            Err(error) => {
                let error = crate::logging::one_sentence(&error);
                tracing::warn!("there is no control socket: {error}");
                Ok(None)
            }
        }
    }
}

fn claim(options: &RunOptions) -> anyhow::Result<Claim> {
    // A name is one guest's wherever its user's guests may be.
    for folder in Folder::all_of_user()? {
        if folder.has(&options.name)? {
            return Err(ClaimError::Taken(options.name.clone()).into());
        }
    }
    Ok(Folder::of_user()?.claim(&options.name)?)
}
