//! The PC's display: its frame buffer as memory of the guest's, its function on bus 0.

use std::sync::Arc;

use trapline::{Region, Registry};
use trapline_boot::kernel::Framebuffer;
use trapline_device::Space;
use trapline_display::vesa::regs::{PORTS_BAR, PORTS_LEN};
use trapline_display::vesa::{EmptyPorts, Place};
use trapline_display::{FrameMemory, Mode, Screen, Vesa};
use trapline_guestmem::GuestMem;
use trapline_kvm::{MemoryWindow, Vm};
use trapline_pci::Devfn;

use super::{X86Pc, layout};
use crate::Error;
use crate::board::Builder;

/// Puts a display on the board whose frame buffer KVM shows to the guest.
pub(crate) fn add(
    mode: Mode,
    vm: &Arc<Vm>,
    registry: &Registry,
    board: &mut X86Pc,
) -> Result<(), Error> {
    let frame = GuestMem::new(&[(0, mode.memory_len().into())])?;
    let window = MemoryWindow::new(vm, &frame)?;
    window.place(Some(layout::DISPLAY_FRAME.into()))?;
    let memory: Arc<dyn FrameMemory> = Arc::new(KvmFrame(window));
    let screen = Arc::new(Screen::new(mode, frame, Arc::clone(&memory)));
    let place = Place { ports: layout::DISPLAY_PORTS, frame: layout::DISPLAY_FRAME };
    let vesa = Arc::new(Vesa::new(Arc::clone(&screen), memory, place));

    let devfn = Devfn::from_bits(layout::DISPLAY_DEVICE << 3);
    board.bus.insert(devfn, vesa.clone())?;
    let base = Some(layout::DISPLAY_PORTS.into());
    let names = ("vesa", "ports");
    let region = Region::new(Space::Pio, base, PORTS_LEN.into(), names, Arc::new(EmptyPorts));
    let ports = registry.map(region)?;
    vesa.connect(PORTS_BAR, ports.id());
    let registry = registry.clone();
    let mut builder = Builder::default();
    builder.stateless("vesa").after_reset(move || {
        // Mapped as long as somebody places it.
        let _ = &ports;
        place_ports(&registry, &vesa);
    });
    board.devices.add(builder)?;
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

/// Puts the ports where the function's header says.
fn place_ports(registry: &Registry, vesa: &Vesa) {
    let places = vesa.places();
    let moved = registry.edit(|edit| {
        places.into_iter().for_each(|(id, base)| edit.place(id, base));
        Ok(())
    });
    if let Err(error) = moved {
        tracing::warn!("the display's ports stay where they were: {error}");
    }
}
