//! Which states a function takes from a snapshot, and what its registers look like that a reset or a
//! snapshot brings.

use std::sync::Arc;

use trapline_device::{SaveState, Size, StateError};
use trapline_testkit::CX;

use crate::builder_tests::{MEMORY, Silent, builder, in_slot};
use crate::{FunctionBuilder, HostBridge, Identity, MsixLayout, Piix};

/// Refused as a state that no sequence of accesses leads to, or as no state of this device at all.
fn refused(result: Result<(), StateError>) -> bool {
    result.is_err()
}

#[test]
fn a_function_takes_no_state_of_another_kind() {
    let msix = |vectors| {
        in_slot(|slot| {
            let layout = MsixLayout::in_bar(0, vectors);
            builder(slot).bar(0, MEMORY).msix(layout).build(Arc::new(Silent))
        })
    };
    let plain = || in_slot(|slot| builder(slot).bar(0, MEMORY).build(Arc::new(Silent)));
    assert!(refused(msix(3).restore(&msix(4).save())));
    assert!(refused(plain().restore(&msix(4).save())));
    assert!(refused(msix(4).restore(&plain().save())));
    assert_eq!(msix(4).restore(&msix(4).save()), Ok(()));
    // A table where there is none: one masked vector, behind the 256 bytes and their number.
    let mut saved = plain().save();
    assert_eq!(saved.bytes[258], 0, "no vector");
    saved.bytes.splice(258..259, [1, 0, 0, 1, 0]);
    assert!(refused(plain().restore(&saved)));
    // A message is an aligned dword: what a table of that kind cannot hold is refused.
    let function = msix(1);
    let table = &function.bars()[0][0].1.handler;
    table.write(&CX, 0, Size::Dword, 0xfee0_1004);
    let mut saved = function.save();
    assert_eq!(function.restore(&saved), Ok(()));
    // The address, 0xfee01004, seven bits to a byte.
    let address = [0x84, 0xa0, 0x80, 0xf7, 0x0f];
    let at = saved.bytes.windows(5).rposition(|bytes| bytes == address).unwrap();
    saved.bytes[at] = 0x85;
    assert!(refused(function.restore(&saved)));
    assert!(refused(HostBridge.restore(&Piix.save())));
    assert!(refused(Piix.restore(&HostBridge.save())));
    assert_eq!(
        (HostBridge.restore(&HostBridge.save()), Piix.restore(&Piix.save())),
        (Ok(()), Ok(()))
    );
}

/// 290549, SMRAM: once locked it is closed.
#[test]
fn a_bridge_whose_smram_is_locked_and_open_is_refused() {
    let smram = |value: u8| {
        let bridge = in_slot(HostBridge::function);
        bridge.config_write(0x72, Size::Byte, value.into());
        bridge
    };
    for (value, read) in [(0x02, 0x02), (0x42, 0x42), (0x12, 0x12), (0x52, 0x12)] {
        let bridge = smram(value);
        assert_eq!(bridge.config_read(0x72, Size::Byte) & 0xff, read, "{value:#x}");
        let saved = bridge.save();
        assert_eq!(in_slot(HostBridge::function).restore(&saved), Ok(()), "{value:#x}");
    }
    let mut saved = smram(0x12).save();
    // The register's place among the 256 bytes, behind their number.
    let pam = saved.bytes.len() - 256..;
    let at =
        saved.bytes[pam].iter().position(|byte| *byte == 0x12).unwrap() + saved.bytes.len() - 256;
    saved.bytes[at] = 0x52;
    assert!(refused(in_slot(HostBridge::function).restore(&saved)));
}

#[test]
fn a_messages_address_is_written_in_halves() {
    let function = in_slot(|slot| {
        builder(slot).bar(0, MEMORY).msix(MsixLayout::in_bar(0, 1)).build(Arc::new(Silent))
    });
    let table = &function.bars()[0][0].1.handler;
    let read = || [0, 4, 8, 12].map(|at| table.read(&CX, at, Size::Dword));
    assert_eq!(read(), [0, 0, 0, 1]);
    for (at, value, then) in [
        (4, 0x1111_1111, [0, 0x1111_1111, 0, 1]),
        (0, 0xffff_ffff, [0xffff_fffc, 0x1111_1111, 0, 1]),
        (4, 0x2222_2222, [0xffff_fffc, 0x2222_2222, 0, 1]),
        (0, 0x3333_3333, [0x3333_3330, 0x2222_2222, 0, 1]),
        (8, 0x4444_4444, [0x3333_3330, 0x2222_2222, 0x4444_4444, 1]),
        (12, 0xffff_fffe, [0x3333_3330, 0x2222_2222, 0x4444_4444, 0]),
    ] {
        table.write(&CX, at, Size::Dword, value);
        assert_eq!(read(), then);
    }
}

/// PCI Express Base 3.0, 7.8; PCI Bus Power Management Interface 1.2, 3.2; the AF ECN.
#[test]
fn the_capabilities_that_reset_are_written_where_they_are() {
    let function = in_slot(|slot| {
        let builder = FunctionBuilder::express(slot, &Identity::default());
        builder.power_management().function_level_reset().build(Arc::new(Silent))
    });
    let bytes = |from: u16, len: u16| -> Vec<u32> {
        (from..from + len).map(|at| function.config_read(at, Size::Byte) & 0xff).collect()
    };
    // A write that asks for nothing leaves them as they are.
    assert!(!function.config_write(0x3c, Size::Byte, 5));
    let mut express = vec![0; 0x3c];
    express[..10].copy_from_slice(&[0x10, 0x7c, 0x92, 0, 0, 0x80, 0, 0x10, 0x10, 0x28]);
    assert_eq!(bytes(0x40, 0x3c), express);
    assert_eq!(bytes(0x7c, 8), [1, 0x84, 3, 0, 0, 0, 0, 0]);
    assert_eq!(bytes(0x84, 6), [0x13, 0, 6, 3, 0, 0]);
    assert_eq!(bytes(0x8a, 0x76), [0; 0x76]);
    assert_eq!(function.config_read(0x100, Size::Dword), 0, "no extended capability");
}

/// A write of a state that there is not is completed and discarded (3.2.4).
#[test]
fn power_states_that_there_are_not_leave_the_present_one() {
    let function = in_slot(|slot| builder(slot).power_management().build(Arc::new(Silent)));
    let control = |value: u32| {
        function.config_write(0x44, Size::Word, value);
        function.config_read(0x44, Size::Word) & 0xffff
    };
    let states = [0, 1, 2, 3, 1, 2, 3, 0, 2].map(control);
    assert_eq!(states, [0, 0, 0, 3, 3, 3, 3, 0, 0]);
    assert_eq!(control(0xfffc), 0, "nothing else can be written");
}
