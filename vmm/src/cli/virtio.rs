//! What registers virtio devices have: `--virtio-transport` and `--virtio-legacy`.

use anyhow::{anyhow, ensure};
use trapline_machine::{VirtioTransport, VirtioTransports};

use super::args::VirtioArgs;

/// As the user wants it. `--virtio-legacy` is the older version of whatever transport it is.
pub(super) fn transports(args: &VirtioArgs) -> anyhow::Result<VirtioTransports> {
    let mut transports = parse(args.virtio_transport.as_deref().unwrap_or("pci"))?;
    if args.virtio_legacy {
        transports.others = transports.others.legacy();
        for (_, transport) in &mut transports.named {
            *transport = transport.legacy();
        }
    }
    Ok(transports)
}

/// A transport for all devices, others for those that are named, or both: `mmio,rng=pci`.
pub(super) fn parse(text: &str) -> anyhow::Result<VirtioTransports> {
    let (mut others, mut named) = (None, Vec::new());
    for part in text.split(',') {
        let option = format!("--virtio-transport {text}");
        match part.split_once('=') {
            Some((name, transport)) => {
                ensure!(!name.is_empty(), "{option}: a device's name is missing");
                let twice = named.iter().any(|(other, _)| other == name);
                ensure!(!twice, "{option}: {name} is there twice");
                named.push((name.to_owned(), find(&option, transport)?));
            }
            None => {
                ensure!(others.is_none(), "{option}: {part} is a second transport for all devices");
                others = Some(find(&option, part)?);
            }
        }
    }
    Ok(VirtioTransports { others: others.unwrap_or_default(), named })
}

fn find(option: &str, name: &str) -> anyhow::Result<VirtioTransport> {
    transport(name).map_err(|reason| anyhow!("{option}: {reason}"))
}

/// The transport with this name.
pub(super) fn transport(name: &str) -> Result<VirtioTransport, String> {
    let found = VirtioTransport::ALL.into_iter().find(|transport| transport.name() == name);
    found.ok_or_else(|| {
        let [first @ .., last] = VirtioTransport::ALL.map(VirtioTransport::name);
        format!("{name} is not one of {} and {last}", first.join(", "))
    })
}
