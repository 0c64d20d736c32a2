//! Call chains on x86-64.

use super::orc::{Base, Entry, Kind, Orc};
use super::{FRAMES_MAX, Frame, may_be_code};
use crate::{Kernel, Virtual, X86};

/// How much of a stack is looked at where nothing says what is on it: Linux' whole stack.
const SCAN_BYTES: u64 = 16 << 10;
/// The most that is found so.
const SCAN_FRAMES: usize = 24;
/// A frame is no longer than this.
const FRAME_MAX: u64 = 64 << 10;

/// Places of Linux' saved registers (`struct pt_regs`): 21 numbers of eight bytes.
const PT_BP: u64 = 4 * 8;
const PT_IP: u64 = 16 * 8;
const PT_SP: u64 = 19 * 8;

/// What is known of a caller.
#[derive(Clone, Copy)]
struct State {
    frame: Frame,
    sp: u64,
    bp: u64,
}

/// Adds the callers of `cpu` to `frames`.
pub(super) fn walk(
    virt: &Virtual<'_>,
    cpu: &X86,
    kernel: Option<&Kernel>,
    frames: &mut Vec<Frame>,
) {
    if !cpu.long {
        return;
    }
    let state = State { frame: Frame::at(cpu.rip), sp: cpu.rsp, bp: cpu.rbp };
    let rest = match kernel.and_then(|kernel| Some((kernel, kernel.orc()?))) {
        Some((kernel, orc)) => by_orc(virt, cpu, (kernel, orc), state, frames),
        None => by_frame_pointers(virt, kernel, state, frames),
    };
    if let (Some(sp), Some(kernel)) = (rest, kernel) {
        scan(virt, kernel, sp, frames);
    }
}

/// By the tables, as far as they go. The rest of the stack is not known from the address on that it
/// gives.
fn by_orc(
    virt: &Virtual<'_>,
    cpu: &X86,
    (kernel, orc): (&Kernel, &Orc),
    mut state: State,
    frames: &mut Vec<Frame>,
) -> Option<u64> {
    for round in 0..FRAMES_MAX {
        let place = state.frame.place();
        // Modules have tables of their own, which are not looked for.
        let entry = kernel.is_text(place).then(|| orc.entry(place)).flatten();
        let Some(entry) = entry else { return Some(state.sp) };
        if entry.kind == Kind::End {
            return None;
        }
        let first = (round == 0).then_some(cpu);
        let Some(next) = step(virt, first, &entry, &state) else { return Some(state.sp) };
        // A user's code, whose stack is not the kernel's, or nobody's.
        if next.frame.pc >> 63 == 0 {
            return None;
        }
        // A stack grows downwards; another one begins with saved registers.
        let stays = entry.kind == Kind::Call && next.sp <= state.sp;
        if stays || !may_be_code(virt, Some(kernel), next.frame.pc) {
            return Some(state.sp);
        }
        state = next;
        frames.push(state.frame);
    }
    None
}

/// One caller further. `cpu` has the other registers, of the innermost frame only.
fn step(virt: &Virtual<'_>, cpu: Option<&X86>, entry: &Entry, state: &State) -> Option<State> {
    let offset = i64::from(entry.sp_offset);
    let top = match entry.sp {
        Base::Sp => state.sp.wrapping_add_signed(offset),
        Base::Bp => state.bp.wrapping_add_signed(offset),
        Base::SpIndirect => virt.read_u64(state.sp)?.wrapping_add_signed(offset),
        Base::BpIndirect => virt.read_u64(state.bp.wrapping_add_signed(offset))?,
        Base::R10 => cpu?.r10,
        Base::R13 => cpu?.r13,
        Base::Di => cpu?.rdi,
        Base::Dx => cpu?.rdx,
        Base::Undefined | Base::PreviousSp => return None,
    };
    let read = |addr: u64| virt.read_u64(addr);
    match entry.kind {
        Kind::Call => {
            let bp = match entry.bp {
                Base::PreviousSp => read(top.wrapping_add_signed(entry.bp_offset.into()))?,
                Base::Bp => read(state.bp.wrapping_add_signed(entry.bp_offset.into()))?,
                _ => state.bp,
            };
            Some(State { frame: Frame::returning(read(top.wrapping_sub(8))?), sp: top, bp })
        }
        Kind::Regs => Some(State {
            frame: Frame::at(read(top.wrapping_add(PT_IP))?),
            sp: read(top.wrapping_add(PT_SP))?,
            bp: read(top.wrapping_add(PT_BP))?,
        }),
        Kind::RegsPartial => Some(State {
            frame: Frame::at(read(top)?),
            sp: read(top.wrapping_add(PT_SP - PT_IP))?,
            bp: state.bp,
        }),
        Kind::End | Kind::Undefined => None,
    }
}

/// By frame pointers, as far as they lead. The rest of the stack is not known from the address on
/// that it gives, if none does.
fn by_frame_pointers(
    virt: &Virtual<'_>,
    kernel: Option<&Kernel>,
    state: State,
    frames: &mut Vec<Frame>,
) -> Option<u64> {
    let (mut sp, mut bp) = (state.sp, state.bp);
    while frames.len() < FRAMES_MAX {
        let caller = virt.read_u64(bp).zip(virt.read_u64(bp.wrapping_add(8)));
        let inside = bp.checked_sub(sp).is_some_and(|len| len < FRAME_MAX) && bp.is_multiple_of(8);
        match caller {
            Some((next, pc)) if inside && may_be_code(virt, kernel, pc) => {
                frames.push(Frame::returning(pc));
                (sp, bp) = (bp.wrapping_add(8), next);
            }
            _ => break,
        }
    }
    (frames.len() == 1).then_some(sp)
}

/// Everything on the stack that could be a return address of the kernel's.
fn scan(virt: &Virtual<'_>, kernel: &Kernel, sp: u64, frames: &mut Vec<Frame>) {
    let start = sp & !7;
    let words = (start..start.saturating_add(SCAN_BYTES)).step_by(8);
    let values = words.map_while(|addr| virt.read_u64(addr));
    let places = values.filter(|value| kernel.is_text(value.wrapping_sub(1)));
    frames.extend(places.take(SCAN_FRAMES).map(Frame::unsure));
}
