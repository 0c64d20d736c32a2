//! The options that only arm64 guests have.

use anyhow::{Context, bail, ensure};
use trapline_machine::{Arm64, Irqchip};

use super::args::{Arm64Args, RunArgs};
use super::units::{self, number};

/// What the options say; `mem_base` is what `-m` says about the place of RAM.
pub(super) fn options(args: &RunArgs, mem_base: Option<u64>) -> anyhow::Result<Arm64> {
    let Arm64Args { aarch32, pmu, disable_mte, no_pvtime, .. } = args.arm64;
    let arm64 = &args.arm64;
    let hz = arm64.override_bad_firmware_cntfrq.as_deref();
    let hz = hz.map(|text| number("--override-bad-firmware-cntfrq", text)).transpose()?;
    let seed = arm64.kaslr_seed.as_deref();
    let seed = seed.map(|text| number("--kaslr-seed", text)).transpose()?;
    let firmware = arm64.firmware_address.as_deref();
    Ok(Arm64 {
        mem_base,
        irqchip: args.machine.irqchip.as_deref().map(irqchip).transpose()?,
        aarch32,
        pmu,
        disable_mte,
        no_pvtime,
        sve_max_vl: arm64.sve_max_vl.as_deref().map(vector_length).transpose()?,
        vcpu_affinity: arm64.vcpu_affinity.as_deref().map_or(Ok(Vec::new()), cpu_list)?,
        timer_hz: hz
            .map(u32::try_from)
            .transpose()
            .context("--override-bad-firmware-cntfrq: no timer is that fast")?,
        kaslr_seed: seed.unwrap_or(0),
        firmware_address: firmware.map(|text| number("--firmware-address", text)).transpose()?,
        firmware_params: args.kernel.params.clone().filter(|_| args.kernel.firmware.is_some()),
        dump_dtb: arm64.dump_dtb.clone(),
        flash: args.kernel.flash.clone(),
    })
}

/// The address in `-m SIZE@ADDRESS`.
pub(super) fn mem_base(address: &str) -> anyhow::Result<u64> {
    number("-m", address)
}

fn irqchip(text: &str) -> anyhow::Result<Irqchip> {
    let found = Irqchip::ORDER.into_iter().find(|chip| chip.name() == text);
    found
        .with_context(|| format!("--irqchip {text}: not one of gicv2, gicv2m, gicv3 and gicv3-its"))
}

/// The longest vector the architecture allows, in bits, as kvmtool counts it.
const VECTOR_BITS_MAX: u64 = 512 * 128;

fn vector_length(text: &str) -> anyhow::Result<u32> {
    let bits = number("--sve-max-vl", text)?;
    ensure!(
        bits.is_power_of_two() && (128..=VECTOR_BITS_MAX).contains(&bits),
        "--sve-max-vl {text}: not a power of two from 128 to {VECTOR_BITS_MAX}"
    );
    Ok(u32::try_from(bits)?)
}

/// Linux' own limit (`CONFIG_NR_CPUS` can be no more on arm64).
const CPUS_MAX: u32 = 4096;

/// Numbers and ranges such as `0-3,8`.
fn cpu_list(text: &str) -> anyhow::Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let cpu = |text| units::count(text).ok().and_then(|cpu| u32::try_from(cpu).ok());
        let range = match (cpu(first), cpu(last)) {
            (Some(first), Some(last)) if first <= last && last < CPUS_MAX => first..=last,
            _ => bail!("--vcpu-affinity {text}: not a list of CPUs such as 0-3,8"),
        };
        cpus.extend(range);
    }
    Ok(cpus)
}
