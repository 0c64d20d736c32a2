//! The PC's display: its frame buffer as memory of the guest's, its function on bus 0.

use std::sync::Arc;

use trapline_boot::kernel::Framebuffer;
use trapline_display::vesa::Place;
use trapline_display::{FrameMemory, Mode, Screen, Vesa};
use trapline_guestmem::GuestMem;
use trapline_kvm::{MemoryWindow, Vm};
use trapline_pci::{Devfn, Slot};

use super::{X86Pc, layout};
use crate::Error;

/// Puts a display on the board whose frame buffer KVM shows to the guest.
pub(crate) fn add(mode: Mode, vm: &Arc<Vm>, board: &mut X86Pc) -> Result<(), Error> {
    let frame = GuestMem::new(&[(0, mode.memory_len().into())])?;
    let memory: Arc<dyn FrameMemory> = Arc::new(KvmFrame(MemoryWindow::new(vm, &frame)?));
    let screen = Arc::new(Screen::new(mode, frame, Arc::clone(&memory)));
    let place = Place { ports: layout::DISPLAY_PORTS, frame: layout::DISPLAY_FRAME };
    let devfn = Devfn::from_bits(layout::DISPLAY_DEVICE << 3);
    let slot = Slot { name: "vesa", devfn, pin: None, messages: None };
    board.bus.insert(devfn, Vesa::function(slot, Arc::clone(&screen), memory, place))?;
    board.screen = Some(screen);
    Ok(())
}

/// The display as a kernel is told of it.
pub(crate) fn framebuffer(mode: Mode) -> Framebuffer {
    Framebuffer {
        base: layout::DISPLAY_FRAME,
        len: mode.memory_len(),
        width: mode.width(),
        height: mode.height(),
        stride: u16::try_from(mode.stride()).unwrap_or(u16::MAX),
    }
}

/// A frame buffer in a slot of KVM's.
struct KvmFrame(MemoryWindow);

impl FrameMemory for KvmFrame {
    fn place(&self, base: Option<u64>) {
        // KVM refuses a place where there is RAM. A PC's RAM wins there too, and the frame buffer
        // is not to be seen.
        let _ = self.0.place(base);
    }

    fn take_dirty(&self) -> Vec<u64> {
        self.0.take_dirty()
    }

    fn touch(&self) {
        self.0.touch();
    }
}
