//! The control socket of a running guest.
//!
//! Each guest listens on a Unix socket in a private [`Folder`], under its name. What is spoken there is
//! HTTP/1.1 with JSON: an [`Endpoint`] is a method, a path, and the types of the request and of the
//! answer, which the guest ([`Routes`], [`Server`]) and whoever asks ([`Client`]) share. The end points
//! are in [`api`]; `docs/openapi.json` describes them for other programs.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use trapline_control::{Client, Endpoint, Folder, GuestName, Method, Routes};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Question {
//!     of: u32,
//! }
//!
//! /// Doubles a number.
//! struct Double;
//!
//! impl Endpoint for Double {
//!     const METHOD: Method = Method::Put;
//!     const PATH: &'static str = "/double";
//!     type Request = Question;
//!     type Answer = u32;
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temporary = tempfile::tempdir()?;
//! # let folder = Folder::at(&temporary.path().join("trapline"))?;
//! let name = GuestName::new("twice")?;
//! let routes = Routes::default().serve::<Double>(|question| Ok(question.of * 2));
//! let server = folder.claim(&name)?.serve(routes)?;
//!
//! let mut client = Client::connect(&folder, &name)?;
//! assert_eq!(client.ask::<Double>(&Question { of: 21 })?, 42);
//! drop(server);
//! assert!(folder.names()?.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Nobody but the user that runs the guest gets through: the folder is 0700, the socket 0600, and who
//! connects is asked of the kernel. Requests, clients and the time that they may take are bounded
//! (see [`Server`]), so a client that stalls or lies keeps nobody else waiting.

#![forbid(unsafe_code)]

pub mod api;
mod client;
mod endpoint;
mod folder;
mod http;
mod name;
mod server;

pub use client::{AskError, Client};
pub use endpoint::{Endpoint, Lines, Method, Refusal, Routes, Status};
pub use folder::{Claim, ClaimError, Folder, FolderError};
pub use name::{GuestName, NameError};
pub use server::Server;
