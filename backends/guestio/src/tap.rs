//! Taps: network interfaces of the host whose frames a program reads and writes
//! (`Documentation/networking/tuntap.rst` of Linux).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::Buffers;
use crate::interface::{self, ioctl, name_of, named};

/// Flags of a queue of a tap's: whole Ethernet frames, nothing but the header of virtio-net in front.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Bits of [`TapQueue::set_offloads`] (`linux/if_tun.h`).
pub mod offload {
    /// The reader takes frames without their checksum.
    pub const CSUM: u32 = 0x01;
    /// Long segments of TCP over IPv4.
    pub const TSO4: u32 = 0x02;
    /// Over IPv6.
    pub const TSO6: u32 = 0x04;
    /// With ECN's mark.
    pub const TSO_ECN: u32 = 0x08;
    /// Datagrams of UDP that are to be fragments.
    pub const UFO: u32 = 0x10;
    /// Several datagrams of UDP over IPv4 in one; since Linux 6.2.
    pub const USO4: u32 = 0x20;
    /// Over IPv6.
    pub const USO6: u32 = 0x40;
}

/// One queue of a tap.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    name: String,
}

impl TapQueue {
    /// Attaches to the tap called `name`, which is made if it is not there; with an empty name, or one
    /// like `tap%d`, to a new one. With `multi` it can have several queues.
    ///
    /// # Errors
    /// The kernel's: the name is too long, it is another kind of interface, or in use, or this process
    /// may not.
    pub fn open(name: &str, multi: bool) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
        let mut request = named(name)?;
        let flags = FLAGS | if multi { libc::IFF_MULTI_QUEUE } else { 0 };
        request.ifr_ifru.ifru_flags =
            i16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
        ioctl(fd.as_fd(), libc::TUNSETIFF, &mut request)?;
        let mut this = Self { fd, name: name_of(&request) };
        this.set_header_len()?;
        Ok(this)
    }

    /// A queue of a tap that somebody else has opened.
    ///
    /// # Errors
    /// It is none, or has no headers of virtio-net.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let mut request = named("")?;
        ioctl(fd.as_fd(), libc::TUNGETIFF, &mut request)?;
        // SAFETY: the kernel has filled in the flags.
        #[expect(unsafe_code, reason = "a field of a union that the kernel fills")]
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & FLAGS != FLAGS {
            let reason = "it is no tap that was opened with IFF_VNET_HDR and IFF_NO_PI";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        let mut this = Self { fd, name: name_of(&request) };
        this.set_header_len()?;
        Ok(this)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its frames have headers of 12 bytes, little-endian.
    fn set_header_len(&mut self) -> io::Result<()> {
        ioctl(self.fd.as_fd(), libc::TUNSETVNETHDRSZ, &mut HEADER_LEN.clone())?;
        // A host that is little-endian has no other, and need not know of it.
        match ioctl(self.fd.as_fd(), libc::TUNSETVNETLE, &mut 1) {
            Err(error) if cfg!(target_endian = "big") => Err(error),
            _ => Ok(()),
        }
    }

    /// What the kernel may leave undone of what is read, as [`offload`] has it.
    ///
    /// # Errors
    /// It knows one of them not, or this queue is not in use.
    pub fn set_offloads(&self, bits: u32) -> io::Result<()> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: the argument is a number.
        #[expect(unsafe_code, reason = "an ioctl that takes a number")]
        let done = unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Has this queue, one of several, used or not.
    ///
    /// # Errors
    /// The kernel's. There must be no more than one call for each change.
    pub fn set_used(&self, used: bool) -> io::Result<()> {
        let flags = if used { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        let mut request = named("")?;
        request.ifr_ifru.ifru_flags =
            i16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
        ioctl(self.fd.as_fd(), libc::TUNSETQUEUE, &mut request)
    }

    /// Gives the interface this Ethernet address on the host's side.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_mac(&self, mac: [u8; 6]) -> io::Result<()> {
        let mut request = named(&self.name)?;
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_hwaddr = address;
        ioctl(self.fd.as_fd(), libc::SIOCSIFHWADDR, &mut request)
    }

    /// Gives the interface this IPv4 address, of a network of 256, and switches it on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn configure(&self, ip: [u8; 4]) -> io::Result<()> {
        interface::configure(&self.name, ip, [255, 255, 255, 0])
    }

    /// Writes one frame behind its header.
    ///
    /// # Errors
    /// The kernel's; of kind [`io::ErrorKind::WouldBlock`] when there is no room.
    pub fn send(&self, header: &[u8; HEADER_LEN as usize], frame: &Buffers) -> io::Result<()> {
        frame.write_behind(self.fd.as_fd(), header).map(|_| ())
    }

    /// Reads one frame with its header; the length of both.
    ///
    /// # Errors
    /// The kernel's; of kind [`io::ErrorKind::WouldBlock`] when there is none.
    pub fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buf)?)
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Length of a header, as the kernel takes it.
const HEADER_LEN: libc::c_int = 12;
