use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tempfile::TempDir;

use super::*;

const RAM: Range<u64> = 0x8000_0000..0x9000_0000;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn ram() -> GuestMem {
    GuestMem::new(&[(RAM.start, RAM.end - RAM.start)]).unwrap()
}

/// A kernel of 4 KiB that says it takes `image_size` bytes.
fn image(text_offset: u64, image_size: u64) -> Vec<u8> {
    let mut bytes = vec![0x5a; 0x1000];
    bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// An EFI program that unpacks a kernel, as far as its header goes.
fn zboot(compression: &[u8], packed: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x1000];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[4..8].copy_from_slice(b"zimg");
    bytes[8..12].copy_from_slice(&0x1000u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
    bytes[0x18..0x18 + compression.len()].copy_from_slice(compression);
    bytes.extend(packed);
    bytes.extend([0; 64]);
    bytes
}

fn request(path: &Path) -> KernelRequest<'_> {
    KernelRequest { path, initrd: None, ram: RAM, aarch32: false, cmdline: "" }
}

fn load(bytes: &[u8]) -> Result<(Loaded, GuestMem), String> {
    let (files, mem) = (Files::new(), ram());
    let path = files.put("kernel", bytes);
    let loaded = load_kernel(&mem, &request(&path))
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "KERNEL"))?;
    Ok((loaded, mem))
}

fn byte(mem: &GuestMem, addr: u64) -> u8 {
    let mut byte = [0];
    mem.read(addr, &mut byte).unwrap();
    byte[0]
}

#[test]
fn an_image_goes_where_its_header_says() {
    let (loaded, mem) = load(&image(0x20_0000, 0x30_0000)).unwrap();
    assert_eq!(loaded.entry, 0x8020_0000);
    assert_eq!(loaded.image, 0x8020_0000..0x8050_0000, "with what the file does not bring");
    assert_eq!(loaded.fdt, 0x8fe0_0000);
    assert_eq!(byte(&mem, 0x8020_0000), 0x5a);
}

#[test]
fn what_has_no_usable_header_goes_to_the_old_offset() {
    for bytes in [image(0x1234, 0), vec![0x14; 0x1000], vec![7; 3]] {
        let (loaded, mem) = load(&bytes).unwrap();
        assert_eq!(loaded.entry, 0x8008_0000);
        assert_eq!(byte(&mem, 0x8008_0000), bytes[0]);
    }
}

#[test]
fn ram_that_begins_elsewhere_moves_everything() {
    let (files, mem) = (Files::new(), GuestMem::new(&[(0x1_0010_0000, 64 << 20)]).unwrap());
    let path = files.put("kernel", &image(0, 0x10_0000));
    let ram = 0x1_0010_0000..0x1_0410_0000;
    let loaded = load_kernel(&mem, &KernelRequest { ram, ..request(&path) }).unwrap();
    assert_eq!(loaded.entry, 0x1_0020_0000, "a multiple of 2 MiB");
    assert_eq!(loaded.fdt, 0x1_0400_0000);
}

#[test]
fn the_initrd_ends_just_below_the_device_tree() {
    let (files, mem) = (Files::new(), ram());
    let kernel = files.put("kernel", &image(0, 0x10_0000));
    // The numbers of a run of kvmtool's.
    let initrd = files.put("initrd", &vec![0x33; 0xf_12b8]);
    let request = KernelRequest { initrd: Some(Initrd::File(&initrd)), ..request(&kernel) };
    let loaded = load_kernel(&mem, &request).unwrap();
    assert_eq!(loaded.initrd, Some(0x8fd0_ed44..0x8fdf_fffc));
    assert_eq!(byte(&mem, 0x8fdf_fffb), 0x33);
    let made = Initrd::Bytes { name: "made", bytes: b"cpio!" };
    let request = KernelRequest { initrd: Some(made), ..request };
    let initrd = load_kernel(&mem, &request).unwrap().initrd.unwrap();
    assert_eq!(initrd, 0x8fdf_fff8..0x8fdf_fffd);
}

#[test]
fn packed_kernels_are_unpacked() {
    let plain = image(0x8_0000, 0x20_0000);
    let wanted = load(&plain).unwrap().0;
    let (gzip, zstd) = (gzip(&plain), zstd(&plain));
    for packed in [zboot(b"gzip\0", &gzip), zboot(b"zstd22\0", &zstd), gzip, zstd] {
        let (loaded, mem) = load(&packed).unwrap();
        assert_eq!(loaded, wanted);
        let mut back = vec![0; plain.len()];
        mem.read(loaded.entry, &mut back).unwrap();
        assert_eq!(back, plain);
    }
}

#[test]
fn what_cannot_be_unpacked_says_why() {
    let lzma = load(&zboot(b"lzma\0", &[1, 2, 3])).unwrap_err();
    assert_eq!(
        lzma,
        "kernel KERNEL cannot be unpacked: it is packed with lzma, and only gzip and zstd are known; \
         name the unpacked Image"
    );
    for whole in [gzip(&image(0, 0x1000)), zstd(&image(0, 0x1000))] {
        let cut = load(&whole[..whole.len() / 2]).unwrap_err();
        assert!(cut.starts_with("kernel KERNEL cannot be unpacked"), "{cut}");
    }
    // A block that is not compressed shows its damage to nobody but the checksum.
    let mut damaged = compress_to_vec(&image(0, 0x1000)[..], CompressionLevel::Uncompressed);
    damaged[0x800] ^= 1;
    let damaged = load(&damaged).unwrap_err();
    assert_eq!(damaged, "kernel KERNEL cannot be unpacked: its checksum is wrong");
    let files = Files::new();
    let ram = RAM.start..RAM.start + (1 << 20);
    for packed in [gzip(&vec![0; 3 << 20]), zstd(&vec![0; 3 << 20])] {
        let path = files.put("kernel", &packed);
        let mem = GuestMem::new(&[(RAM.start, 1 << 20)]).unwrap();
        let request = KernelRequest { ram: ram.clone(), ..request(&path) };
        let error = load_kernel(&mem, &request).unwrap_err().to_string();
        assert!(error.ends_with("it does not fit into 1 MiB of guest RAM"), "{error}");
    }
}

#[test]
fn kernels_of_other_machines_are_refused_by_name() {
    let refusal = |bytes: &[u8]| load(bytes).unwrap_err();
    assert!(refusal(b"\x7fELFxxxx").contains("an ELF file; use arch/arm64/boot/Image"));
    let mut bzimage = vec![0; 0x400];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    assert!(refusal(&bzimage).contains("a bzImage for x86"));
    let mut zimage = vec![0; 0x400];
    zimage[0x24..0x28].copy_from_slice(&0x016f_2818u32.to_le_bytes());
    assert!(refusal(&zimage).contains("a 32-bit zImage; run it with --aarch32"));
    assert!(refusal(b"\xfd7zXZ\0....").contains("a file packed with xz; unpack it first"));
    assert!(refusal(b"070701...").contains("a cpio archive; name it with -i"));
    assert_eq!(refusal(b""), "KERNEL is empty; name another file");
    let missing = load_kernel(&ram(), &request(Path::new("/nonexistent/Image"))).unwrap_err();
    assert_eq!(missing.to_string(), "Unable to open kernel /nonexistent/Image");
}

#[test]
fn a_32_bit_kernel_goes_to_its_old_place() {
    let (files, mem) = (Files::new(), ram());
    let path = files.put("zImage", &[0x11; 0x1000]);
    let request = KernelRequest { aarch32: true, ..request(&path) };
    assert_eq!(load_kernel(&mem, &request).unwrap().entry, 0x8000_8000);
    let path = files.put("Image", &image(0, 0x1000));
    let refused = load_kernel(&mem, &KernelRequest { path: &path, ..request }).unwrap_err();
    assert!(refused.to_string().contains("a 64-bit kernel; leave out --aarch32"), "{refused}");
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(load(&image(0, 0x1000_0000)).unwrap_err().contains("0x80000000 to 0x90010000"));
    assert!(load(&image(u64::MAX, 0x1000)).unwrap_err().contains("give it more memory with -m"));
    let (files, mem) = (Files::new(), ram());
    let kernel = files.put("kernel", &image(0, 0xfd0_0000));
    let initrd = files.put("initrd", &vec![1; 2 << 20]);
    let request = KernelRequest { initrd: Some(Initrd::File(&initrd)), ..request(&kernel) };
    let error = load_kernel(&mem, &request).unwrap_err().to_string();
    assert!(error.contains("(2 MiB) does not fit into 256 MiB of guest RAM"), "{error}");
}

/// RAM that is not touched costs nothing.
const GIB: Range<u64> = 0x8000_0000..0xc000_0000;

#[test]
fn what_does_not_fit_into_the_low_part_of_ram_goes_above_it() {
    let (files, mem) = (Files::new(), GuestMem::new(&[(GIB.start, 1 << 30)]).unwrap());
    let kernel = files.put("kernel", &image(0, 0xf00_0000));
    let path = files.put("initrd", b"");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let initrd = Some(Initrd::File(&path));
    let request = KernelRequest { initrd, ram: GIB, ..request(&kernel) };
    let loaded = load_kernel(&mem, &request).unwrap();
    assert_eq!(loaded.fdt, 0x8fe0_0000, "kvmtool's place");
    assert_eq!(loaded.initrd, Some(0x8fe1_0000..0x93e1_0000), "right above it");
    // A 32-bit kernel has it below or not at all.
    let wide = files.put("program", &[0x11; 0x1000]);
    std::fs::File::options().write(true).open(&wide).unwrap().set_len(0xf00_0000).unwrap();
    let request = KernelRequest { path: &wide, aarch32: true, ..request };
    let error = load_kernel(&mem, &request).unwrap_err().to_string();
    assert!(error.contains("(64 MiB) does not fit below 0x8fe00000, where kernel "), "{error}");
    assert!(error.ends_with("more memory would not help"), "{error}");
}

#[test]
fn a_kernel_that_takes_more_than_the_low_part_has_its_device_tree_behind() {
    let (files, mem) = (Files::new(), GuestMem::new(&[(GIB.start, 1 << 30)]).unwrap());
    let kernel = files.put("kernel", &image(0, 0x1234_5678));
    let initrd = files.put("initrd", &[7; 0x1001]);
    let initrd = Some(Initrd::File(&initrd));
    let request = KernelRequest { initrd, ram: GIB, ..request(&kernel) };
    let loaded = load_kernel(&mem, &request).unwrap();
    assert_eq!(loaded.fdt, 0x9240_0000);
    let initrd = loaded.initrd.unwrap();
    assert!(loaded.image.end <= initrd.start && initrd.end <= loaded.fdt, "{initrd:#x?}");
}

#[test]
fn command_lines_that_linux_would_cut_are_refused() {
    let (files, mem) = (Files::new(), ram());
    let mut zimage = vec![0; 0x1000];
    zimage[0x24..0x28].copy_from_slice(&0x016f_2818u32.to_le_bytes());
    let image = files.put("Image", &image(0, 0x1000));
    let zimage = files.put("zImage", &zimage);
    for (path, aarch32, max) in [(&image, false, 2047), (&zimage, true, 1023)] {
        let line = "a".repeat(max + 1);
        let load =
            |cmdline| load_kernel(&mem, &KernelRequest { aarch32, cmdline, ..request(path) });
        load(&line[1..]).unwrap();
        let error = load(&line).unwrap_err().to_string();
        let told =
            format!("command line is {} bytes, {} takes at most {max}", max + 1, path.display());
        assert_eq!(error, told);
    }
    // A program that is not Linux has its own limits.
    let flat = files.put("flat", &[0x14; 0x100]);
    let line = "a".repeat(5000);
    load_kernel(&mem, &KernelRequest { cmdline: &line, ..request(&flat) }).unwrap();
}

#[test]
fn firmware_goes_to_the_start_of_ram_or_where_it_is_told() {
    let (files, mem) = (Files::new(), ram());
    let path = files.put("fw", &[0xfe; 0x1234]);
    let loaded = load_firmware(&mem, &path, &RAM, None).unwrap();
    assert_eq!((loaded.entry, loaded.fdt), (0x8000_0000, 0x8020_0000));
    let loaded = load_firmware(&mem, &path, &RAM, Some(0x8030_0000)).unwrap();
    assert_eq!((loaded.entry, loaded.fdt), (0x8030_0000, 0x8040_0000));
    assert_eq!(byte(&mem, 0x8030_1233), 0xfe);
    for address in [0x7fff_f000, 0x8fff_f000, u64::MAX] {
        let error = load_firmware(&mem, &path, &RAM, Some(address)).unwrap_err().to_string();
        assert!(error.starts_with("Bad firmware destination 0x"), "{error}");
    }
    let error = load_firmware(&mem, Path::new("/nonexistent/fw"), &RAM, None).unwrap_err();
    assert_eq!(error.to_string(), "Unable to open firmware /nonexistent/fw");
}
