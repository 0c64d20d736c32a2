//! `trapline why`.

use trapline_control::Client;
use trapline_control::api::{Cause, CauseKind, ConsoleWhy, GetWhy, InstanceState, Why};

use super::say;
use crate::why;

/// Says why the guest hangs, as text or as JSON.
pub(super) fn why(guest: &mut Client, json: bool) -> anyhow::Result<()> {
    let seen = match stopped(guest.pid()) {
        Some(text) => of_stopped(text),
        None => guest.ask::<GetWhy>(&())?,
    };
    if json {
        return say(&(serde_json::to_string(&seen)? + "\n"));
    }
    say(&why::text(guest.name().as_str(), &seen))
}

/// That the process that runs a guest is stopped, if it is; then it cannot say so itself.
fn stopped(pid: Option<u32>) -> Option<String> {
    let pid = pid?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(match state(&status)? {
        'T' => format!(
            "its process ({pid}) is stopped, by Ctrl-z on its terminal or by SIGSTOP: `fg` there, or \
             `kill -CONT {pid}`, lets it go on"
        ),
        't' => format!("its process ({pid}) is stopped by a debugger"),
        _ => return None,
    })
}

/// The letter for what a process does (`proc_pid_status(5)`).
fn state(status: &str) -> Option<char> {
    status.lines().find_map(|line| line.strip_prefix("State:"))?.trim_start().chars().next()
}

fn of_stopped(text: String) -> Why {
    Why {
        state: InstanceState::Running,
        watched_ns: 0,
        causes: vec![Cause { kind: CauseKind::ProcessStopped, text }],
        vcpus: Vec::new(),
        interrupts: Vec::new(),
        unclaimed: Vec::new(),
        resets: 0,
        console: ConsoleWhy::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_stopped_when_the_kernel_says_so() {
        assert_eq!(state("Name:\tx\nState:\tT (stopped)\n"), Some('T'));
        assert_eq!(state("Name:\tx\nState:\tS (sleeping)\n"), Some('S'));
        assert_eq!(state(""), None);
        assert_eq!(stopped(Some(std::process::id())), None);
        assert_eq!(stopped(None), None);
    }
}
