//! A virtio driver: what a guest would do to a device's registers and rings, right or wrong.

mod ring;

pub use ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, Part, Ram, Ring};
