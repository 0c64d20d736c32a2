//! What a snapshot of the GIC keeps, besides the tables in guest RAM.
//!
//! Guest RAM has to be restored first. Then, as KVM documents it (Linux,
//! `Documentation/virt/kvm/devices/arm-vgic-its.rst`, "ITS Restore Sequence"), the redistributors,
//! and the ITS with its tables and `GITS_CTLR` last.

use gicv3_its::gic::{GicState, InterruptState, ProcessorState};
use gicv3_its::redist::RedistributorState;
use gicv3_its::{Its, Progress, RestoreError, State};
use serde::{Deserialize, Serialize};
use trapline_device::{Form, SaveState, Saved, StateError};

use super::{GicV3, Inner};

/// The whole of it, version 1.
#[derive(Debug, Serialize, Deserialize)]
struct SavedV1 {
    ctlr: u32,
    shared: Vec<InterruptV1>,
    processors: Vec<ProcessorV1>,
    its: Option<ItsV1>,
}

impl Form for SavedV1 {
    const NAME: &'static str = "gicv3";
    const VERSION: u32 = 1;
}

/// Flags, priority, route: see [`InterruptState`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct InterruptV1(u8, u8, u64);

#[derive(Debug, Serialize, Deserialize)]
struct ProcessorV1 {
    gicr_ctlr: u32,
    gicr_waker: u32,
    gicr_propbaser: u64,
    gicr_pendbaser: u64,
    private: Vec<InterruptV1>,
    mask: u8,
    flags: u8,
    active: [u32; 2],
}

#[derive(Debug, Serialize, Deserialize)]
struct ItsV1 {
    version: u16,
    ctlr: u32,
    iidr: u32,
    cbaser: u64,
    cwriter: u64,
    creadr: u64,
    basers: [u64; 8],
}

fn interrupts(states: &[InterruptState]) -> Vec<InterruptV1> {
    let one = |state: &InterruptState| {
        let InterruptState { flags, priority, route } = *state;
        InterruptV1(flags, priority, route)
    };
    states.iter().map(one).collect()
}

fn interrupt_states(saved: Vec<InterruptV1>) -> Vec<InterruptState> {
    let one = |InterruptV1(flags, priority, route)| InterruptState { flags, priority, route };
    saved.into_iter().map(one).collect()
}

impl From<ProcessorState> for ProcessorV1 {
    fn from(state: ProcessorState) -> Self {
        let ProcessorState { redistributor, private, mask, flags, active } = state;
        let RedistributorState { ctlr, waker, propbaser, pendbaser } = redistributor;
        Self {
            gicr_ctlr: ctlr,
            gicr_waker: waker,
            gicr_propbaser: propbaser,
            gicr_pendbaser: pendbaser,
            private: interrupts(&private),
            mask,
            flags,
            active,
        }
    }
}

impl From<ProcessorV1> for ProcessorState {
    fn from(saved: ProcessorV1) -> Self {
        let ProcessorV1 {
            gicr_ctlr: ctlr,
            gicr_waker: waker,
            gicr_propbaser: propbaser,
            gicr_pendbaser: pendbaser,
            private,
            mask,
            flags,
            active,
        } = saved;
        let redistributor = RedistributorState { ctlr, waker, propbaser, pendbaser };
        Self { redistributor, private: interrupt_states(private), mask, flags, active }
    }
}

impl From<State> for ItsV1 {
    fn from(state: State) -> Self {
        let State { version, ctlr, iidr, cbaser, cwriter, creadr, basers } = state;
        Self { version, ctlr, iidr, cbaser, cwriter, creadr, basers }
    }
}

impl From<ItsV1> for State {
    fn from(saved: ItsV1) -> Self {
        let ItsV1 { version, ctlr, iidr, cbaser, cwriter, creadr, basers } = saved;
        Self { version, ctlr, iidr, cbaser, cwriter, creadr, basers }
    }
}

fn refused(error: RestoreError) -> StateError {
    let rule = match error {
        RestoreError::Memory => "the ITS's tables are in guest RAM",
        RestoreError::Register(_) | RestoreError::Version => "every register has a possible value",
        _ => "the ITS's tables are consistent",
    };
    StateError::Inconsistent { name: SavedV1::NAME, rule }
}

impl SaveState for GicV3 {
    /// Also writes the collection and pending tables to guest RAM. A guest whose tables overlap,
    /// or are not in RAM, finds its ITS reset, or its LPIs not pending, when it is restored.
    fn save(&self) -> Saved {
        let mut inner = self.inner.lock();
        let Inner { gic, its, .. } = &mut *inner;
        // The pending tables that are in RAM are written even if another one is not.
        let GicState { ctlr, shared, processors } = gic.save(&self.ram);
        let targets = gic.redistributors.count();
        Saved::encode(&SavedV1 {
            ctlr,
            shared: interrupts(&shared),
            processors: processors.into_iter().map(ProcessorV1::from).collect(),
            its: its.save(&self.ram, targets).ok().map(ItsV1::from),
        })
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let SavedV1 { ctlr, shared, processors, its: its_state } = saved.decode()?;
        let state = GicState {
            ctlr,
            shared: interrupt_states(shared),
            processors: processors.into_iter().map(ProcessorState::from).collect(),
        };
        let mut inner = self.inner.lock();
        // Both are built aside, so that an error leaves everything as it is.
        let mut gic = inner.gic.clone();
        let mut its: Its = inner.its.clone();
        gic.restore(&state, &self.ram).map_err(refused)?;
        let mut more = false;
        match its_state {
            Some(state) => {
                let sink = &mut gic.redistributors.sink(&self.ram);
                let state = State::from(state);
                more = its.restore(&state, &self.ram, sink).map_err(refused)? == Progress::More;
            }
            None => its.reset(),
        }
        inner.gic = gic;
        inner.its = its;
        inner.more = more;
        self.sync(&mut inner);
        Ok(())
    }
}
