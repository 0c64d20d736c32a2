//! The devices of a recording that have something of the host, as its description says them: what a replay
//! makes them from, without the host.
//!
//! Each is one setting, a name and words `key=value` with commas between them. Texts of the user are in
//! hexadecimal digits.

use std::num::NonZeroU64;
use std::path::PathBuf;

use trapline_backends::Outlet;
use trapline_block::{DiskOptions, DiskShape, Limits, OnError, Topology};
use trapline_net::{Abilities, Mac, NetMode, NetOptions, Offloads};
use trapline_ninep::ShareOptions;
use trapline_trace::Meta;

use crate::board::VirtioHandles;
use crate::{Config, ConsoleKind, PortOptions, VirtioTransport, VirtioTransports, VsockOptions};

/// What stands in a replay for what is on the host. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StandIns {
    /// Of each disk.
    pub(crate) disks: Vec<DiskShape>,
    /// Of each network card.
    pub(crate) nets: Vec<Abilities>,
}

/// The devices of a recording. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    pub(crate) stand_ins: StandIns,
    pub(crate) disks: Vec<DiskOptions>,
    pub(crate) nets: Vec<NetOptions>,
    pub(crate) shares: Vec<ShareOptions>,
    pub(crate) vsock: Option<VsockOptions>,
    pub(crate) ports: Vec<PortOptions>,
    pub(crate) virtio_console: bool,
    pub(crate) balloon: Option<u64>,
    pub(crate) rng: bool,
    pub(crate) edu: u8,
    pub(crate) fw_cfg: Vec<(String, Vec<u8>)>,
    pub(crate) virtio: VirtioTransports,
}

const DISK: &str = "disk";
const NET: &str = "net";
const SHARE: &str = "9p";
const VSOCK: &str = "vsock";
const PORT: &str = "port";
const CONSOLE: &str = "virtio-console";
const BALLOON: &str = "balloon";
const RNG: &str = "rng";
const EDU: &str = "edu";
const FW_CFG: &str = "fw_cfg";
/// Of all virtio devices, and with a name behind a colon of one.
const VIRTIO: &str = "virtio";

/// The most bytes of fw_cfg files that a recording keeps: its description is one chunk.
pub(crate) const FW_CFG_MAX: usize = 1 << 20;

/// A setting.
type Setting = (String, String);

/// The settings of the devices that a machine of `config` has.
pub(crate) fn settings(config: &Config, virtio: &VirtioHandles) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut add = |name: String, value: String| all.push((name, value));
    let disks = config.disks.iter().zip(&virtio.disks).enumerate();
    disks.for_each(|(n, (options, blk))| {
        add(format!("{DISK}{n}"), disk(options, &blk.disk().shape()));
    });
    let nets = config.nets.iter().zip(&virtio.nets).enumerate();
    nets.for_each(|(n, (options, net))| {
        add(format!("{NET}{n}"), self::net(options, net.backend().abilities()));
    });
    let shares = config.shares.iter().enumerate();
    shares.for_each(|(n, share)| add(format!("{SHARE}{n}"), hex(share.tag.as_bytes())));
    if let Some(vsock) = &config.vsock {
        add(VSOCK.to_owned(), vsock.cid.to_string());
    }
    let ports = config.ports.iter().enumerate();
    ports.for_each(|(n, port)| add(format!("{PORT}{n}"), hex(port.name.as_bytes())));
    if config.console_kind == ConsoleKind::Virtio {
        add(CONSOLE.to_owned(), "1".to_owned());
    }
    if let Some(bytes) = config.balloon {
        add(BALLOON.to_owned(), bytes.to_string());
    }
    if config.rng {
        add(RNG.to_owned(), "1".to_owned());
    }
    if config.edu > 0 {
        add(EDU.to_owned(), config.edu.to_string());
    }
    if fw_cfg_bytes(config) <= FW_CFG_MAX {
        let files = config.fw_cfg.iter().enumerate();
        files.for_each(|(n, (name, bytes))| {
            let value = format!("name={},bytes={}", hex(name.as_bytes()), hex(bytes));
            add(format!("{FW_CFG}{n}"), value);
        });
    }
    add(VIRTIO.to_owned(), config.virtio.others.name().to_owned());
    let named = config.virtio.named.iter();
    named.for_each(|(of, transport)| add(format!("{VIRTIO}:{of}"), transport.name().to_owned()));
    all
}

/// How many bytes the user's files for firmware have.
pub(crate) fn fw_cfg_bytes(config: &Config) -> usize {
    config.fw_cfg.iter().map(|(name, bytes)| name.len() + bytes.len()).sum()
}

fn disk(options: &DiskOptions, shape: &DiskShape) -> String {
    let topology = shape.topology.numbers().map(|number| number.to_string()).join("/");
    let limit = |limit: Option<NonZeroU64>| limit.map_or(0, NonZeroU64::get);
    let DiskShape { capacity, can_discard, can_erase, serial, .. } = shape;
    format!(
        "capacity={capacity},topology={topology},discard={},erase={},serial={},read-only={},queues={},\
         iops={},bps={},stop={}",
        u8::from(*can_discard),
        u8::from(*can_erase),
        hex(serial.as_bytes()),
        u8::from(options.read_only),
        options.queues,
        limit(options.limits.iops),
        limit(options.limits.bps),
        u8::from(options.on_error == OnError::Stop),
    )
}

fn net(options: &NetOptions, abilities: Abilities) -> String {
    let Abilities { sends, receives, mtu, pairs } = abilities;
    let number = |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
    format!(
        "mac={},own-mtu={},speed={},sends={},receives={},mtu={},pairs={pairs}",
        hex(&options.mac.0),
        number(options.mtu.map(u32::from)),
        number(options.speed),
        bits(sends),
        bits(receives),
        number(mtu.map(u32::from)),
    )
}

/// One digit for each.
fn bits(offloads: Offloads) -> String {
    let Offloads { csum, tso4, tso6, ecn, ufo, uso4, uso6 } = offloads;
    [csum, tso4, tso6, ecn, ufo, uso4, uso6].map(|bit| if bit { '1' } else { '0' }).iter().collect()
}

fn offloads(bits: &str) -> Option<Offloads> {
    let bits: Vec<bool> = bits.chars().map(|bit| bit == '1').collect();
    let [csum, tso4, tso6, ecn, ufo, uso4, uso6] = *bits.as_slice() else { return None };
    Some(Offloads { csum, tso4, tso6, ecn, ufo, uso4, uso6 })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect()
}

fn text(hex: &str) -> Option<String> {
    String::from_utf8(bytes(hex)?).ok()
}

/// The most of each kind that a machine has, whatever a file says.
const MOST: usize = 256;

impl Devices {
    /// Those of a recording; or which setting makes no sense.
    pub(crate) fn of(meta: &Meta) -> Result<Self, String> {
        let mut devices = Self::default();
        for disk in each(meta, DISK, |words| Some((words.disk()?, words.shape()?)))? {
            devices.disks.push(disk.0);
            devices.stand_ins.disks.push(disk.1);
        }
        for net in each(meta, NET, |words| Some((words.net()?, words.abilities()?)))? {
            devices.nets.push(net.0);
            devices.stand_ins.nets.push(net.1);
        }
        devices.shares = each(meta, SHARE, |words| {
            // As long as a tag can be.
            let tag =
                text(words.0).filter(|tag| (1..=trapline_ninep::TAG_LEN).contains(&tag.len()))?;
            Some(ShareOptions::new(PathBuf::new(), tag))
        })?;
        devices.ports = each(meta, PORT, |words| {
            // Nobody opens it.
            Some(PortOptions { name: text(words.0)?, outlet: Outlet::File(PathBuf::new()) })
        })?;
        let file =
            |words: Words<'_>| Some((text(words.word("name")?)?, bytes(words.word("bytes")?)?));
        devices.fw_cfg = each(meta, FW_CFG, file)?;
        devices.virtio_console = meta.setting(CONSOLE).is_some();
        devices.vsock =
            number(meta, VSOCK)?.map(|cid| VsockOptions { cid, socket: PathBuf::new() });
        devices.rng = meta.setting(RNG).is_some();
        devices.balloon = number(meta, BALLOON)?;
        devices.edu = number(meta, EDU)?.unwrap_or(0);
        devices.virtio = transports(meta)?;
        Ok(devices)
    }
}

/// What a setting says, if it is there.
fn number<T: std::str::FromStr>(meta: &Meta, name: &str) -> Result<Option<T>, String> {
    let parse = |value: &str| value.parse().map_err(|_| wrong(name, value));
    meta.setting(name).map(parse).transpose()
}

fn wrong(name: &str, value: &str) -> String {
    format!("its setting {name} makes no sense: {value:?}")
}

/// What the settings of this name and a number say, up to the first number that is not there.
fn each<T>(
    meta: &Meta,
    name: &str,
    parse: impl Fn(Words<'_>) -> Option<T>,
) -> Result<Vec<T>, String> {
    let names = (0..MOST).map(|n| format!("{name}{n}"));
    let values = names.map_while(|name| meta.setting(&name).map(|value| (name.clone(), value)));
    values.map(|(name, value)| parse(Words(value)).ok_or_else(|| wrong(&name, value))).collect()
}

fn transports(meta: &Meta) -> Result<VirtioTransports, String> {
    let transport = |name: &str, value: &str| {
        let mut all = VirtioTransport::ALL.into_iter();
        all.find(|transport| transport.name() == value).ok_or_else(|| wrong(name, value))
    };
    let others = meta.setting(VIRTIO).map(|value| transport(VIRTIO, value)).transpose()?;
    let prefix = format!("{VIRTIO}:");
    let named = meta.settings.iter().filter_map(|(name, value)| {
        let of = name.strip_prefix(&prefix)?;
        Some(transport(name, value).map(|transport| (of.to_owned(), transport)))
    });
    let named = named.collect::<Result<_, _>>()?;
    Ok(VirtioTransports { others: others.unwrap_or_default(), named })
}

/// Words `key=value`.
#[derive(Clone, Copy)]
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn word(self, key: &str) -> Option<&'a str> {
        let mut words = self.0.split(',').filter_map(|word| word.split_once('='));
        words.find(|(of, _)| *of == key).map(|(_, value)| value)
    }

    fn number<T: std::str::FromStr>(self, key: &str) -> Option<T> {
        self.word(key)?.parse().ok()
    }

    /// A number, or nothing.
    fn optional<T: std::str::FromStr>(self, key: &str) -> Option<Option<T>> {
        match self.word(key)? {
            "" => Some(None),
            value => Some(Some(value.parse().ok()?)),
        }
    }

    fn flag(self, key: &str) -> Option<bool> {
        Some(self.number::<u8>(key)? != 0)
    }

    fn disk(self) -> Option<DiskOptions> {
        let queues = self.number("queues")?;
        if !(1..=trapline_block::QUEUES_MAX).contains(&queues) {
            return None;
        }
        let on_error = if self.flag("stop")? { OnError::Stop } else { OnError::Report };
        let limit = |key| Some(NonZeroU64::new(self.number(key)?));
        Some(DiskOptions {
            read_only: self.flag("read-only")?,
            queues,
            limits: Limits { iops: limit("iops")?, bps: limit("bps")? },
            on_error,
            ..DiskOptions::new(PathBuf::new())
        })
    }

    fn shape(self) -> Option<DiskShape> {
        let numbers =
            self.word("topology")?.split('/').map(str::parse).collect::<Result<Vec<_>, _>>();
        // Each but the best size of a request is what something is a multiple of.
        let numbers: [u32; 5] = numbers.ok()?.try_into().ok()?;
        let sizes = [0, 1, 2, 4].map(|at| numbers.get(at).copied().unwrap_or(0));
        let possible = sizes.iter().all(|size| size.is_power_of_two() && *size >= 512);
        let best = numbers.get(3).is_some_and(|best| *best == 0 || best.is_power_of_two());
        (possible && best).then_some(())?;
        Some(DiskShape {
            capacity: self.number("capacity")?,
            topology: Topology::of_numbers(numbers),
            can_discard: self.flag("discard")?,
            // Recordings that say nothing of it are of before there was any.
            can_erase: self.word("erase").is_some() && self.flag("erase")?,
            serial: text(self.word("serial")?)?,
        })
    }

    fn net(self) -> Option<NetOptions> {
        let mac = bytes(self.word("mac")?)?.try_into().ok()?;
        Some(NetOptions {
            mac: Mac(mac),
            mtu: self.optional("own-mtu")?,
            speed: self.optional("speed")?,
            ..NetOptions::new(0, NetMode::Nobody)
        })
    }

    fn abilities(self) -> Option<Abilities> {
        Some(Abilities {
            sends: offloads(self.word("sends")?)?,
            receives: offloads(self.word("receives")?)?,
            mtu: self.optional("mtu")?,
            pairs: self.number("pairs")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(settings: Vec<Setting>) -> Meta {
        Meta { settings, ..Meta::default() }
    }

    #[test]
    fn disks_and_cards_are_read_as_they_are_written() {
        let options = DiskOptions {
            read_only: true,
            queues: 3,
            limits: Limits { iops: NonZeroU64::new(7), bps: None },
            on_error: OnError::Stop,
            ..DiskOptions::new(PathBuf::new())
        };
        let shape = DiskShape {
            capacity: 1 << 30,
            topology: Topology::of_numbers([512, 4096, 4096, 0, 4096]),
            can_discard: true,
            can_erase: true,
            serial: "a,b=c".to_owned(),
        };
        let card =
            NetOptions { mtu: Some(9000), speed: None, ..NetOptions::new(3, NetMode::Nobody) };
        let sends = Offloads { csum: true, uso6: true, ..Offloads::NONE };
        let abilities = Abilities { sends, receives: Offloads::ALL, mtu: None, pairs: 2 };
        let read = Devices::of(&meta(vec![
            ("disk0".to_owned(), disk(&options, &shape)),
            ("net0".to_owned(), net(&card, abilities)),
            ("9p0".to_owned(), hex(b"tag")),
            ("virtio".to_owned(), "mmio".to_owned()),
            ("vsock".to_owned(), "3".to_owned()),
            ("virtio:rng".to_owned(), "pci-legacy".to_owned()),
            ("fw_cfg0".to_owned(), format!("name={},bytes={}", hex(b"opt/x"), hex(&[0, 255]))),
        ]));
        let read = read.unwrap();
        assert_eq!((&read.disks, &read.stand_ins.disks), (&vec![options], &vec![shape]));
        assert_eq!((&read.nets, &read.stand_ins.nets), (&vec![card], &vec![abilities]));
        assert_eq!(
            (read.shares[0].tag.as_str(), read.virtio.of("rng").name()),
            ("tag", "pci-legacy")
        );
        assert_eq!(read.virtio.of("disk0").name(), "mmio");
        assert_eq!(read.vsock.map(|vsock| vsock.cid), Some(3));
        assert_eq!(read.fw_cfg, [("opt/x".to_owned(), vec![0, 255])]);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let wrong = [
            ("disk0", "capacity=x"),
            (
                "disk0",
                "capacity=1,topology=0/1/2/3/4,discard=0,serial=,read-only=0,queues=1,iops=0,bps=0,stop=0",
            ),
            ("net0", "mac=00"),
            ("9p0", ""),
            ("9p0", "f"),
            ("fw_cfg0", "name=zz,bytes="),
            ("balloon", "-1"),
            ("vsock", "x"),
            ("edu", "300"),
            ("virtio:rng", "usb"),
        ];
        for (name, value) in wrong {
            let said = Devices::of(&meta(vec![(name.to_owned(), value.to_owned())])).unwrap_err();
            assert!(said.contains(name) && said.contains("makes no sense"), "{said}");
        }
        assert_eq!(Devices::of(&meta(Vec::new())).unwrap(), Devices::default());
    }
}
