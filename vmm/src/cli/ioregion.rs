//! `--ioregion`: regions that another process answers; `--isolate`: devices in processes of their own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use trapline_device::Space;
use trapline_machine::{IoRegion, IoRegionFeatures, OnDeath, Socket};

use super::{commas, units};

/// Understands each of `pio=PORT|mmio=ADDRESS,len=BYTES,socket=PATH` with its options, where two commas
/// are one of the path's own.
pub(super) fn ioregions(options: &[OsString]) -> anyhow::Result<Vec<IoRegion>> {
    options.iter().map(|option| ioregion(option)).collect()
}

/// What of a region has been said.
#[derive(Default)]
struct Said {
    place: Option<(Space, u64)>,
    len: Option<u64>,
    path: Option<PathBuf>,
    seqpacket: bool,
    features: IoRegionFeatures,
    posted: bool,
    fast: bool,
    user_data: u64,
    datamatch: Option<u64>,
    on_death: OnDeath,
}

fn ioregion(option: &OsStr) -> anyhow::Result<IoRegion> {
    let option_text = format!("--ioregion {}", option.to_string_lossy());
    let mut said = Said::default();
    for part in commas::split(option.as_bytes()) {
        said.take(&option_text, &part)?;
    }
    let (space, base) = said.place.with_context(|| {
        format!("{option_text}: where is it? Add pio= and a port, or mmio= and an address")
    })?;
    let path = said.path.with_context(|| {
        format!("{option_text}: who answers? Add socket= and the path of a UNIX socket")
    })?;
    let len = said.len.with_context(|| format!("{option_text}: len= and its bytes are missing"))?;
    let last = base.checked_add(len.max(1) - 1).filter(|last| *last <= space.last());
    ensure!(last.is_some(), "{option_text}: it runs past {:#x}", space.last());
    ensure!(
        len > 0 || said.posted || said.fast,
        "{option_text}: a region of no bytes has to be posted or fast"
    );
    ensure!(!said.fast || space == Space::Mmio, "{option_text}: fast is for mmio= only");
    if let Some(value) = said.datamatch {
        ensure!(!said.fast, "{option_text}: fast passes no value on, so datamatch= has none");
        ensure!(
            matches!(len, 1 | 2 | 4 | 8),
            "{option_text}: a region with datamatch= has 1, 2, 4 or 8 bytes"
        );
        let fits = value <= u64::MAX >> (64 - 8 * len);
        ensure!(fits, "{option_text}: datamatch={value:#x} does not fit in {len} bytes");
    }
    let Said { seqpacket, features, posted, fast, user_data, datamatch, on_death, .. } = said;
    let socket = Socket { path, seqpacket, features, on_death };
    Ok(IoRegion { space, base, len, socket, posted, fast, user_data, datamatch })
}

impl Said {
    fn take(&mut self, option: &str, part: &[u8]) -> anyhow::Result<()> {
        if let Some(path) = part.strip_prefix(b"socket=") {
            ensure!(!path.is_empty(), "{option}: the path is missing");
            self.path = Some(PathBuf::from(OsString::from_vec(path.to_vec())));
            return Ok(());
        }
        let text = String::from_utf8_lossy(part);
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        let number = || units::number(&format!("{option}: {key}="), value);
        match (key, value) {
            ("pio", _) => self.place = Some((Space::Pio, number()?)),
            ("mmio", _) => self.place = Some((Space::Mmio, number()?)),
            ("len", _) => self.len = Some(number()?),
            ("user_data", _) => self.user_data = number()?,
            ("datamatch", _) => self.datamatch = Some(number()?),
            ("posted", "") => self.posted = true,
            ("fast", "") => self.fast = true,
            ("ids", "") => self.features = self.features.or(IoRegionFeatures::IDS),
            ("ring", "") => self.features = self.features.or(IoRegionFeatures::RING),
            ("type", "stream") => self.seqpacket = false,
            ("type", "seqpacket") => self.seqpacket = true,
            ("type", _) => bail!("{option}: type={value} is not one of stream and seqpacket"),
            ("when-dead", "ones") => self.on_death = OnDeath::AllOnes,
            ("when-dead", "stop") => self.on_death = OnDeath::StopVm,
            ("when-dead", "reconnect") => self.on_death = OnDeath::Reconnect,
            ("when-dead", _) => {
                bail!("{option}: when-dead={value} is not one of ones, stop and reconnect")
            }
            _ => bail!(
                "{option}: {text} is none of pio=, mmio=, len=, socket=, type=, posted, fast, \
                 user_data=, datamatch=, ids, ring and when-dead="
            ),
        }
        Ok(())
    }
}

/// Understands the words of `--isolate`: devices, and what happens when one dies.
pub(super) fn isolate(words: &[String]) -> anyhow::Result<(Vec<String>, OnDeath)> {
    let (mut devices, mut on_death) = (Vec::new(), OnDeath::Reconnect);
    for word in words {
        match word.split_once('=') {
            Some(("when-dead", "restart")) => on_death = OnDeath::Reconnect,
            Some(("when-dead", "ones")) => on_death = OnDeath::AllOnes,
            Some(("when-dead", "stop")) => on_death = OnDeath::StopVm,
            Some(("when-dead", value)) => {
                bail!("--isolate: when-dead={value} is not one of restart, ones and stop")
            }
            Some(_) => bail!("--isolate {word}: neither a device nor when-dead="),
            None if word.is_empty() => bail!("--isolate: the name of a device is missing"),
            None => {
                ensure!(!devices.contains(word), "--isolate {word}: it is named twice");
                devices.push(word.clone());
            }
        }
    }
    let said = words.is_empty() || !devices.is_empty();
    ensure!(said, "--isolate: when-dead= of which device? Add serial0, rtc, i8042 or crt");
    Ok((devices, on_death))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<IoRegion, String> {
        ioregion(OsStr::new(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_region_has_a_place_a_length_and_somebody_who_answers() {
        let features = IoRegionFeatures::NONE;
        let socket =
            Socket { path: "/a,b".into(), seqpacket: false, features, on_death: OnDeath::AllOnes };
        let plain = IoRegion {
            space: Space::Pio,
            base: 0x3f8,
            len: 8,
            socket: socket.clone(),
            posted: false,
            fast: false,
            user_data: 0,
            datamatch: None,
        };
        assert_eq!(parse("pio=0x3f8,len=8,socket=/a,,b").unwrap(), plain);
        let all = "mmio=0x10000,len=4,socket=/s,posted,user_data=7,datamatch=0xffffffff,\
                   type=seqpacket,ring,ids,when-dead=reconnect";
        let path = "/s".into();
        let features = IoRegionFeatures::ALL;
        let socket = Socket { path, seqpacket: true, features, on_death: OnDeath::Reconnect };
        let (space, base, len, user_data) = (Space::Mmio, 0x10000, 4, 7);
        let datamatch = Some(0xffff_ffff);
        let expected =
            IoRegion { space, base, len, socket, posted: true, fast: false, user_data, datamatch };
        assert_eq!(parse(all).unwrap(), expected);
        assert!(parse("mmio=0x10000,len=0,fast,socket=/s,when-dead=stop").unwrap().fast);
        assert_eq!(parse("pio=0xffff,len=1,socket=/s").unwrap().base, 0xffff);
    }

    #[test]
    fn mistakes_are_one_sentence_each() {
        for (text, said) in [
            (
                "",
                " is none of pio=, mmio=, len=, socket=, type=, posted, fast, user_data=, datamatch=, ids, ring and when-dead=",
            ),
            ("len=8,socket=/s", "where is it? Add pio= and a port, or mmio= and an address"),
            ("pio=1,len=8", "who answers? Add socket= and the path of a UNIX socket"),
            ("pio=1,socket=/s", "len= and its bytes are missing"),
            ("pio=1,len=8,socket=", "the path is missing"),
            ("pio=0xffff,len=2,socket=/s", "it runs past 0xffff"),
            ("mmio=0xffffffffffffffff,len=2,socket=/s", "it runs past 0xffffffffffffffff"),
            ("mmio=1,len=0,socket=/s", "a region of no bytes has to be posted or fast"),
            ("pio=1,len=1,fast,socket=/s", "fast is for mmio= only"),
            (
                "mmio=1,len=1,fast,datamatch=1,socket=/s",
                "fast passes no value on, so datamatch= has none",
            ),
            (
                "mmio=1,len=3,datamatch=1,socket=/s",
                "a region with datamatch= has 1, 2, 4 or 8 bytes",
            ),
            ("mmio=1,len=1,datamatch=256,socket=/s", "datamatch=0x100 does not fit in 1 bytes"),
            ("type=dgram", "type=dgram is not one of stream and seqpacket"),
            ("when-dead=cry", "when-dead=cry is not one of ones, stop and reconnect"),
            (
                "posted=1",
                "posted=1 is none of pio=, mmio=, len=, socket=, type=, posted, fast, user_data=, datamatch=, ids, ring and when-dead=",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), format!("--ioregion {text}: {said}"));
        }
        let wrong = parse("pio=x,len=8,socket=/s").unwrap_err();
        assert!(wrong.starts_with("--ioregion pio=x,len=8,socket=/s: pio="), "{wrong}");
    }

    #[test]
    fn devices_are_isolated_by_their_names_once_each() {
        let parse = |text: &str| {
            let words: Vec<String> = text.split(',').map(str::to_owned).collect();
            isolate(&words).map_err(|error| error.to_string())
        };
        assert_eq!(isolate(&[]).unwrap(), (Vec::new(), OnDeath::Reconnect));
        let both = (vec!["rtc".to_owned(), "serial0".to_owned()], OnDeath::StopVm);
        assert_eq!(parse("rtc,when-dead=stop,serial0"), Ok(both));
        assert_eq!(parse("crt,when-dead=ones").unwrap().1, OnDeath::AllOnes);
        for (text, said) in [
            ("rtc,rtc", "--isolate rtc: it is named twice"),
            ("rtc,", "the name of a device is missing"),
            ("when-dead=ones", "of which device?"),
            ("rtc,when-dead=never", "not one of restart, ones and stop"),
            ("rtc=1", "--isolate rtc=1: neither a device nor when-dead="),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
