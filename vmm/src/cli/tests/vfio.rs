//! Functions of the host, for a guest and for their drivers.

use super::*;

#[test]
fn functions_of_the_host_are_given_by_their_addresses_with_what_is_said_of_each() {
    let functions = |args: &str| run(&format!("run {args}")).vfio;
    let at = |text: &str| text.parse().unwrap();
    let function = |address, trapped: &[u8], names: Option<&str>| VfioOptions {
        address: at(address),
        trapped: trapped.to_vec(),
        names: names.map(Into::into),
    };
    assert_eq!(functions(""), []);
    assert_eq!(
        functions(
            "--vfio-pci 01:00.0 --vfio-trap 0 --vfio-trap 2 --vfio-trap 0 --vfio-names ./a=b"
        ),
        [function("0:1:0.0", &[0, 2], Some("./a=b"))],
        "a file's name may look like an assignment"
    );
    let two = "--vfio-pci 1:0.0 --vfio-pci 0001:02:1f.7 --vfio-trap 1:2:1f.7=5 --vfio-names n \
               --vfio-names 1:0.0=m";
    let wanted = [function("1:0.0", &[], Some("m")), function("1:2:1f.7", &[5], Some("n"))];
    assert_eq!(functions(two), wanted);
    for (args, sentence) in [
        ("--vfio-pci 1:0", "--vfio-pci 1:0: not a PCI function's address; write [DOMAIN:]BUS:"),
        ("--vfio-pci 1:0.0 --vfio-pci 0:1:0.0", "--vfio-pci 0:1:0.0: it was given already"),
        ("--vfio-trap 0", "--vfio-trap: there is no --vfio-pci that it is about"),
        ("--vfio-pci 1:0.0 --vfio-trap 6", "--vfio-trap 6: not a number from 0 to 5"),
        (
            "--vfio-pci 1:0.0 --vfio-trap 2:0.0=0",
            "--vfio-trap 0000:02:00.0: there is no --vfio-pci",
        ),
        ("--vfio-pci 1:0.0 --vfio-trap x=0", "--vfio-trap x: not a PCI function's address"),
        ("--vfio-pci 1:0.0 --vfio-names 1:0.0=", "--vfio-names: the file's name is missing"),
    ] {
        let said = refusal(&format!("run {args}"));
        assert!(said.starts_with(sentence), "{args}: {said}");
    }
}

#[test]
fn functions_are_set_up_by_their_addresses() {
    let set_up = |args: &str| match parse(&format!("setup {args}")).unwrap() {
        Parsed::SetUpVfio(setup) => (setup.release, setup.functions.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(set_up("vfio 1:0.0"), (false, 1));
    assert_eq!(set_up("vfio --release 1:0.0 1:0.1"), (true, 2));
    assert!(refusal("setup vfio 1:0").starts_with("trapline setup vfio 1:0: not a PCI function's"));
    assert!(refusal("setup vfio").ends_with("missing; see --help"));
    assert!(matches!(parse("setup name").unwrap(), Parsed::SetUpRoot(name) if name == "name"));
    assert_eq!(refusal("setup"), "trapline setup: a name is missing, or vfio");
}
