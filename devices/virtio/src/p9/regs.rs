//! The 9P transport's feature and configuration space.
//!
//! Spec: Linux' `include/uapi/linux/virtio_9p.h`; virtio 1.3, section 5.13, only reserves the number.

/// The configuration has a mount tag.
pub const F_MOUNT_TAG: u64 = 1 << 0;

/// Where the tag's length is in the configuration, 16 bits; the tag follows, without an end.
pub const TAG_LEN: u32 = 0;
