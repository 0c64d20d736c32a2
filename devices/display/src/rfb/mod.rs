//! A VNC server: the screen for anybody who connects, and their keys and pointer for the guest.
//!
//! Spec: RFC 6143, The Remote Framebuffer Protocol (2011), versions 3.3, 3.7 and 3.8.
//!
//! ```text
//!  Server: listens ──► per viewer   reader ── messages ─► Input
//!                                     │ request, pixel format, encodings
//!                                     ▼
//!                                   writer ◄── Screen: what is new
//! ```
//!
//! Every viewer has two threads and waits for nobody but itself: a slow one delays its own writer,
//! never the guest or another viewer. What is kept for a viewer does not grow with what it sends.
//!
//! There is no authentication and no encryption: whoever reaches the port sees the screen and
//! types. Let it listen on the loopback interface only, and reach it from elsewhere through ssh.

mod client;
mod handshake;
mod keyboard;
mod keys;
mod pixel;
mod server;
#[cfg(test)]
mod tests;
mod wire;
mod zrle;

pub use server::Server;
