use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use trapline_access::{DirtyBitmap, Memory};
use trapline_guestmem::GuestMem;

use super::*;

const RAM: u64 = 0x10_0000;

fn memory() -> GuestMem {
    GuestMem::new(&[(0, RAM), (0x20_0000, RAM)]).unwrap()
}

fn buffers(mem: &GuestMem, pieces: &[(u64, usize)]) -> Buffers {
    let mut buffers = Buffers::new(mem);
    pieces.iter().for_each(|&(addr, len)| buffers.push(addr, len).unwrap());
    buffers
}

/// A file of `len` bytes, each of which tells its offset.
fn file(len: usize) -> (Arc<std::fs::File>, Vec<u8>) {
    let bytes: Vec<u8> = (0..len).map(|at| (at / 512 + at * 7 % 251).to_le_bytes()[0]).collect();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    (Arc::new(file), bytes)
}

fn bytes(mem: &GuestMem, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read(addr, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_buffer_is_all_ram_or_it_is_none() {
    let mem = memory();
    let mut list = Buffers::new(&mem);
    assert!(list.push(RAM - 512, 513).is_err());
    assert!(list.push(0x1f_ffff, 1).is_err());
    assert!(list.push(u64::MAX, 2).is_err());
    assert!(list.push(0, usize::MAX).is_err());
    assert!(list.is_empty());
    list.push(RAM - 512, 512).unwrap();
    list.push(u64::MAX, 0).unwrap();
    assert_eq!((list.len(), list.slices().len()), (512, 1), "nothing at all is nowhere");
}

#[test]
fn reads_scatter_and_writes_gather_in_the_order_of_the_chain() {
    let (mem, (file, bytes_of_file)) = (memory(), file(4096));
    let mut list = buffers(&mem, &[(0x20_0100, 100), (0x10, 1), (0x3000, 923)]);
    assert_eq!(list.read_at(file.as_fd(), 512, Wait::Yes).unwrap(), 1024);
    assert!(list.is_empty());
    assert_eq!(bytes(&mem, 0x20_0100, 100), bytes_of_file[512..612]);
    assert_eq!(bytes(&mem, 0x10, 1), bytes_of_file[612..613]);
    assert_eq!(bytes(&mem, 0x3000, 923), bytes_of_file[613..1536]);

    let mut list = buffers(&mem, &[(0x3000, 100), (0x20_0100, 100)]);
    assert_eq!(list.write_at(file.as_fd(), 4096, Wait::Yes, true).unwrap(), 200);
    let mut back = [0; 200];
    file.read_exact_at(&mut back, 4096).unwrap();
    assert_eq!(back[..100], bytes_of_file[613..713]);
    assert_eq!(back[100..], bytes_of_file[512..612]);
}

#[test]
fn what_was_transferred_is_skipped_wherever_it_ends() {
    let (mem, (file, bytes_of_file)) = (memory(), file(700));
    let mut list = buffers(&mem, &[(0, 512), (0x1000, 512)]);
    assert_eq!(list.read_at(file.as_fd(), 0, Wait::Yes).unwrap(), 700);
    assert_eq!(list.len(), 324);
    assert_eq!(list.read_at(file.as_fd(), 700, Wait::Yes).unwrap(), 0, "the end");
    assert_eq!(list.read_at(file.as_fd(), 100, Wait::Yes).unwrap(), 324);
    assert_eq!(bytes(&mem, 0x1000, 188), bytes_of_file[512..700]);
    assert_eq!(bytes(&mem, 0x1000 + 188, 324), bytes_of_file[100..424]);
    let mut list = buffers(&mem, &[(0, 3), (8, 3), (16, 3)]);
    list.consume(6);
    assert_eq!((list.len(), list.slices().len()), (3, 1));
    list.consume(100);
    assert!(list.is_empty() && list.slices().is_empty());
}

#[test]
fn copies_go_through_the_pieces() {
    let mem = memory();
    let mut list = buffers(&mem, &[(0x100, 3), (0x200, 5)]);
    assert_eq!(list.fill_from(b"abcde"), 5);
    assert_eq!(list.len(), 3);
    assert_eq!(list.fill_from(b"fghij"), 3, "there is no room for more");
    assert_eq!(bytes(&mem, 0x200, 5), b"defgh");
    let mut list = buffers(&mem, &[(0x100, 3), (0x200, 5)]);
    let mut out = [0; 4];
    assert_eq!((list.copy_to(&mut out), &out), (4, b"abcd"));
    let mut out = [0; 9];
    assert_eq!((list.copy_to(&mut out), &out[..4]), (4, &b"efgh"[..]));
}

#[test]
fn alignment_is_that_of_every_piece() {
    let mem = memory();
    assert!(buffers(&mem, &[(0x1000, 512), (0x2200, 1024)]).is_aligned(512));
    assert!(!buffers(&mem, &[(0x1000, 512), (0x2200, 1024)]).is_aligned(1024));
    assert!(!buffers(&mem, &[(0x1000, 512), (0x2204, 512)]).is_aligned(512), "its address");
    assert!(!buffers(&mem, &[(0x1000, 508), (0x2200, 4)]).is_aligned(512), "its length");
}

#[test]
fn reads_mark_the_pages_they_wrote_and_no_others() {
    let mem = memory();
    let piece = &mem.pieces()[0];
    let taken = || {
        let mut pages = DirtyBitmap::new(piece.region().len, 4096);
        piece.take_written(&mut pages);
        pages.pages().collect::<Vec<u64>>()
    };
    piece.log_writes(true);
    let (file, _) = file(4097);
    let mut list = buffers(&mem, &[(0x1000, 4096), (0x4000, 4096), (0x8000, 4096)]);
    assert_eq!(list.read_at(file.as_fd(), 0, Wait::Yes).unwrap(), 4097);
    assert_eq!(taken(), [0x1000, 0x4000]);
    let mut list = buffers(&mem, &[(0x1000, 4096)]);
    list.write_at(file.as_fd(), 0, Wait::Yes, false).unwrap();
    assert!(taken().is_empty());
}

#[test]
fn a_file_that_cannot_be_written_says_so() {
    let mem = memory();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let mut list = buffers(&mem, &[(0, 512)]);
    let error = list.write_at(file.as_fd(), 0, Wait::Yes, false).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    assert_eq!(list.len(), 512, "nothing is skipped");
    assert!(list.read_at(file.as_fd(), u64::MAX, Wait::Yes).is_err());
}

#[test]
fn more_pieces_than_the_kernel_takes_are_left_over() {
    let (mem, (file, _)) = (memory(), file(8192));
    let pieces: Vec<(u64, usize)> = (0..2000).map(|n| (n * 4, 4)).collect();
    let mut list = buffers(&mem, &pieces);
    assert_eq!(list.read_at(file.as_fd(), 0, Wait::Yes).unwrap(), 4096);
    assert_eq!(list.read_at(file.as_fd(), 4096, Wait::Yes).unwrap(), 8000 - 4096);
}

/// A ring and the eventfd it writes to.
fn ring(entries: u32) -> (Ring, std::os::fd::OwnedFd) {
    let completed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    (Ring::new(entries, &completed).unwrap(), completed)
}

fn completions(ring: &mut Ring, count: usize) -> Vec<Completion> {
    ring.submit().unwrap();
    let mut done = Vec::new();
    while done.len() < count {
        ring.wait().unwrap();
        done.extend(std::iter::from_fn(|| ring.completion()));
    }
    done.sort_by_key(|completion| completion.tag);
    done
}

#[test]
fn a_ring_returns_each_operation_with_what_became_of_it() {
    let (mem, (file, bytes_of_file)) = (memory(), file(4096));
    let (mut ring, completed) = ring(8);
    let read = |addr, offset| Operation::Read { offset, buffers: buffers(&mem, &[(addr, 1024)]) };
    ring.push(&file, read(0, 1024), 5).unwrap();
    ring.push(&file, read(0x1000, 3584), 6).unwrap();
    mem.write(0x5000, b"written").unwrap();
    let written = buffers(&mem, &[(0x5000, 7)]);
    let write = Operation::Write { offset: 8192, buffers: written, durable: true };
    ring.push(&file, write, 7).unwrap();
    ring.push(&file, Operation::Sync, 8).unwrap();
    assert!(!ring.is_idle());
    let done = completions(&mut ring, 4);
    let counts: Vec<_> = done.iter().map(|done| *done.result.as_ref().unwrap()).collect();
    assert!(ring.is_idle());
    assert_eq!(counts[0], 1024);
    assert_eq!(bytes(&mem, 0, 1024), bytes_of_file[1024..2048]);
    // The write behind it may have come first, and made the file longer.
    assert!(counts[1] == 512 || counts[1] == 1024);
    assert_eq!(counts[2..], [7, 0]);
    let mut back = [0; 7];
    file.read_exact_at(&mut back, 8192).unwrap();
    assert_eq!(&back, b"written");
    assert!(rustix::io::read(&completed, &mut [0; 8]).is_ok(), "the eventfd tells");
}

#[test]
fn a_ring_passes_errors_on_and_takes_no_more_than_it_can() {
    let mem = memory();
    let (mut ring, _completed) = ring(2);
    let file = Arc::new(std::fs::File::open("/proc/self/exe").unwrap());
    let write =
        || Operation::Write { offset: 0, buffers: buffers(&mem, &[(0, 8)]), durable: false };
    ring.push(&file, write(), 0).unwrap();
    ring.push(&file, write(), 1).unwrap();
    assert!(!ring.has_room());
    assert!(matches!(ring.push(&file, write(), 2), Err(Operation::Write { .. })));
    let done = completions(&mut ring, 2);
    for completion in done {
        assert_eq!(completion.result.unwrap_err().raw_os_error(), Some(libc::EBADF));
        let Operation::Write { buffers, .. } = completion.operation else { panic!() };
        assert_eq!(buffers.len(), 8);
    }
    assert!(ring.has_room());
}

#[test]
fn the_end_of_a_ring_waits_for_the_kernel() {
    let mem = memory();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (mut ring, _completed) = ring(2);
    let file = Arc::new(std::fs::File::from(reader));
    let read = Operation::Read { offset: u64::MAX, buffers: buffers(&mem, &[(0x40, 4)]) };
    ring.push(&file, read, 0).unwrap();
    ring.submit().unwrap();
    let written = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&written);
    let dropped = std::thread::spawn(move || {
        drop(ring);
        seen.load(Ordering::SeqCst)
    });
    // An end that does not wait has all the time it needs to be caught at it.
    std::thread::sleep(std::time::Duration::from_millis(30));
    written.store(true, Ordering::SeqCst);
    assert_eq!(rustix::io::write(&writer, b"late").unwrap(), 4);
    assert!(dropped.join().unwrap(), "the ring ended before its request");
    assert_eq!(bytes(&mem, 0x40, 4), b"late", "it was still ours to be written to");
}

#[test]
fn places_of_any_length_are_handed_on_a_page_at_a_time() {
    let mem = memory();
    mem.write(0x10, b"abc").unwrap();
    let mut list = buffers(&mem, &[(0x10, 3), (0x0, 0x1000), (0x11, 2)]);
    list.consume(1);
    let places = list.places();
    let (mut all, mut most) = (Vec::new(), 0);
    places.each(&mut |piece| {
        most = most.max(piece.len());
        all.extend_from_slice(piece);
    });
    assert_eq!((all.len() as u64, most, places.is_empty()), (places.len(), 0x1000, false));
    assert_eq!((&all[..2], &all[2 + 0x10..2 + 0x13]), (&b"bc"[..], &b"abc"[..]));
    assert_eq!(&all[0x1002..], b"bc");
    list.consume(u64::MAX);
    assert!(list.places().is_empty());
}

#[test]
fn only_some_devices_erase() {
    let (file, before) = file(4096);
    assert!(!can_secure_erase(file.as_fd()));
    let refused = secure_erase(file.as_fd(), 0..512).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY), "it is no device");
    secure_erase(file.as_fd(), 512..512).unwrap();
    let mut after = vec![0; before.len()];
    file.read_exact_at(&mut after, 0).unwrap();
    assert_eq!(after, before);
}
