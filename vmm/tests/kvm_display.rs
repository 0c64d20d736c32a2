//! The display as a guest draws on it and its user sees it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests; a test that cannot go on fails"
)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};

use support::PATIENCE;
use support::flat::{Flat, bzimage, pvh};
use support::guest::{Guest, finish, run};
use trapline_testkit::realmode::Asm;

/// Where the frame buffer is until it is moved.
const FRAME: u32 = 0xd000_0000;
/// `lfb_base` in the zero page.
const ZERO_PAGE_LFB_BASE: u8 = 0x18;
const ORANGE: u32 = 0xcc_66_33;
const BLUE: u32 = 0x00_00_ff;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

/// A rectangle: left, top, width, height.
type Area = (u32, u32, u32, u32);

/// Fills a rectangle.
fn fill(code: Flat, frame: u32, rect: Area, colour: u32) -> Flat {
    let code = code.bytes(&[0xbf]).bytes(&frame.to_le_bytes()); // mov edi, frame
    fill_edi(code, rect, colour)
}

/// The same with the frame buffer's address in EDI.
fn fill_edi(code: Flat, (x, y, width, height): Area, colour: u32) -> Flat {
    let start = (y * WIDTH + x) * 4;
    let skip = (WIDTH - width) * 4;
    let code = code.bytes(&[0x81, 0xc7]).bytes(&start.to_le_bytes()); // add edi, start
    let code = code.bytes(&[0xba]).bytes(&height.to_le_bytes()); // mov edx, height
    let line = Flat::new().bytes(&[0xb9]).bytes(&width.to_le_bytes()); // mov ecx, width
    let line = line.bytes(&[0xb8]).bytes(&colour.to_le_bytes()); // mov eax, colour
    let line = line.bytes(&[0xfc, 0xf3, 0xab]); // cld; rep stosd
    let line = line.bytes(&[0x81, 0xc7]).bytes(&skip.to_le_bytes()); // add edi, skip
    let line = line.bytes(&[0xff, 0xca]); // dec edx
    let back = i8::try_from(line.0.len() + 2).unwrap();
    code.bytes(&line.0).bytes(&[0x75, (-back).cast_unsigned()]) // jnz line
}

fn outl(code: Flat, port: u16, value: u32) -> Flat {
    let code = code.bytes(&[0x66, 0xba]).bytes(&port.to_le_bytes()); // mov dx, port
    code.bytes(&[0xb8]).bytes(&value.to_le_bytes()).bytes(&[0xef]) // mov eax, value; out dx, eax
}

/// Writes to the display's second BAR.
fn move_frame(code: Flat, to: u32) -> Flat {
    outl(outl(code, 0xcf8, 0x8000_f814), 0xcfc, to)
}

/// Runs a kernel to its end; returns the picture.
fn picture_of(image: &[u8]) -> Vec<[u8; 3]> {
    let guest = Guest::kernel(image).with(&["--exit-port", "--reboot"]);
    let file = guest.file("picture.png", b"an older picture");
    let guest = guest.with(&["--screendump", file.to_str().unwrap()]);
    guest.run().expect_status(1);
    decode(&std::fs::read(file).unwrap())
}

fn decode(file: &[u8]) -> Vec<[u8; 3]> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (WIDTH, HEIGHT, png::ColorType::Rgb));
    pixels.chunks(3).map(|pixel| pixel.try_into().unwrap()).collect()
}

/// Fails unless the picture is black but for these rectangles.
#[track_caller]
fn expect_only(picture: &[[u8; 3]], rects: &[(Area, [u8; 3])]) {
    for (at, pixel) in (0..).zip(picture) {
        let (px, py) = (at % WIDTH, at / WIDTH);
        let inside = |&&((x, y, width, height), _): &&(Area, [u8; 3])| {
            (x..x + width).contains(&px) && (y..y + height).contains(&py)
        };
        let wanted = rects.iter().find(inside).map_or([0; 3], |rect| rect.1);
        assert_eq!(*pixel, wanted, "column {px}, line {py}");
    }
}

const FIRST: Area = (100, 50, 64, 32);
const SECOND: Area = (639, 479, 1, 1);
const ORANGE_RGB: [u8; 3] = [0xcc, 0x66, 0x33];
const BLUE_RGB: [u8; 3] = [0, 0, 0xff];

#[test]
fn what_a_guest_draws_is_in_the_screendump_pixel_by_pixel() {
    let code = fill(Flat::new(), FRAME, FIRST, ORANGE);
    let image = pvh(&fill(code, FRAME, SECOND, BLUE).exit(0));
    expect_only(&picture_of(&image), &[(FIRST, ORANGE_RGB), (SECOND, BLUE_RGB)]);
}

#[test]
fn a_linux_kernel_is_told_where_to_draw() {
    let code = Flat::new().bytes(&[0x8b, 0x7e, ZERO_PAGE_LFB_BASE]); // mov edi, [rsi + lfb_base]
    let image = bzimage(&fill_edi(code, FIRST, BLUE).exit(0));
    expect_only(&picture_of(&image), &[(FIRST, BLUE_RGB)]);
}

#[test]
fn a_guest_can_move_the_frame_buffer_and_not_onto_its_ram() {
    let moved = 0xe000_0000;
    let code = fill(Flat::new(), FRAME, FIRST, ORANGE);
    // On RAM it is nowhere, and the RAM stays what it was.
    let code = move_frame(code, 0x60_0000);
    let code = fill(code, 0x60_0000, (0, 0, 9, 9), ORANGE);
    let code = move_frame(code, moved);
    let code = fill(code, moved, SECOND, BLUE);
    // Nobody is here any more.
    let code = fill(code, FRAME, (0, 0, 2, 1), ORANGE);
    let code = code.bytes(&[0xbe]).bytes(&0x60_0000_u32.to_le_bytes()); // mov esi, 0x600000
    let image = pvh(&code.demand(ORANGE, 3).exit(0));
    expect_only(&picture_of(&image), &[(FIRST, ORANGE_RGB), (SECOND, BLUE_RGB)]);
}

#[test]
fn after_a_reset_the_frame_buffer_is_black_and_back_in_its_place() {
    let seen = 0x60_0000_u32;
    let second = fill(Flat::new(), FRAME, SECOND, BLUE).exit(0);
    let first = fill(Flat::new(), FRAME, FIRST, ORANGE);
    let first = move_frame(first, 0xe000_0000);
    // mov dword [esi], ORANGE
    let first = first.bytes(&[0xc7, 0x06]).bytes(&ORANGE.to_le_bytes());
    let first = first.outb(0x64, 0xfe).bytes(&[0xeb, 0xfe]);
    // mov esi, seen; cmp dword [esi], ORANGE; jne first
    let code = Flat::new().bytes(&[0xbe]).bytes(&seen.to_le_bytes());
    let code = code.bytes(&[0x81, 0x3e]).bytes(&ORANGE.to_le_bytes());
    let over = u32::try_from(second.0.len()).unwrap();
    let code = code.bytes(&[0x0f, 0x85]).bytes(&over.to_le_bytes());
    let image = pvh(&code.bytes(&second.0).bytes(&first.0));
    expect_only(&picture_of(&image), &[(SECOND, BLUE_RGB)]);
}

/// It prints nothing, but a user with a viewer sees something at each start.
#[test]
fn a_guest_that_only_draws_is_booted_again_as_often_as_it_resets() {
    let last = 25;
    let boots = |drawn: &Flat| {
        // The number of the boot is in CMOS RAM: in al, 0x71; inc al; out 0x71, al; cmp al, last
        let count = drawn.clone().outb(0x70, 0x50);
        let count = count.bytes(&[0xe4, 0x71, 0xfe, 0xc0, 0xe6, 0x71, 0x3c, last]);
        let exit = Flat::new().exit(0);
        let over = u8::try_from(exit.0.len()).unwrap();
        let code = count.bytes(&[0x72, over]).bytes(&exit.0); // jb over
        let code = code.outb(0x64, 0xfe).bytes(&[0xeb, 0xfe]);
        let guest = Guest::kernel(&pvh(&code)).with(&["--exit-port", "--reboot"]);
        let file = guest.file("picture.png", b"");
        guest.with(&["--screendump", file.to_str().unwrap()]).run()
    };
    boots(&fill(Flat::new(), FRAME, SECOND, BLUE)).expect_status(1);
    let black = boots(&fill(Flat::new(), FRAME, SECOND, 0)).expect_status(2);
    let expected = "Fatal: the guest was reset 10 times without a line of output or a picture, the \
                    last time by the keyboard controller";
    assert_eq!(black.err.lines().last(), Some(expected), "{}", black.err);
}

/// A pipe is opened when the guest starts and written to when it has ended; nobody is waited for in
/// between.
#[test]
fn a_screendump_goes_into_a_pipe_that_has_a_reader() {
    let image = pvh(&fill(Flat::new(), FRAME, FIRST, ORANGE).exit(0));
    let guest = Guest::kernel(&image);
    let pipe = guest.file("pipe", b"");
    std::fs::remove_file(&pipe).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let guest = guest.with(&["--exit-port", "--screendump", pipe.to_str().unwrap()]);
    let alone = guest.run().expect_status(2).err;
    let expected = format!("Fatal: Unable to write {}: nobody reads this pipe\n", pipe.display());
    assert_eq!(alone, expected);
    // Opened for both, so as not to wait either.
    let reader = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let child = guest.start();
    let mut reader = reader;
    let mut seen = Vec::new();
    // The last part of any PNG has no data (its specification, 11.2.5).
    while !seen.ends_with(b"\0\0\0\0IEND\xae\x42\x60\x82") {
        let mut piece = [0; 4096];
        let count = reader.read(&mut piece).unwrap();
        seen.extend(&piece[..count]);
    }
    finish(child).expect_status(1);
    expect_only(&decode(&seen), &[(FIRST, ORANGE_RGB)]);
}

#[test]
fn without_a_display_there_is_none() {
    let read = Asm::new().outl(0xcf8, 0x8000_f800).inl(0xcfc).send_eax(4).exit(0);
    let ended = run(&read, &["--exit-port"]).expect_status(1);
    assert_eq!(ended.out, [0xff; 4]);
}

#[test]
fn a_viewer_sees_what_is_drawn_and_types_to_the_guest() {
    // The controller's command byte: no translation, keyboard interrupt on. Drawn after that, the
    // rectangle tells the viewer that its keys will not be translated.
    let code = Flat::new().outb(0x64, 0x60).outb(0x60, 0x01);
    let mut code = fill(code, FRAME, FIRST, ORANGE);
    for _ in 0..3 {
        // mov dx, 0x64; again: in al, dx; test al, 1; jz again; in al, 0x60
        code = code.bytes(&[0x66, 0xba, 0x64, 0x00, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xe4, 0x60]);
        code = code.send_al();
    }
    let guest = Guest::kernel(&pvh(&code.exit(0))).with(&["--exit-port", "--vnc=127.0.0.1:0"]);
    let mut child = guest.start();
    let mut viewer = connect(&mut child);

    while pixel(&mut viewer) != [0x33, 0x66, 0xcc, 0] {}
    // The key A goes down and up.
    for down in [1, 0] {
        viewer.write_all(&[4, down, 0, 0, 0, 0, 0, b'a']).unwrap();
    }
    let ended = finish(child).expect_status(1);
    assert_eq!(ended.out, [0x1c, 0xf0, 0x1c]);
    // The server goes with the guest.
    assert!(matches!(viewer.read(&mut [0; 1]), Ok(0) | Err(_)));
}

/// Connects to where the guest says its display is, up to the first request.
fn connect(child: &mut Child) -> TcpStream {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some((_, address)) = line.split_once("served by VNC on ") {
            break address.to_owned();
        }
    };
    std::thread::spawn(move || lines.for_each(drop));
    let mut viewer = TcpStream::connect(address).unwrap();
    viewer.set_read_timeout(Some(PATIENCE)).unwrap();
    viewer.write_all(b"RFB 003.008\n\x01\x01").unwrap();
    // Version, security types, result, size, pixel format, name.
    let mut greeting = [0; 12 + 2 + 4 + 4 + 16 + 4];
    viewer.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting[18..22], [2, 128, 1, 224], "640 by 480");
    let name = greeting[38..].try_into().map(u32::from_be_bytes).unwrap();
    viewer.read_exact(&mut vec![0; name.try_into().unwrap()]).unwrap();
    viewer
}

/// Asks for a pixel of the rectangle.
fn pixel(viewer: &mut TcpStream) -> [u8; 4] {
    viewer.write_all(&[3, 0, 0, 100, 0, 50, 0, 1, 0, 1]).unwrap();
    let mut update = [0; 4 + 12 + 4];
    viewer.read_exact(&mut update).unwrap();
    assert_eq!(update[..4], [0, 0, 0, 1]);
    update[16..].try_into().unwrap()
}
