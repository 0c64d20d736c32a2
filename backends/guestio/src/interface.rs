//! Network interfaces by their names: addresses and routes (netdevice(7), rtentry of `linux/route.h`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Gives an interface this IPv4 address, of a network with this mask, and switches it on.
///
/// # Errors
/// The kernel's; the name has more than 15 bytes, or a NUL.
pub fn configure(name: &str, ip: [u8; 4], mask: [u8; 4]) -> io::Result<()> {
    let socket = socket()?;
    let mut request = named(name)?;
    request.ifr_ifru.ifru_addr = ipv4(ip);
    ioctl(socket.as_fd(), libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = ipv4(mask);
    ioctl(socket.as_fd(), libc::SIOCSIFNETMASK, &mut request)?;
    switch_on(name)
}

/// Switches an interface on.
///
/// # Errors
/// As of [`configure`].
pub fn switch_on(name: &str) -> io::Result<()> {
    let socket = socket()?;
    let mut request = named(name)?;
    ioctl(socket.as_fd(), libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the kernel has filled in the flags.
    #[expect(unsafe_code, reason = "a field of a union that the kernel fills")]
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) | libc::IFF_UP;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    ioctl(socket.as_fd(), libc::SIOCSIFFLAGS, &mut request)
}

/// Has all IPv4 addresses that no other route leads to be reached by this gateway.
///
/// # Errors
/// The kernel's.
pub fn set_gateway(gateway: [u8; 4]) -> io::Result<()> {
    let any = ipv4([0; 4]);
    let mut route = libc::rtentry {
        rt_pad1: 0,
        rt_dst: any,
        rt_gateway: ipv4(gateway),
        rt_genmask: any,
        rt_flags: libc::RTF_UP | libc::RTF_GATEWAY,
        rt_pad2: 0,
        rt_pad3: 0,
        rt_tos: 0,
        rt_class: 0,
        rt_pad4: [0; 3],
        rt_metric: 0,
        rt_dev: std::ptr::null_mut(),
        rt_mtu: 0,
        rt_window: 0,
        rt_irtt: 0,
    };
    ioctl(socket()?.as_fd(), libc::SIOCADDRT, &mut route)
}

/// Has a socket send and receive by this interface alone, also before it has an address.
///
/// # Errors
/// The kernel's.
pub fn bind_to(socket: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let len = libc::socklen_t::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads that many bytes of the name.
    #[expect(unsafe_code, reason = "an option of sockets that takes an address")]
    let done = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
        libc::setsockopt(socket.as_raw_fd(), level, option, name.as_ptr().cast(), len)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket to make requests about interfaces by.
fn socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// A request about the interface with this name.
pub(crate) fn named(name: &str) -> io::Result<libc::ifreq> {
    let mut chars = [0; libc::IFNAMSIZ];
    // One is for the zero at the end.
    if name.len() >= chars.len() || name.bytes().any(|byte| byte == 0) {
        let reason = "the name of an interface has at most 15 bytes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    for (to, from) in chars.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let none = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    Ok(libc::ifreq { ifr_name: chars, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_addr: none } })
}

pub(crate) fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.map(|byte| {
        let [byte] = byte.to_ne_bytes();
        byte
    });
    let name = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn ipv4([a, b, c, d]: [u8; 4]) -> libc::sockaddr {
    let octets = [0, 0, a, b, c, d].map(|octet| libc::c_char::from_ne_bytes([octet]));
    let mut address = libc::sockaddr { sa_family: 2, sa_data: [0; 14] };
    address.sa_data.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
    address
}

/// An ioctl whose argument the kernel reads, and may write.
pub(crate) fn ioctl<T>(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: &mut T,
) -> io::Result<()> {
    let pointer: *mut T = argument;
    // SAFETY: all callers have arguments of the size and kind that their request takes, and the
    // kernel is done with it on return.
    #[expect(unsafe_code, reason = "an ioctl that takes an address")]
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, pointer) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn interfaces_that_are_not_there_are_the_kernels_error_and_impossible_names_ours() {
        let gone = io::Error::from_raw_os_error(libc::ENODEV).to_string();
        assert_eq!(switch_on("no-such-if").unwrap_err().to_string(), gone);
        let said = configure("sixteen-bytes-is", [10; 4], [255; 4]).unwrap_err().to_string();
        assert_eq!(said, "the name of an interface has at most 15 bytes");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(bind_to(socket.as_fd(), "no-such-if").is_err());
    }

    #[test]
    fn a_socket_bound_to_loopback_receives_from_it() {
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        bind_to(ours.as_fd(), "lo").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(b"abc", ours.local_addr().unwrap()).unwrap();
        let mut buf = [0; 8];
        assert_eq!(ours.recv(&mut buf).unwrap(), 3);
    }
}
