//! What the host says of its functions: where they are, who drives them, and whom the IOMMU cannot
//! tell apart.
//!
//! Spec: Linux, `Documentation/ABI/testing/sysfs-bus-pci` and `sysfs-kernel-iommu_groups`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Error;

/// The driver that hands functions to programs.
const VFIO_PCI: &str = "vfio-pci";
/// The driver of PCI Express ports.
const PCIEPORT: &str = "pcieport";

/// Where a function is on the host: domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for Address {
    type Err = String;

    /// `[DOMAIN:]BUS:DEVICE.FUNCTION`, in hexadecimal.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |text: &str, most: usize| {
            let sane = (1..=most).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            sane.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let parsed = || {
            let (front, function) = text.rsplit_once('.')?;
            let (front, device) = front.rsplit_once(':')?;
            let (domain, bus) = front.rsplit_once(':').unwrap_or(("0", front));
            let small = |text, most| u8::try_from(digits(text, 2)?).ok().filter(|n| *n <= most);
            Some(Self {
                domain: digits(domain, 8)?,
                bus: small(bus, 0xff)?,
                device: small(device, 31)?,
                function: small(function, 7)?,
            })
        };
        parsed().ok_or_else(|| {
            format!("{text}: not a PCI function's address; write [DOMAIN:]BUS:DEVICE.FUNCTION")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// The host's `/sys`, or what a test has of it.
#[derive(Clone, Debug)]
pub struct Sysfs(PathBuf);

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// One that is mounted elsewhere.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    fn function(&self, address: Address) -> PathBuf {
        self.0.join("bus/pci/devices").join(address.to_string())
    }

    /// Whether the host has such a function.
    pub(crate) fn has(&self, address: Address) -> bool {
        self.function(address).exists()
    }

    /// The driver that has a function, if any does.
    pub fn driver(&self, address: Address) -> Option<String> {
        link_name(&self.function(address).join("driver"))
    }

    /// The number of its IOMMU group, if it is behind an IOMMU.
    pub(crate) fn group(&self, address: Address) -> Option<u32> {
        link_name(&self.function(address).join("iommu_group"))?.parse().ok()
    }

    /// Whether the host has IOMMUs that are switched on.
    fn has_iommu(&self) -> bool {
        fs::read_dir(self.0.join("class/iommu")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Whether it leads to another bus.
    fn is_bridge(&self, address: Address) -> bool {
        let class = fs::read_to_string(self.function(address).join("class"));
        class.is_ok_and(|class| ["0x0604", "0x0607"].iter().any(|bridge| class.starts_with(bridge)))
    }

    /// All functions of its group, in order.
    pub fn members(&self, address: Address) -> Vec<Address> {
        let folder = self.function(address).join("iommu_group/devices");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut members: Vec<Address> = names.filter_map(|name| name.parse().ok()).collect();
        members.sort();
        members
    }

    /// Those others of its group that keep it from being assigned, with their drivers. Bridges stay
    /// the host's, and functions that nobody drives are in nobody's way.
    pub(crate) fn in_the_way(&self, address: Address) -> Vec<(Address, String)> {
        let harmless = [VFIO_PCI, PCIEPORT, "pci-stub"];
        let others = self.members(address).into_iter().filter(|other| *other != address);
        let driven = others.filter_map(|other| Some((other, self.driver(other)?)));
        driven.filter(|(_, driver)| !harmless.contains(&driver.as_str())).collect()
    }

    /// Looks whether a function can be assigned; the number of its group.
    ///
    /// # Errors
    /// Why it cannot, and what mends that.
    pub(crate) fn check(&self, address: Address) -> Result<u32, Error> {
        if !self.has(address) {
            return Err(Error::NotFound(address));
        }
        let (group, driver) = (self.group(address), self.driver(address));
        match (driver.as_deref(), group) {
            (Some(VFIO_PCI), Some(group)) => Ok(group),
            (Some(VFIO_PCI), None) => Err(Error::NoIommu(address)),
            // Where a device tree says which IOMMU it is behind, it comes to a group with its first
            // driver.
            (_, None) if !self.has_iommu() => Err(Error::NoIommu(address)),
            _ => Err(Error::Driver { address, driver }),
        }
    }

    /// What keeps the group from being used, as an error.
    pub(crate) fn not_viable(&self, address: Address, group: u32) -> Error {
        let others = self.in_the_way(address);
        let list = |how: fn(&(Address, String)) -> String, between: &str| {
            others.iter().map(how).collect::<Vec<_>>().join(between)
        };
        Error::Group {
            address,
            group,
            others: list(|(other, driver)| format!("{other} (driver {driver})"), ", "),
            members: list(|(other, _)| other.to_string(), " "),
        }
    }

    /// Gives a function to vfio-pci; what was done, in sentences. A bridge, which vfio-pci does not take,
    /// is only taken from its driver: so it is in nobody's way. With pcieport, which sees to the host's
    /// hot-plug and errors, it is in nobody's way either.
    ///
    /// # Errors
    /// The host has no such function or driver, or the kernel refuses.
    pub fn bind(&self, address: Address) -> Result<Vec<String>, Error> {
        if !self.has(address) {
            return Err(Error::NotFound(address));
        }
        let before = self.driver(address);
        if before.as_deref() == Some(VFIO_PCI) {
            return Ok(vec![format!("{address}: vfio-pci has it already")]);
        }
        if self.is_bridge(address) {
            if before.as_deref() == Some(PCIEPORT) {
                return Ok(vec![format!("{address}: a bridge, which {PCIEPORT} can keep")]);
            }
            let mut said = self.unbind(address)?;
            said.push(format!("{address}: a bridge, which no driver need have"));
            return Ok(said);
        }
        if !self.0.join("bus/pci/drivers").join(VFIO_PCI).exists() {
            return Err(Error::NoDriver);
        }
        self.write(address, &self.function(address).join("driver_override"), VFIO_PCI)?;
        let mut said = self.unbind(address)?;
        self.probe(address)?;
        if self.driver(address).as_deref() != Some(VFIO_PCI) {
            return Err(match self.group(address) {
                Some(_) => Error::NotTaken { address },
                None => Error::NoIommu(address),
            });
        }
        said.push(format!("{address}: given to vfio-pci"));
        for (other, driver) in self.in_the_way(address) {
            said.push(format!(
                "{address}: {other} is in the same IOMMU group, and driver {driver} has it: \
                 trapline setup vfio {other}"
            ));
        }
        Ok(said)
    }

    /// Gives a function back to the driver that the host has for it; what was done, in sentences.
    ///
    /// # Errors
    /// The host has no such function, or the kernel refuses.
    pub fn release(&self, address: Address) -> Result<Vec<String>, Error> {
        if !self.has(address) {
            return Err(Error::NotFound(address));
        }
        // An end of line takes the override back.
        self.write(address, &self.function(address).join("driver_override"), "\n")?;
        let mut said = match self.driver(address).as_deref() {
            Some(VFIO_PCI) | None => self.unbind(address)?,
            Some(driver) => return Ok(vec![format!("{address}: driver {driver} has it already")]),
        };
        self.probe(address)?;
        said.push(match self.driver(address) {
            Some(driver) => format!("{address}: given to {driver}"),
            None => format!("{address}: the host has no driver loaded for it"),
        });
        Ok(said)
    }

    fn unbind(&self, address: Address) -> Result<Vec<String>, Error> {
        let Some(driver) = self.driver(address) else { return Ok(Vec::new()) };
        let path = self.function(address).join("driver/unbind");
        self.write(address, &path, &address.to_string())?;
        Ok(vec![format!("{address}: taken from {driver}")])
    }

    fn probe(&self, address: Address) -> Result<(), Error> {
        self.write(address, &self.0.join("bus/pci/drivers_probe"), &address.to_string())
    }

    fn write(&self, address: Address, path: &Path, text: &str) -> Result<(), Error> {
        // Opened without being made: a file that is not there is an error of the kernel's.
        let written = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
            use std::io::Write;
            file.write_all(text.as_bytes())
        });
        let text = text.to_owned();
        written.map_err(|reason| Error::Sysfs { address, path: path.to_owned(), text, reason })
    }
}

fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    /// A host with these functions, each with its driver and its group.
    fn host(functions: &[(&str, Option<&str>, Option<u32>)]) -> (tempfile::TempDir, Sysfs) {
        let root = tempfile::tempdir().unwrap();
        let pci = root.path().join("bus/pci");
        fs::create_dir_all(pci.join("drivers/vfio-pci")).unwrap();
        fs::write(pci.join("drivers_probe"), "").unwrap();
        for (name, driver, group) in functions {
            let function = pci.join("devices").join(name);
            fs::create_dir_all(&function).unwrap();
            fs::write(function.join("driver_override"), "").unwrap();
            if let Some(driver) = driver {
                let folder = pci.join("drivers").join(driver);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("unbind"), "").unwrap();
                symlink(&folder, function.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let folder = root.path().join(format!("kernel/iommu_groups/{group}"));
                fs::create_dir_all(folder.join("devices")).unwrap();
                symlink(&function, folder.join("devices").join(name)).unwrap();
                symlink(&folder, function.join("iommu_group")).unwrap();
            }
        }
        let sysfs = Sysfs::at(root.path());
        (root, sysfs)
    }

    #[test]
    fn an_address_is_read_as_lspci_writes_it_with_or_without_the_domain() {
        for text in ["0000:01:1f.7", "01:1f.7", "0:1:1f.7"] {
            assert_eq!(address(text).to_string(), "0000:01:1f.7");
        }
        assert_eq!(address("10001:ff:00.0").to_string(), "10001:ff:00.0");
        for text in [
            "",
            "1f.7",
            "01:20.0",
            "01:1f.8",
            "01:1f",
            "g:1:0.0",
            "1:2:3:4.5",
            "100:0.0",
            "+1:0.0",
            "01:1f.",
            "123456789:01:00.0",
        ] {
            let refused = text.parse::<Address>().unwrap_err();
            assert!(refused.starts_with(&format!("{text}: not a PCI")), "{refused}");
        }
    }

    #[test]
    fn each_reason_not_to_assign_a_function_says_what_mends_it() {
        let (root, sysfs) = host(&[
            ("0000:00:01.0", Some("e1000"), Some(4)),
            ("0000:00:02.0", None, Some(5)),
            ("0000:00:03.0", Some("vfio-pci"), None),
            ("0000:00:04.0", Some("vfio-pci"), Some(7)),
            ("0000:00:04.1", Some("nvme"), Some(7)),
            ("0000:00:04.2", Some("pcieport"), Some(7)),
            ("0000:00:04.3", None, Some(7)),
            ("0000:00:05.0", None, None),
        ]);
        let check = |text: &str| sysfs.check(address(text)).unwrap_err().to_string();
        assert_eq!(
            check("1:0.0"),
            "PCI function 0000:01:00.0: this host has none there; lspci -D lists those it has"
        );
        assert_eq!(
            check("0:1.0"),
            "PCI function 0000:00:01.0: driver e1000 has it and not vfio-pci; run: trapline setup \
             vfio 0000:00:01.0"
        );
        assert!(check("0:2.0").contains("0000:00:02.0: no driver has it and not vfio-pci; run"));
        assert!(check("0:3.0").contains("behind no IOMMU; switch that on"));
        assert!(check("0:5.0").contains("behind no IOMMU"));
        assert_eq!(sysfs.check(address("0:4.0")).unwrap(), 7);
        assert_eq!(
            sysfs.not_viable(address("0:4.0"), 7).to_string(),
            "PCI function 0000:00:04.0: the IOMMU cannot tell it from 0000:00:04.1 (driver nvme) \
             (group 7), which must come along; run: trapline setup vfio 0000:00:04.1"
        );
        // It may come to a group with its driver.
        fs::create_dir_all(root.path().join("class/iommu/smmu3.0x9050000")).unwrap();
        assert!(check("0:5.0").contains("no driver has it and not vfio-pci; run"));
        assert!(check("0:3.0").contains("behind no IOMMU"), "vfio-pci has it, without a group");
    }

    #[test]
    fn binding_writes_what_the_kernel_wants_and_says_when_it_does_not_take_it() {
        let (root, sysfs) = host(&[("0000:00:01.0", Some("e1000"), Some(4))]);
        let at = address("0:1.0");
        let read = |path: &str| fs::read_to_string(root.path().join("bus/pci").join(path)).unwrap();
        // No kernel is there to follow.
        assert!(matches!(sysfs.bind(at), Err(Error::NotTaken { .. })));
        assert_eq!(read("devices/0000:00:01.0/driver_override"), "vfio-pci");
        assert_eq!(read("drivers/e1000/unbind"), "0000:00:01.0");
        assert_eq!(read("drivers_probe"), "0000:00:01.0");
        assert_eq!(sysfs.release(at).unwrap(), ["0000:00:01.0: driver e1000 has it already"]);
        assert!(matches!(sysfs.bind(address("5:0.0")), Err(Error::NotFound(_))));
        fs::remove_dir(root.path().join("bus/pci/drivers/vfio-pci")).unwrap();
        assert!(matches!(sysfs.bind(at), Err(Error::NoDriver)));
    }

    #[test]
    fn a_function_that_stays_without_a_group_is_behind_no_iommu() {
        let (_root, sysfs) = host(&[("0000:00:01.0", None, None)]);
        assert!(matches!(sysfs.bind(address("0:1.0")), Err(Error::NoIommu(_))));
    }

    #[test]
    fn a_bridge_is_taken_from_its_driver_and_given_to_nobody() {
        let (root, sysfs) = host(&[("0000:00:06.0", Some("shpchp"), Some(0))]);
        let (at, pci) = (address("0:6.0"), root.path().join("bus/pci"));
        fs::write(pci.join("devices/0000:00:06.0/class"), "0x060400\n").unwrap();
        assert_eq!(
            sysfs.bind(at).unwrap(),
            [
                "0000:00:06.0: taken from shpchp",
                "0000:00:06.0: a bridge, which no driver need have"
            ]
        );
        assert_eq!(
            fs::read_to_string(pci.join("devices/0000:00:06.0/driver_override")).unwrap(),
            ""
        );
        assert_eq!(fs::read_to_string(pci.join("drivers_probe")).unwrap(), "");
    }

    #[test]
    fn a_bridge_that_is_in_nobodys_way_keeps_its_driver() {
        let (root, sysfs) = host(&[("0000:00:06.0", Some("pcieport"), Some(0))]);
        let (at, pci) = (address("0:6.0"), root.path().join("bus/pci"));
        fs::write(pci.join("devices/0000:00:06.0/class"), "0x060400\n").unwrap();
        assert_eq!(sysfs.bind(at).unwrap(), ["0000:00:06.0: a bridge, which pcieport can keep"]);
        assert_eq!(sysfs.driver(at).as_deref(), Some("pcieport"));
        assert_eq!(fs::read_to_string(pci.join("drivers/pcieport/unbind")).unwrap(), "");
    }

    #[test]
    fn what_vfio_pci_has_is_left_alone_and_given_back() {
        let (root, sysfs) = host(&[("0000:00:01.0", Some("vfio-pci"), Some(4))]);
        let at = address("0:1.0");
        assert_eq!(sysfs.bind(at).unwrap(), ["0000:00:01.0: vfio-pci has it already"]);
        assert_eq!(sysfs.release(at).unwrap()[0], "0000:00:01.0: taken from vfio-pci");
        let probed = fs::read_to_string(root.path().join("bus/pci/drivers_probe")).unwrap();
        assert_eq!(probed, "0000:00:01.0");
        fs::remove_file(root.path().join("bus/pci/drivers_probe")).unwrap();
        assert!(sysfs.release(at).unwrap_err().to_string().contains("drivers_probe: No such file"));
    }
}
