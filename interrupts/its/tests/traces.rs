//! Commands in words, as traces and reports show them.

use gicv3_its::command::{Command, Executed, RdBase};
use gicv3_its::{CollectionId, CommandError, DeviceId, EventId};

#[test]
fn every_command_is_shown_with_its_fields() {
    let (device, event, collection) = (DeviceId(0x18), EventId(5), CollectionId(0x2a));
    let target = RdBase(3);
    for (command, shown) in [
        (
            Command::Mapd { device, size: 4, itt: 0x4250_0100, valid: true },
            "MAPD DeviceID=0x18 Size=0x4 ITT_addr=0x42500100 V=1",
        ),
        (
            Command::Mapd { device, size: 0, itt: 0, valid: false },
            "MAPD DeviceID=0x18 Size=0x0 ITT_addr=0x0 V=0",
        ),
        (Command::Mapc { collection, target, valid: true }, "MAPC ICID=0x2a RDbase=0x3 V=1"),
        (
            Command::Mapti { device, event, intid: 8195, collection },
            "MAPTI DeviceID=0x18 EventID=0x5 pINTID=8195 ICID=0x2a",
        ),
        (Command::Mapi { device, event, collection }, "MAPI DeviceID=0x18 EventID=0x5 ICID=0x2a"),
        (Command::Movi { device, event, collection }, "MOVI DeviceID=0x18 EventID=0x5 ICID=0x2a"),
        (Command::Movall { from: target, to: RdBase(1) }, "MOVALL RDbase1=0x3 RDbase2=0x1"),
        (Command::Discard { device, event }, "DISCARD DeviceID=0x18 EventID=0x5"),
        (Command::Int { device, event }, "INT DeviceID=0x18 EventID=0x5"),
        (Command::Clear { device, event }, "CLEAR DeviceID=0x18 EventID=0x5"),
        (Command::Inv { device, event }, "INV DeviceID=0x18 EventID=0x5"),
        (Command::Invall { collection }, "INVALL ICID=0x2a"),
        (Command::Sync { target }, "SYNC RDbase=0x3"),
        (Command::Virtual { name: "VSYNC", opcode: 0x25 }, "VSYNC opcode=0x25"),
        (Command::Unknown { opcode: 0x77 }, "UNKNOWN opcode=0x77"),
    ] {
        assert_eq!(command.to_string(), shown);
        // What is shown is what was in the queue, field by field.
        assert_eq!(Command::decode(command.encode()), command);
    }
}

#[test]
fn what_became_of_a_command_is_shown_with_its_place() {
    let command = Some(Command::Sync { target: RdBase(1) });
    let done = Executed { offset: 0x1e0, command, result: Ok(()) };
    assert_eq!(done.to_string(), "0x001e0 SYNC RDbase=0x1");
    let result = Err(CommandError::QueueMemory);
    let unreadable = Executed { offset: 0, command: None, result };
    let shown = "0x00000 (unreadable): refused, 0x020003 command queue is not in RAM";
    assert_eq!(unreadable.to_string(), shown);
}
