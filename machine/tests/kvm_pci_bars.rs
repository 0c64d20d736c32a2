//! BARs of four PCI functions, programmed at random on `/dev/kvm`, those of memory in memory slots:
//! at every step a guest reads what a naive model says, at each address where it says anything.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can not go on fails")]

mod pci_support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use pci_support::{BOARD_PORTS, BOARD_PORTS_LEN, Board, BoardTag, Pair, bus, in_memory, step};
use proptest::prelude::*;
use trapline::{Mapping, Region, Registry};
use trapline_guestmem::GuestMem;
use trapline_kvm::{Kvm, Start, Stop, Table, Vcpu, VcpuEvent, VcpuSet, Vm, VmOptions};
use trapline_pci::Devfn;

/// RAM, which holds program, tables, and below them what is read.
const RAM: u64 = 0x10_0000;
const CODE: u64 = 0x1000;
/// Page tables: one of everything, one of its first 512 GiB, one of each GiB that is addressed.
const TABLES: u64 = 0x2000;
const GIBS: u64 = 5;
/// How many addresses there are, and the addresses.
const LIST: u64 = 0x2_0000;
/// What was read there.
const FOUND: u64 = 0x8_0000;

/// Reads a dword at each address of the list.
const PROGRAM: [u8; 36] = [
    0x48, 0x8b, 0x0e, // mov rcx, [rsi]
    0x48, 0x83, 0xc6, 0x08, // add rsi, 8
    0xbf, 0x00, 0x00, 0x08, 0x00, // mov edi, FOUND
    0x48, 0x8b, 0x1e, // next: mov rbx, [rsi]
    0x8b, 0x03, // mov eax, [rbx]
    0x89, 0x07, // mov [rdi], eax
    0x48, 0x83, 0xc6, 0x08, // add rsi, 8
    0x48, 0x83, 0xc7, 0x04, // add rdi, 4
    0x48, 0xff, 0xc9, // dec rcx
    0x75, 0xec, // jnz next
    0xf4, 0x90, 0x90, 0x90, // hlt
];

/// A guest that reads, and the registry it reads in.
struct Guest {
    registry: Registry,
    ram: GuestMem,
    vm: Arc<Vm>,
    vcpus: Vec<Vcpu>,
    _mapped: Vec<Mapping>,
    /// Where RAM is mapped if the registry has nobody to offload to.
    _ram_registry: Registry,
}

impl Guest {
    /// One whose memory KVM has, or, but for its RAM, the registry alone.
    fn new(offload: bool) -> Self {
        let ram = GuestMem::new(&[(0, RAM)]).unwrap();
        let vm = Vm::new(&Kvm::open("/dev/kvm").unwrap(), &ram, VmOptions::bare(1)).unwrap();
        let ram_registry = Registry::builder().offload(vm.offload()).build();
        let registry = if offload { ram_registry.clone() } else { Registry::builder().build() };
        let piece = Arc::new(ram.pieces().remove(0));
        let ports =
            Region::mmio(BOARD_PORTS, BOARD_PORTS_LEN, "board", "ports", Arc::new(BoardTag));
        let mapped = vec![
            ram_registry.map(Region::ram(0, "memory", "ram", piece)).unwrap(),
            registry.map(ports).unwrap(),
        ];
        ram.write(CODE, &PROGRAM).unwrap();
        let table = |addr: u64, entries: &mut dyn Iterator<Item = u64>| {
            for (at, entry) in (addr..).step_by(8).zip(entries) {
                ram.write(at, &entry.to_le_bytes()).unwrap();
            }
        };
        // Present, writable, and in the last level pages of 2 MiB.
        let directories = TABLES + 0x2000;
        table(TABLES, &mut std::iter::once((TABLES + 0x1000) | 3));
        table(TABLES + 0x1000, &mut (0..GIBS).map(|gib| (directories + gib * 0x1000) | 3));
        table(directories, &mut (0..GIBS * 512).map(|page| page << 21 | 0x83));
        let vcpus = vec![Vcpu::new(&vm, 0, &registry).unwrap()];
        Self { registry, ram, vm, vcpus, _mapped: mapped, _ram_registry: ram_registry }
    }

    /// What it reads at each address.
    fn read(&mut self, addresses: &[u64]) -> Vec<u64> {
        let words = std::iter::once(addresses.len() as u64).chain(addresses.iter().copied());
        let list: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        assert!(list.len() as u64 <= FOUND - LIST);
        self.ram.write(LIST, &list).unwrap();
        let gdt = Table { base: 0x500, limit: 0x1f };
        let start = Start::Long { rip: CODE, rsp: 0x9_0000, rsi: LIST, cr3: TABLES, gdt };
        self.vcpus[0].set_start(&start).unwrap();
        let (events, ended): (_, Receiver<VcpuEvent>) = channel();
        let vcpus = std::mem::take(&mut self.vcpus);
        let on_event = Arc::new(move |event| drop(events.send(event)));
        let running = VcpuSet::start(vcpus, on_event).unwrap();
        let stop = ended.recv_timeout(Duration::from_secs(60)).unwrap().stop;
        assert_eq!(stop, Stop::Halted);
        self.vcpus = running.stop().unwrap();
        let mut found = vec![0; addresses.len() * 4];
        self.ram.read(FOUND, &mut found).unwrap();
        let dwords = found.chunks_exact(4);
        dwords.map(|dword| u32::from_le_bytes(dword.try_into().unwrap()).into()).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn what_a_guest_reads_is_what_a_naive_model_says(
        steps in prop::collection::vec(step(), 1..40),
        offload in prop::bool::weighted(0.7),
    ) {
        let mut guest = Guest::new(offload);
        let before = guest.vm.memory_slots();
        let bus = bus(Arc::new(guest.registry.downgrade()), &in_memory);
        let registry = guest.registry.clone();
        let mut pair = Pair::new(&bus, Board::new(&registry));
        for (number, step) in steps.iter().enumerate() {
            pair.take(step);
            let (addresses, expected): (Vec<u64>, Vec<u64>) = pair.probes().into_iter().unzip();
            let found = guest.read(&addresses);
            for ((address, found), expected) in addresses.iter().zip(found).zip(expected) {
                prop_assert_eq!(found, expected, "{:#x} after step {}: {:?}", address, number, step);
            }
        }
        (1..=4).for_each(|device| drop(bus.remove(Devfn::from_bits(device << 3))));
        prop_assert_eq!(guest.vm.memory_slots(), before, "slots that are left");
    }
}
