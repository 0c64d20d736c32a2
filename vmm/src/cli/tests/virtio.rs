//! `--virtio-transport`, `--virtio-legacy`, `-n` and `--9p`.

use trapline_machine::ninep::ShareOptions;
use trapline_machine::{VirtioTransport, VirtioTransports, VsockOptions};

use super::*;

#[test]
fn virtio_devices_have_the_registers_that_the_user_wants_by_kvmtools_names() {
    let arm64 = |args: &str| match parse_arm64(&format!("run {args}")).unwrap() {
        Parsed::Run(options) => options.virtio,
        other => panic!("{other:?}"),
    };
    for (args, transport) in [
        ("", VirtioTransport::Pci),
        ("--virtio-transport pci", VirtioTransport::Pci),
        ("--virtio-transport pci-legacy", VirtioTransport::PciLegacy),
        ("--virtio-transport pci-transitional", VirtioTransport::PciTransitional),
        ("--virtio-transport mmio", VirtioTransport::Mmio),
        ("--virtio-transport mmio-legacy", VirtioTransport::MmioLegacy),
        ("--virtio-legacy", VirtioTransport::PciLegacy),
        ("--virtio-transport pci-transitional --virtio-legacy", VirtioTransport::PciLegacy),
        ("--virtio-transport mmio --virtio-legacy", VirtioTransport::MmioLegacy),
        ("--virtio-transport mmio-legacy --virtio-legacy", VirtioTransport::MmioLegacy),
    ] {
        assert_eq!(run(args).virtio, transport.into(), "{args}");
        assert_eq!(arm64(args), transport.into(), "{args}");
    }
    assert_eq!(arm64("--force-pci"), VirtioTransport::Pci.into());
    let named = |others, named: &[(&str, VirtioTransport)]| VirtioTransports {
        others,
        named: named.iter().map(|(name, transport)| ((*name).to_owned(), *transport)).collect(),
    };
    let mixed = [("disk1", VirtioTransport::Mmio), ("rng", VirtioTransport::Pci)];
    let text = "--virtio-transport disk1=mmio,pci-legacy,rng=pci";
    assert_eq!(run(text).virtio, named(VirtioTransport::PciLegacy, &mixed));
    let legacy = [("disk1", VirtioTransport::MmioLegacy), ("rng", VirtioTransport::PciLegacy)];
    let text = "--virtio-legacy --virtio-transport disk1=mmio,rng=pci";
    assert_eq!(run(text).virtio, named(VirtioTransport::PciLegacy, &legacy));
    match parse("qtest --stdio --virtio-transport disk0=mmio").unwrap() {
        Parsed::Qtest(options) => {
            let disk = named(VirtioTransport::Pci, &[("disk0", VirtioTransport::Mmio)]);
            assert_eq!(options.virtio, disk);
        }
        other => panic!("{other:?}"),
    }
    for (text, why) in [
        ("isa", "isa is not one of pci, pci-legacy, pci-transitional, mmio and mmio-legacy"),
        ("rng=", " is not one of pci, pci-legacy, pci-transitional, mmio and mmio-legacy"),
        ("", " is not one of pci, pci-legacy, pci-transitional, mmio and mmio-legacy"),
        ("=pci", "a device's name is missing"),
        ("rng=pci,rng=mmio", "rng is there twice"),
        ("pci,mmio", "mmio is a second transport for all devices"),
    ] {
        let sentence = format!("--virtio-transport {text}: {why}");
        assert_eq!(refusal(&format!("run --virtio-transport={text}")), sentence);
        assert_eq!(refusal(&format!("qtest --stdio --virtio-transport={text}")), sentence);
    }
}

#[test]
fn network_cards_are_on_taps_in_networks_or_not_there() {
    assert_eq!(run("").nets, []);
    assert_eq!(run("--network=mode=none --no-dhcp").nets, []);
    let options = run("-n mode=tap,trans=mmio -n tapif=t,trans=mmio --virtio-transport net1=pci");
    assert_eq!(options.nets.len(), 2);
    let transports = ["net0", "net1", "net2"].map(|name| options.virtio.of(name));
    assert_eq!(transports, [VirtioTransport::Mmio, VirtioTransport::Pci, VirtioTransport::Pci]);
    assert_eq!(run("-n").nets, run("-n mode=user").nets);
    assert_eq!(run("-n").nets.len(), 1);
}

#[test]
fn folders_are_shared_under_their_tags() {
    let all = [
        ShareOptions::new("/a", "x"),
        ShareOptions { read_only: true, ..ShareOptions::new("b", "y") },
    ];
    assert_eq!(run("--9p /a,x --9p b,y,ro").shares, all);
    assert_eq!(refusal("run --9p /a,x --9p /b,x"), "--9p: two folders have the tag x");
    match parse("qtest --stdio --9p /a,x --9p b,y,ro").unwrap() {
        Parsed::Qtest(options) => assert_eq!(options.shares, all),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sockets_are_between_guest_and_host() {
    assert_eq!(run("").vsock, None);
    let vsock = Some(VsockOptions { cid: 3, socket: "/v".into() });
    assert_eq!(run("--vsock 3,socket=/v").vsock, vsock);
    let options = run("--vsock 3,socket=/v --virtio-transport vsock=mmio");
    assert_eq!(options.virtio.of("vsock"), VirtioTransport::Mmio);
    match parse("qtest --stdio --vsock 3,socket=/v").unwrap() {
        Parsed::Qtest(options) => assert_eq!(options.vsock, vsock),
        other => panic!("{other:?}"),
    }
}
