//! Call chains on arm64, whose kernels keep frame pointers (Arm's AAPCS64, "The Frame Pointer").

use super::{FRAMES_MAX, Frame, may_be_code};
use crate::paging::Paging;
use crate::{Arm64, Kernel, Virtual};

/// The most instructions of a function that are looked at for one that makes a frame.
const PROLOGUE_MAX: u64 = 32;

/// Adds the callers of `cpu` to `frames`.
pub(super) fn walk(
    virt: &Virtual<'_>,
    cpu: &Arm64,
    kernel: Option<&Kernel>,
    frames: &mut Vec<Frame>,
) {
    let plain = |pc| without_code(virt, pc);
    // A function that calls nothing need not have a frame: its caller is in the link register.
    let lr = plain(cpu.lr);
    if !has_frame(virt, cpu.pc, kernel) && may_be_code(virt, kernel, lr) {
        frames.push(Frame::returning(lr));
    }
    let mut fp = cpu.fp;
    while frames.len() < FRAMES_MAX {
        let Some((next, lr)) = virt.read_u64(fp).zip(virt.read_u64(fp.wrapping_add(8))) else {
            return;
        };
        let pc = plain(lr);
        if !may_be_code(virt, kernel, pc) {
            return;
        }
        frames.push(Frame::returning(pc));
        // Frames are further up the stack each; another stack is where it likes, but none is itself.
        if next == fp || !next.is_multiple_of(8) {
            return;
        }
        fp = next;
    }
}

/// Whether the function at `pc` has pushed its frame: `stp x29, x30, [sp, …]` was executed. Without
/// symbols nobody knows where it begins, and then what a function usually does is taken for granted.
fn has_frame(virt: &Virtual<'_>, pc: u64, kernel: Option<&Kernel>) -> bool {
    let Some(symbol) = kernel.and_then(|kernel| kernel.name(pc)) else { return true };
    let start = pc - symbol.offset;
    let instructions = (start..pc).step_by(4).take(usize::try_from(PROLOGUE_MAX).unwrap_or(0));
    instructions.filter_map(|addr| virt.read_u32(addr)).any(|word| {
        // STP of X registers to SP with pre-index, or with an offset (Arm ARM, C6.2, "STP").
        matches!(word & 0xffc0_7fff, 0xa980_7bfd | 0xa900_7bfd)
    })
}

/// An address without its pointer authentication code: the bits above the address's are copies of
/// bit 55 again.
fn without_code(virt: &Virtual<'_>, pc: u64) -> u64 {
    let Paging::Arm64(paging) = virt.paging() else { return pc };
    let bits = paging.kernel_bits().clamp(1, 55);
    let above = u64::MAX << bits;
    if pc >> 55 & 1 == 1 { pc | above } else { pc & !above }
}
