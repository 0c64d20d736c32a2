use std::os::unix::ffi::OsStringExt;

use super::*;

/// What every test of QEMU's is started with, and then its own.
fn options(own: &str) -> anyhow::Result<QtestOptions> {
    let all = format!(
        "-qtest unix:/tmp/q.sock -qtest-log /dev/null -chardev socket,path=/tmp/q.qmp,id=char0 \
         -mon chardev=char0,mode=control -display none {own} -accel qtest"
    );
    parse(all.split_whitespace().map(OsString::from))
}

fn refusal(own: &str) -> String {
    options(own).unwrap_err().to_string()
}

#[test]
fn the_command_line_of_qos_test_is_understood() {
    let options = options(
        "-M pc -device virtio-blk-pci,id=drv0,drive=drive0,addr=4.0 \
         -drive if=none,id=drive0,file=/tmp/a,,b,format=raw,auto-read-only=off \
         -drive if=none,id=drive1,file=null-co://,file.read-zeroes=on,format=raw",
    )
    .unwrap();
    assert_eq!(options.way, Some(Way::Connect("unix:/tmp/q.sock".parse().unwrap())));
    assert_eq!(options.qmp, [Way::Connect("unix:/tmp/q.qmp".parse().unwrap())]);
    assert_eq!((options.mem_bytes, options.board), (128 << 20, BoardKind::X86Pc));
    assert_eq!(options.as_qemu, Some(AsQemu { recent: false }));
    assert_eq!(options.drives["drive0"].path, Path::new("/tmp/a,b"));
    assert_eq!(options.drives["drive0"].format, Some(Format::Raw));
    assert_eq!(options.drives["drive1"].format, Some(Format::Null));
    let wanted = device(&options.devices[0], &options.drives, &options.chardevs, &options.netdevs);
    let Wanted::Device(plug) = wanted.unwrap() else { panic!("a port") };
    assert_eq!((plug.id.as_deref(), plug.slot), (Some("drv0"), Some(4)));
    assert!(matches!(plug.device, PlugDevice::Disk(disk) if disk == options.drives["drive0"]));
}

#[test]
fn a_command_line_of_later_versions_has_answers_of_their_kind() {
    assert!(options("-audio none -machine none").unwrap().as_qemu.unwrap().recent);
    let options = options("-m 256 -M pc,accel=qtest -qmp unix:/q,server=yes,wait=off").unwrap();
    assert_eq!(options.mem_bytes, 256 << 20);
    assert_eq!(options.qmp[0], Way::Listen("unix:/q".parse().unwrap()));
}

#[test]
fn devices_and_their_properties() {
    let drives = BTreeMap::from([("d".to_owned(), DiskOptions::new("/i"))]);
    let plug = |text: &str| {
        let wanted = device(
            &properties(text, "driver").unwrap(),
            &drives,
            &Chardevs::new(),
            &Netdevs::new(),
        )?;
        let Wanted::Device(plug) = wanted else { panic!("{text}: a port") };
        Ok::<_, String>(plug)
    };
    let rng = plug("virtio-rng-pci,addr=0x1f").unwrap();
    assert_eq!((rng.slot, rng.device), (Some(31), PlugDevice::Rng));
    assert_eq!(rng.transport, VirtioTransport::PciTransitional);
    for (choice, transport) in [
        ("disable-legacy=on,disable-modern=off", VirtioTransport::Pci),
        ("disable-legacy=off,disable-modern=true", VirtioTransport::PciLegacy),
        ("disable-legacy=auto", VirtioTransport::PciTransitional),
    ] {
        assert_eq!(plug(&format!("virtio-rng-pci,{choice}")).unwrap().transport, transport);
    }
    let disk = plug("virtio-blk-pci,drive=d,num-queues=0x3,serial=x,bus=pci.0").unwrap();
    let PlugDevice::Disk(options) = disk.device else { panic!("a disk") };
    assert_eq!((options.queues, options.serial.as_deref()), (3, Some("x")));
    for (text, places) in [("", 31), (",max_ports=1", 1), (",max_ports=31", 31)] {
        let serial = plug(&format!("virtio-serial-pci{text}")).unwrap();
        assert_eq!(serial.device, PlugDevice::Serial { places });
    }
    for (text, said) in [
        ("virtio-serial-pci,max_ports=0", "max_ports 0: not a number from 1 to 31"),
        ("virtio-serial-pci,max_ports=32", "max_ports 32: not a number from 1 to 31"),
        ("virtio-serial-pci,max_ports=+1", "max_ports +1: not a number from 1 to 31"),
        ("virtio-blk-pci", "drive property not set"),
        ("virtio-blk-pci,drive=e", "there is no drive called e"),
        ("virtio-blk-pci,drive=d,num-queues=65", "num-queues 65: not a number from 1 to 64"),
        (
            "virtio-blk-pci,drive=d,serial=123456789012345678901",
            "serial=123456789012345678901 is longer than 20 bytes",
        ),
        ("virtio-rng-pci,disable-modern=auto", "disable-modern=auto is neither on nor off"),
        ("virtio-rng-pci,addr=+4", "addr=+4: no slot of a PCI bus"),
        ("e1000", "'e1000' is not a valid device model name"),
        ("virtio-rng-pci,addr=20", "addr=20: no slot of a PCI bus"),
        ("virtio-rng-pci,addr=4.1", "addr=4.1: only function 0 of a slot is free"),
        ("virtio-rng-pci,addr=4.8", "addr=4.8: no slot of a PCI bus"),
        ("virtio-rng-pci,bus=pcie.0", "there is no bus but pci.0"),
        ("virtio-rng-pci,max-bytes=1", "Property 'virtio-rng-pci.max-bytes' not found"),
    ] {
        assert_eq!(plug(text).unwrap_err(), said, "{text}");
    }
}

#[test]
fn network_cards_and_what_they_lead_to() {
    let options = options("-netdev socket,fd=7,id=hs0 -netdev hubport,hubid=0,id=hub").unwrap();
    let card = |text: &str| {
        let given = properties(text, "driver").unwrap();
        match device(&given, &options.drives, &options.chardevs, &options.netdevs)? {
            Wanted::Device(Plug { device: PlugDevice::Net(card), .. }) => Ok(card),
            other => Err(format!("{other:?}")),
        }
    };
    let plain =
        NetOptions { mac: CARD_MAC, mtu: None, speed: None, pcap: None, mode: NetMode::Nobody };
    assert_eq!(card("virtio-net-pci"), Ok(plain.clone()));
    assert_eq!(card("virtio-net-pci,netdev=hub"), Ok(plain));
    let all = NetOptions {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: Some(9000),
        speed: Some(1000),
        pcap: None,
        mode: NetMode::Socket(7),
    };
    let text = "virtio-net-pci,netdev=hs0,mac=02:00:00:00:00:01,host_mtu=9000,speed=1000,addr=04.0";
    assert_eq!(card(text), Ok(all));
    for (text, said) in [
        ("virtio-net-pci,netdev=x", "there is no netdev called x"),
        (
            "virtio-net-pci,mac=ff:ff:ff:ff:ff:ff",
            "no address of a network card: write six octets as in 02:15:15:15:15:15",
        ),
        ("virtio-net-pci,host_mtu=67", "host_mtu 67: not a number from 68 to 65535"),
        ("virtio-net-pci,mq=on", "Property 'virtio-net-pci.mq' not found"),
    ] {
        assert_eq!(card(text).unwrap_err(), said);
    }
    for (own, said) in [
        ("user,id=n", "only hubport and socket are known here"),
        ("socket,id=n", "only sockets with an fd= are known here"),
        ("socket,id=n,fd=-1", "fd -1: not a number from 0 to 2147483647"),
        ("hubport,id=n", "it needs a hubid="),
        ("hubport,hubid=0", "it needs an id="),
        ("socket,id=n,fd=3,mcast=x", "a netdev has no mcast here"),
        (
            "hubport,hubid=0,id=n -netdev hubport,hubid=0,id=n",
            "there is a netdev of that name already",
        ),
    ] {
        let refused = refusal(&format!("-netdev {own}"));
        assert!(refused.ends_with(said), "{own}: {refused}");
    }
}

#[test]
fn ports_and_what_they_lead_to() {
    let options = options(
        "-device virtio-serial-pci,id=v -device virtconsole,bus=v.0,chardev=null0 \
         -chardev null,id=null0 -chardev socket,id=s0,path=/s,server=on,wait=off \
         -chardev socket,id=s1,path=/s",
    )
    .unwrap();
    let port = |text: &str| {
        let given = properties(text, "driver").unwrap();
        match device(&given, &BTreeMap::new(), &options.chardevs, &options.netdevs)? {
            Wanted::Port(port) => Ok(port),
            Wanted::Device(device) => Err(format!("{device:?}")),
        }
    };
    let nothing = PlugPort {
        id: None,
        device: None,
        number: None,
        name: None,
        is_console: true,
        outlet: None,
    };
    assert_eq!(port("virtconsole,chardev=null0"), Ok(nothing));
    let all = "virtserialport,id=p,bus=v.0,nr=2,name=agent,chardev=s0";
    let all_said = PlugPort {
        id: Some("p".to_owned()),
        device: Some("v".to_owned()),
        number: Some(2),
        name: Some("agent".to_owned()),
        is_console: false,
        outlet: Some(Outlet::Socket("/s".into())),
    };
    assert_eq!(port(all), Ok(all_said));
    let long = format!("virtserialport,name={}", "x".repeat(65));
    for (text, said) in [
        ("virtserialport,bus=v", "Bus 'v' not found"),
        ("virtserialport,nr=one", "nr one: not a number from 0 to 4294967295"),
        (&long, "the name has more than 64 bytes"),
        ("virtserialport,name=a\u{1b}b", "the name has a control character in it"),
        ("virtserialport,chardev=x", "there is no chardev called x"),
        ("virtserialport,chardev=char0", "chardev=char0: a monitor has it"),
        ("virtserialport,chardev=s1", "chardev=s1: a port's socket is one with server=on"),
        ("virtserialport,addr=4", "Property 'virtserialport.addr' not found"),
    ] {
        assert_eq!(port(text).unwrap_err(), said, "{text}");
    }
}

#[test]
fn what_is_not_understood_is_one_sentence_each() {
    for (own, said) in [
        ("-M q35", "-M q35: there is no machine but pc and none"),
        ("-enable-kvm -x", "-enable-kvm -x: there is no such option here"),
        ("-display gtk", "-display gtk: there is none of that here"),
        ("-accel kvm", "-accel kvm: there is no accelerator but qtest"),
        ("-m lots", "-m lots: that is no size of memory"),
        ("-m 0", "-m 0: that is no size of memory"),
        ("-m 18446744073709551615B", "-m 18446744073709551615B: that is no size of memory"),
        (
            "-qmp unix:/q,server=maybe",
            "-qmp unix:/q,server=maybe: server=maybe is neither on nor off",
        ),
        (
            "-drive if=none,id=a,file=b,read-only=1",
            "-drive if=none,id=a,file=b,read-only=1: read-only=1 is neither on nor off",
        ),
        (
            "-chardev null,id=char0",
            "-chardev null,id=char0: there is a chardev of that name already",
        ),
        ("-drive file=a", "-drive file=a: only if=none is known here"),
        ("-drive if=none,file=a", "-drive if=none,file=a: it needs an id="),
        ("-drive if=none,id=a", "-drive if=none,id=a: it needs a file="),
        (
            "-drive if=none,id=a,file=b,format=vdi",
            "-drive if=none,id=a,file=b,format=vdi: Unknown driver 'vdi'",
        ),
        ("-chardev pty,id=a", "-chardev pty,id=a: only socket and null are known here"),
        ("-mon chardev=x,mode=control", "-mon chardev=x: there is no such -chardev"),
        ("-mon chardev=char0", "-mon chardev=char0: only mode=control is known here"),
        ("-device virtio-rng-pci,addr=x", "-device: addr=x: no slot of a PCI bus"),
        ("pc", "pc: an option of QEMU's begins with -"),
    ] {
        assert_eq!(refusal(own), said, "{own}");
    }
    let nothing = parse(std::iter::empty()).unwrap_err();
    assert_eq!(nothing.to_string(), "-qtest is missing: where is the client?");
    assert_eq!(parse(["-m".into()]).unwrap_err().to_string(), "-m: the value is missing");
    let no_text = OsString::from_vec(b"unix:/\xff".to_vec());
    let no_text = parse(["-qtest".into(), no_text]).unwrap_err();
    assert_eq!(no_text.to_string(), "unix:/\u{fffd}: not UTF-8");
}

#[test]
fn only_a_link_of_qemus_name_is_called_so() {
    assert!(is_called(Some(&"/x/qemu-system-x86_64".into())));
    assert!(!is_called(Some(&"qemu-system-aarch64".into())) && !is_called(None));
}
