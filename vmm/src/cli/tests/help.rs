//! The texts of `--help`.

use super::*;

#[test]
fn help_is_what_test_suites_and_people_look_for() {
    for args in ["", "--help", "-h", "help"] {
        let text = text(args);
        assert!(text.contains("The most commonly used trapline commands are:"), "{text}");
        assert!(text.contains("  run "), "{text}");
        assert!(text.contains("  sandbox "), "{text}");
    }
    for args in ["run --help", "help run", "run -h"] {
        let text = text(args);
        for heading in
            ["Basic options:", "Kernel options:", "Networking options:", "Debug options:"]
        {
            assert!(text.contains(heading), "{heading} in {text}");
        }
        assert!(text.contains("While the guest runs:\n  Ctrl-a x"), "{text}");
        assert!(text.contains("Ctrl-a p"), "{text}");
    }
}

#[test]
fn every_option_has_help() {
    let all = command(&HOST, true);
    let run = all.find_subcommand("run").unwrap();
    for arg in run.get_arguments() {
        assert!(arg.get_help().is_some(), "{}", arg.get_id());
    }
    command(&HOST, true).debug_assert();
    command(&ARM64, true).debug_assert();
}

/// What the help text says of an option is what it does.
#[test]
fn devices_that_the_help_says_do_not_exist_are_refused() {
    let all = command(&HOST, true);
    let run = all.find_subcommand("run").unwrap();
    let shown = run.get_arguments().filter(|arg| !arg.is_hide_set());
    let do_not_exist = "Devices that do not exist yet (refused by name)";
    for arg in shown.filter(|arg| arg.get_help_heading() == Some(do_not_exist)) {
        let name = format!("--{}", arg.get_long().unwrap());
        let listed = REFUSED.split([' ', '=', '|']).any(|word| word == name);
        assert!(listed, "{name} is there");
    }
}
