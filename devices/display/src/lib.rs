//! A display without a monitor: a PCI function with a linear frame buffer, and the ways to see it.
//!
//! ```text
//!  config space ─► Vesa: a BAR of memory, the frame buffer ◄─ guest's writes
//!                                │ DirtyLog: which pages were written
//!                                ▼
//!                             Screen: what is shown, and which tiles of it are new
//!                              │   └─► Picture ─► PNG
//!                              ▼
//!                         rfb::Server ─► viewers ─► Input: keys and the pointer
//! ```
//!
//! What was left out on purpose: drawing registers, a video BIOS and the VGA's ports. The mode is
//! set before the guest starts, and the board tells the guest so.

#![forbid(unsafe_code)]

mod input;
mod mode;
pub mod rfb;
mod screen;
pub mod vesa;

pub use input::{Input, NoInput};
pub use mode::Mode;
pub use screen::{Picture, PngError, Rect, Screen};
pub use vesa::Vesa;
