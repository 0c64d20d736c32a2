use trapline_device::{NoRegions, Requester};
use trapline_testkit::TestLine;

use super::regs::SETSPI;
use super::*;

fn frame() -> (V2m, Vec<TestLine>) {
    let lines: Vec<TestLine> = (0..4).map(|_| TestLine::default()).collect();
    (V2m::new(96, lines.iter().map(TestLine::line).collect()), lines)
}

fn cx() -> IoCx<'static> {
    IoCx::new(Requester::Vcpu(0), &NoRegions)
}

#[test]
fn the_frame_says_which_interrupts_are_its_own() {
    let (v2m, _lines) = frame();
    assert_eq!(v2m.read(&cx(), 8, Size::Dword), 96 << 16 | 4);
    assert_eq!(v2m.read(&cx(), 0xfcc, Size::Dword), 0);
    assert_eq!(v2m.read(&cx(), SETSPI, Size::Dword), 0, "write-only");
    assert_eq!(v2m.register(8, Direction::Read), Some("MSI_TYPER"));
    assert_eq!(v2m.register(SETSPI, Direction::Write), Some("MSI_SETSPI_NS"));
}

#[test]
fn a_write_is_an_edge_on_the_line_it_names() {
    let (v2m, lines) = frame();
    v2m.write(&cx(), SETSPI, Size::Dword, 98);
    v2m.set_spi(98);
    let rises: Vec<u64> = lines.iter().map(TestLine::rises).collect();
    assert_eq!(rises, [0, 0, 2, 0]);
    assert!(lines.iter().all(|line| !line.level()));
}

#[test]
fn interrupts_of_others_and_other_registers_are_left_alone() {
    let (v2m, lines) = frame();
    for intid in [0, 95, 100, 1023, u32::MAX] {
        v2m.set_spi(intid);
    }
    v2m.write(&cx(), 8, Size::Dword, 96);
    v2m.write(&cx(), 0x44, Size::Dword, 96);
    assert!(lines.iter().all(|line| line.rises() == 0));
}

#[test]
fn the_node_is_one_linux_knows() {
    let node = fdt_node().at(0x1000..0x2000);
    assert_eq!(node.name, "msic@1000");
    assert!(node.get("msi-controller").is_some());
}
