//! What can be asked of a guest. Paths and the names of fields are Firecracker's where it has them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Method};

/// Makes a type of each end point, and the list of all.
macro_rules! endpoints {
    ($($(#[$doc:meta])* $name:ident: $method:ident $path:literal, $request:ty => $answer:ty;)*) => {
        $(
            $(#[$doc])*
            pub struct $name;

            impl Endpoint for $name {
                const METHOD: Method = Method::$method;
                const PATH: &'static str = $path;
                type Request = $request;
                type Answer = $answer;
            }
        )*

        /// All end points, by method and path.
        pub const ENDPOINTS: &[(Method, &str)] =
            &[$((Method::$method, $path),)* (Method::Get, METRICS)];
    };
}

endpoints! {
    /// `GET /`: which guest this is, and what it does.
    GetInstance: Get "/", () => Instance;

    /// `PATCH /vm`: pauses the guest, or lets it go on.
    PatchVm: Patch "/vm", Vm => ();

    /// `PUT /actions`: has the guest do something.
    PutAction: Put "/actions", Action => ();

    /// `GET /stat`: what the guest has done so far.
    ///
    /// The first request, and the first after ten seconds without one, begins to count by register;
    /// until then only what the rings of recent accesses still have is counted so.
    GetStatistics: Get "/stat", () => Statistics;

    /// `GET /balloon`: how much of the guest's memory is in its balloon.
    GetBalloon: Get "/balloon", () => Balloon;

    /// `PATCH /balloon`: has the guest put so much of its memory into the balloon.
    PatchBalloon: Patch "/balloon", BalloonUpdate => ();

    /// `GET /balloon/statistics`: what the guest says of its memory. Asks for newer ones, and waits
    /// for a second at most until they come.
    GetBalloonStatistics: Get "/balloon/statistics", () => BalloonStatistics;

    /// `PUT /debug`: looks into the guest, or pokes it. A guest that runs stands still meanwhile.
    PutDebug: Put "/debug", DebugRequest => DebugReport;

    /// `GET /why`: why the guest hangs, as far as can be seen. It is watched for a second, and stands
    /// still for a moment before and after that.
    GetWhy: Get "/why", () => Why;

    /// `PUT /trace`: the guest's accesses as they happen, a line of JSON each, until the client goes or
    /// the guest ends.
    PutTrace: Put "/trace", TraceRequest => TraceLine;

    /// `PUT /breaks`: has the guest stop at accesses, and says so in lines of JSON, until the client
    /// goes, with whom the breaks go, or the guest ends.
    PutBreaks: Put "/breaks", BreaksRequest => BreakEvent;

    /// `PUT /breaks/line`: a command of one who has breaks, in the words of the prompt.
    PutBreakLine: Put "/breaks/line", BreakLine => BreakAnswer;
}

/// `GET /metrics`: [`Statistics`] in Prometheus' text format. What it gives is no JSON.
pub const METRICS: &str = "/metrics";

/// What comes with every HTTP status that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A sentence.
    pub fault_message: String,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The program: `trapline`.
    pub app_name: String,
    /// The guest's name.
    pub id: String,
    /// What it does.
    pub state: InstanceState,
    /// The program's version.
    pub vmm_version: String,
    /// The process that runs it.
    pub pid: u32,
    /// How many vCPUs it has.
    pub vcpu_count: u32,
    /// Its memory in MiB.
    pub mem_size_mib: u64,
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceState {
    /// It has not been switched on yet.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its vCPUs run.
    Running,
    /// It stands still.
    Paused,
    /// It is put back to power-on.
    Resetting,
    /// It is over, and about to go.
    Ended,
}

/// What a guest is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// The state it is to be in. When it is there, the answer is.
    pub state: VmState,
}

/// A state to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// To stand still.
    Paused,
    /// To go on.
    Resumed,
}

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What.
    pub action_type: ActionType,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionType {
    /// To end the guest, as Ctrl-a x does. No vCPU runs any more when the answer comes.
    Stop,
    /// To reset it, as its reset button would.
    Reset,
}

/// What a guest has done since it was started, over its resets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// How long the program has been running, in nanoseconds.
    pub uptime_ns: u64,
    /// How many vCPUs there are.
    pub vcpu_count: u32,
    /// How often the guest was reset.
    pub resets: u32,
    /// Returns of all vCPUs from the guest, by kind, without those that did not happen.
    pub exits: BTreeMap<String, u64>,
    /// By region, those without an access among them.
    pub regions: Vec<RegionCount>,
    /// Accesses that nobody claimed, the most frequent first; at most 256 of them.
    pub unclaimed: Vec<UnclaimedCount>,
    /// Those that are not listed.
    pub unclaimed_others: u64,
    /// By register, since that is counted.
    pub registers: Vec<RegisterCount>,
    /// How many accesses are in no register's count, as they were there before or came too fast.
    pub registers_lost: u64,
}

/// What went through a region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionCount {
    /// The device.
    pub device: String,
    /// The region: `device/region`.
    pub region: String,
    /// `pio` or `mmio`; nothing of a region that is gone.
    pub space: Option<String>,
    /// Its first address, if it has a place.
    pub first: Option<u64>,
    /// Its last address.
    pub last: Option<u64>,
    /// Reads, without elements of strings.
    pub reads: u64,
    /// Writes, without elements of strings.
    pub writes: u64,
    /// How many of the writes had been queued up.
    pub queued: u64,
    /// Elements of `rep ins`.
    pub string_reads: u64,
    /// Elements of `rep outs`.
    pub string_writes: u64,
    /// Accesses that the region does not take.
    pub refused: u64,
    /// Doorbells that were rung by the program.
    pub doorbells: u64,
    /// Accesses that another process answered for the program.
    pub forwarded: u64,
}

/// Accesses of one kind that nobody claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnclaimedCount {
    /// `pio` or `mmio`.
    pub space: String,
    /// The first address.
    pub addr: u64,
    /// How many bytes.
    pub len: u64,
    /// `read` or `write`.
    pub direction: String,
    /// How often.
    pub count: u64,
}

/// What was counted of a register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterCount {
    /// The device; `unclaimed` where there is none.
    pub device: String,
    /// The region; `unclaimed` where there is none.
    pub region: String,
    /// The register's name, or its offset; empty for those that are not told apart.
    pub register: String,
    /// Reads, of strings elements.
    pub reads: u64,
    /// Writes, of strings elements.
    pub writes: u64,
    /// Writes that had been queued up.
    pub queued: u64,
    /// Accesses that stopped the guest.
    pub exits: u64,
    /// How many of them were timed: one in 64.
    pub timed: u64,
    /// How long those took all together, in nanoseconds.
    pub timed_ns: u64,
    /// What was read or written last, in hexadecimal; of a string its length in bytes.
    pub last_value: String,
    /// Whether that was written.
    pub last_written: bool,
}

/// A memory balloon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balloon {
    /// How much is to be in it, in MiB.
    pub amount_mib: u64,
    /// How much the guest says is in it, in MiB, rounded down.
    pub actual_mib: u64,
}

/// How large the balloon is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// In MiB. More than all of the guest's memory is all of it.
    pub amount_mib: u64,
}

/// What a guest says of its memory, as far as its driver does; bytes, or how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStatistics {
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Bytes swapped out to disk.
    pub swap_out: Option<u64>,
    /// Major page faults.
    pub major_faults: Option<u64>,
    /// Minor page faults.
    pub minor_faults: Option<u64>,
    /// Bytes not used for anything.
    pub free_memory: Option<u64>,
    /// Bytes there are.
    pub total_memory: Option<u64>,
    /// Bytes that new programs could have without swapping.
    pub available_memory: Option<u64>,
    /// Bytes of cached files.
    pub disk_caches: Option<u64>,
    /// Huge pages that were allocated.
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that could not be.
    pub hugetlb_failures: Option<u64>,
}

/// What is wanted of a guest that is debugged, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebugRequest {
    /// A letter that its console gets after a break, which Linux takes as SysRq.
    #[serde(default)]
    pub sysrq: Option<char>,
    /// A vCPU that gets a non-maskable interrupt. Not on arm64.
    #[serde(default)]
    pub nmi: Option<u32>,
    /// Where each vCPU is, who called, its registers and its last accesses.
    #[serde(default)]
    pub dump: bool,
}

/// What a guest was doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugReport {
    /// A text of several lines for each vCPU, if that was wanted.
    pub vcpus: Vec<String>,
}

/// Why a guest hangs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// What it does.
    pub state: InstanceState,
    /// How long it was watched, in nanoseconds.
    pub watched_ns: u64,
    /// What it may hang in, the likeliest first.
    pub causes: Vec<Cause>,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuWhy>,
    /// Interrupts that have been raised and not served.
    pub interrupts: Vec<InterruptWhy>,
    /// Accesses that nobody claimed while it was watched, the most frequent first; at most 16 of them.
    pub unclaimed: Vec<UnclaimedCount>,
    /// How often it was reset in its life.
    pub resets: u32,
    /// Its console.
    pub console: ConsoleWhy,
}

/// Something that a guest may hang in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What it is.
    pub kind: CauseKind,
    /// A sentence.
    pub text: String,
}

/// What a guest may hang in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CauseKind {
    /// Its process was stopped, by SIGTSTP for one. No guest says that of itself.
    ProcessStopped,
    /// It is paused.
    Paused,
    /// It does not come to stand still.
    NoAnswer,
    /// It is reset again and again.
    BootLoop,
    /// Its console's output is not taken by the pipe, the terminal or what else it goes to.
    ConsoleBlocked,
    /// Its kernel says that it waits for its root file system.
    RootDisk,
    /// A device of another process does not answer.
    DeviceStalls,
    /// A vCPU polls what no device claims.
    PollUnclaimed,
    /// A vCPU polls a register.
    Poll,
    /// All vCPUs are halted with interrupts off.
    InterruptsOff,
    /// An interrupt is raised and masked.
    InterruptMasked,
    /// An interrupt is raised, but its edge has been taken.
    InterruptLost,
    /// An interrupt is raised and not taken.
    InterruptNotTaken,
    /// An interrupt was taken and not ended.
    InterruptNotEnded,
    /// All vCPUs are halted and wait for an interrupt, and none is raised.
    Idle,
    /// A vCPU runs and accesses no device.
    Spins,
    /// A vCPU runs and accesses devices.
    Busy,
}

/// What a vCPU was doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VcpuWhy {
    /// Its index.
    pub vcpu: u32,
    /// What it was doing.
    pub doing: VcpuDoing,
    /// The same in words.
    pub text: String,
    /// Whether it would take an interrupt.
    pub takes_interrupts: bool,
    /// Where it is, and who called, innermost first: addresses and symbols.
    pub frames: Vec<String>,
    /// Its accesses to devices while it was watched.
    pub accesses: u64,
    /// How long ago its last one was, in nanoseconds, if it made one.
    pub quiet_ns: Option<u64>,
    /// What it polls, if it does.
    pub poll: Option<PollWhy>,
}

/// What a vCPU was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VcpuDoing {
    /// It executes instructions.
    Runs,
    /// It waits for an interrupt.
    Halted,
    /// It waits for another vCPU to start it.
    NotStarted,
    /// It polls a register.
    Polls,
    /// It waits for a device of another process.
    Waits,
}

/// A register that a vCPU polls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollWhy {
    /// The region; nothing, if nobody claims the address.
    pub region: Option<String>,
    /// The register, or its offset or address.
    pub register: String,
    /// Its address: `pio 0x3fd`.
    pub place: String,
    /// What it says each time, in hexadecimal.
    pub value: String,
    /// How often it was read without a change.
    pub reads: u64,
    /// How often a second, of late.
    pub reads_per_second: u64,
    /// For how long, in nanoseconds.
    pub for_ns: u64,
    /// It was longer, as far as anybody knows.
    pub at_least: bool,
    /// What else the vCPU accesses meanwhile.
    pub others: Vec<String>,
}

/// An interrupt that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptWhy {
    /// What it is called.
    pub name: String,
    /// `masked`, `raised`, `in-service` or `lost`.
    pub stage: String,
    /// The vector, or arm64's INTID, if it has one.
    pub vector: Option<u32>,
    /// A sentence.
    pub text: String,
}

/// A console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleWhy {
    /// What its output goes to: `a pipe`.
    pub to: String,
    /// Bytes that wait to be written.
    pub waiting_bytes: u64,
    /// Whether the guest has to wait.
    pub full: bool,
    /// How long nothing was taken although something waits, in nanoseconds.
    pub blocked_ns: Option<u64>,
    /// The last lines that the guest has printed.
    pub last_lines: Vec<String>,
}

/// Which accesses are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Those to these devices or regions (`device/region`), or `unclaimed`; none named is all.
    #[serde(default)]
    pub devices: Vec<String>,
    /// So many lines at most.
    #[serde(default)]
    pub lines: Option<u64>,
}

/// An access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceLine {
    /// In words, as `run --trace` tells it.
    pub access: String,
    /// How many are missing after it, as the client did not read them in time.
    pub lost: u64,
}

/// Where a guest is to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreaksRequest {
    /// Breaks, in the words of `run --break`.
    #[serde(default)]
    pub breaks: Vec<String>,
    /// The guest stands still at each until the client says what is to be done (`/breaks/line`); else
    /// it goes on.
    #[serde(default)]
    pub asks: bool,
}

/// What has become of breaks: first that there are some, then each stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakEvent {
    /// Whose breaks these are, for `/breaks/line`.
    pub session: u64,
    /// The guest has stopped.
    pub stopped: bool,
    /// What stopped it, and where it is; of the first line, a list of the breaks.
    pub text: String,
}

/// A command of one who has breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakLine {
    /// Whose breaks they are.
    pub session: u64,
    /// What is typed at the prompt: `c`, `s`, `b serial0:LCR`.
    pub line: String,
}

/// What has come of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakAnswer {
    /// What there is to say.
    pub text: String,
    /// The guest goes on.
    pub goes_on: bool,
}
