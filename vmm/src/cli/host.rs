//! What the host has, as far as defaults and limits depend on it.

use trapline_machine::boot::cmdline::Machine;

/// The most CPUs a guest gets without asking: what the PC board takes.
const MOST_DEFAULT_CPUS: u32 = 64;

/// The host's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// CPUs online.
    pub cpus: u32,
    /// Memory in bytes; `None` where the kernel does not tell.
    pub ram_bytes: Option<u64>,
    /// The board its guests have.
    pub machine: Machine,
}

impl Host {
    /// The machine we run on.
    pub fn this() -> Self {
        let info = rustix::system::sysinfo();
        // Both fields are of the C type unsigned long, whose width depends on the platform.
        #[allow(clippy::useless_conversion, reason = "u32 on 32-bit hosts")]
        let ram = u64::from(info.totalram).checked_mul(u64::from(info.mem_unit));
        let ram_bytes = ram.filter(|bytes| *bytes > 0);
        Self { cpus: online_cpus(), ram_bytes, machine: Machine::HOST }
    }

    /// How many CPUs a guest gets that does not say.
    pub fn default_cpus(&self) -> u32 {
        self.cpus.clamp(1, MOST_DEFAULT_CPUS)
    }

    /// How much memory in bytes a guest with `cpus` CPUs gets that does not say: 64 MiB for each
    /// and 192 MiB more, but not above 80 % of the host's.
    pub fn default_mem_bytes(&self, cpus: u32) -> u64 {
        let wanted = (64 << 20) * (u64::from(cpus) + 3);
        let most = self.ram_bytes.map_or(u64::MAX, |ram| ram / 5 * 4);
        wanted.min(most)
    }
}

/// CPUs online, including those this process is not allowed on, as kvmtool counts them.
fn online_cpus() -> u32 {
    let listed = std::fs::read_to_string("/sys/devices/system/cpu/online")
        .ok()
        .and_then(|list| count_cpus(&list));
    listed.unwrap_or_else(|| {
        let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(usable).unwrap_or(u32::MAX)
    })
}

/// How many numbers a list such as `0-3,8` has.
pub(super) fn count_cpus(list: &str) -> Option<u32> {
    list.trim().split(',').try_fold(0u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}
