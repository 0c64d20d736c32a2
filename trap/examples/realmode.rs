//! A guest that says hello through a port, on KVM with nothing but this registry.
#![expect(unsafe_code, reason = "only we can promise KVM that guest memory stays mapped")]
use kvm_ioctls::{Kvm, VcpuExit};
use trapline::{Handler, IoCx, Region, Registry, Size, Space};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

struct Console;
impl Handler for Console {
    fn read(&self, _: &IoCx<'_>, _offset: u64, size: Size) -> u64 {
        size.ones()
    }
    fn write(&self, _: &IoCx<'_>, _offset: u64, _: Size, value: u64) {
        print!("{}", char::from(value.to_le_bytes()[0]));
    }
}
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (start, len) = (GuestAddress(0x1000), 0x1000); // mov dx, 0x3f8; mov al, 'H'; out dx, al ...
    let code = [0xba, 0xf8, 3, 0xb0, b'H', 0xee, 0xb0, b'i', 0xee, 0xb0, b'\n', 0xee, 0xf4];
    let ram = GuestMemoryMmap::<()>::from_ranges(&[(start, len)])?;
    ram.write_slice(&code, start)?;
    let vm = Kvm::new()?.create_vm()?;
    let mut slot = kvm_bindings::kvm_userspace_memory_region::default();
    (slot.guest_phys_addr, slot.memory_size) = (start.0, len as u64);
    slot.userspace_addr = ram.get_host_address(start)? as u64;
    // SAFETY: `ram` has all of the slot mapped and is dropped after the VM.
    unsafe { vm.set_user_memory_region(slot)? };
    let mut vcpu = vm.create_vcpu(0)?;
    let (mut regs, mut sregs) = (vcpu.get_regs()?, vcpu.get_sregs()?);
    (sregs.cs.base, sregs.cs.selector, regs.rip, regs.rflags) = (0, 0, start.0, 2);
    vcpu.set_sregs(&sregs).and_then(|()| vcpu.set_regs(&regs))?;
    let registry = Registry::builder().build();
    let _uart =
        registry.map(Region::pio(0x3f8, 8, "serial0", "uart", std::sync::Arc::new(Console)))?;
    let mut handle = registry.handle(0);
    loop {
        match vcpu.run()? {
            VcpuExit::IoIn(port, data) => handle.read(Space::Pio, port.into(), data),
            VcpuExit::IoOut(port, data) => handle.write(Space::Pio, port.into(), data),
            VcpuExit::MmioRead(addr, data) => handle.read(Space::Mmio, addr, data),
            VcpuExit::MmioWrite(addr, data) => handle.write(Space::Mmio, addr, data),
            _ => break,
        }
    }
    print!("{}", registry.stats());
    Ok(())
}
