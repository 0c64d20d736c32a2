//! KVM's table of interrupt routes: where each global system interrupt (GSI) of the VM leads.
//!
//! `KVM_SET_GSI_ROUTING` replaces the whole table, the routes that KVM set up itself included
//! (Linux `Documentation/virt/kvm/api.rst`, 4.52). So it is called from here only, with everybody's
//! routes.

use std::collections::BTreeMap;
use std::sync::Once;
use std::{fmt, io};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, KvmIrqRouting,
    kvm_irq_routing_entry,
};
use kvm_ioctls::VmFd;
use parking_lot::Mutex;
use trapline_device::Msi;

use crate::Error;

/// Where a GSI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To an input of an interrupt controller in the kernel.
    Pin {
        /// `KVM_IRQCHIP_PIC_MASTER` and so on; 0 for a GIC.
        irqchip: u32,
        /// The input.
        pin: u32,
    },
    /// To a message.
    Message {
        /// The message.
        message: Msi,
        /// Who sends it, for an ITS.
        device_id: Option<u32>,
    },
}

/// The table, and its only owner.
pub(crate) struct Routing {
    /// How many entries it can have. All GSIs are below that, too.
    limit: u32,
    /// The GSIs below are the interrupt controllers' inputs; those from here on are handed out.
    inputs: u32,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// An input can lead to several pins: one of an 8259A and one of the I/O APIC.
    routes: BTreeMap<u32, Vec<Route>>,
    /// Whether KVM has not been told of all of `routes`.
    changed: bool,
}

impl Routing {
    /// The table of a VM with so many inputs, and what they lead to. KVM knows nothing of it yet.
    pub(crate) fn new(limit: u32, inputs: u32, routes: &[(u32, Route)]) -> Self {
        let mut table = Table { changed: true, ..Table::default() };
        for (gsi, route) in routes {
            table.routes.entry(*gsi).or_default().push(*route);
        }
        Self { limit, inputs, table: Mutex::new(table) }
    }

    /// Takes a GSI that is no input, if one is left. Until [`Self::stage`] says otherwise, it leads
    /// nowhere.
    pub(crate) fn allocate(&self) -> Option<u32> {
        let mut table = self.table.lock();
        let gsi = (self.inputs..self.limit).find(|gsi| !table.routes.contains_key(gsi))?;
        let entries: usize = table.routes.values().map(|routes| routes.len().max(1)).sum();
        if entries >= usize::try_from(self.limit).unwrap_or(usize::MAX) {
            return None;
        }
        table.routes.insert(gsi, Vec::new());
        Some(gsi)
    }

    /// Gives back what [`Self::allocate`] took. No irqfd may be on it any more: there are hosts
    /// whose kernel does not survive a missing route.
    pub(crate) fn release(&self, gsi: u32) {
        let mut table = self.table.lock();
        // KVM keeps the route until the next change, and nothing signals it.
        table.changed |= table.routes.remove(&gsi).is_some_and(|routes| !routes.is_empty());
    }

    /// Has `gsi` lead to `route`, once [`Self::commit`] tells KVM.
    pub(crate) fn stage(&self, gsi: u32, route: Option<Route>) {
        let mut table = self.table.lock();
        let routes = Vec::from_iter(route);
        if table.routes.get(&gsi) != Some(&routes) {
            table.routes.insert(gsi, routes);
            table.changed = true;
        }
    }

    /// Tells KVM, if anything has changed: all changes since the last time at once.
    ///
    /// # Errors
    /// KVM's refusal, which is for lack of memory. The next commit tries again.
    pub(crate) fn commit(&self, fd: &VmFd) -> Result<(), Error> {
        let mut table = self.table.lock();
        if !table.changed {
            return Ok(());
        }
        let what = "connect the interrupt controllers";
        let entries: Vec<_> = table
            .routes
            .iter()
            .flat_map(|(gsi, routes)| routes.iter().map(|route| entry(*gsi, *route)))
            .collect();
        let routing = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| Error::Ioctl { what, reason: io::Error::other(error.to_string()) })?;
        fd.set_gsi_routing(&routing).map_err(Error::ioctl(what))?;
        table.changed = false;
        Ok(())
    }

    /// KVM has set up a table of its own since.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn invalidate(&self) {
        self.table.lock().changed = true;
    }
}

/// A route in KVM's words.
fn entry(gsi: u32, route: Route) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, ..Default::default() };
    match route {
        Route::Pin { irqchip, pin } => {
            entry.type_ = KVM_IRQ_ROUTING_IRQCHIP;
            entry.u.irqchip.irqchip = irqchip;
            entry.u.irqchip.pin = pin;
        }
        Route::Message { message, device_id } => {
            let (low, high) = halves(message.address);
            entry.type_ = KVM_IRQ_ROUTING_MSI;
            entry.flags = if device_id.is_some() { KVM_MSI_VALID_DEVID } else { 0 };
            entry.u.msi.address_lo = low;
            entry.u.msi.address_hi = high;
            entry.u.msi.data = message.data;
            entry.u.msi.__bindgen_anon_1.devid = device_id.unwrap_or(0);
        }
    }
    entry
}

/// Says that KVM has refused a change which the guest asked for; once, as the guest may ask again
/// and again. Only a kernel out of memory refuses.
pub(crate) fn report(error: &dyn fmt::Display) {
    static SAID: Once = Once::new();
    SAID.call_once(|| tracing::error!("interrupts of the guest may get lost: {error}"));
}

/// The halves of an address: low, high.
pub(crate) fn halves(address: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(pin: u32) -> Route {
        Route::Pin { irqchip: 2, pin }
    }

    /// The table as KVM would be told.
    fn told(routing: &Routing) -> Vec<(u32, Vec<Route>)> {
        let table = routing.table.lock();
        table.routes.iter().map(|(gsi, routes)| (*gsi, routes.clone())).collect()
    }

    #[test]
    fn an_entry_is_the_route_in_kvms_words() {
        let message = Msi { address: 0x1_fee0_3004, data: 0xc061 };
        let for_its = entry(40, Route::Message { message, device_id: Some(0x18) });
        assert_eq!((for_its.gsi, for_its.type_), (40, KVM_IRQ_ROUTING_MSI));
        assert_eq!(for_its.flags, KVM_MSI_VALID_DEVID);
        assert_eq!(entry(40, Route::Message { message, device_id: None }).flags, 0);
        assert_eq!(entry(5, pin(7)).type_, KVM_IRQ_ROUTING_IRQCHIP);
        assert_eq!(halves(message.address), (0xfee0_3004, 1));
    }

    #[test]
    fn a_change_of_one_holder_leaves_the_routes_of_the_others() {
        let routing = Routing::new(64, 24, &[(0, pin(2)), (0, pin(0)), (4, pin(4))]);
        let (a, b) = (routing.allocate().unwrap(), routing.allocate().unwrap());
        assert_eq!((a, b), (24, 25), "no input is handed out");
        routing.stage(b, Some(pin(9)));
        routing.stage(4, None);
        routing.release(a);
        let rest = [(0, vec![pin(2), pin(0)]), (4, vec![]), (25, vec![pin(9)])];
        assert_eq!(told(&routing), rest);
        assert_eq!(routing.allocate(), Some(a), "what was given back is handed out again");
    }

    #[test]
    fn there_are_as_many_interrupts_as_the_table_has_room_for() {
        let routing = Routing::new(6, 1, &[(0, pin(0)), (0, pin(1)), (0, pin(2))]);
        let taken: Vec<_> = std::iter::from_fn(|| routing.allocate()).collect();
        assert_eq!(taken, [1, 2, 3], "input 0 takes three entries of the six");
        routing.release(2);
        assert_eq!(routing.allocate(), Some(2));
        assert_eq!(routing.allocate(), None);
    }

    #[test]
    fn only_a_change_is_worth_telling() {
        let routing = Routing::new(64, 24, &[]);
        let gsi = routing.allocate().unwrap();
        let changed = || std::mem::take(&mut routing.table.lock().changed);
        assert!(changed(), "KVM knows nothing at first");
        routing.stage(gsi, Some(pin(1)));
        assert!(changed());
        routing.stage(gsi, Some(pin(1)));
        assert!(!changed());
        routing.release(gsi);
        assert!(changed());
    }
}
