//! `-n`, `--network`: a network card, in kvmtool's words and a few of our own.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{anyhow, ensure};
use trapline_machine::card::PAIRS_MAX;
use trapline_machine::net::{
    Addresses, Forward, Mac, NetMode, NetOptions, TapOptions, TapSource, UserBackend,
    UserNetOptions, UserOptions,
};
use trapline_machine::{VirtioTransport, VirtioTransports};

use super::{commas, units, virtio};

/// The most cards of a guest.
const CARDS_MAX: usize = 16;

/// The host's address on a tap that is made, unless it is told another: kvmtool's.
const HOST_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 33, 1);

/// The least that IPv4 has of a packet.
const MTU_MIN: u64 = 68;

/// The cards, in the user's order. What one says of its transport goes to `transports`, where
/// `--virtio-transport` has the last word. As in kvmtool, `mode=none` anywhere means no card at all.
///
/// # Errors
/// What is wrong, as one sentence.
pub(super) fn cards(
    options: &[String],
    transports: &mut VirtioTransports,
) -> anyhow::Result<Vec<NetOptions>> {
    let said = options.iter().map(|text| {
        let said = Said::new(text);
        said.map_err(|reason| anyhow!("-n {text}: {reason}"))
    });
    let said = said.collect::<Result<Vec<_>, _>>()?;
    if said.iter().any(|said| said.mode == Mode::None) {
        return Ok(Vec::new());
    }
    ensure!(said.len() <= CARDS_MAX, "-n: a guest can have at most {CARDS_MAX} network cards");
    let mut cards = Vec::new();
    for ((number, said), text) in (0..).zip(said).zip(options) {
        if let Some(transport) = said.transport {
            transports.named.insert(0, (format!("net{number}"), transport));
        }
        cards.push(said.card(number).map_err(|reason| anyhow!("-n {text}: {reason}"))?);
    }
    Ok(cards)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// As in kvmtool, for who says something else of a card.
    #[default]
    Tap,
    User,
    None,
}

/// What was said of one card.
#[derive(Debug, Default)]
struct Said {
    mode: Mode,
    transport: Option<VirtioTransport>,
    tap: Option<String>,
    fd: Option<i32>,
    script: Option<PathBuf>,
    downscript: Option<PathBuf>,
    guest_mac: Option<Mac>,
    host_mac: Option<Mac>,
    host_ip: Option<Ipv4Addr>,
    guest_ip: Option<Ipv4Addr>,
    forwards: Vec<Forward>,
    backend: Option<UserBackend>,
    vhost: bool,
    pairs: Option<u16>,
    mtu: Option<u16>,
    speed: Option<u32>,
    pcap: Option<PathBuf>,
}

impl Said {
    fn new(text: &str) -> Result<Self, String> {
        let mut said = Self::default();
        for part in commas::split(text.as_bytes()).into_iter().filter(|part| !part.is_empty()) {
            let part = String::from_utf8_lossy(&part).into_owned();
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part} is no network parameter with a value"))?;
            said.set(key, value)?;
        }
        Ok(said)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "mode" => self.mode = mode(value)?,
            "trans" => self.transport = Some(virtio::transport(value)?),
            "tapif" => self.tap = Some(value.to_owned()),
            "fd" => self.fd = Some(number(key, value, 0..=i32::MAX.unsigned_abs().into())?),
            "script" => self.script = script(value),
            "downscript" => self.downscript = script(value),
            "guest_mac" => self.guest_mac = Some(mac(key, value)?),
            "host_mac" => self.host_mac = Some(mac(key, value)?),
            "host_ip" => self.host_ip = Some(ip(key, value)?),
            "guest_ip" => self.guest_ip = Some(ip(key, value)?),
            "backend" => self.backend = Some(backend(value)?),
            "hostfwd" => self.forwards.push(forward(key, value)?),
            "vhost" => self.vhost = number::<u64>(key, value, 0..=1)? == 1,
            "mq" => self.pairs = Some(number(key, value, 1..=PAIRS_MAX.into())?),
            "mtu" => self.mtu = Some(number(key, value, MTU_MIN..=u16::MAX.into())?),
            "speed" => self.speed = Some(number(key, value, 0..=i32::MAX.unsigned_abs().into())?),
            "pcap" => self.pcap = Some(value.into()),
            _ => {
                return Err(format!(
                    "{key} is none of mode, trans, tapif, fd, script, downscript, guest_mac, \
                     host_mac, guest_ip, host_ip, backend, hostfwd, vhost, mq, mtu, speed and pcap"
                ));
            }
        }
        Ok(())
    }

    /// The card with this number.
    fn card(self, number: u8) -> Result<NetOptions, String> {
        if self.vhost {
            return Err("vhost=1: vhost-net does not exist yet in this version".to_owned());
        }
        let mode = match self.mode {
            Mode::User => NetMode::User(self.user(number)?),
            Mode::Tap | Mode::None => NetMode::Tap(self.tap()?),
        };
        let card = NetOptions::new(number, mode);
        let mac = self.guest_mac.unwrap_or(card.mac);
        Ok(NetOptions { mac, mtu: self.mtu, speed: self.speed, pcap: self.pcap, ..card })
    }

    fn tap(&self) -> Result<TapOptions, String> {
        if !self.forwards.is_empty() {
            return Err(
                "hostfwd: who can reach the host can reach a tap; it is of mode=user".to_owned()
            );
        }
        if self.backend.is_some() {
            return Err("backend is of mode=user".to_owned());
        }
        let pairs = self.pairs.unwrap_or(1);
        if self.fd.is_some() && pairs > 1 {
            return Err("mq: a tap with fd= has one pair of queues".to_owned());
        }
        let source = match (self.fd, &self.tap) {
            (Some(_), Some(_)) => return Err("it can be one of fd= and tapif= only".to_owned()),
            (Some(fd), None) => TapSource::Fd(fd),
            (None, Some(name)) => TapSource::Named(name.clone()),
            (None, None) => TapSource::New(self.host_ip.unwrap_or(HOST_IP).octets()),
        };
        let (script, downscript) = (self.script.clone(), self.downscript.clone());
        Ok(TapOptions { source, pairs, script, downscript, host_mac: self.host_mac })
    }

    /// The network of the card with this number. Each has another by default.
    fn user(&self, number: u8) -> Result<UserOptions, String> {
        let of_taps = [
            (self.fd.is_some(), "fd"),
            (self.tap.is_some(), "tapif"),
            (self.script.is_some(), "script"),
            (self.downscript.is_some(), "downscript"),
            (self.pairs.is_some_and(|pairs| pairs > 1), "mq"),
        ];
        if let Some((_, key)) = of_taps.into_iter().find(|(said, _)| *said) {
            return Err(format!("{key} is of mode=tap"));
        }
        let mut addresses = Addresses::new(number);
        if let Some(Mac(mac)) = self.host_mac {
            addresses.host_mac = mac;
        }
        if let Some(host) = self.host_ip {
            // In the same network, unless that is said, too.
            addresses.guest = (host & Addresses::mask()) | (addresses.guest & !Addresses::mask());
            addresses.host = host;
        }
        addresses.guest = self.guest_ip.unwrap_or(addresses.guest);
        if !addresses.are_possible() {
            let Addresses { host, guest, .. } = addresses;
            return Err(format!(
                "host_ip={host} and guest_ip={guest} are no two hosts of one network of 256"
            ));
        }
        let network = UserNetOptions { addresses, forwards: self.forwards.clone() };
        Ok(UserOptions { network, backend: self.backend.unwrap_or_default() })
    }
}

fn mode(value: &str) -> Result<Mode, String> {
    match value {
        "tap" => Ok(Mode::Tap),
        "user" => Ok(Mode::User),
        "none" => Ok(Mode::None),
        _ => Err(format!("mode={value} is none of user, tap and none")),
    }
}

fn backend(value: &str) -> Result<UserBackend, String> {
    match value {
        "passt" => Ok(UserBackend::Passt),
        "embedded" => Ok(UserBackend::Embedded),
        _ => Err(format!("backend={value} is none of passt and embedded")),
    }
}

/// As in kvmtool, `none` is no script.
fn script(value: &str) -> Option<PathBuf> {
    (value != "none" && !value.is_empty()).then(|| value.into())
}

fn mac(key: &str, value: &str) -> Result<Mac, String> {
    value.parse().map_err(|error| format!("{key}={value} is {error}"))
}

fn ip(key: &str, value: &str) -> Result<Ipv4Addr, String> {
    value.parse().map_err(|_| format!("{key}={value} is no IPv4 address"))
}

fn forward(key: &str, value: &str) -> Result<Forward, String> {
    value.parse().map_err(|error| format!("{key}={value} is {error}"))
}

fn number<N: TryFrom<u64>>(
    key: &str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<N, String> {
    let wrong = || format!("{key}={value} is no number from {} to {}", range.start(), range.end());
    let number = units::count(value).ok().filter(|number| range.contains(number));
    number.and_then(|number| N::try_from(number).ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Result<(Vec<NetOptions>, VirtioTransports), String> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let mut transports = VirtioTransports::default();
        let cards = cards(&texts, &mut transports).map_err(|error| error.to_string())?;
        Ok((cards, transports))
    }

    fn tap(source: TapSource) -> TapOptions {
        TapOptions { source, pairs: 1, script: None, downscript: None, host_mac: None }
    }

    #[test]
    fn kvmtools_words_and_ours() {
        let all = "mode=tap,trans=mmio,tapif=tap7,script=/a,,b,downscript=/c,guest_mac=2:0:0:0:0:1,\
                   host_mac=2:0:0:0:0:2,vhost=0,mq=4,mtu=9000,speed=1000,pcap=/d,guest_ip=10.0.0.2";
        let (cards, transports) =
            parse(&["mode=tap", all, "fd=7,script=none", "host_ip=10.1.2.3"]).unwrap();
        let plain = |n, source| NetOptions::new(n, NetMode::Tap(tap(source)));
        let said = TapOptions {
            pairs: 4,
            script: Some("/a,b".into()),
            downscript: Some("/c".into()),
            host_mac: Some(Mac([2, 0, 0, 0, 0, 2])),
            ..tap(TapSource::Named("tap7".to_owned()))
        };
        let second = NetOptions {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: Some(9000),
            speed: Some(1000),
            pcap: Some("/d".into()),
            mode: NetMode::Tap(said),
        };
        let new = |ip| TapSource::New(ip);
        let expected = [
            plain(0, new([192, 168, 33, 1])),
            second,
            plain(2, TapSource::Fd(7)),
            plain(3, new([10, 1, 2, 3])),
        ];
        assert_eq!(cards, expected);
        assert_eq!(transports.named, [("net1".to_owned(), VirtioTransport::Mmio)]);
        assert_eq!(parse(&["mode=tap", "mode=none"]).unwrap().0, []);
        assert_eq!(parse(&["mode=user,mode=tap", ""]).unwrap().0.len(), 2, "the last word counts");
    }

    #[test]
    fn networks_without_rights() {
        let user = |text: &str| match parse(&[text]).unwrap().0.remove(0).mode {
            NetMode::User(options) => options.network,
            other => panic!("{other:?}"),
        };
        let plain = UserNetOptions { addresses: Addresses::new(0), forwards: vec![] };
        assert_eq!(user("mode=user"), plain);
        let said = user(
            "mode=user,host_ip=10.1.2.3,host_mac=2:0:0:0:0:9,hostfwd=tcp:8022:22,\
             hostfwd=udp:0.0.0.0:53:53",
        );
        assert_eq!(said.addresses.host, Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(said.addresses.guest, Ipv4Addr::new(10, 1, 2, 15));
        assert_eq!(said.addresses.host_mac, [2, 0, 0, 0, 0, 9]);
        let forwards = ["tcp:127.0.0.1:8022:22", "udp:0.0.0.0:53:53"];
        let forwards: Vec<Forward> = forwards.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(said.forwards, forwards);
        let guest = user("mode=user,guest_ip=192.168.33.99").addresses.guest;
        assert_eq!(guest, Ipv4Addr::new(192, 168, 33, 99));
        // A second card is in the next network.
        let (cards, _) = parse(&["mode=user", "mode=user"]).unwrap();
        let second = UserNetOptions { addresses: Addresses::new(1), forwards: vec![] };
        assert_eq!(cards[1].mode, NetMode::User(UserOptions::new(second)));
        let (cards, _) = parse(&["mode=user,backend=passt", "mode=user,backend=embedded"]).unwrap();
        for (card, wanted) in cards.iter().zip([UserBackend::Passt, UserBackend::Embedded]) {
            assert!(matches!(&card.mode, NetMode::User(options) if options.backend == wanted));
        }
        let said = parse(&["mode=user,hostfwd=tcp:22"]).unwrap_err();
        let start = "-n mode=user,hostfwd=tcp:22: hostfwd=tcp:22 is no forwarded port: write ";
        assert!(said.starts_with(start), "{said}");
    }

    #[test]
    fn mistakes_are_one_sentence_each() {
        for (text, said) in [
            ("mode=bridge", "mode=bridge is none of user, tap and none"),
            ("backend=passt", "backend is of mode=user"),
            ("mode=user,backend=slirp", "backend=slirp is none of passt and embedded"),
            ("mode=user,mq=2", "mq is of mode=tap"),
            ("mode=user,tapif=a", "tapif is of mode=tap"),
            (
                "mode=user,guest_ip=10.0.0.2",
                "host_ip=192.168.33.1 and guest_ip=10.0.0.2 are no two hosts of one network of 256",
            ),
            (
                "hostfwd=tcp:1:2",
                "hostfwd: who can reach the host can reach a tap; it is of mode=user",
            ),
            ("vhost=1", "vhost=1: vhost-net does not exist yet in this version"),
            ("vhost=2", "vhost=2 is no number from 0 to 1"),
            ("tap", "tap is no network parameter with a value"),
            ("mq=0", "mq=0 is no number from 1 to 16"),
            ("mq=17", "mq=17 is no number from 1 to 16"),
            ("fd=3,mq=2", "mq: a tap with fd= has one pair of queues"),
            ("fd=3,tapif=a", "it can be one of fd= and tapif= only"),
            ("fd=-1", "fd=-1 is no number from 0 to 2147483647"),
            ("mtu=67", "mtu=67 is no number from 68 to 65535"),
            ("host_ip=1.2.3", "host_ip=1.2.3 is no IPv4 address"),
            ("guest_ip=x", "guest_ip=x is no IPv4 address"),
            (
                "guest_mac=1:0:0:0:0:0",
                "guest_mac=1:0:0:0:0:0 is no address of a network card: write six octets as in \
                 02:15:15:15:15:15",
            ),
        ] {
            assert_eq!(parse(&[text]).unwrap_err(), format!("-n {text}: {said}"));
        }
        let said = parse(&["trans=isa"]).unwrap_err();
        assert!(said.starts_with("-n trans=isa: isa is not one of pci, "), "{said}");
        let said = parse(&["mac=2"]).unwrap_err();
        assert!(said.starts_with("-n mac=2: mac is none of mode, trans, "), "{said}");
        let said = parse(&["mode=tap"; 17]).unwrap_err();
        assert_eq!(said, "-n: a guest can have at most 16 network cards");
    }
}
