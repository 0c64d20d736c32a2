//! The root file system, and what a guest runs in it.

use super::*;

fn root(args: &str) -> RootOptions {
    match parse(args).unwrap() {
        Parsed::Run(options) => options.root,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_alone_is_a_shell_with_a_card() {
    let plain = RootOptions { card: true, dhcp: true, ..RootOptions::default() };
    assert_eq!(root("run"), plain);
    assert_eq!(plain.option(), None);
    assert!(!root("run -n mode=none").card && !root("run --no-dhcp").dhcp);
}

#[test]
fn commands_and_scripts_end_a_guest() {
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let command = root("run -m 64 -- ls -k --rw");
    assert_eq!(command.work, Work::Command(words(&["ls", "-k", "--rw"])));
    let script = Work::Script("s".into(), words(&["-a"]));
    for args in ["run --script s -- -a", "run --sandbox s -- -a", "sandbox s -- -a"] {
        assert_eq!(root(args).work, script, "{args}");
        assert!(root(args).is_errand());
    }
    assert_eq!(root("sandbox -m 64 -- ls").work, Work::Command(words(&["ls"])));
    let level = |args: &str| match parse(args).unwrap() {
        Parsed::Run(options) => options.loglevel,
        other => panic!("{other:?}"),
    };
    assert_eq!(level("run -- ls"), LogLevel::Warning);
    assert_eq!(level("run --loglevel info -- ls"), LogLevel::Info);
    let missing = "trapline sandbox: a script is missing, or a command behind --";
    assert_eq!(refusal("sandbox -m 64"), missing);
    assert!(refusal("sandbox a b").starts_with("b: a script was already given"));
    assert!(refusal("sandbox a --script b").starts_with("a: a script was already given"));
}

#[test]
fn a_folder_is_the_root_and_can_be_changed_unless_that_is_said() {
    let plain = root("run -d /");
    assert_eq!((plain.folder, plain.writable), (Some("/".into()), Some(true)));
    for (args, writable) in [
        ("run -d / --ro", Some(false)),
        ("run -d /,ro", Some(false)),
        ("run --rw", Some(true)),
        ("run --ro", Some(false)),
        ("run --rw --ro", Some(false)),
        ("run --ro --rw", Some(true)),
        ("run --rw --no-rw", None),
    ] {
        assert_eq!(root(args).writable, writable, "{args}");
    }
    let said = root("run --pwd --user nobody");
    assert!(said.here && said.user.as_deref() == Some("nobody"));
    assert_eq!(refusal("run -d / -d /tmp"), "-d: only one folder can be the root");
    assert_eq!(refusal("run -d /,ro --rw"), "--rw: the folder was said to be ,ro");
    match parse("run -d / -d image").unwrap() {
        Parsed::Run(options) => assert_eq!(options.disks.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_has_another_root_is_told_what_cannot_be_had() {
    let start = |option: &str| format!("{option}: the guest's root file system is not ours: ");
    for (args, option, why) in [
        ("run -i initrd --rw", "--rw", "there is an initial RAM disk (-i)"),
        ("run -i initrd -- ls", "-- COMMAND", "there is an initial RAM disk (-i)"),
        ("run -d image --script s", "--script", "it is the first disk (-d)"),
        ("run -f bios --user me", "--user", "firmware finds its own (-f)"),
        ("run --nodefaults --pwd", "--pwd", "--nodefaults has none"),
        ("run -d / -p root=/dev/vda", "-d", "-p has a root="),
    ] {
        assert_eq!(refusal(args), start(option) + why);
    }
}
