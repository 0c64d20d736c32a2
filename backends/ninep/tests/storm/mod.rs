//! A client that says what bytes have it say: of the random test, and of a fuzz target.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use trapline_ninep::{Header, Payload, Server, Share, ShareOptions, kind};
use trapline_testkit::ninep::Field::{Bytes, Str, U16, U32};
use trapline_testkit::ninep::message;

/// Data of which there is always some.
struct Endless;

impl Payload for Endless {
    fn read(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32> {
        let mut bytes = vec![0; len.min(64) as usize];
        Ok(u32::try_from(rustix::io::pread(file, &mut bytes, offset)?).unwrap_or(0))
    }

    fn write(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> io::Result<u32> {
        // No file becomes large.
        let bytes = vec![b'x'; len.min(64) as usize];
        Ok(u32::try_from(rustix::io::pwrite(file, &bytes, offset % 4096)?).unwrap_or(0))
    }

    fn copy(&mut self, to: &mut [u8]) -> io::Result<()> {
        to.fill(b'x');
        Ok(())
    }
}

/// What is in the folder at first.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder for tests");
    fs::create_dir(dir.path().join("d")).expect("a folder");
    fs::write(dir.path().join("f"), "text").expect("a file");
    std::os::unix::fs::symlink("/", dir.path().join("l")).expect("a link");
    dir
}

/// Messages of a client that has attached, cut out of `bytes`: each has a type, a fid that may be
/// there, and fields that are anything, or names that may be there.
pub(crate) fn suffer(bytes: &[u8]) {
    let dir = folder();
    let server = Server::new(Share::open(&ShareOptions::new(dir.path(), "t")).expect("a share"));
    let say = |text: &[u8], room| {
        let answer = server.answer(text, &mut Endless, room);
        if let Some(answer) = answer {
            let header = Header::of(&answer.head).expect("a reply has a header");
            assert_eq!(header.size as usize, answer.len());
            assert!(answer.len() <= room as usize);
        }
    };
    say(&message(kind::TVERSION, 0, &[U32(8192), Str(b"9P2000.L")]), 8192);
    let attach = [U32(0), U32(u32::MAX), Str(b""), Str(b""), U32(u32::MAX)];
    say(&message(kind::TATTACH, 0, &attach), 8192);
    let mut rest = bytes;
    while let [kind, fid, names, len, after @ ..] = rest {
        let (fields, later) = after.split_at(usize::from(*len).min(after.len()));
        rest = later;
        // A session in which nothing is ever there would be a dull one.
        let kind = if *kind < 128 { *kind } else { 2 * (*kind - 128) };
        if kind == kind::TVERSION && fields.first().is_none_or(|byte| *byte > 10) {
            continue;
        }
        let name = |n: u8| Str([&b"d"[..], b"f", b"l", b".."][usize::from(n & 3)]);
        let all = match names & 0x30 {
            0 => vec![U32(u32::from(fid & 7)), Bytes(fields)],
            0x10 => vec![U32(u32::from(fid & 7)), name(*names), Bytes(fields)],
            0x20 => {
                let (from, to) = (U32(u32::from(fid & 7)), U32(u32::from(fid >> 4 & 7)));
                vec![from, to, U16(1), name(*names)]
            }
            _ => vec![Bytes(fields)],
        };
        say(&message(kind, 1, &all), if names & 0x40 == 0 { 8192 } else { u32::from(*fid) });
    }
}
