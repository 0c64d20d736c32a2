//! pcapng (draft-ietf-opsawg-pcapng): a section, an interface for each stream, and a packet for each
//! access, of the link type USER0, which is private. `trace/wireshark/trapline.lua` shows them.
//!
//! ```text
//! packet  direction 1 · width 1 · space 1 · outcome 1 · elements 4 · address 8 · first value 8 ·
//!         region, a zero, register, a zero, fields, a zero
//! ```

use std::collections::HashMap;
use std::io::{self, Write};

use trapline_access::{Direction, Space};

use super::{Access, Exporter};
use crate::{Meta, Stream};

/// LINKTYPE_USER0.
const LINK_TYPE: u16 = 147;
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// What tells the byte order of a section.
const ORDER: u32 = 0x1a2b_3c4d;
// Options.
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const SHB_USERAPPL: u16 = 4;

#[derive(Default)]
pub(super) struct Pcapng {
    interfaces: HashMap<Stream, u32>,
}

/// A block: its type, its length, its body, its length.
fn block(to: &mut dyn Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_le_bytes();
    to.write_all(&kind.to_le_bytes())?;
    to.write_all(&len)?;
    to.write_all(body)?;
    to.write_all(&len)
}

/// Appends bytes, and zeros up to a multiple of four.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&len.to_le_bytes());
    padded(body, value.get(..len.into()).unwrap_or(value));
}

impl Exporter for Pcapng {
    fn begin(&mut self, to: &mut dyn Write, meta: &Meta, streams: &[Stream]) -> io::Result<()> {
        let mut body = ORDER.to_le_bytes().to_vec();
        // Version 1.0, of a length that is not known before.
        body.extend([1, 0, 0, 0]);
        body.extend([0xff; 8]);
        option(&mut body, SHB_USERAPPL, crate::sites::clean(&meta.recorder).as_bytes());
        option(&mut body, 0, &[]);
        block(to, SECTION, &body)?;
        for (number, stream) in (0..).zip(streams) {
            let mut body = LINK_TYPE.to_le_bytes().to_vec();
            // Reserved, and no limit to a packet's length.
            body.extend([0; 6]);
            option(&mut body, IF_NAME, stream.to_string().as_bytes());
            // Times in units of 10^-9 s.
            option(&mut body, IF_TSRESOL, &[9]);
            option(&mut body, 0, &[]);
            block(to, INTERFACE, &body)?;
            self.interfaces.insert(*stream, number);
        }
        Ok(())
    }

    fn access(&mut self, to: &mut dyn Write, access: &Access<'_>) -> io::Result<()> {
        let (site, values) = (access.site, access.values());
        let first = values.first().copied().unwrap_or(0);
        let is_write = u8::from(site.direction == Direction::Write);
        let is_port = u8::from(site.space == Space::Pio);
        let width = u8::try_from(site.bytes).unwrap_or(0);
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let mut packet = vec![is_write, width, is_port, access.outcome() as u8];
        packet.extend(count.to_le_bytes());
        packet.extend(access.address.to_le_bytes());
        packet.extend(first.to_le_bytes());
        for text in [&site.region, &site.register, &site.decode(first)] {
            packet.extend(text.as_bytes());
            packet.push(0);
        }
        let interface = self.interfaces.get(&access.event.stream).copied().unwrap_or(0);
        let time = access.event.time_ns.to_le_bytes();
        let len = u32::try_from(packet.len()).map_err(io::Error::other)?.to_le_bytes();
        let mut body = interface.to_le_bytes().to_vec();
        let (low, high) = time.split_at(4);
        for part in [high, low, &len, &len] {
            body.extend_from_slice(part);
        }
        padded(&mut body, &packet);
        block(to, PACKET, &body)
    }
}
