//! The guest's network: the loopback interface, and the first card that a DHCP server answers.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use trapline_machine::interface;

use super::dhcp::{self, Lease};
use crate::task::OURS;

/// Where the kernel lists interfaces.
const INTERFACES: &str = "/sys/class/net";
/// Where programs look for name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Configures it. What goes wrong is a sentence each.
pub(super) fn configure(dhcp: bool) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |what: &str, result: io::Result<()>| {
        result.unwrap_or_else(|error| complaints.push(format!("{what}: {error}\n")));
    };
    complain("the loopback interface cannot be switched on", interface::switch_on("lo"));
    if !dhcp {
        return complaints;
    }
    for name in cards() {
        match lease(&name) {
            Ok(lease) => {
                complain(&format!("{name} cannot be configured"), apply(&name, &lease));
                complain(&format!("no name servers in {RESOLV_CONF}"), name_servers(&lease));
                break;
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                complain(&name, Err(io::Error::other("no DHCP server answers")));
            }
            Err(error) => complain(&name, Err(error)),
        }
    }
    complaints
}

/// The cards, by name.
fn cards() -> Vec<String> {
    let entries = fs::read_dir(INTERFACES).into_iter().flatten().flatten();
    // Others (tunnels, loopback) are no devices.
    let cards = entries.filter(|entry| entry.path().join("device").exists());
    let mut names: Vec<String> =
        cards.map(|card| card.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn lease(name: &str) -> io::Result<Lease> {
    let address = fs::read_to_string(Path::new(INTERFACES).join(name).join("address"))?;
    let mac = mac(address.trim()).ok_or(ErrorKind::InvalidData)?;
    interface::switch_on(name)?;
    dhcp::ask(name, mac)
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    octets.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()
}

fn apply(name: &str, lease: &Lease) -> io::Result<()> {
    interface::configure(name, lease.ip.octets(), lease.mask.octets())?;
    match lease.router {
        Some(router) => interface::set_gateway(router.octets()),
        None => Ok(()),
    }
}

/// Puts the name servers in the place of the root's, which may be the host's or read-only: over a file
/// that is there, or where its link leads to.
fn name_servers(lease: &Lease) -> io::Result<()> {
    if lease.name_servers.is_empty() {
        return Ok(());
    }
    let lines = lease.name_servers.iter().map(|server| format!("nameserver {server}\n"));
    let text = lines.collect::<String>();
    let target = Path::new(RESOLV_CONF);
    let link = fs::read_link(target).map(|link| Path::new("/etc").join(link));
    match link {
        // Such a link leads into /run, which is ours.
        Ok(link) if !link.exists() => {
            link.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(link, text)
        }
        _ if target.exists() => {
            let kept = format!("{OURS}/resolv.conf");
            fs::write(&kept, text)?;
            Ok(rustix::mount::mount_bind(kept, target)?)
        }
        _ => {
            fs::create_dir_all("/etc")?;
            fs::write(target, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_cards_have_six_octets() {
        assert_eq!(mac("02:15:15:15:15:0a"), Some([2, 0x15, 0x15, 0x15, 0x15, 10]));
        assert_eq!(mac("02:15"), None);
        assert_eq!(mac("xx:15:15:15:15:15"), None);
    }
}
