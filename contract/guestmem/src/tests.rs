use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use trapline_access::{DirtyBitmap, Memory};
use vm_memory::Bytes;

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn memfd() -> Options {
    Options { backing: Backing::Memfd }
}

fn own(fd: BorrowedFd<'_>) -> File {
    fd.try_clone_to_owned().unwrap().into()
}

#[test]
fn copies_are_checked_against_the_map() {
    let mem = GuestMem::new(&[(0, 0x1000), (0x10000, 0x1000)]).unwrap();
    mem.write(0xffc, &[1, 2, 3, 4]).unwrap();
    let mut back = [0; 4];
    mem.read(0xffc, &mut back).unwrap();
    assert_eq!(back, [1, 2, 3, 4]);
    assert!(matches!(mem.write(0xffe, &[9; 4]), Err(Error::OutOfRange { .. })));
    mem.read(0xffc, &mut back).unwrap();
    assert_eq!(back, [1, 2, 3, 4], "a refused write leaves nothing behind");
    mem.write(0x108, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_eq!(mem.read_u64(0x108).unwrap(), 0x0807_0605_0403_0201);
    assert_eq!(mem.read_u64(0x10a).unwrap(), 0x0000_0807_0605_0403, "no multiple of 8");
    assert!(mem.read_u64(0xffa).is_err() && mem.read_u64(0x1000).is_err());
    let words = mem.words(0xff0, 2).unwrap();
    mem.write(0xff8, &[9, 0, 0, 0, 0, 0, 0, 1]).unwrap();
    assert_eq!(words[1].load(Ordering::Relaxed).to_le_bytes(), [9, 0, 0, 0, 0, 0, 0, 1]);
    assert!(mem.words(0xff0, 3).is_none() && mem.words(0x1000, 0).is_none(), "not all RAM");
    assert!(mem.words(0xff4, 1).is_none(), "no multiple of 8");
    assert!(mem.words(0, usize::MAX).is_none() && mem.words(0, usize::MAX / 8).is_none());
    mem.store_pair([1, 2], 0xff4).unwrap();
    assert_eq!(mem.load::<u32>(0xff4, Ordering::Relaxed).unwrap(), 1);
    assert_eq!(mem.load::<u32>(0xff8, Ordering::Relaxed).unwrap(), 2);
    assert!(matches!(mem.store_pair([3, 4], 0xffc), Err(Error::OutOfRange { .. })));
    assert!(matches!(mem.store_pair([3, 4], 0xff2), Err(Error::Unaligned { .. })));
    assert_eq!(mem.load::<u32>(0xffc, Ordering::Relaxed).unwrap(), 0x0100_0000);
    assert_eq!(mem.words(0x1_0000, 0x200).map(<[_]>::len), Some(0x200), "of another piece");
    assert_eq!(mem.len(), 0x2000);
    assert_eq!(mem.regions()[1].guest_addr, 0x10000);
}

/// Writes down what it hears, and says that every byte read was one more.
#[derive(Debug, Default)]
struct OneMore(parking_lot::Mutex<Vec<(u64, Vec<u8>, bool)>>);

impl Tap for OneMore {
    fn read(&self, addr: u64, data: &mut [u8]) {
        self.0.lock().push((addr, data.to_vec(), false));
        data.iter_mut().for_each(|byte| *byte += 1);
    }

    fn wrote(&self, addr: u64, data: &[u8]) {
        self.0.lock().push((addr, data.to_vec(), true));
    }
}

#[test]
fn a_tap_sees_what_devices_read_and_write_and_nobody_elses() {
    let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
    let heard = Arc::new(OneMore::default());
    let tapped = mem.with_tap(heard.clone());
    let take = || std::mem::take(&mut *heard.0.lock());
    tapped.write(0x10, &[1, 2, 3]).unwrap();
    tapped.write(0x20, &[7]).unwrap();
    tapped.store(0x0201_u16.to_le(), 0x30, Ordering::Relaxed).unwrap();
    let writes = [(0x10, vec![1, 2, 3], true), (0x20, vec![7], true), (0x30, vec![1, 2], true)];
    assert_eq!(take(), writes);
    tapped.store_pair([5, 6].map(u32::to_le), 0x40).unwrap();
    assert_eq!(take(), [(0x40, vec![5, 0, 0, 0], true), (0x44, vec![6, 0, 0, 0], true)]);
    assert!(tapped.words(0x40, 1).is_none(), "nobody would hear of it");
    let mut three = [0; 3];
    tapped.read(0x10, &mut three).unwrap();
    let number: u16 = tapped.load(0x30, Ordering::Relaxed).unwrap();
    let (mut both, eight) = ([0; 16], tapped.read_u64(0x10).unwrap());
    tapped.read(0x10, &mut both).unwrap();
    assert_eq!((three, u16::from_le(number)), ([2, 3, 4], 0x0302));
    assert_eq!((eight & 0xffff_ffff, both[..4].to_vec()), (0x0104_0302, vec![2, 3, 4, 1]));
    let reads = take();
    assert_eq!(reads.iter().map(|(addr, ..)| *addr).collect::<Vec<_>>(), [0x10, 0x30, 0x10, 0x10]);
    assert_eq!((reads[0].1.as_slice(), reads[3].1.len()), (&[1, 2, 3][..], 16));
    // What is no RAM was not accessed; others are not heard.
    assert!(tapped.write(0xfff, &[1, 2]).is_err() && tapped.read(0xfff, &mut three).is_err());
    assert!(tapped.load::<u32>(0x12, Ordering::Relaxed).is_err());
    mem.write(0x10, &[9]).unwrap();
    tapped.without_tap().read(0x10, &mut three).unwrap();
    tapped.pieces()[0].read(0x10, &mut three);
    assert_eq!((take(), three[0]), (Vec::new(), 9));
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    let refused = |ranges: &[(u64, u64)]| matches!(GuestMem::new(ranges), Err(Error::Map { .. }));
    assert!(refused(&[(0, 0x2000), (0x1000, 0x1000)]), "overlap");
    assert!(refused(&[(0, 0)]), "empty");
    assert!(refused(&[(u64::MAX - 0xfff, 0x2000)]), "beyond 64 bits");
    assert!(refused(&[(0, u64::MAX)]), "more than the host can map");
    assert!(refused(&[]));
}

/// The largest page both could share: what `GuestMem::with_options` promises.
fn alignment(len: u64) -> u64 {
    [4096, 64 * 1024, 2 * MIB, 512 * MIB, GIB].into_iter().rfind(|size| *size <= len).unwrap()
}

#[test]
fn ram_is_aligned_to_huge_pages_as_the_guest_sees_it() {
    // A PC below and above 4 GiB, with odd sizes; arm64's base; a base of the user's.
    let maps: [&[(u64, u64)]; 6] = [
        &[(0, 256 * MIB)],
        &[(0, 3 * GIB), (4 * GIB, 5 * GIB + 3 * MIB)],
        &[(0, 3 * GIB + 256 * MIB), (4 * GIB, 7 * MIB)],
        &[(0x8000_0000, 1537 * MIB)],
        &[(0x1_2345_6000, 66 * MIB)],
        &[(0, 4096), (0x1_0000, 0x1_8000), (0x4_0000, 4 * MIB)],
    ];
    // Several at a time, so that the host's free addresses differ.
    let mut alive = Vec::new();
    for options in [Options::default(), memfd()] {
        for _ in 0..8 {
            for map in maps {
                let mem = GuestMem::with_options(map, &options).unwrap();
                for region in mem.regions() {
                    let apart = region.host_addr.wrapping_sub(region.guest_addr);
                    assert_eq!(apart % alignment(region.len), 0, "{region:#x?}");
                    mem.write(region.guest_addr + region.len - 1, &[7]).unwrap();
                }
                alive.push(mem);
            }
        }
    }
}

#[test]
fn dropping_the_last_handle_unmaps() {
    let (first, kept) = {
        let mem = GuestMem::new(&[(0, 4 * MIB)]).unwrap();
        (mem.regions()[0].host_addr, mem.clone())
    };
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| {
            let range = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let bound = |text| u64::from_str_radix(text, 16).unwrap();
            (bound(range.0)..bound(range.1)).contains(&first)
        })
    };
    kept.write(0, &[1]).unwrap();
    assert!(mapped());
    // Another thread's memory could only take the place after this.
    drop(kept);
    assert!(!mapped());
}

#[test]
fn slices_and_atomics_are_checked() {
    let mem = GuestMem::new(&[(0, 0x1000), (0x1000, 0x1000)]).unwrap();
    let ring = mem.slice(0x800, 0x100).unwrap();
    ring.write_slice(&[5, 6], 0xfe).unwrap();
    assert!(ring.subslice(0xff, 2).is_err(), "no further than its end");
    assert_eq!(mem.load::<u16>(0x8fe, Ordering::Acquire).unwrap(), u16::from_ne_bytes([5, 6]));
    mem.store(0x1234_u16, 0x8fe, Ordering::Release).unwrap();
    assert_eq!(ring.load::<u16>(0xfe, Ordering::Acquire).unwrap(), 0x1234);

    assert_eq!(mem.slice(0x1000, 0x1000).unwrap().len(), 0x1000);
    assert!(matches!(mem.slice(0xfff, 2), Err(Error::OutOfRange { addr: 0xfff, len: 2 })));
    assert!(matches!(mem.slice(0x1000, usize::MAX), Err(Error::OutOfRange { .. })));
    assert!(matches!(mem.slice(u64::MAX, 1), Err(Error::OutOfRange { .. })));
    let load = |addr| mem.load::<u32>(addr, Ordering::Relaxed);
    assert!(matches!(load(0x802), Err(Error::Unaligned { addr: 0x802, len: 4 })));
    assert!(matches!(load(0x1ffe), Err(Error::OutOfRange { addr: 0x1ffe, len: 4 })));
    let stored = mem.store(1_u32, 0x802, Ordering::Relaxed);
    assert!(matches!(stored, Err(Error::Unaligned { .. })));
}

#[test]
fn private_memory_has_no_file() {
    let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
    assert!(mem.file(0).is_none());
}

#[test]
fn another_mapping_of_the_memfd_sees_the_same_bytes() {
    let mem = GuestMem::with_options(&[(0, MIB), (0x4010_0000, MIB)], &memfd()).unwrap();
    assert!(mem.file(MIB).is_none(), "no RAM there");
    for addr in [0, 0x1234, 0x4010_0000, 0x401f_fff8] {
        mem.write(addr, &addr.to_le_bytes()).unwrap();
        let RamFile { fd, offset } = mem.file(addr).unwrap();
        let file = own(fd);
        let mut back = [0; 8];
        file.read_exact_at(&mut back, offset).unwrap();
        assert_eq!(u64::from_le_bytes(back), addr);
        file.write_all_at(&[0xa5], offset).unwrap();
        mem.read(addr, &mut back[..1]).unwrap();
        assert_eq!(back[0], 0xa5);
        // A huge page in a file is aligned in the file, too.
        assert_eq!((addr - offset) % (2 * MIB), 0);
    }
}

#[test]
fn nobody_can_cut_a_memfd_under_the_guest() {
    let mem = GuestMem::with_options(&[(0, MIB)], &memfd()).unwrap();
    let file = own(mem.file(0).unwrap().fd);
    assert!(file.set_len(0).is_err(), "shorter");
    assert!(file.set_len(2 * MIB).is_err(), "longer");
    let seals = rustix::fs::SealFlags::FUTURE_WRITE;
    assert!(rustix::fs::fcntl_add_seals(file.as_fd(), seals).is_err(), "no further seals");
}

#[test]
fn pages_that_this_process_writes_are_remembered_while_somebody_wants_to_know() {
    let page = rustix::param::page_size() as u64;
    for backing in [Backing::Private, Backing::Memfd] {
        let options = Options { backing };
        let mem = GuestMem::with_options(&[(0, 64 * page), (MIB, 70 * page)], &options).unwrap();
        let pieces = mem.pieces();
        let taken = || -> Vec<Vec<u64>> {
            let take = |piece: &Piece| {
                let mut written = DirtyBitmap::new(piece.len(), piece.page_size());
                piece.take_written(&mut written);
                written.pages().map(|start| start / page).collect()
            };
            pieces.iter().map(take).collect()
        };
        let write = || {
            mem.write(2 * page - 1, &[1, 2]).unwrap();
            mem.write(20 * page, &[1]).unwrap();
            mem.have_written(31 * page - 1, 2);
            mem.have_written(64 * page - 1, 2);
            mem.store(1_u32, MIB + 5 * page, Ordering::Relaxed).unwrap();
            let slice = mem.slice(MIB + 69 * page, 4).unwrap();
            slice.write_slice(&[1], 0).unwrap();
            pieces[1].write(7 * page, &[1; 4]);
            mem.read(0, &mut [0; 8]).unwrap();
        };
        let none = [const { Vec::<u64>::new() }; 2];
        write();
        assert_eq!(taken(), none, "nobody wants to know");
        pieces.iter().for_each(|piece| piece.log_writes(true));
        assert_eq!(taken(), none);
        write();
        assert_eq!(taken(), [vec![1, 2, 20, 30, 31, 63], vec![5, 7, 69]]);
        assert_eq!(taken(), none, "only once");
        write();
        pieces.iter().for_each(|piece| piece.log_writes(false));
        write();
        pieces.iter().for_each(|piece| piece.log_writes(true));
        assert_eq!(taken(), none, "nothing of before");
    }
}

#[test]
fn a_piece_is_memory_for_a_registry() {
    let ranges = [(0, 0x1000), (0x10_0000, 0x3000)];
    let mem = GuestMem::with_options(&ranges, &memfd()).unwrap();
    let pieces = mem.pieces();
    let [_, piece] = pieces.as_slice() else { panic!("two pieces") };
    assert_eq!((piece.len(), piece.is_empty()), (0x3000, false));
    for len in [1, 2, 3, 4, 5, 7, 8, 9, 100] {
        for offset in [0, 8, 0x1001, 0x3000 - len] {
            let data: Vec<u8> = (1..=u8::try_from(len).unwrap()).collect();
            piece.write(offset, &data);
            let mut back = vec![0; data.len()];
            mem.read(0x10_0000 + offset, &mut back).unwrap();
            assert_eq!(back, data, "{len} bytes at {offset:#x}");
            back.fill(0);
            piece.read(offset, &mut back);
            assert_eq!(back, data, "{len} bytes at {offset:#x}");
        }
    }
    // Nothing of it is another piece's.
    let mut first = [0; 0x1000];
    mem.read(0, &mut first).unwrap();
    assert_eq!(first, [0; 0x1000]);

    let (fd, offset) = Memory::file(piece).unwrap();
    let mut back = [0; 1];
    own(fd).read_exact_at(&mut back, offset + 0x1001).unwrap();
    assert_eq!(back, [1]);
    // Its source finds where it is mapped, and it stays so.
    let known = piece.mapping().and_then(|any| any.downcast_ref::<Piece>()).unwrap().clone();
    assert_eq!(known.region(), mem.regions()[1]);
    drop((mem, pieces));
    known.read(0x1001, &mut back);
    assert_eq!(back, [1]);
    assert!(Memory::file(&GuestMem::new(&[(0, 1)]).unwrap().pieces()[0]).is_none());
}

fn hugetlbfs(path: impl Into<PathBuf>, len: u64) -> Result<GuestMem, Error> {
    let options = Options { backing: Backing::Hugetlbfs(path.into()) };
    GuestMem::with_options(&[(0, len)], &options)
}

#[test]
fn huge_pages_come_from_a_hugetlbfs_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    assert_eq!(
        hugetlbfs(path, MIB).unwrap_err().to_string(),
        format!(
            "{} is not on a hugetlbfs file system, so it has no huge pages for guest memory",
            path.display()
        )
    );
    // A file of huge pages knows their size, but no file can be made in it.
    let flags = rustix::fs::MemfdFlags::HUGETLB | rustix::fs::MemfdFlags::HUGE_2MB;
    let file = rustix::fs::memfd_create("huge", flags).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    assert_eq!(
        hugetlbfs(&path, 5 * MIB).unwrap_err().to_string(),
        format!(
            "guest memory at 0x0..0x500000 is not a whole number of the 2048 KiB pages that {} has",
            path.display()
        )
    );
    assert!(matches!(hugetlbfs(&path, 4 * MIB), Err(Error::Hugetlbfs { .. })));

    let missing = dir.path().join("none");
    assert_eq!(
        hugetlbfs(&missing, MIB).unwrap_err().to_string(),
        format!(
            "cannot make guest memory in {}: No such file or directory (os error 2)",
            missing.display()
        )
    );
}

/// Blocks of a file, in units of 512 bytes.
fn blocks(mem: &GuestMem) -> i64 {
    rustix::fs::fstat(mem.file(0x10_0000).unwrap().fd).unwrap().st_blocks
}

#[test]
fn memory_that_goes_back_reads_as_zeroes_and_can_be_written_again() {
    for backing in [Backing::Private, Backing::Memfd] {
        let options = Options { backing: backing.clone() };
        let mem = GuestMem::with_options(&[(0x10_0000, 0x10_0000)], &options).unwrap();
        mem.write(0x10_0000, &[0xaa; 0x10_0000]).unwrap();
        let page = rustix::param::page_size() as u64;
        let before = (backing == Backing::Memfd).then(|| blocks(&mem));
        assert_eq!(mem.give_back(0x10_0000 + 2 * page, 3 * page).unwrap(), 3 * page);
        assert_eq!(
            mem.give_back(0x10_0000 + 6 * page + 1, 2 * page - 1).unwrap(),
            page,
            "whole ones"
        );
        assert_eq!(mem.give_back(0x10_0000 + 9 * page + 1, page).unwrap(), 0);
        // Before it is read: that puts pages into the file again.
        if let Some(before) = before {
            let pages = (before - blocks(&mem)) * 512 / i64::try_from(page).unwrap();
            assert_eq!(pages, 4, "the file has become smaller");
        }
        let is_there = |n: u64| {
            let mut bytes = vec![0; usize::try_from(page).unwrap()];
            mem.read(0x10_0000 + n * page, &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            bytes[0] == 0xaa
        };
        let gone: Vec<u64> = (0..16).filter(|n| !is_there(*n)).collect();
        assert_eq!(gone, [2, 3, 4, 7], "{backing:?}");
        mem.write(0x10_0000 + 3 * page, &[1]).unwrap();
        assert_eq!(mem.read_u64(0x10_0000 + 3 * page).unwrap(), 1);
    }
}

#[test]
fn memory_stays_that_is_not_the_guests_or_that_somebody_keeps() {
    let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
    mem.write(0, &[0xaa; 0x10_0000]).unwrap();
    for (addr, len) in [(0x10_0000, 0x1000), (0xf_f000, 0x1_0000), (u64::MAX, 1), (0, u64::MAX)] {
        let refused = mem.give_back(addr, len);
        assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{addr:#x}");
    }
    let keepers = [mem.keep(), mem.pieces()[0].keep()];
    assert_eq!(mem.give_back(0, 0x10_0000).unwrap(), 0);
    let [first, second] = keepers;
    drop(first);
    assert_eq!(mem.give_back(0, 0x10_0000).unwrap(), 0, "while there is one");
    assert_eq!(mem.read_u64(0).unwrap(), 0xaaaa_aaaa_aaaa_aaaa);
    drop(second);
    assert_eq!(mem.give_back(0, 0x10_0000).unwrap(), 0x10_0000);
    assert_eq!(mem.read_u64(0).unwrap(), 0);
}

#[test]
fn pages_that_go_back_count_as_written() {
    let mem = GuestMem::new(&[(0, 0x10_0000)]).unwrap();
    let page = rustix::param::page_size() as u64;
    let written = mem.written(0).unwrap();
    written.remember(true);
    mem.give_back(2 * page, 2 * page).unwrap();
    assert_eq!(written.take()[0], 0b1100);
}

#[test]
fn all_ones_are_a_few_pages_until_somebody_writes() {
    let page = rustix::param::page_size() as u64;
    let len = 37 * page;
    let mem = GuestMem::all_ones(len).unwrap();
    let mut all = vec![0; usize::try_from(len).unwrap()];
    mem.read(0, &mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == 0xff));
    // Equal pages of one file are shared; a write makes one that is not, and changes no other.
    mem.write(9 * page + 3, &[1]).unwrap();
    mem.read(0, &mut all).unwrap();
    let changed: Vec<usize> = (0..all.len()).filter(|at| all[*at] != 0xff).collect();
    assert_eq!(changed, [usize::try_from(9 * page + 3).unwrap()]);
    assert!(mem.pieces()[0].file().is_none(), "nobody else could map it from one file");
    let inodes = maps_of(mem.regions()[0]);
    // The page that was written to is in the middle of its mapping, which it does not divide.
    assert_eq!(inodes.len(), 37, "one mapping for each page, so that a read maps no other");
    assert!(inodes.windows(2).all(|pair| pair[0] == pair[1]), "all of one file: {inodes:?}");
}

/// The inode numbers of this process's mappings in a piece, in order.
fn maps_of(piece: RamRegion) -> Vec<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let inside = |line: &&str| {
        let (start, _) = line.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        (piece.host_addr..piece.host_addr + piece.len).contains(&start)
    };
    let inode = |line: &str| line.split_whitespace().nth(4).unwrap().parse().unwrap();
    maps.lines().filter(inside).map(inode).collect()
}

#[test]
fn all_ones_come_in_whole_pages() {
    for len in [0, 1, 4095, u64::MAX, u64::MAX - u64::MAX % (1 << 16)] {
        assert!(matches!(GuestMem::all_ones(len), Err(Error::Map { .. })), "{len:#x}");
    }
}

#[test]
fn a_devices_registers_are_its_files_pages_and_nobody_elses_to_map() {
    let page = rustix::param::page_size() as u64;
    // A memfd stands for the device.
    let file =
        File::from(rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(4 * page).unwrap();
    let mem = GuestMem::of_device(file.as_fd(), page, 2 * page).unwrap();
    let piece = &mem.pieces()[0];
    assert!(piece.is_device() && piece.file().is_none());
    assert!(!GuestMem::new(&[(0, page)]).unwrap().pieces()[0].is_device());
    assert_eq!((piece.len(), mem.regions()[0].guest_addr), (2 * page, 0));
    piece.write(page + 4, &[1, 2, 3, 4]);
    let mut there = [0; 4];
    file.read_exact_at(&mut there, 2 * page + 4).unwrap();
    assert_eq!(there, [1, 2, 3, 4]);
    file.write_all_at(&[9, 8], page).unwrap();
    let mut back = [0; 2];
    piece.read(0, &mut back);
    assert_eq!(back, [9, 8]);
    assert_eq!(mem.give_back(0, 2 * page).unwrap(), 0, "registers stay");
    let inode = rustix::fs::fstat(&file).unwrap().st_ino;
    assert_eq!(maps_of(mem.regions()[0]), [inode]);
    mem.leave_device().unwrap();
    assert_eq!(maps_of(mem.regions()[0]), [0], "the file is not mapped any more");
    piece.read(0, &mut back);
    piece.write(0, &[1, 1]);
    file.read_exact_at(&mut there, page).unwrap();
    assert_eq!((back, there), ([0, 0], [9, 8, 0, 0]));
    for (offset, len) in [(0, 0), (0, page + 1), (1, page), (0, u64::MAX - (page - 1))] {
        let refused = GuestMem::of_device(file.as_fd(), offset, len);
        assert!(matches!(refused, Err(Error::Map { .. })), "{offset:#x} {len:#x}");
    }
}
