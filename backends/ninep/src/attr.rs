//! What there is to know of a file.

use rustix::fs::{Statx, StatxFlags, StatxTimestamp};

/// Types in a mode (`S_IFMT` and its values).
pub(crate) const TYPE: u32 = 0o170_000;
pub(crate) const DIR: u32 = 0o040_000;
pub(crate) const LINK: u32 = 0o120_000;
pub(crate) const FILE: u32 = 0o100_000;
/// Permissions in a mode.
pub(crate) const PERMISSIONS: u32 = 0o7777;

/// A point in time: seconds since 1970, and nanoseconds.
pub(crate) type Time = (i64, u32);

/// A device's numbers: major, minor.
pub(crate) type Device = (u32, u32);

/// A file's attributes, as the guest sees them.
#[derive(Clone, Debug)]
pub(crate) struct Attr {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u64,
    pub(crate) rdev: Device,
    pub(crate) size: u64,
    pub(crate) blksize: u64,
    pub(crate) blocks: u64,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    /// When it was made, if the host's file system knows.
    pub(crate) btime: Option<Time>,
    /// The host's file system, and the file's number in it.
    pub(crate) dev: Device,
    pub(crate) ino: u64,
    /// The type on the host, which is another one than in `mode` where owners are mapped.
    pub(crate) host_type: u32,
}

impl Attr {
    pub(crate) fn new(stat: &Statx) -> Self {
        let time = |at: StatxTimestamp| (at.tv_sec, at.tv_nsec);
        let has_btime = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Self {
            mode: stat.stx_mode.into(),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            nlink: stat.stx_nlink.into(),
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            blksize: stat.stx_blksize.into(),
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            btime: has_btime.then(|| time(stat.stx_btime)),
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            host_type: u32::from(stat.stx_mode) & TYPE,
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.mode & TYPE == DIR
    }

    /// Whether it is the same file.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

/// A device's number as Linux has it in 32 bits (`new_encode_dev`).
pub(crate) fn encode_device((major, minor): Device) -> u64 {
    u64::from(minor & 0xff) | u64::from(major & 0xfff) << 8 | u64::from(minor & 0xf_ff00) << 12
}

/// The numbers in it (`new_decode_dev`).
pub(crate) fn decode_device(encoded: u64) -> Device {
    let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    (low(encoded >> 8 & 0xfff), low(encoded & 0xff | encoded >> 12 & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_number_has_twelve_bits_of_major_and_twenty_of_minor() {
        assert_eq!(encode_device((8, 1)), 0x801);
        assert_eq!(encode_device((0xfff, 0xf_ffff)), 0xffff_ffff);
        for device in [(8, 1), (259, 0x1_2345), (0xfff, 0xf_ffff)] {
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }
}
