mod help;
mod qtest;
mod root;
mod trace;
mod vfio;
mod virtio;

use std::path::PathBuf;

use proptest::prelude::*;
use trapline_machine::boot::cmdline::Machine;
use trapline_machine::disk::DiskOptions;
use trapline_machine::{
    Arm64, Backing, ConsoleKind, FirmwareFlash, FirmwareKernel, Irqchip, Outlet, PcConfigSpace,
    PortOptions,
};

use super::*;

const HOST: Host = Host { cpus: 4, ram_bytes: Some(8 << 30), machine: Machine::Pc };
const ARM64: Host = Host { machine: Machine::Arm64, ..HOST };

fn parse(args: &str) -> anyhow::Result<Parsed> {
    parse_list(&args.split_whitespace().collect::<Vec<_>>())
}

/// On an arm64 host.
fn parse_arm64(args: &str) -> anyhow::Result<Parsed> {
    let words = args.split_whitespace();
    parse_on(std::iter::once("trapline").chain(words).map(OsString::from), &ARM64)
}

fn parse_list(args: &[&str]) -> anyhow::Result<Parsed> {
    parse_on(std::iter::once("trapline").chain(args.iter().copied()).map(OsString::from), &HOST)
}

fn run(args: &str) -> RunOptions {
    match parse(&format!("run {args}")) {
        Ok(Parsed::Run(options)) => *options,
        other => panic!("{args}: {other:?}"),
    }
}

fn text(args: &str) -> String {
    match parse(args) {
        Ok(Parsed::Text(text)) => text,
        other => panic!("{args}: {other:?}"),
    }
}

fn refusal(args: &str) -> String {
    let error = parse(args).expect_err(args);
    let sentence = format!("{error:#}");
    assert!(!sentence.contains('\n'), "one line: {sentence}");
    sentence
}

fn kernel(options: &RunOptions) -> (Option<PathBuf>, Option<PathBuf>, &str) {
    match &options.boot {
        Boot::Kernel { path, initrd, params } => (path.clone(), initrd.clone(), params),
        Boot::Firmware { path, .. } => panic!("firmware {}", path.display()),
    }
}

#[test]
fn the_defaults_are_kvmtools() {
    let options = run("");
    assert_eq!(options.name.as_str(), format!("guest-{}", std::process::id()));
    assert_eq!(options.cpus, 4);
    assert_eq!(options.mem_bytes, (64 << 20) * 7);
    assert_eq!(options.dev, PathBuf::from("/dev/kvm"));
    assert_eq!(kernel(&options), (None, None, ""));
    assert_eq!(options.loglevel, LogLevel::Info);
    assert!(!options.reboot && options.stat.is_none() && !options.exit_port && !options.nodefaults);
    assert!(options.legacy);
}

#[test]
fn what_starts_a_guest_is_known_before_it_is_understood() {
    let starts = |args: &str| {
        let words = std::iter::once("trapline").chain(args.split_whitespace());
        starts_guest(&words.map(OsString::from).collect::<Vec<_>>())
    };
    for args in ["run -k kernel", "sandbox -- true"] {
        assert!(starts(args) && matches!(parse(args), Ok(Parsed::Run(_))), "{args}");
    }
    for args in ["", "version", "list", "qtest --stdio", "replay run", "stop --name run"] {
        assert!(!starts(args) && !matches!(parse(args), Ok(Parsed::Run(_))), "{args}");
    }
}

#[test]
fn the_default_memory_leaves_the_host_a_fifth() {
    let small = Host { cpus: 8, ram_bytes: Some(500 << 20), ..HOST };
    assert_eq!(small.default_mem_bytes(8), 400 << 20);
}

#[test]
fn the_options_of_arm64_guests_are_understood_where_they_run() {
    let Ok(Parsed::Run(options)) = parse_arm64(
        "run --nodefaults --network mode=none --loglevel=warning --kernel gic.flat --params ipi \
         --initrd env --cpus 2 --mem 256@0x100000000 --pmu --irqchip=gicv2m --aarch32 \
         --kaslr-seed 0x1234 --sve-max-vl 256 --vcpu-affinity 0,2-3 --no-pvtime --disable-mte \
         --dump-dtb out.dtb --override-bad-firmware-cntfrq 24000000 --force-pci",
    ) else {
        panic!("it is refused")
    };
    let expected = Arm64 {
        mem_base: Some(1 << 32),
        irqchip: Some(Irqchip::Gicv2m),
        aarch32: true,
        pmu: true,
        disable_mte: true,
        no_pvtime: true,
        sve_max_vl: Some(256),
        vcpu_affinity: vec![0, 2, 3],
        timer_hz: Some(24_000_000),
        kaslr_seed: 0x1234,
        dump_dtb: Some("out.dtb".into()),
        ..Arm64::default()
    };
    assert_eq!(options.arm64, expected);
    assert_eq!(options.mem_bytes, 256 << 20);
    let firmware = parse_arm64("run -f fw --firmware-address 0x80200000 -p quiet");
    let Ok(Parsed::Run(options)) = firmware else { panic!("{firmware:?}") };
    assert_eq!(options.arm64.firmware_address, Some(0x8020_0000));
    assert_eq!(options.arm64.firmware_params.as_deref(), Some("quiet"));
}

#[test]
fn wrong_options_of_arm64_guests_are_refused_in_a_sentence() {
    for (args, expected) in [
        ("--irqchip split", "--irqchip split: not one of gicv2, gicv2m, gicv3 and gicv3-its"),
        ("--irqchip gicv4", "--irqchip gicv4: not one of gicv2, gicv2m, gicv3 and gicv3-its"),
        ("--sve-max-vl 300", "--sve-max-vl 300: not a power of two from 128 to 65536"),
        ("--vcpu-affinity 3-1", "--vcpu-affinity 3-1: not a list of CPUs such as 0-3,8"),
        ("--kaslr-seed x", "--kaslr-seed x: not a number"),
        ("-m 64@here", "-m here: not a number"),
        ("--vnc", "--vnc: arm64 guests have no display"),
        ("--exit-port", "--exit-port: arm64 guests have no ports"),
        ("--nested", "--nested: nested virtualization does not exist yet in this version"),
    ] {
        let error = parse_arm64(&format!("run {args}")).expect_err(args);
        assert_eq!(format!("{error:#}"), expected);
    }
    assert_eq!(
        refusal("run -m 64@0x80000000"),
        "-m 64@0x80000000: only the memory of arm64 guests can be somewhere else"
    );
    for option in ARM64_ONLY.split('|') {
        let name = option.split([' ', '=']).next().unwrap();
        let expected = format!("{name}: only arm64 guests have it, and this host runs none");
        assert_eq!(refusal(&format!("run {option}")), expected);
    }
}

#[test]
fn help_shows_the_options_of_this_hosts_guests() {
    let pc = text("run --help");
    assert!(pc.contains("--vnc") && pc.contains("split") && !pc.contains("--aarch32"));
    let arm64 = parse_arm64("run --help");
    let Ok(Parsed::Text(arm64)) = arm64 else { panic!("{arm64:?}") };
    assert!(arm64.contains("gicv3-its") && !arm64.contains("--vnc"), "{arm64}");
}

#[test]
fn the_command_line_of_kvm_unit_tests_is_understood() {
    let options = run("--nodefaults --network mode=none --loglevel=warning --kernel a.flat \
         --params x --initrd env --cpus 2 --mem 256");
    assert_eq!(kernel(&options), (Some("a.flat".into()), Some("env".into()), "x"));
    assert_eq!((options.cpus, options.mem_bytes), (2, 256 << 20));
    assert_eq!(options.loglevel, LogLevel::Warning);
    assert!(options.nodefaults && !options.legacy);
}

#[test]
fn a_console_and_configuration_space_can_be_in_memory() {
    let options = run("--console mmio --ecam");
    assert_eq!(options.console, ConsoleKind::Mmio);
    assert_eq!(options.config_space, PcConfigSpace::Ecam);
    assert!(options.warnings.is_empty());
    assert_eq!(run("").config_space, PcConfigSpace::Ports);
    let Ok(Parsed::Run(options)) = parse_arm64("run --console mmio") else { panic!() };
    assert_eq!(options.console, ConsoleKind::Serial, "which is in memory");
    let options = run("--earlycon");
    assert!(options.earlycon && options.warnings.is_empty());
    assert!(!run("").earlycon);
    for console in ["mmio", "virtio"] {
        let refused = refusal(&format!("run --earlycon --console {console}"));
        assert_eq!(
            refused,
            "--earlycon: the console is no serial port at ports (--console serial)"
        );
    }
    for option in ["--ecam", "--console mmio", "--earlycon"] {
        let refused = refusal(&format!("run -f bios.bin {option}"));
        assert_eq!(refused, format!("{option}: a PC's firmware has no way to it but by ports"));
    }
    let refused = parse_arm64("run --earlycon").unwrap_err().to_string();
    assert_eq!(refused, "--earlycon: an arm64 guest's serial ports are in memory anyway");
    let refused = parse_arm64("run --ecam").unwrap_err().to_string();
    assert_eq!(refused, "--ecam: an arm64 guest's configuration space is memory anyway");
}

#[test]
fn legacy_devices_are_no_default_that_nodefaults_leaves() {
    assert!(run("--legacy").legacy && run("--no-legacy").legacy);
    assert!(run("--nodefaults --legacy").legacy);
    assert!(!run("--nodefaults --legacy --no-legacy").legacy);
}

#[test]
fn short_long_and_shortened_options_are_the_same() {
    let long =
        run("--kernel k --initrd i --mem 64 --cpus 3 --params p --network mode=none --name n");
    let short = run("-k k -i i -m 64 -c 3 -p p -n mode=none --name n");
    let tight = run("-kk -ii -m64 -c3 -pp -nmode=none --name=n");
    let shortened = run("--kern k --init i --mem 64 --cp 3 --par p --netw mode=none --nam n");
    assert_eq!(long, short);
    assert_eq!(long, tight);
    assert_eq!(long, shortened);
}

#[test]
fn the_kernel_can_stand_alone_anywhere() {
    assert_eq!(kernel(&run("bzImage -m 64")).0, Some("bzImage".into()));
    assert_eq!(kernel(&run("-m 64 bzImage")).0, Some("bzImage".into()));
    assert_eq!(refusal("run -k a b"), "b: a kernel was already given");
}

#[test]
fn parameters_may_hold_anything() {
    let Ok(Parsed::Run(options)) = parse_list(&["run", "-p", "--foo -b = ü"]) else { panic!() };
    assert_eq!(kernel(&options).2, "--foo -b = ü");
}

#[test]
fn the_last_of_several_wins() {
    assert_eq!(run("-c 1 --cpus 3").cpus, 3);
    assert_eq!(kernel(&run("-p a -p b")).2, "b");
}

#[test]
fn memory_sizes_take_kvmtools_units() {
    for (written, bytes) in [
        ("256", 256u64 << 20),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1g", 1 << 30),
        ("4096K", 4 << 20),
        ("8192b", 8192),
        ("5000B", 8192),
        ("0x10", 16 << 20),
        ("0X1B", 27 << 20),
        ("0x2g", 2 << 30),
        ("010", 10 << 20),
        ("008G", 8 << 30),
    ] {
        assert_eq!(run(&format!("-m {written}")).mem_bytes, bytes, "{written}");
    }
}

#[test]
fn wrong_memory_sizes_are_refused_with_the_reason() {
    assert_eq!(refusal("run -m 0"), "-m 0: a guest needs memory");
    assert_eq!(refusal("run -m 0G"), "-m 0G: a guest needs memory");
    for huge in ["16384P", "99999999999999999999", "0xffffffffffffffff"] {
        let more = format!("-m {huge}: too much memory");
        assert_eq!(refusal(&format!("run -m {huge}")), more);
    }
    for wrong in ["much", "12X", "1.5G", "-5", "+5", "G", "0x", "0xG", "0x10Q", "5 M", "1MB"] {
        let args = ["run", "-m", wrong];
        let error = parse_list(&args).expect_err(wrong).to_string();
        assert!(error.starts_with(&format!("-m {wrong}: not a memory size")), "{error}");
    }
}

#[test]
fn wrong_numbers_of_cpus_are_refused_with_the_reason() {
    assert_eq!(run("-c 0x10").cpus, 16);
    assert_eq!((run("-c 0").cpus, run("-c 00").cpus, run("-c 0x0").cpus), (4, 4, 4));
    assert_eq!(refusal("run -c two"), "-c two: not a number of CPUs");
    assert_eq!(refusal("run -c -1"), "-c -1: not a number of CPUs");
    assert_eq!(refusal("run -c 99999999999"), "-c 99999999999: no guest can have that many CPUs");
}

/// In every option that has one.
#[test]
fn numbers_are_decimal_or_hexadecimal_and_zeros_in_front_mean_nothing() {
    for (written, number) in [("10", 10), ("010", 10), ("08", 8), ("0xa", 10), ("0X0A", 10)] {
        assert_eq!(run(&format!("-c {written}")).cpus, number, "{written}");
        assert_eq!(u32::from(run(&format!("--edu {written}")).edu), number, "{written}");
        let port = |vnc: &str| run(&format!("--vnc={vnc}{written}")).vnc.unwrap();
        for address in ["", "127.0.0.1:", "[::1]:"] {
            assert_eq!(u32::from(port(address).port()), number, "{address}{written}");
        }
        let qtest = format!("qtest --stdio --machine arm64-virt -c {written} --edu {written}");
        let Ok(Parsed::Qtest(qtest)) = parse(&qtest) else { panic!("{qtest}") };
        assert_eq!((qtest.cpus, u32::from(qtest.edu)), (number, number), "{written}");
        let arm64 = format!(
            "run -m 64@{written} --kaslr-seed {written} --vcpu-affinity {written}-{written} \
             --override-bad-firmware-cntfrq {written} --firmware-address {written}"
        );
        let Ok(Parsed::Run(options)) = parse_arm64(&arm64) else { panic!("{arm64}") };
        let arm64 = options.arm64;
        let numbers = [arm64.mem_base, Some(arm64.kaslr_seed), arm64.firmware_address];
        assert_eq!(numbers, [Some(number.into()); 3], "{written}");
        assert_eq!((arm64.timer_hz, arm64.vcpu_affinity), (Some(number), vec![number]));
    }
    let Ok(Parsed::Run(vectors)) = parse_arm64("run --sve-max-vl 0256") else { panic!() };
    assert_eq!(vectors.arm64.sve_max_vl, Some(256));
}

#[test]
fn what_is_no_number_is_refused_by_every_option_in_one_sentence() {
    for wrong in ["", "x", "-1", "+1", "0x", "1.5", "1e3", "0b1", "32", "99999999999999999999"] {
        for command in ["run", "qtest --stdio"] {
            let mut words: Vec<&str> = command.split(' ').collect();
            let option = format!("--edu={wrong}");
            words.push(&option);
            let error = parse_list(&words).expect_err(wrong).to_string();
            assert_eq!(error, format!("--edu {wrong}: not a number from 0 to 31"), "{command}");
        }
    }
    for wrong in ["0", "-1", "x", "4294967296"] {
        assert_eq!(
            refusal(&format!("qtest --stdio --machine arm64-virt -c {wrong}")),
            format!("--cpus {wrong}: not a number from 1 to 4294967295")
        );
    }
    for wrong in ["+1", "0-+3", "0x", "4096"] {
        let error = parse_arm64(&format!("run --vcpu-affinity {wrong}")).expect_err(wrong);
        let sentence = format!("--vcpu-affinity {wrong}: not a list of CPUs such as 0-3,8");
        assert_eq!(error.to_string(), sentence);
    }
}

#[test]
fn firmware_starts_first_and_gets_the_kernel_with_nothing_added() {
    let firmware = |args: &str| match run(args).boot {
        Boot::Firmware { path, flash, kernel } => (path.display().to_string(), flash, kernel),
        boot @ Boot::Kernel { .. } => panic!("{boot:?}"),
    };
    let none = FirmwareFlash::None;
    assert_eq!(firmware("-f bios.bin"), ("bios.bin".to_owned(), none.clone(), None));
    let variables = FirmwareFlash::Variables("vars.fd".into());
    assert_eq!(firmware("-f code.fd -F vars.fd"), ("code.fd".to_owned(), variables, None));
    assert_eq!(firmware("--flash all.fd"), ("all.fd".to_owned(), FirmwareFlash::Whole, None));
    let (_, flash, kernel) = firmware("--flash all.fd -k bzImage");
    assert_eq!(
        (flash, kernel.map(|kernel| kernel.path)),
        (FirmwareFlash::Whole, Some("bzImage".into()))
    );
    let Ok(Parsed::Run(arm64)) = parse_arm64("run -F flash -k Image") else { panic!("refused") };
    assert_eq!(arm64.arm64.flash, Some("flash".into()));
    assert!(matches!(arm64.boot, Boot::Kernel { .. }));
    let kernel = FirmwareKernel { path: "b".into(), initrd: Some("c".into()), cmdline: "d".into() };
    let boot = Boot::Firmware { path: "a".into(), flash: none, kernel: Some(kernel) };
    assert_eq!(run("-f a -k b -i c -p d").boot, boot);
    let arm64 = parse_arm64("run -f a -k b").expect_err("arm64").to_string();
    assert!(arm64.starts_with("--firmware: "), "{arm64}");
}

#[test]
fn what_kvmtool_warns_of_is_a_warning() {
    assert!(run("-m 8192 -k a -i b --console serial").warnings.is_empty());
    let more = run("-m 99999");
    assert_eq!(more.mem_bytes, 99999 << 20);
    let warnings = ["-m: the guest has 99999 MiB of memory, the host only 8192 MiB"];
    assert_eq!(more.warnings, warnings);
    let ignored = ["--initrd: firmware takes no initial RAM disk without a kernel, it is ignored"];
    assert_eq!(run("-f a -i b").warnings, ignored);
    let console = ["--console tty: no such console, it is the serial port"];
    assert_eq!(run("--console tty").warnings, console);
    for (args, kind) in [
        ("", ConsoleKind::Serial),
        ("--console serial", ConsoleKind::Serial),
        ("--console tty", ConsoleKind::Serial),
        ("--console virtio", ConsoleKind::Virtio),
    ] {
        assert_eq!(run(args).console, kind, "{args}");
    }
    assert!(run("--console virtio").warnings.is_empty());
    let port = PortOptions { name: "a".to_owned(), outlet: Outlet::Pty(None) };
    assert_eq!(run("--virtio-port a,pty").ports, std::slice::from_ref(&port));
    match parse("qtest --stdio --virtio-console --virtio-port a,pty").unwrap() {
        Parsed::Qtest(options) => {
            assert_eq!((options.console, options.ports), (ConsoleKind::Virtio, vec![port]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_balloon_holds_less_than_all_memory() {
    for (args, bytes) in [
        ("", None),
        ("--balloon", Some(0)),
        ("--balloon a", Some(0)),
        ("--balloon=0", Some(0)),
        ("-m 64 --balloon=63", Some(63 << 20)),
        ("-m 64 --balloon=4K", Some(4096)),
        ("--balloon --no-balloon", None),
    ] {
        assert_eq!(run(args).balloon, bytes, "{args}");
    }
    let all = "--balloon=64: that is all of the guest's memory, or more";
    assert_eq!(refusal("run -m 64 --balloon=64"), all);
    assert_eq!(refusal("qtest --stdio --balloon=64"), all);
    let no_size = "--balloon=x: not a memory size; write MiB, or a unit as in 512M or 2G";
    assert_eq!(refusal("run --balloon=x"), no_size);
    match parse("qtest --stdio --balloon=1").unwrap() {
        Parsed::Qtest(options) => assert_eq!(options.balloon, Some(1 << 20)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn debugging_options_are_taken() {
    let options = run("--debug --debug-ioport --debug-mmio --stat --reboot --exit-port");
    assert_eq!(options.loglevel, LogLevel::Debug);
    assert!(
        options.debug_ioport
            && options.debug_mmio
            && options.stat == Some(StatForm::Table)
            && options.exit_port
    );
    assert!(options.reboot && !options.fail_on_triple_fault);
    assert!(run("--fail-on-triple-fault").fail_on_triple_fault);
    assert_eq!(refusal("run --loglevel loud").split(':').next(), Some("--loglevel loud"));
}

#[test]
fn the_last_of_a_boolean_option_and_its_twin_wins() {
    assert!(!run("--no-reboot").reboot);
    assert!(!run("--reboot --no-reboot").reboot);
    assert!(run("--no-reboot --reboot").reboot);
    assert_eq!(run("--stat --no-stat").stat, None);
    assert_eq!(run("--no-stat --stat=all").stat, Some(StatForm::All));
    assert_eq!(run("--stat --stat=json").stat, Some(StatForm::Json));
    assert!(run("--no-coalesce --no-no-coalesce").coalesce);
    assert_eq!(run("--vnc=5901 --no-vnc").vnc, None);
    // What does not exist need not exist to be turned off.
    assert!(!run("--rng --no-rng --no-balloon").rng);
    assert!(run("--rng").rng);
    assert_eq!(refusal("run --no-kernel").split(':').next(), Some("--no-kernel"));
}

#[test]
fn vnc_listens_on_this_host_only_unless_told_otherwise() {
    let vnc = |args: &str| run(args).vnc.map(|address| address.to_string());
    assert_eq!(vnc(""), None);
    assert_eq!(vnc("--vnc").as_deref(), Some("127.0.0.1:5900"));
    assert_eq!(vnc("--vnc=5901").as_deref(), Some("127.0.0.1:5901"));
    assert_eq!(vnc("--vnc=0.0.0.0").as_deref(), Some("0.0.0.0:5900"));
    assert_eq!(vnc("--vnc=[::1]:7").as_deref(), Some("[::1]:7"));
    // As in kvmtool, what follows is a kernel.
    assert_eq!(kernel(&run("--vnc bzImage")).0, Some("bzImage".into()));
    for wrong in ["x", ":1", "1.2.3.4:", "65536", "host:5900", "+1", "::1:0x", "[::1]:65536"] {
        assert!(refusal(&format!("run --vnc={wrong}")).starts_with(&format!("--vnc={wrong}: not")));
    }
    assert_eq!(run("--screendump x.png").screendump, Some("x.png".into()));
}

#[test]
fn the_interrupt_controllers_are_where_the_user_says() {
    use trapline_machine::PcIrqchip;
    assert_eq!(run("").pc_irqchip, PcIrqchip::Kernel);
    assert_eq!(run("--irqchip kernel").pc_irqchip, PcIrqchip::Kernel);
    assert_eq!(run("--irqchip=split").pc_irqchip, PcIrqchip::Split);
    assert_eq!(refusal("run --irqchip both"), "--irqchip both: not one of kernel and split");
    assert_eq!(
        refusal("run --irqchip gicv3"),
        "--irqchip gicv3: an arm64 guest's; a PC has kernel and split"
    );
}

#[test]
fn guest_memory_is_private_or_in_huge_pages() {
    assert_eq!(run("").memory, Backing::Private);
    assert_eq!(run("--hugetlbfs /huge").memory, Backing::Hugetlbfs("/huge".into()));
}

#[test]
fn disks_come_in_their_order_with_their_options() {
    let disks = |args: &str| run(args).disks;
    assert_eq!(disks(""), []);
    let read_only = DiskOptions { read_only: true, ..DiskOptions::new("b") };
    let direct = DiskOptions { direct: true, queues: 2, ..DiskOptions::new("c,d") };
    let all = [DiskOptions::new("a"), read_only, direct];
    assert_eq!(disks("-d a --disk b,ro --disk=c,,d,direct,queues=2"), all);
    let said =
        "--disk a,rw: rw is none of ro, direct, queues=, serial=, iops=, bps=, format= and werror=";
    assert_eq!(refusal("run -d a,rw"), said);
    assert_eq!(refusal("qtest --stdio -d ,ro"), "--disk ,ro: the image's name is missing");
    match parse("qtest --stdio -d a -d b,ro").unwrap() {
        Parsed::Qtest(options) => assert_eq!(options.disks, all[..2]),
        other => panic!("{other:?}"),
    }
}

/// kvmtool's options whose device or guest does not exist yet.
const REFUSED: &str = "--gtk|--sdl|--tty 0\
    |--vidmode 3|--debug-single-step|--debug-iodelay 5|--console hv";
/// Its options of arm64 guests.
const ARM64_ONLY: &str = "--aarch32|--pmu|--disable-mte|--vcpu-affinity 1|--kaslr-seed 1|--no-pvtime\
    |--sve-max-vl 128|--nested|--dump-dtb f|--override-bad-firmware-cntfrq 1|--force-pci\
    |--firmware-address 0";

#[test]
fn options_without_a_device_are_refused_by_name() {
    for option in REFUSED.split('|') {
        let option = option.trim();
        let sentence = refusal(&format!("run {option}"));
        let name = option.split([' ', '=']).next().unwrap();
        assert!(sentence.starts_with(name), "{option}: {sentence}");
        assert!(sentence.ends_with("not exist yet in this version"), "{option}: {sentence}");
    }
    assert_eq!(
        refusal("run --vidmode 3"),
        "--vidmode: a choice of video modes does not exist yet in this version"
    );
}

#[test]
fn the_version_is_a_line() {
    let line = concat!("trapline ", env!("CARGO_PKG_VERSION"), "\n");
    for args in ["version", "--version", "-V"] {
        assert_eq!(text(args), line);
    }
}

#[test]
fn mistakes_are_one_sentence_that_names_them() {
    assert_eq!(refusal("runn"), "runn: no such command; 'trapline --help' lists them");
    assert_eq!(
        refusal("run --colour"),
        "--colour: no such option; 'trapline run --help' lists them"
    );
    assert_eq!(refusal("run --kernal x"), "--kernal: no such option; did you mean --kernel?");
    assert_eq!(refusal("run -k"), "--kernel <FILE>: the value is missing");
    assert!(refusal("run --stat=yes").starts_with("--stat: "));
}

#[test]
fn lists_of_cpus_are_counted() {
    assert_eq!(host::count_cpus("0\n"), Some(1));
    assert_eq!(host::count_cpus("0-3,8,10-11\n"), Some(7));
    for wrong in ["", "3-1", "a", "0-", "0-4294967295"] {
        assert_eq!(host::count_cpus(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_arguments_are_too_strange(args: Vec<String>) {
        let list: Vec<&str> = std::iter::once("run").chain(args.iter().map(String::as_str)).collect();
        let _ = parse_list(&list);
    }

    #[test]
    fn a_size_is_whole_pages_and_above_the_hosts_memory_it_is_warned_of(number: u64, unit in "[BKMGTPbkmgtp]?") {
        if let Ok(Parsed::Run(options)) = parse(&format!("run -m {number}{unit}")) {
            prop_assert!(options.mem_bytes > 0);
            prop_assert_eq!(options.warnings.len() == 1, options.mem_bytes > 8 << 30);
            prop_assert_eq!(options.mem_bytes % 4096, 0);
        }
    }
}
