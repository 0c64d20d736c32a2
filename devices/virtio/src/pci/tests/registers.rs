//! Every register's width, reset value and rules of access.

use trapline_device::{Device, Size};

use super::*;
use crate::features::{ACCESS_PLATFORM, INDIRECT_DESC};
use crate::pci::regs::{COMMON_CFG, CommonReg};
use crate::toy::{CONFIG, DEPENDENT};

const WIDTHS: [Size; 3] = [Size::Byte, Size::Word, Size::Dword];

/// What each register of the common configuration is after a reset, with queue 0 selected.
fn reset_value(reg: CommonReg) -> u64 {
    match reg {
        CommonReg::DeviceFeature => (OF_QUEUES | FEATURE | DEPENDENT) & 0xffff_ffff,
        CommonReg::ConfigMsixVector | CommonReg::QueueMsixVector => 0xffff,
        CommonReg::NumQueues => 2,
        CommonReg::QueueSize => 8,
        _ => 0,
    }
}

#[test]
fn each_register_has_one_width_and_its_value_after_a_reset() {
    let (machine, _toy) = Machine::toy();
    let transport = machine.driver().transport;
    for row in COMMON_CFG.rows() {
        for size in WIDTHS {
            let natural = size.bytes() == (row.width as usize).min(4);
            let expected = if natural { reset_value(row.reg) } else { size.ones() };
            let value = transport.common_read(row.offset.into(), size) & size.ones();
            assert_eq!(value, expected, "{} by {size}", row.name);
        }
        if row.width == 8 {
            assert_eq!(transport.common_read(u64::from(row.offset) + 4, Size::Dword), 0);
        }
    }
    // Two dwords make a qword, and nothing is between registers and behind them.
    assert_eq!(transport.common_read(common::QUEUE_DESC, Size::Qword), 0);
    for offset in [0x38, 0x3c, 0x40, 0xffc] {
        assert_eq!(transport.common_read(offset, Size::Word), 0, "{offset:#x}");
    }
    // Neither is an access that is not aligned.
    assert_eq!(transport.common_read(0x13, Size::Word), 0xffff);
}

#[test]
fn writes_of_another_width_vanish() {
    let (machine, _toy) = Machine::toy();
    let transport = machine.driver().transport;
    for row in COMMON_CFG.rows() {
        for size in WIDTHS.into_iter().filter(|size| size.bytes() != (row.width as usize).min(4)) {
            transport.common_write(row.offset.into(), size, 1);
        }
        if row.offset % 2 == 0 {
            transport.common_write(u64::from(row.offset) + 1, Size::Word, 1);
        }
    }
    for row in COMMON_CFG.rows() {
        let size = Size::new((row.width as usize).min(4)).unwrap();
        let value = transport.common_read(row.offset.into(), size) & size.ones();
        assert_eq!(value, reset_value(row.reg), "{}", row.name);
    }
}

#[test]
fn registers_keep_what_can_be_written_and_nothing_else() {
    let (machine, _toy) = Machine::toy();
    let transport = machine.driver().transport;
    let kept = |reg| match reg {
        CommonReg::DeviceFeatureSelect | CommonReg::DriverFeatureSelect => 0x89ab_cdef,
        // Past the 64th.
        CommonReg::DriverFeature | CommonReg::DeviceFeature => 0,
        // No vector, no queue.
        CommonReg::ConfigMsixVector | CommonReg::QueueMsixVector => 0xffff,
        CommonReg::NumQueues => 2,
        CommonReg::QueueSelect => 0xcdef,
        // Bits that are somebody's: not FEATURES_OK, as it was refused, and no DRIVER_OK without.
        CommonReg::DeviceStatus => 0x83,
        _ => 0,
    };
    for row in COMMON_CFG.rows() {
        let size = Size::new((row.width as usize).min(4)).unwrap();
        transport.common_write(row.offset.into(), size, 0x89ab_cdef & size.ones());
    }
    for row in COMMON_CFG.rows() {
        let size = Size::new((row.width as usize).min(4)).unwrap();
        let value = transport.common_read(row.offset.into(), size) & size.ones();
        assert_eq!(value, kept(row.reg), "{}", row.name);
    }
}

#[test]
fn a_queue_that_there_is_not_reads_as_nothing_and_takes_nothing() {
    let (machine, _toy) = Machine::toy();
    let transport = machine.driver().transport;
    for queue in [2, 3, 0x8000, 0xffff] {
        transport.select(queue);
        for offset in [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE] {
            transport.common_write(offset, Size::Qword, u64::MAX);
            assert_eq!(transport.common_read(offset, Size::Qword), 0);
        }
        for offset in [common::QUEUE_SIZE, common::QUEUE_ENABLE, common::QUEUE_RESET] {
            transport.common_write(offset, Size::Word, 1);
            assert_eq!(transport.word(offset), 0, "{offset:#x}");
        }
        assert_eq!(transport.set_queue_vector(queue, 0), 0xffff);
        assert_eq!(transport.word(common::QUEUE_NOTIFY_OFF), 0);
        transport.notify(queue);
    }
    machine.bench.settle();
}

#[test]
fn queues_take_sizes_that_they_can_have_and_are_frozen_while_enabled() {
    let (machine, _toy) = Machine::toy();
    let transport = machine.driver().transport;
    transport.select(1);
    assert_eq!(transport.word(common::QUEUE_NOTIFY_OFF), 1);
    for (size, kept) in [(2, 2), (0, 2), (3, 2), (8, 2), (0x8000, 2), (1, 1), (4, 4)] {
        transport.common_write(common::QUEUE_SIZE, Size::Word, size);
        assert_eq!(transport.word(common::QUEUE_SIZE), kept, "{size}");
    }
    let addresses = [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE];
    for (offset, value) in addresses.into_iter().zip(0x1234_5678_9abc_def0..) {
        transport.common_write(offset, Size::Dword, value & 0xffff_ffff);
        transport.common_write(offset + 4, Size::Dword, value >> 32);
        assert_eq!(transport.common_read(offset, Size::Qword), value);
    }
    for (written, enabled) in [(0, 0), (2, 0), (0xffff, 0), (1, 1), (0, 1)] {
        transport.common_write(common::QUEUE_ENABLE, Size::Word, written);
        assert_eq!(transport.word(common::QUEUE_ENABLE), enabled);
    }
    transport.common_write(common::QUEUE_SIZE, Size::Word, 2);
    transport.common_write(common::QUEUE_DESC, Size::Qword, 0);
    assert_eq!(transport.word(common::QUEUE_SIZE), 4);
    assert_eq!(transport.common_read(common::QUEUE_DESC, Size::Qword), 0x1234_5678_9abc_def0);
    transport.set_status(0);
    assert_eq!(transport.word(common::QUEUE_SELECT), 0, "a reset selects queue 0");
    transport.select(1);
    assert_eq!(transport.word(common::QUEUE_ENABLE), 0);
    assert_eq!(transport.common_read(common::QUEUE_DESC, Size::Qword), 0);
}

#[test]
fn features_are_accepted_if_they_are_offered_whole_and_of_version_1() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let transport = &driver.transport;
    let offered = transport.device_features();
    assert_eq!(offered, OF_QUEUES | FEATURE | DEPENDENT | VERSION_1 | RING_RESET);
    transport.common_write(common::DEVICE_FEATURE_SELECT, Size::Dword, 2);
    assert_eq!(transport.common_read(common::DEVICE_FEATURE, Size::Dword), 0);
    let settled = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
    for (features, good) in [
        (VERSION_1, true),
        (offered, true),
        (VERSION_1 | FEATURE, true),
        (VERSION_1 | DEPENDENT, false),
        (VERSION_1 | ACCESS_PLATFORM, false),
        (VERSION_1 | 1, false),
        (offered & !VERSION_1, false),
        (0, false),
    ] {
        driver.reset();
        transport.set_driver_features(features);
        transport.set_status(settled);
        let status = transport.status();
        assert_eq!(status == settled, good, "{features:#x}: {status:#x}");
        transport.common_write(common::DRIVER_FEATURE_SELECT, Size::Dword, 0);
        let low = transport.common_read(common::DRIVER_FEATURE, Size::Dword);
        assert_eq!(low, features & 0xffff_ffff);
        // What is settled is frozen; what was refused can be had better.
        transport.set_driver_features(VERSION_1 | INDIRECT_DESC);
        transport.set_status(settled);
        assert_eq!(transport.status(), settled);
        driver.ready();
        let accepted = if good { features } else { VERSION_1 | INDIRECT_DESC };
        assert_eq!(toy.calls().last(), Some(&Call::Activate(accepted)));
    }
    driver.reset();
    transport.set_driver_features(VERSION_1);
    transport.common_write(common::DRIVER_FEATURE_SELECT, Size::Dword, 2);
    transport.common_write(common::DRIVER_FEATURE, Size::Dword, 1);
    transport.set_status(settled);
    assert_ne!(transport.status(), settled, "there is no 64th feature");
}

#[test]
fn the_status_only_grows_and_nothing_starts_without_settled_features() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let transport = &driver.transport;
    driver.reset();
    toy.calls();
    transport.set_status(status::DRIVER_OK);
    assert_eq!((transport.status(), toy.calls()), (0, vec![]));
    transport.set_status(status::ACKNOWLEDGE);
    transport.set_status(status::DRIVER);
    assert_eq!(transport.status(), status::ACKNOWLEDGE | status::DRIVER);
    // Bits of nobody, and the device's.
    transport.set_status(0x70);
    assert_eq!(transport.status(), status::ACKNOWLEDGE | status::DRIVER);
    transport.set_driver_features(VERSION_1);
    transport.set_status(status::FEATURES_OK | status::DRIVER_OK);
    assert_eq!(transport.status(), 0xf);
    assert_eq!(toy.calls(), [Call::Activate(VERSION_1)]);
    transport.set_status(0xf);
    assert_eq!(toy.calls(), [], "it is started once");
    transport.set_status(status::FAILED);
    assert_eq!(transport.status(), 0x8f);
}

#[test]
fn the_configuration_is_bytes_and_ends_where_it_ends() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let transport = &driver.transport;
    assert_eq!(transport.config_read(0, Size::Dword), 0x0403_0201);
    assert_eq!(transport.config_read(4, Size::Dword), 0xffff_0605);
    assert_eq!(transport.config_read(0, Size::Qword), 0xffff_0605_0403_0201);
    assert_eq!(transport.config_read(6, Size::Word), 0xffff);
    assert_eq!(transport.config_read(0xffc, Size::Dword), 0xffff_ffff);
    for (byte, at) in CONFIG.into_iter().zip(0..) {
        assert_eq!(transport.config_read(at, Size::Byte), u64::from(byte));
    }
    transport.config_write(1, Size::Byte, 0xaa);
    transport.config_write(4, Size::Dword, 0x4433_2211);
    transport.config_write(0xffc, Size::Dword, 0);
    assert_eq!(transport.config_read(0, Size::Qword), 0xffff_2211_0403_aa01);
    driver.reset();
    assert_eq!(transport.config_read(0, Size::Word), 0x0201);
    drop(toy);
}

#[test]
fn the_generation_changes_when_what_was_read_has_changed() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    let transport = &driver.transport;
    let first = transport.generation();
    toy.set_config([2; 6]);
    assert_eq!(transport.generation(), first, "nobody has read what was before");
    transport.config_read(0, Size::Byte);
    assert_eq!(transport.generation(), first);
    toy.set_config([3; 6]);
    let second = transport.generation();
    assert_ne!(second, first);
    toy.set_config([4; 6]);
    assert_eq!(transport.generation(), second);
    assert!(!machine.line.level(), "nothing is signalled before the driver is ready");
    driver.start(VERSION_1, &[&machine.ring(0)]);
    toy.set_config([5; 6]);
    assert_eq!((machine.line.level(), transport.take_interrupts()), (true, 3));
}

#[test]
fn the_interrupt_status_is_one_byte_that_reading_clears() {
    let (machine, toy) = Machine::toy();
    let driver = machine.driver();
    driver.start(VERSION_1, &[&machine.ring(0)]);
    toy.link().config_changed();
    let isr = driver.transport.doorbell(0) - 0x2000;
    for size in [Size::Word, Size::Dword] {
        assert_eq!(machine.read(Space::Mmio, isr, size) & size.ones(), size.ones());
    }
    machine.write(Space::Mmio, isr, Size::Byte, 0);
    assert!(machine.line.level());
    assert_eq!(driver.transport.take_interrupts(), 3);
    assert_eq!(driver.transport.take_interrupts(), 0);
    assert_eq!(machine.read(Space::Mmio, isr + 1, Size::Byte) & 0xff, 0xff);
    assert_eq!(machine.read(Space::Mmio, isr + 0x2000, Size::Word), 0, "a doorbell reads 0");
}

#[test]
fn the_window_in_configuration_space_reaches_the_same_registers() {
    let (machine, toy) = Machine::toy();
    let transport = machine.driver().transport;
    let at = |offset: u64| u32::try_from(offset).unwrap();
    assert_eq!(transport.window_read(4, at(common::NUM_QUEUES), 2) & 0xffff, 2);
    assert_eq!(transport.window_read(4, 0x2000, 4), 0x0403_0201);
    transport.window_write(4, at(common::DEVICE_STATUS), 1, 1);
    assert_eq!(transport.status(), 1);
    transport.window_write(4, 0x2000, 2, 0xbbaa);
    assert_eq!(transport.config_read(0, Size::Dword), 0x0403_bbaa);
    // Whole dwords go as far as the window is wide.
    transport.window_write(4, 0x2002, 1, 0xdd);
    assert_eq!(transport.config_read(0, Size::Dword), 0x04dd_bbaa);
    for (bar, offset, length) in [
        (0, 0, 4),
        (1, 0, 4),
        (4, 0x4000, 4),
        (4, 0xffff_fffc, 4),
        (4, 1, 2),
        (4, 0, 8),
        (4, 0, 3),
        (4, 0, 0),
    ] {
        let read = transport.window_read(bar, offset, length);
        assert!([0xffff, u32::MAX].contains(&read), "{bar} {offset:#x} {length}: {read:#x}");
        transport.window_write(bar, offset, length, 0);
    }
    // The whole life of a device.
    toy.calls();
    transport.window_write(4, at(common::DEVICE_STATUS), 1, 0);
    transport.window_write(4, at(common::DRIVER_FEATURE_SELECT), 4, 1);
    transport.window_write(4, at(common::DRIVER_FEATURE), 4, 1);
    transport.window_write(4, at(common::DEVICE_STATUS), 1, 0xb);
    transport.window_write(4, at(common::DEVICE_STATUS), 1, 0xf);
    assert_eq!(toy.calls(), [Call::Reset, Call::Activate(VERSION_1)]);
    transport.window_write(4, 0x3000, 2, 0);
    machine.bus.reset();
    assert_eq!(toy.calls(), [Call::Reset]);
}

#[test]
fn the_function_says_what_it_is() {
    let (machine, _toy) = Machine::toy();
    assert_eq!(machine.config_read(DEVFN, 0, Size::Dword), 0x1044_1af4);
    assert_eq!(machine.config_read(DEVFN, 8, Size::Dword), 0xff00_0001);
    assert_eq!(machine.config_read(DEVFN, 0x2c, Size::Dword), 0x1100_1af4);
    assert_eq!(machine.config_read(DEVFN, 0x3d, Size::Byte) & 0xff, 1);
}
