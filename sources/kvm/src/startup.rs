//! Memory that only the start of the program has needed, given back after each step of it.
//!
//! Understanding the options, opening what they name, building the machine and loading a kernel touch
//! most of the program's code and constants once, and the host counts every page of them to this process
//! for as long as it runs. They are pages of a file: those that are used again come back from the page
//! cache, with some hundred faults. So the most that is resident at a time is what one step needs, and no
//! more around it than small pieces.

#![expect(unsafe_code, reason = "madvise on the program's own file, and glibc's allocator")]

use std::ffi::{c_int, c_void};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{PF_W, PT_LOAD, dl_phdr_info};

/// In pieces of so many bytes they are mapped. With a page that is accessed the host maps those around
/// it (`fault_around_bytes`, 64 KiB), which then count to this process though nothing needs them; but
/// not beyond the piece of the address space that has the same attributes.
const PIECE: usize = 16 << 10;

/// Whether the pieces have been told apart, which lasts.
static APART: AtomicBool = AtomicBool::new(false);

/// What is done with memory that has `len` bytes from an address on.
type OfSegment = fn(start: *mut c_void, len: usize);

/// Has the host map no more of this program's code and constants with a page that is accessed than the
/// few pages around it, from now on. To be called before anything large is done, such as
/// understanding the options: what is mapped before in large pieces stays so until it is given back.
pub fn map_in_small_pieces() {
    if !APART.swap(true, Ordering::Relaxed) {
        each_segment(tell_pieces_apart);
    }
}

/// Unmaps the pages of this program's code and constants that are resident now, and gives back what
/// its allocator keeps in store. Nothing happens while a debugger is attached: its breakpoints are
/// changes of these pages, which would be lost (as are uprobes').
pub fn release_startup_memory() {
    if !is_traced() {
        each_segment(release);
        map_in_small_pieces();
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it can be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether somebody traces this process.
fn is_traced() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_none_or(|tracer| tracer.trim() != "0")
}

/// Calls `f` for each part of this program that nobody can have written to: its code and constants.
fn each_segment(f: OfSegment) {
    let f = std::ptr::from_ref(&f).cast_mut().cast();
    // SAFETY: the function that is called keeps nothing that it is given, and takes `f` for what it is.
    unsafe { libc::dl_iterate_phdr(Some(of_program), f) };
}

/// Called for the program first, which is enough: what is shared with other programs is not ours.
unsafe extern "C" fn of_program(info: *mut dl_phdr_info, _: usize, f: *mut c_void) -> c_int {
    // SAFETY: the C library passes one that is valid during the call, and so are its headers; the rest is
    // what `each_segment` has passed.
    let (bias, headers, f) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        (info.dlpi_addr, headers, *f.cast::<OfSegment>())
    };
    let page = rustix::param::page_size() as u64;
    for segment in headers.iter().filter(|s| s.p_type == PT_LOAD && s.p_flags & PF_W == 0) {
        let start = (bias + segment.p_vaddr) / page * page;
        let end = (bias + segment.p_vaddr + segment.p_memsz).next_multiple_of(page);
        let (Ok(addr), Ok(len)) = (usize::try_from(start), usize::try_from(end - start)) else {
            continue;
        };
        f(std::ptr::with_exposed_provenance_mut(addr), len);
    }
    1
}

/// Unmaps what is resident.
fn release(start: *mut c_void, len: usize) {
    // SAFETY: nobody can have written to these pages, so each has what is in the file, from where
    // the next access gets it again. (A program whose code is relocated in place does not link.)
    // One that is locked stays.
    let _ = unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
}

/// Has neighbours of [`PIECE`] bytes differ in an attribute that is of no consequence for pages of a
/// program: that they are to be no huge ones, which a host does not make of them unasked.
fn tell_pieces_apart(start: *mut c_void, len: usize) {
    let piece = PIECE.max(rustix::param::page_size());
    for offset in (0..len).step_by(2 * piece) {
        let start = start.wrapping_byte_add(offset);
        // SAFETY: it changes neither what is in these pages nor whether they can be reached. A host
        // without huge pages refuses, and all stays one piece.
        let _ = unsafe { libc::madvise(start, piece.min(len - offset), libc::MADV_NOHUGEPAGE) };
    }
}
