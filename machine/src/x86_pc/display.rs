//! The PC's display: its frame buffer as memory of the guest's, its function on bus 0.

use std::sync::Arc;

use trapline::{Memory, Regions};
#[cfg(target_arch = "x86_64")]
use trapline_boot::kernel::Framebuffer;
use trapline_display::vesa::Place;
use trapline_display::{Mode, Screen, Vesa};
use trapline_guestmem::GuestMem;
use trapline_pci::{Devfn, Slot};

use super::{X86Pc, layout};
use crate::Error;

/// Puts a display on the board.
pub(crate) fn add(mode: Mode, registry: &dyn Regions, board: &mut X86Pc) -> Result<(), Error> {
    let frame = GuestMem::new(&[(0, mode.memory_len().into())])?;
    let Some(piece) = frame.pieces().pop() else { return Ok(()) };
    let memory: Arc<dyn Memory> = Arc::new(piece);
    let written = registry.log_dirty(Arc::clone(&memory))?;
    let screen = Arc::new(Screen::new(mode, frame, written));
    let place = Place { ports: layout::DISPLAY_PORTS, frame: layout::DISPLAY_FRAME };
    let devfn = Devfn::from_bits(layout::DISPLAY_DEVICE << 3);
    let slot = Slot { name: "vesa", devfn, pin: None, messages: None };
    board.bus.insert(devfn, Vesa::function(slot, Arc::clone(&screen), memory, place))?;
    board.screen = Some(screen);
    Ok(())
}

/// The display as a kernel is told of it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn framebuffer(mode: Mode) -> Framebuffer {
    Framebuffer {
        base: layout::DISPLAY_FRAME,
        len: mode.memory_len(),
        width: mode.width(),
        height: mode.height(),
        stride: u16::try_from(mode.stride()).unwrap_or(u16::MAX),
    }
}
