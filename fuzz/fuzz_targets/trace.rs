//! Recordings made of whatever bytes the fuzzer finds: `cargo +nightly fuzz run trace`.
//!
//! The first byte says whether the rest is a file, or chunks whose lengths and checksums are put
//! right, so that what is in them is read.

#![no_main]
#![forbid(unsafe_code)]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use trapline_trace::chunk::{Codec, Header, Kind};
use trapline_trace::{Error, Meta, Reader, Sites, Writer};

fuzz_target!(|bytes: &[u8]| {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let _complaint = if how & 1 == 0 { read(bytes) } else { read(&chunks(bytes)) };
});

/// Reads all there is.
fn read(file: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::open(Cursor::new(file))?;
    for number in 0..8 {
        let _blob = reader.blob(number);
        let _state = reader.state(number);
    }
    let mut sites = Sites::new(reader.map());
    let mut merged = reader.merged()?;
    while let Some(event) = merged.next()? {
        if let Some(site) = sites.of(&event).and_then(|site| sites.get(site)) {
            let _words = (site.name(), site.decode(event.record.value), sites.address(site));
        }
        assert!(event.data.len() <= 1 << 20, "a string of {} bytes", event.data.len());
    }
    let (read, all) = merged.progress();
    assert_eq!(read, all, "places are left at the end");
    Ok(())
}

/// A recording of chunks: a kind, a codec, a stream, a number of records, a length and as many bytes.
fn chunks(mut bytes: &[u8]) -> Vec<u8> {
    // A writer begins it, with a description; the fuzzer hardly would.
    let mut file = Vec::new();
    if Writer::new(&mut file, &Meta::default()).is_err() {
        return file;
    }
    let mut number = 1;
    while let Some((&[kind, codec, stream, records, len], rest)) = bytes.split_first_chunk() {
        let (payload, rest) = rest.split_at(rest.len().min(len.into()));
        let kind = Kind::of(kind % 9);
        let length = payload.len() as u32;
        let records = if kind == Kind::Access { length / 16 } else { records.into() };
        let raw_len = if kind == Kind::Access { records * 16 } else { length };
        let header = Header {
            kind,
            codec: Codec::of(codec % 3),
            stream: stream.into(),
            records,
            raw_len,
            stored_len: length,
            first_time_ns: u64::from(stream) << 20,
            number,
        };
        file.extend(header.to_bytes(payload));
        file.extend(payload);
        (bytes, number) = (rest, number + 1);
    }
    file
}
