//! Unmapping of single pages of guest RAM from KVM's page tables, so that the guest's next access to
//! them faults: what the test device offers.

#![expect(unsafe_code, reason = "changes the protection of a page of guest memory")]

use crate::Vm;

/// The size of a page on every processor KVM runs guests of here.
const PAGE: u64 = 4096;

impl Vm {
    /// Makes KVM forget how the page of guest RAM at `addr` is mapped; what is in it stays. The
    /// next access of a vCPU faults and maps it again, which no guest can tell but by the time it
    /// takes. Nothing happens where there is no RAM, or where the host refuses.
    pub fn flush_page(&self, addr: u64) {
        let addr = addr / PAGE * PAGE;
        let Some((host, _mapped)) = self.slots().host_page(addr) else { return };
        let Ok(host) = usize::try_from(host) else { return };
        let host = std::ptr::with_exposed_provenance_mut(host);
        // Any change of protection takes the page from KVM's tables. The right to execute is one
        // that nobody misses meanwhile: this process and other vCPUs go on reading and writing.
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        for rights in [rights | libc::PROT_EXEC, rights] {
            // SAFETY: the page is guest memory, which stays mapped readable and writable throughout,
            // and is kept mapped by `_mapped`.
            let _ = unsafe { libc::mprotect(host, 4096, rights) };
        }
    }
}
