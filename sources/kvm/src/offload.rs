//! The registry's deliveries that KVM does itself: coalesced zones, ioeventfds, and memory slots.
//!
//! A coalesced zone leaves the kernel with exactly the bus, address and size it came with:
//! `KVM_UNREGISTER_COALESCED_MMIO` takes away every zone of the named bus that contains the named
//! range, so a wrong bus or size takes somebody else's.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use kvm_ioctls::IoEventAddress;
use trapline::{
    CoalescedWrite, Delivery, DirtyBitmap, DoorbellTarget, EventFd, Memory, Offload, Space, Zone,
};

use crate::ioctl::{self, Doorbell};
use crate::vm::Vm;
use crate::{Caps, Error, page};

/// The VM as an [`Offload`].
pub(crate) struct KvmOffload(pub(crate) Arc<Vm>);

/// What to do about a zone.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// The kernel gets it: a coalesced zone of this many bytes.
    Coalesce(u32),
    /// The kernel gets it: a doorbell for writes of this many bytes.
    Ring(u32),
    /// The kernel gets what of it is whole pages: memory slots.
    Show,
    /// The registry does it.
    Decline,
    /// Nobody can do it.
    Refuse(&'static str),
}

impl Offload for KvmOffload {
    fn install(&self, zone: &Zone) -> Result<bool, String> {
        let done = match (plan(self.0.caps(), zone), &zone.delivery) {
            (Plan::Coalesce(size), _) => self
                .0
                .fd()
                .register_coalesced_mmio(address(zone), size)
                .map_err(|errno| io::Error::from_raw_os_error(errno.errno())),
            (
                Plan::Ring(len),
                Delivery::Doorbell { target: DoorbellTarget::EventFd(event), datamatch },
            ) => ioctl::ioeventfd(self.0.fd(), &doorbell(zone, len, event, *datamatch), true),
            (Plan::Show, _) => return self.0.slots().install(self.0.fd(), zone),
            (Plan::Refuse(why), _) => return Err(why.to_owned()),
            _ => return Ok(false),
        };
        match done {
            Ok(()) => Ok(true),
            // The kernel's bus is full: the registry does it, with the same meaning.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    fn remove(&self, zone: &Zone) {
        let done = match (plan(self.0.caps(), zone), &zone.delivery) {
            (Plan::Coalesce(size), _) => self
                .0
                .fd()
                .unregister_coalesced_mmio(address(zone), size)
                .map_err(Error::ioctl("give a coalesced zone back")),
            (
                Plan::Ring(len),
                Delivery::Doorbell { target: DoorbellTarget::EventFd(event), datamatch },
            ) => ioctl::ioeventfd(self.0.fd(), &doorbell(zone, len, event, *datamatch), false)
                .map_err(|reason| Error::Ioctl { what: "give a doorbell back", reason }),
            (Plan::Show, _) => {
                let removed = self.0.slots().remove(self.0.fd(), zone);
                removed.map_err(Error::ioctl("delete a memory slot"))
            }
            _ => Ok(()),
        };
        match done {
            // What KVM does not have, it does nothing with.
            Err(Error::Ioctl { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => {}
            // It would go on serving the guest what is somebody else's now, or nobody's.
            Err(error) => self.0.give_up(format!("{error} ({} {:#x})", zone.space, zone.addr)),
            Ok(()) => {}
        }
    }

    fn queued(&self) -> bool {
        self.0.ring().is_some_and(|ring| ring.queued())
    }

    fn pop(&self) -> Option<CoalescedWrite> {
        self.0.ring()?.pop()
    }

    fn page(&self, len: u64) -> Option<Arc<dyn Memory>> {
        self.0.caps().readonly_memory.then(|| page::new(len)).flatten()
    }

    fn all_ones(&self, len: u64) -> Option<Arc<dyn Memory>> {
        self.0.caps().readonly_memory.then(|| page::all_ones(len)).flatten()
    }

    fn log_dirty(&self, memory: &Arc<dyn Memory>, on: bool) -> Result<(), String> {
        self.0.slots().log_dirty(self.0.fd(), memory, on)
    }

    fn take_dirty(&self, memory: &Arc<dyn Memory>, dirty: &mut DirtyBitmap) {
        self.0.slots().take_dirty(self.0.fd(), memory, dirty);
    }
}

/// Decides by what this host's KVM can do.
fn plan(caps: &Caps, zone: &Zone) -> Plan {
    match &zone.delivery {
        Delivery::Coalesced if zone.space == Space::Pio && !caps.coalesced_pio => Plan::Refuse(
            "this host's KVM cannot coalesce port writes (KVM_CAP_COALESCED_PIO, Linux 5.0)",
        ),
        Delivery::Coalesced if caps.coalesced_page == 0 => Plan::Decline,
        Delivery::Coalesced => u32::try_from(zone.len).map_or(Plan::Decline, Plan::Coalesce),
        // No kernel has KVM_SET_IOREGION, and the capability numbers its patches used are others'
        // now: there is nothing to ask.
        Delivery::Forward { .. } => Plan::Decline,
        Delivery::Memory { readonly: true, .. } if !caps.readonly_memory => Plan::Decline,
        Delivery::Memory { .. } => Plan::Show,
        // The registry has us show pages of it one by one, as memory.
        Delivery::Mirrored { .. } => Plan::Decline,
        Delivery::Doorbell { target: DoorbellTarget::Handler(_), .. } => Plan::Decline,
        Delivery::Doorbell { .. } if !caps.ioeventfd => Plan::Decline,
        Delivery::Doorbell { datamatch, .. } => match zone.len {
            // The kernel compares a value at a given length only.
            0 if caps.ioeventfd_any_length && datamatch.is_none() => Plan::Ring(0),
            1 => Plan::Ring(1),
            2 => Plan::Ring(2),
            4 => Plan::Ring(4),
            8 if zone.space == Space::Mmio => Plan::Ring(8),
            _ => Plan::Decline,
        },
    }
}

fn address(zone: &Zone) -> IoEventAddress {
    match zone.space {
        Space::Pio => IoEventAddress::Pio(zone.addr),
        Space::Mmio => IoEventAddress::Mmio(zone.addr),
    }
}

fn doorbell<'a>(zone: &Zone, len: u32, event: &'a EventFd, datamatch: Option<u64>) -> Doorbell<'a> {
    Doorbell { space: zone.space, addr: zone.addr, len, datamatch, event: event.as_fd() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(space: Space, len: u64, delivery: Delivery) -> Zone {
        Zone { space, addr: 0x100, len, delivery }
    }

    fn bell(datamatch: Option<u64>) -> Delivery {
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        Delivery::Doorbell { target: EventFd::new(fd).into(), datamatch }
    }

    const ALL: Caps = Caps {
        coalesced_page: 2,
        coalesced_pio: true,
        ioeventfd: true,
        ioeventfd_any_length: true,
        ..NOTHING
    };
    const NOTHING: Caps = Caps {
        irqchip: false,
        pit: false,
        split_irqchip: false,
        user_memory: false,
        readonly_memory: false,
        set_tss_addr: false,
        set_identity_map_addr: false,
        immediate_exit: false,
        coalesced_page: 0,
        coalesced_pio: false,
        ioeventfd: false,
        ioeventfd_any_length: false,
        irqfd: false,
        irqfd_resample: false,
        irq_routes: 0,
        tsc_deadline: false,
        robust_singlestep: false,
        memory_slots: 0,
        recommended_vcpus: 0,
        max_vcpus: 0,
    };

    #[test]
    fn a_kernel_without_coalesced_ports_refuses_them_in_a_sentence() {
        let old = Caps { coalesced_pio: false, ..ALL };
        let Plan::Refuse(why) = plan(&old, &zone(Space::Pio, 8, Delivery::Coalesced)) else {
            panic!("a port zone needs the kernel")
        };
        assert!(why.contains("KVM_CAP_COALESCED_PIO"));
        assert_eq!(plan(&old, &zone(Space::Mmio, 8, Delivery::Coalesced)), Plan::Coalesce(8));
    }

    #[test]
    fn the_registry_does_what_the_kernel_cannot() {
        assert_eq!(plan(&NOTHING, &zone(Space::Mmio, 8, Delivery::Coalesced)), Plan::Decline);
        assert_eq!(plan(&NOTHING, &zone(Space::Mmio, 4, bell(None))), Plan::Decline);
        assert_eq!(plan(&ALL, &zone(Space::Mmio, 0, bell(Some(1)))), Plan::Decline);
        assert_eq!(plan(&ALL, &zone(Space::Mmio, 0, bell(None))), Plan::Ring(0));
        let huge = zone(Space::Mmio, 1 << 32, Delivery::Coalesced);
        assert_eq!(plan(&ALL, &huge), Plan::Decline);
    }
    #[test]
    fn the_kernel_rings_for_the_lengths_it_compares() {
        for (space, len, datamatch, wanted) in [
            (Space::Mmio, 1, Some(1), Plan::Ring(1)),
            (Space::Mmio, 2, None, Plan::Ring(2)),
            (Space::Pio, 4, Some(1), Plan::Ring(4)),
            (Space::Mmio, 8, Some(1), Plan::Ring(8)),
            (Space::Pio, 8, None, Plan::Decline),
            (Space::Mmio, 3, None, Plan::Decline),
            (Space::Pio, 0, None, Plan::Ring(0)),
        ] {
            assert_eq!(plan(&ALL, &zone(space, len, bell(datamatch))), wanted, "{space} {len}");
        }
        let old = Caps { ioeventfd_any_length: false, ..ALL };
        assert_eq!(plan(&old, &zone(Space::Mmio, 0, bell(None))), Plan::Decline);
        assert_eq!(plan(&old, &zone(Space::Mmio, 4, bell(None))), Plan::Ring(4));
    }

    #[test]
    fn memory_is_shown_unless_the_kernel_cannot_keep_the_guest_from_writing_it() {
        let mem = trapline_guestmem::GuestMem::new(&[(0, 0x1000)]).unwrap();
        let memory: Arc<dyn Memory> = Arc::new(mem.pieces().remove(0));
        let zone = |readonly| {
            let memory = Arc::clone(&memory);
            zone(Space::Mmio, 0x1000, Delivery::Memory { memory, offset: 0, readonly })
        };
        let readonly = Caps { readonly_memory: true, ..NOTHING };
        for (caps, for_rom) in [(readonly, Plan::Show), (NOTHING, Plan::Decline)] {
            assert_eq!(plan(&caps, &zone(true)), for_rom);
            assert_eq!(plan(&caps, &zone(false)), Plan::Show);
        }
    }

    #[test]
    fn a_zone_is_on_its_own_bus() {
        let at = |space| address(&zone(space, 1, Delivery::Coalesced));
        assert!(matches!(at(Space::Pio), IoEventAddress::Pio(0x100)));
        assert!(matches!(at(Space::Mmio), IoEventAddress::Mmio(0x100)));
    }
}
