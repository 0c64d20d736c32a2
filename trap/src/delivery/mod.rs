//! The ways an access is delivered that are not a call of the region's handler.

pub(crate) mod coalesced;
pub(crate) mod forward;
pub(crate) mod mirrored;
pub(crate) mod offload;
