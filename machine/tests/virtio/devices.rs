//! Consoles, shared folders, balloons and network cards: what their drivers do with the board they are on.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use trapline_device::{Size, Space};
use trapline_machine::net::{
    Addresses, NetMode, NetOptions, UserBackend, UserNetOptions, UserOptions,
};
use trapline_machine::ninep::{ShareOptions, kind};
use trapline_machine::qtest::{BoardKind, Config, Machine};
use trapline_machine::{ConsoleKind, Outlet, PortOptions, VirtioTransport, VsockOptions};
use trapline_qtest::Target;
use trapline_testkit::TestTerminal;
use trapline_testkit::ninep::{Field, message};
use trapline_testkit::virtio::{Access, Driver, Part, PciTransport, Ring, Transport};

use super::{BOARDS, Board, MIB, config};

const CONSOLE: u32 = 0x1043_1af4;

#[test]
fn a_console_beside_the_serial_port_and_a_port_behind_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    for kind in [BoardKind::X86Pc, BoardKind::Arm64Virt] {
        let terminal = TestTerminal::default();
        let board = Board::of(&Config {
            console: Arc::new(terminal.clone()),
            console_kind: ConsoleKind::Virtio,
            ports: vec![PortOptions { name: "log".into(), outlet: Outlet::File(log.clone()) }],
            ..config(kind, VirtioTransport::Pci, Vec::new())
        });
        let (text, keys, table) = (board.ram + MIB, board.ram + MIB + 64, board.ram + 2 * MIB);
        board.machine.ram().write(text, b"hello").unwrap();
        let driver = Driver::new(PciTransport::new(&board, board.find(CONSOLE), board.memory));
        let mut rings: Vec<_> = (0..6)
            .map(|n| Ring::new(board.machine.ram().clone(), table + n * 0x4000, 128))
            .collect();
        driver.start(!0, &rings.iter().collect::<Vec<_>>());
        for queue in [1, 5] {
            rings[queue].add(&[Part::Read(text, 5)]);
            driver.transport.notify(u16::try_from(queue).unwrap());
            assert_eq!(rings[queue].take_used(), Some((0, 0)));
        }
        assert_eq!(
            (terminal.screen(), std::fs::read(&log).unwrap()),
            (b"hello".to_vec(), b"hello".to_vec())
        );

        // What the serial port sends comes to the same terminal, and what is typed goes to the other.
        let (space, serial) = match kind {
            BoardKind::X86Pc => (Space::Pio, 0x3f8),
            BoardKind::Arm64Virt => (Space::Mmio, 0x100_0000),
        };
        board.write(space, serial, Size::Byte, b'!'.into());
        assert_eq!(terminal.screen(), b"hello!");
        terminal.type_in(b"key");
        board.machine.console_device().upgrade().unwrap().poll();
        board.machine.run_back_ends();
        assert_eq!(board.read(space, serial + 5, Size::Byte) & 1, 0, "nothing for the serial port");
        let say = |rings: &mut Vec<Ring<_>>, event: u16| {
            let message = [&[0; 4][..], &event.to_le_bytes(), &[1, 0]].concat();
            board.machine.ram().write(text, &message).unwrap();
            rings[3].add(&[Part::Read(text, 8)]);
            driver.transport.notify(3);
        };
        rings[0].add(&[Part::Write(keys, 8)]);
        for n in 0..8 {
            rings[2].add(&[Part::Write(text + 0x100 + n * 64, 64)]);
        }
        driver.transport.notify(0);
        // It is ready; the port is, too, and open.
        [0, 3, 6].into_iter().for_each(|event| say(&mut rings, event));
        assert_eq!(rings[0].take_used(), Some((0, 3)));
        assert_eq!(board.bytes(keys)[..3], *b"key");
    }
    let config = Config {
        ports: vec![PortOptions { name: "a".into(), outlet: Outlet::File("/no/such/file".into()) }],
        ..config(BoardKind::X86Pc, VirtioTransport::Pci, Vec::new())
    };
    let error = Machine::new(&config).err().unwrap().to_string();
    assert_eq!(error, "port a: cannot write /no/such/file: No such file or directory (os error 2)");
}

const P9: u32 = 0x1049_1af4;

#[test]
fn a_driver_reaches_a_folder_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    for board_kind in BOARDS {
        let shares = vec![ShareOptions::new(folder.path(), "here"), ShareOptions::new("/", "all")];
        let board =
            Board::of(&Config { shares, ..config(board_kind, VirtioTransport::Pci, Vec::new()) });
        let driver = Driver::new(PciTransport::new(&board, board.find(P9), board.memory));
        let mut ring = Ring::new(board.machine.ram().clone(), board.ram + 2 * MIB, 128);
        driver.start(!0, &[&ring]);
        let tag = driver.transport.config_read(0, Size::Dword);
        assert_eq!(tag, u64::from(u32::from_le_bytes(*b"\x04\x00he")));
        let version = message(kind::TVERSION, 1, &[Field::U32(8192), Field::Str(b"9P2000.L")]);
        board.machine.ram().write(board.ram + MIB, &version).unwrap();
        let len = u32::try_from(version.len()).unwrap();
        let reply = board.ram + MIB + 0x1000;
        ring.add(&[Part::Read(board.ram + MIB, len), Part::Write(reply, 100)]);
        driver.transport.notify(0);
        assert_eq!(ring.take_used(), Some((0, len)), "it is answered in the access itself");
        assert_eq!(board.bytes(reply)[4], kind::TVERSION + 1);
    }
    let shares = vec![ShareOptions::new("/no/such/folder", "t")];
    let config = Config { shares, ..config(BoardKind::X86Pc, VirtioTransport::Pci, Vec::new()) };
    let said = "--9p: cannot share /no/such/folder: No such file or directory (os error 2)";
    assert_eq!(Machine::new(&config).err().unwrap().to_string(), said);
}

const BALLOON: u32 = 0x1045_1af4;

#[test]
fn a_balloon_takes_pages_of_the_boards_ram() {
    for kind in [BoardKind::X86Pc, BoardKind::Arm64Virt] {
        let board = Board::of(&Config {
            balloon: Some(2 * MIB),
            ..config(kind, VirtioTransport::Pci, Vec::new())
        });
        let balloon = board.machine.balloon().unwrap();
        let driver = Driver::new(PciTransport::new(&board, board.find(BALLOON), board.memory));
        assert_eq!(driver.transport.config_read(0, Size::Dword), 2 * MIB / 4096);
        let (list, page, table) = (board.ram + MIB, board.ram + MIB + 4096, board.ram + 2 * MIB);
        let ram = board.machine.ram();
        let mut ring = Ring::new(ram.clone(), table, 128);
        driver.start(!0, &[&ring]);
        ram.write(page, &[0xaa; 8192]).unwrap();
        ram.write(list, &u32::try_from(page / 4096).unwrap().to_le_bytes()).unwrap();
        ring.add(&[Part::Read(list, 4)]);
        driver.transport.notify(0);
        assert_eq!(ring.take_used(), Some((0, 0)));
        assert_eq!((board.bytes(page), board.bytes(page + 4096)), ([0; 16], [0xaa; 16]));
        driver.transport.config_write(4, Size::Dword, 1);
        assert_eq!(balloon.left(), 4 * MIB - 4096);

        driver.transport.take_interrupts();
        balloon.set_held(0);
        assert_eq!(driver.transport.take_interrupts(), 3, "the driver is told");
        assert_eq!(driver.transport.config_read(0, Size::Dword), 0);
    }
}

const NET: u32 = 0x1041_1af4;

#[test]
fn frames_go_from_a_socket_to_a_drivers_buffers_and_back() {
    for kind in BOARDS {
        let (ours, mut wire) = UnixStream::pair().unwrap();
        let options = NetOptions::new(0, NetMode::Socket(ours.as_raw_fd()));
        let nets = vec![options, NetOptions::new(1, NetMode::Nobody)];
        let plain = config(kind, VirtioTransport::Pci, Vec::new());
        let board = Board::of(&Config { nets, ..plain });
        drop(ours);
        let names: Vec<_> = board.machine.nets().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["net0", "net1"]);
        let driver = Driver::new(PciTransport::new(&board, board.find(NET), board.memory));
        assert_eq!(driver.transport.config_read(0, Size::Dword), 0x1515_1502);
        let (buffer, tables, ram) = (board.ram + MIB, board.ram + 2 * MIB, board.machine.ram());
        let mut rings = [0, 1].map(|n| Ring::new(ram.clone(), tables + n * 0x1_0000, 256));
        driver.start(!0, &rings.each_ref());
        ram.write(buffer, &[0; 12]).unwrap();
        ram.write(buffer + 12, b"out").unwrap();
        rings[1].add(&[Part::Read(buffer, 15)]);
        driver.transport.notify(1);
        let mut sent = [0; 7];
        wire.read_exact(&mut sent).unwrap();
        assert_eq!(sent, *b"\0\0\0\x03out");
        rings[0].add(&[Part::Write(buffer, 64)]);
        driver.transport.notify(0);
        wire.write_all(b"\0\0\0\x02in").unwrap();
        board.machine.run_back_ends();
        assert_eq!(rings[0].take_used(), Some((0, 14)));
        assert_eq!(board.bytes(buffer + 12)[..2], *b"in");
    }
}

/// passt as it is installed here has the gateway that the embedded network has, and each ends with its board.
#[test]
fn the_gateway_answers_whoever_makes_the_network() {
    for backend in [UserBackend::Embedded, UserBackend::Passt] {
        let network = UserNetOptions { addresses: Addresses::new(0), forwards: Vec::new() };
        let mode = NetMode::User(UserOptions { network, backend });
        let plain = config(BoardKind::X86Pc, VirtioTransport::Pci, Vec::new());
        let config = Config { nets: vec![NetOptions::new(0, mode)], ..plain };
        if let (UserBackend::Passt, Err(error)) = (backend, Machine::new(&config)) {
            return trapline_testkit::skip("passt", &error.to_string());
        }
        let board = Board::of(&config);
        let driver = Driver::new(PciTransport::new(&board, board.find(NET), board.memory));
        assert_eq!(driver.transport.config_read(10, Size::Word), 65_520, "the MTU");
        let (buffer, tables, ram) = (board.ram + MIB, board.ram + 2 * MIB, board.machine.ram());
        let mut rings = [0, 1].map(|n| Ring::new(ram.clone(), tables + n * 0x1_0000, 256));
        driver.start(!0, &rings.each_ref());
        // RFC 826: Ethernet, IPv4, a request of 192.168.33.15 for 192.168.33.1.
        let mac = [2, 0x15, 0x15, 0x15, 0x15, 0x15];
        let request = [0, 1, 8, 0, 6, 4, 0, 1];
        let (guest, host) = ([192, 168, 33, 15], [192, 168, 33, 1]);
        let asked =
            [&[0; 12][..], &[0xff; 6], &mac, &[8, 6], &request, &mac, &guest, &[0; 6], &host];
        ram.write(buffer, &asked.concat()).unwrap();
        rings[1].add(&[Part::Read(buffer, 54)]);
        driver.transport.notify(1);
        assert!(rings[1].take_used().is_some());
        // Others may come before it, as router advertisements do.
        let reply = [&mac[..], &[2, 1, 1, 1, 1, 1, 8, 6]].concat();
        let frame = buffer + 0x1000;
        loop {
            rings[0].add(&[Part::Write(frame, 2048)]);
            driver.transport.notify(0);
            while rings[0].take_used().is_none() {
                board.machine.run_back_ends();
            }
            if board.bytes(frame + 12)[..14] == reply {
                break;
            }
        }
        assert_eq!(board.bytes(frame + 12 + 28)[..4], host);
    }
}

#[test]
fn a_card_on_a_socket_that_is_none_is_refused() {
    let nets = vec![NetOptions::new(0, NetMode::Socket(1_000_000))];
    let plain = config(BoardKind::X86Pc, VirtioTransport::Pci, Vec::new());
    let error = Machine::new(&Config { nets, ..plain }).err().unwrap().to_string();
    assert_eq!(error, "network socket 1000000: Bad file descriptor (os error 9)");
}

const VSOCK: u32 = 0x1053_1af4;

/// On both boards.
#[test]
fn a_program_of_the_host_talks_to_one_of_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("v");
    for kind in BOARDS {
        let vsock = Some(VsockOptions { cid: 5, socket: socket.clone() });
        let plain = config(kind, VirtioTransport::Pci, Vec::new());
        let board = Board::of(&Config { vsock: vsock.clone(), ..plain });
        let error =
            Machine::new(&Config { vsock, ..config(kind, VirtioTransport::Pci, Vec::new()) });
        let said = format!(
            "--vsock: cannot listen at {}: Address already in use (os error 98)",
            socket.display()
        );
        assert_eq!(error.err().unwrap().to_string(), said);
        let driver = Driver::new(PciTransport::new(&board, board.find(VSOCK), board.memory));
        assert_eq!(driver.transport.config_read(0, Size::Dword), 5, "the context identifier");
        let (buffer, tables, ram) = (board.ram + MIB, board.ram + 2 * MIB, board.machine.ram());
        let mut rings = [0, 1, 2].map(|n| Ring::new(ram.clone(), tables + n * 0x1_0000, 256));
        driver.start(!0, &rings.each_ref());
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all(b"CONNECT 22\nhello").unwrap();
        rings[0].add(&[Part::Write(buffer, 64)]);
        driver.transport.notify(0);
        while rings[0].take_used().is_none() {
            board.machine.run_back_ends();
        }
        // Of what the device has asked, an answer: ends and ports are each other's, with 256 bytes of room.
        let mut packet = [0; 44];
        ram.read(buffer, &mut packet).unwrap();
        assert_eq!((packet[0], packet[8], packet[20], packet[30]), (2, 5, 22, 1));
        let answer = [&packet[8..16], &packet[..8], &packet[20..24], &packet[16..20]].concat();
        let port = u32::from_le_bytes(packet[16..20].try_into().unwrap());
        packet[..24].copy_from_slice(&answer);
        (packet[30], packet[37]) = (2, 1);
        ram.write(buffer, &packet).unwrap();
        rings[1].add(&[Part::Read(buffer, 44)]);
        driver.transport.notify(1);
        let line = format!("OK {port}\n");
        let mut said = vec![0; line.len()];
        client.read_exact(&mut said).unwrap();
        assert_eq!(said, line.as_bytes());
        rings[0].add(&[Part::Write(buffer, 64)]);
        driver.transport.notify(0);
        let mut used = None;
        while used.is_none() {
            board.machine.run_back_ends();
            used = rings[0].take_used();
        }
        assert_eq!(used, Some((1, 44 + 5)));
        assert_eq!(board.bytes(buffer + 44)[..5], *b"hello");
        drop(rings);
        drop(board);
        assert_eq!(client.read(&mut said).unwrap_or(0), 0, "the connection goes with the machine");
        assert!(!socket.exists());
    }
}
