//! What can be asked of a guest. Paths and the names of fields are Firecracker's where it has them.

use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Method};

/// What comes with every HTTP status that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A sentence.
    pub fault_message: String,
}

/// `GET /`: which guest this is, and what it does.
pub struct GetInstance;

impl Endpoint for GetInstance {
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/";
    type Request = ();
    type Answer = Instance;
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

/// `PATCH /vm`: pauses the guest, or lets it go on.
pub struct PatchVm;

impl Endpoint for PatchVm {
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/vm";
    type Request = Vm;
    type Answer = ();
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

/// `PUT /actions`: has the guest do something.
pub struct PutAction;

impl Endpoint for PutAction {
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/actions";
    type Request = Action;
    type Answer = ();
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

/// All end points, by method and path.
pub const ENDPOINTS: [(Method, &str); 3] = [
    (GetInstance::METHOD, GetInstance::PATH),
    (PatchVm::METHOD, PatchVm::PATH),
    (PutAction::METHOD, PutAction::PATH),
];
