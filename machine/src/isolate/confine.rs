//! What a device's process gives up.
//!
//! * With its parent's thread it is killed (`PR_SET_PDEATHSIG`).
//! * It has the two sockets it was given, and standard error, which leads nowhere.
//! * It gets no new rights by any program (`no_new_privs`), and leaves no core.
//! * Landlock (ABI 1 to 6, as far as the kernel has it): no files, no network, no signals to others.
//! * seccomp: the system calls that two threads need who serve sockets and timers that are there
//!   already. Anything else kills it.
//! * Resource limits: memory, descriptors, no further threads, no files, no queues.

use std::io;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Bytes of memory that it may have mapped for writing.
const DATA_MAX: u64 = 64 << 20;
/// Descriptors: what it has, and none to spare for long.
const DESCRIPTORS_MAX: u64 = 32;

/// Before anything else is done.
pub(super) fn first() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit =
        |resource, max| setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) });
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Memlock, 0)?;
    limit(Resource::Msgqueue, 0)?;
    limit(Resource::Data, DATA_MAX)?;
    limit(Resource::Nofile, DESCRIPTORS_MAX)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Before there is a second thread: Landlock is a thread's, and its children's. Whether the kernel has it.
pub(super) fn from_files() -> Result<bool, String> {
    let restricted = || {
        Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V5))?
            .handle_access(AccessNet::from_all(ABI::V4))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .restrict_self()
    };
    match restricted() {
        Ok(status) => Ok(status.ruleset != RulesetStatus::NotEnforced),
        Err(error) => Err(format!("Landlock: {error}")),
    }
}

/// When all is there.
pub(super) fn at_last() -> Result<(), String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Nproc, none).map_err(|error| error.to_string())?;
    let filter = filter().map_err(|error| format!("seccomp: {error}"))?;
    seccompiler::apply_filter_all_threads(&filter).map_err(|error| format!("seccomp: {error}"))
}

/// System calls that are allowed, whatever their arguments.
const ALLOWED: &[libc::c_long] = &[
    // The sockets, eventfds and the timer.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    // The first message may bring a descriptor.
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_timerfd_settime,
    libc::SYS_shutdown,
    libc::SYS_close,
    // Time, where the vDSO does not tell it.
    libc::SYS_clock_gettime,
    // Locks, and threads that wait.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // The end, and signals on the way there.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
];

/// Those of x86 alone, which has older forms of some.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Those that map memory, which must not be code: where they say so.
const NO_CODE: &[(libc::c_long, u8)] = &[(libc::SYS_mmap, 2), (libc::SYS_mprotect, 2)];

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let all = ALLOWED.iter().chain(ALLOWED_HERE);
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        all.map(|call| (*call, Vec::new())).collect();
    for (call, argument) in NO_CODE {
        let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
        let condition = SeccompCondition::new(
            *argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(executable),
            0,
        )?;
        rules.insert(*call, vec![SeccompRule::new(vec![condition])?]);
    }
    let here = std::env::consts::ARCH.try_into()?;
    let (otherwise, allowed) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules, otherwise, allowed, here)?.try_into()
}
