//! What init says about the machine it finds itself on. Pure: text of `/proc` and `/sys` in, text
//! out.

/// What `/proc` and `/sys` say, unread.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) release: String,
    pub(super) machine: String,
    pub(super) cmdline: String,
    pub(super) meminfo: String,
    pub(super) cpus_online: String,
    pub(super) interrupts: String,
    pub(super) disks: Vec<String>,
}

/// The kernel's console among those `/sys/class/tty/console/active` lists: the last one.
pub(super) fn console_name(active: &str) -> String {
    active.split_whitespace().last().unwrap_or("console").to_owned()
}

/// The first lines of every guest.
pub(super) fn banner(facts: &Facts) -> String {
    let memory = mem_total_mib(&facts.meminfo)
        .map_or_else(|| "unknown memory".to_owned(), |mib| format!("{mib} MiB"));
    let cpus = match facts.cpus_online.trim() {
        "" => "unknown",
        list => list,
    };
    format!("\nLinux {} {}, CPUs {cpus}, {memory}\n", facts.release, facts.machine)
}

/// What there is to say where there is no shell.
pub(super) fn no_shell(facts: &Facts) -> String {
    let disks = match facts.disks.join(" ") {
        none if none.is_empty() => "none".to_owned(),
        some => some,
    };
    let mut text = format!("command line: {}\n", facts.cmdline.trim());
    text.push_str(&format!("block devices: {disks}\ninterrupts:\n"));
    for line in busy_interrupts(&facts.interrupts) {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(
        "\nThere is no shell in this initramfs: no /bin/busybox and no /bin/sh. Install a static \
         busybox\non the host (package busybox-static), or give an initial RAM disk with \
         'trapline run -i FILE'.\n",
    );
    text
}

fn mem_total_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 10)
}

/// The lines of `/proc/interrupts` whose counts are not all zero, with single spaces.
fn busy_interrupts(interrupts: &str) -> Vec<String> {
    let cpus = interrupts.lines().next().unwrap_or_default().split_whitespace().count();
    interrupts
        .lines()
        .skip(1)
        .filter(|line| {
            let counts = line.split_whitespace().skip(1).take(cpus);
            counts.filter_map(|count| count.parse::<u64>().ok()).any(|count| count > 0)
        })
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            release: "6.1.0".to_owned(),
            machine: "x86_64".to_owned(),
            cmdline: "console=ttyS0\n".to_owned(),
            meminfo: "MemFree: 1 kB\nMemTotal:  204800 kB\n".to_owned(),
            cpus_online: "0-1\n".to_owned(),
            interrupts: "     CPU0  CPU1\n  1:  0  0  XT-PIC i8042\n  4:  0  73  XT-PIC ttyS0\n"
                .to_owned(),
            disks: Vec::new(),
        }
    }

    #[test]
    fn the_banner_names_kernel_cpus_and_memory() {
        assert_eq!(banner(&facts()), "\nLinux 6.1.0 x86_64, CPUs 0-1, 200 MiB\n");
        assert_eq!(banner(&Facts::default()), "\nLinux  , CPUs unknown, unknown memory\n");
    }

    #[test]
    fn without_a_shell_the_guest_says_what_it_has_and_what_to_do() {
        let text = no_shell(&facts());
        assert!(text.contains("command line: console=ttyS0\n"), "{text}");
        assert!(text.contains("block devices: none\n"), "{text}");
        assert!(text.contains("  4: 0 73 XT-PIC ttyS0\n"), "{text}");
        assert!(!text.contains("i8042"), "{text}");
        assert!(text.contains("trapline run -i FILE"), "{text}");
    }

    #[test]
    fn the_console_is_the_last_one_listed() {
        assert_eq!(console_name("tty0 ttyS0\n"), "ttyS0");
        assert_eq!(console_name(""), "console");
    }
}
