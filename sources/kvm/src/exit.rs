//! `struct kvm_run`, the page through which KVM says why a vCPU came back (Linux
//! `Documentation/virt/kvm/api.rst`, section 5), decoded field by field.

use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::{
    KVM_EXIT_ARM_NISV, KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN,
    KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, kvm_debug_exit_arch as debug_exit,
    kvm_run, kvm_run__bindgen_ty_1__bindgen_ty_2 as fail_entry,
    kvm_run__bindgen_ty_1__bindgen_ty_4 as io_exit,
    kvm_run__bindgen_ty_1__bindgen_ty_6 as mmio_exit,
    kvm_run__bindgen_ty_1__bindgen_ty_13 as internal_error,
    kvm_run__bindgen_ty_1__bindgen_ty_19 as system_event,
    kvm_run__bindgen_ty_1__bindgen_ty_22 as arm_nisv,
};
use kvm_ioctls::VcpuFd;
use trapline_device::{Direction, Size};

use crate::ioctl;
use crate::map::FdMap;

const IMMEDIATE_EXIT: usize = offset_of!(kvm_run, immediate_exit);
/// Where the part begins whose meaning depends on the reason.
const DETAILS: usize = offset_of!(kvm_run, __bindgen_anon_1);
const MMIO_DATA: usize = DETAILS + offset_of!(mmio_exit, data);
/// The most bytes one port exit carries: KVM gives its data one page.
pub(crate) const PIO_BYTES_MAX: usize = 4096;

/// The pages shared with KVM, as the thread that runs the vCPU sees them.
#[derive(Debug)]
pub(crate) struct RunPage(Arc<FdMap>);

/// What another thread may do to the same pages.
#[derive(Clone, Debug)]
pub(crate) struct ImmediateExit(Arc<FdMap>);

/// Why the vCPU came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// `in`, `out`, or a run of elements of their string forms.
    Io(Io),
    /// A load or store of `len` (1 to 8) bytes; the data is fetched and put back separately.
    Mmio {
        addr: u64,
        direction: Direction,
        len: usize,
    },
    Halt,
    Interrupted,
    /// An external interrupt can be injected now, as was asked for.
    InterruptWindow,
    /// A level-triggered interrupt of this vector has ended.
    Eoi {
        vector: u8,
    },
    /// KVM has not run it and wants to be asked again: it has not been started by another vCPU yet.
    Again,
    Shutdown,
    /// What [`crate::Vcpu::set_traps`] asked for.
    Debug(DebugExit),
    FailEntry {
        reason: u64,
        cpu: u32,
    },
    InternalError {
        suberror: u32,
        data: Vec<u64>,
    },
    SystemEvent {
        kind: u32,
        data: Vec<u64>,
    },
    /// arm64: an access to a device address by an instruction that the processor does not describe.
    Undecoded {
        addr: u64,
    },
    /// A reason nobody asked for, or details that make no sense.
    Unexpected(u32),
}

/// Why it stopped for who debugs it, in the words of its architecture (`struct
/// kvm_debug_exit_arch`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DebugExit {
    /// x86-64: the vector of the exception; arm64: the low half of ESR.
    pub(crate) what: u32,
    /// x86-64: the instruction; arm64: the address of what was accessed.
    pub(crate) addr: u64,
    /// x86-64: DR6.
    pub(crate) status: u64,
}

/// A port access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Io {
    pub(crate) port: u16,
    pub(crate) direction: Direction,
    pub(crate) size: Size,
    pub(crate) count: u32,
    /// Where its elements are in the mapping: inside it and aligned, `size * count` bytes.
    pub(crate) data: Range<usize>,
}

impl RunPage {
    /// Maps the `len` bytes KVM shares for this vCPU.
    pub(crate) fn new(vcpu: &VcpuFd, len: usize) -> io::Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(io::Error::other("the kernel's kvm_run is shorter than ours"));
        }
        FdMap::new(vcpu, 0, len).map(|map| Self(Arc::new(map)))
    }

    /// The other threads' end.
    pub(crate) fn immediate_exit(&self) -> ImmediateExit {
        ImmediateExit(Arc::clone(&self.0))
    }

    /// Runs the guest. A pending port or MMIO exit is completed first, from the data put back.
    pub(crate) fn run(&self, vcpu: &VcpuFd) -> io::Result<Exit> {
        match ioctl::run(vcpu) {
            Ok(()) => Ok(self.decode()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Ok(Exit::Interrupted),
                Some(libc::EAGAIN) => Ok(Exit::Again),
                _ => Err(error),
            },
        }
    }

    /// Copies the elements of a port exit out.
    pub(crate) fn io_data(&self, io: &Io, to: &mut [u8]) {
        self.0.copy_out(io.data.start, to);
    }

    /// Puts the elements of a port read back.
    pub(crate) fn set_io_data(&self, io: &Io, from: &[u8]) {
        self.0.copy_in(io.data.start, from);
    }

    /// The value of a port write of one element.
    pub(crate) fn io_value(&self, io: &Io) -> u64 {
        let start = io.data.start;
        match io.size {
            Size::Byte => self.u8(start).into(),
            Size::Word => self.u16(start).into(),
            Size::Dword | Size::Qword => self.u32(start).into(),
        }
    }

    /// Puts the value of a port read of one element back.
    pub(crate) fn set_io_value(&self, io: &Io, value: u64) {
        let bytes = value.to_le_bytes();
        self.0.copy_in(io.data.start, bytes.get(..io.size.bytes()).unwrap_or(&bytes));
    }

    /// The eight bytes of which an MMIO write carries the first ones.
    pub(crate) fn mmio_data(&self) -> [u8; 8] {
        self.u64(MMIO_DATA).to_ne_bytes()
    }

    /// Puts the data of an MMIO read back; KVM takes as many bytes as the guest wants.
    pub(crate) fn set_mmio_data(&self, data: [u8; 8]) {
        if let Some(field) = self.0.u64_at(MMIO_DATA) {
            field.store(u64::from_ne_bytes(data), Ordering::Relaxed);
        }
    }

    fn decode(&self) -> Exit {
        let reason = self.u32(offset_of!(kvm_run, exit_reason));
        match reason {
            KVM_EXIT_IO => self.io().map_or(Exit::Unexpected(reason), Exit::Io),
            KVM_EXIT_MMIO => self.mmio(),
            KVM_EXIT_HLT => Exit::Halt,
            KVM_EXIT_INTR => Exit::Interrupted,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::InterruptWindow,
            // The structure `eoi` is one byte, the vector.
            KVM_EXIT_IOAPIC_EOI => Exit::Eoi { vector: self.u8(DETAILS) },
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_DEBUG => Exit::Debug(self.debug()),
            KVM_EXIT_FAIL_ENTRY => Exit::FailEntry {
                reason: self.u64(DETAILS + offset_of!(fail_entry, hardware_entry_failure_reason)),
                cpu: self.u32(DETAILS + offset_of!(fail_entry, cpu)),
            },
            KVM_EXIT_INTERNAL_ERROR => Exit::InternalError {
                suberror: self.u32(DETAILS + offset_of!(internal_error, suberror)),
                data: self
                    .words(offset_of!(internal_error, ndata), offset_of!(internal_error, data)),
            },
            KVM_EXIT_SYSTEM_EVENT => Exit::SystemEvent {
                kind: self.u32(DETAILS + offset_of!(system_event, type_)),
                data: self.words(
                    offset_of!(system_event, ndata),
                    offset_of!(system_event, __bindgen_anon_1),
                ),
            },
            KVM_EXIT_ARM_NISV => {
                Exit::Undecoded { addr: self.u64(DETAILS + offset_of!(arm_nisv, fault_ipa)) }
            }
            _ => Exit::Unexpected(reason),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn debug(&self) -> DebugExit {
        DebugExit {
            what: self.u32(DETAILS + offset_of!(debug_exit, exception)),
            addr: self.u64(DETAILS + offset_of!(debug_exit, pc)),
            status: self.u64(DETAILS + offset_of!(debug_exit, dr6)),
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn debug(&self) -> DebugExit {
        DebugExit {
            what: self.u32(DETAILS + offset_of!(debug_exit, hsr)),
            addr: self.u64(DETAILS + offset_of!(debug_exit, far)),
            status: 0,
        }
    }

    fn io(&self) -> Option<Io> {
        let out = u32::from(self.u8(DETAILS + offset_of!(io_exit, direction))) == KVM_EXIT_IO_OUT;
        let size = Size::new(self.u8(DETAILS + offset_of!(io_exit, size)).into())
            .filter(|size| *size != Size::Qword)?;
        let count = self.u32(DETAILS + offset_of!(io_exit, count));
        let bytes = usize::try_from(count).ok()?.checked_mul(size.bytes())?;
        let start = usize::try_from(self.u64(DETAILS + offset_of!(io_exit, data_offset))).ok()?;
        let data = start..start.checked_add(bytes)?;
        let outside = data.start < size_of::<kvm_run>() || data.end > self.0.len();
        let aligned = data.start.is_multiple_of(size.bytes());
        (bytes != 0 && bytes <= PIO_BYTES_MAX && aligned && !outside).then_some(Io {
            port: self.u16(DETAILS + offset_of!(io_exit, port)),
            direction: if out { Direction::Write } else { Direction::Read },
            size,
            count,
            data,
        })
    }

    fn mmio(&self) -> Exit {
        let len = self.u32(DETAILS + offset_of!(mmio_exit, len)).clamp(1, 8);
        let write = self.u8(DETAILS + offset_of!(mmio_exit, is_write)) != 0;
        Exit::Mmio {
            addr: self.u64(DETAILS + offset_of!(mmio_exit, phys_addr)),
            direction: if write { Direction::Write } else { Direction::Read },
            len: usize::try_from(len).unwrap_or(8),
        }
    }

    /// A counted array of at most 16 words.
    fn words(&self, count: usize, first: usize) -> Vec<u64> {
        let count = usize::try_from(self.u32(DETAILS + count)).unwrap_or(0).min(16);
        (0..count).map(|i| self.u64(DETAILS + first + i * 8)).collect()
    }

    fn u8(&self, offset: usize) -> u8 {
        self.0.u8_at(offset).map_or(0, |field| field.load(Ordering::Relaxed))
    }

    fn u16(&self, offset: usize) -> u16 {
        self.0.u16_at(offset).map_or(0, |field| field.load(Ordering::Relaxed))
    }

    fn u32(&self, offset: usize) -> u32 {
        self.0.u32_at(offset).map_or(0, |field| field.load(Ordering::Relaxed))
    }

    fn u64(&self, offset: usize) -> u64 {
        self.0.u64_at(offset).map_or(0, |field| field.load(Ordering::Relaxed))
    }
}

/// External interrupts, which come from outside the kernel.
#[cfg(target_arch = "x86_64")]
impl RunPage {
    /// Whether KVM can take an external interrupt, as of the last exit.
    pub(crate) fn ready_for_interrupt(&self) -> bool {
        self.u8(offset_of!(kvm_run, ready_for_interrupt_injection)) != 0
    }

    /// Whether, as of the last exit, KVM holds a vector for which the guest is ready: interrupts are
    /// on, and still another one could not be taken.
    pub(crate) fn may_hold_vector(&self) -> bool {
        self.u8(offset_of!(kvm_run, if_flag)) != 0 && !self.ready_for_interrupt()
    }

    /// Forgets that it could: something was changed since.
    pub(crate) fn forget_readiness(&self) {
        self.0.copy_in(offset_of!(kvm_run, ready_for_interrupt_injection), &[0]);
    }

    /// Whether KVM is to come back as soon as it can take an external interrupt.
    pub(crate) fn request_interrupt_window(&self, on: bool) {
        self.0.copy_in(offset_of!(kvm_run, request_interrupt_window), &[on.into()]);
    }
}

impl ImmediateExit {
    /// Whether the next `KVM_RUN` only completes what is pending and comes back interrupted.
    pub(crate) fn set(&self, on: bool) {
        if let Some(field) = self.0.u8_at(IMMEDIATE_EXIT) {
            field.store(on.into(), Ordering::SeqCst);
        }
    }

    /// Clears it. A swap, so that whoever set it is seen to have said before what is wanted.
    pub(crate) fn take(&self) {
        if let Some(field) = self.0.u8_at(IMMEDIATE_EXIT) {
            field.swap(0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::tests::memory;
    use kvm_bindings::{KVM_EXIT_TPR_ACCESS, KVM_SYSTEM_EVENT_RESET};

    fn page() -> RunPage {
        RunPage(Arc::new(memory(3 * 4096)))
    }

    fn set32(page: &RunPage, offset: usize, value: u32) {
        page.0.u32_at(offset).unwrap().store(value, Ordering::Relaxed);
    }

    fn io_exit(direction: u8, size: u8, count: u32, offset: u64) -> Exit {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_IO);
        page.0.copy_in(DETAILS, &[direction, size, 0xf8, 0x03]);
        set32(&page, DETAILS + 4, count);
        page.0.u64_at(DETAILS + 8).unwrap().store(offset, Ordering::Relaxed);
        page.decode()
    }

    #[test]
    fn a_string_access_keeps_its_element_size() {
        let Exit::Io(io) = io_exit(0, 2, 8, 4096) else { panic!() };
        assert_eq!((io.port, io.size, io.count), (0x3f8, Size::Word, 8));
        assert_eq!((io.direction, io.data), (Direction::Read, 4096..4112));
    }

    #[test]
    fn a_port_exit_that_leaves_its_page_is_not_believed() {
        let refused = Exit::Unexpected(KVM_EXIT_IO);
        assert_eq!(io_exit(1, 4, 1025, 4096), refused, "more than a page of data");
        assert_eq!(io_exit(1, 1, 1, 12288), refused, "past the end");
        assert_eq!(io_exit(1, 1, 1, u64::MAX), refused, "past everything");
        assert_eq!(io_exit(1, 1, 1, 0), refused, "on top of kvm_run");
        assert_eq!(io_exit(1, 3, 1, 4096), refused, "no such size");
        assert_eq!(io_exit(1, 8, 1, 4096), refused, "no such size of port");
        assert_eq!(io_exit(1, 4, 0, 4096), refused, "nothing at all");
        assert_eq!(io_exit(1, 4, 1, 4097), refused, "not where an element can be");
        assert!(matches!(io_exit(1, 4, 1024, 8192), Exit::Io(_)));
    }

    #[test]
    fn an_mmio_exit_never_claims_more_than_it_carries() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_MMIO);
        for (told, believed) in [(0, 1), (3, 3), (8, 8), (9, 8), (u32::MAX, 8)] {
            set32(&page, DETAILS + offset_of!(mmio_exit, len), told);
            assert!(matches!(page.decode(), Exit::Mmio { len, .. } if len == believed));
        }
    }

    #[test]
    fn counted_words_end_with_their_array() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_INTERNAL_ERROR);
        set32(&page, DETAILS, 3);
        set32(&page, DETAILS + 4, u32::MAX);
        let Exit::InternalError { suberror, data } = page.decode() else { panic!() };
        assert_eq!((suberror, data.len()), (3, 16));
    }

    #[test]
    fn an_undecoded_access_has_its_address() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_ARM_NISV);
        set32(&page, DETAILS + 8, 0x0100_0000);
        assert_eq!(page.decode(), Exit::Undecoded { addr: 0x0100_0000 });
    }

    #[test]
    fn the_end_of_an_interrupt_names_its_vector() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_IOAPIC_EOI);
        set32(&page, DETAILS, 0xffff_ff61);
        assert_eq!(page.decode(), Exit::Eoi { vector: 0x61 });
    }

    #[test]
    fn reasons_without_details_are_themselves() {
        let page = page();
        for (reason, exit) in [
            (KVM_EXIT_HLT, Exit::Halt),
            (KVM_EXIT_INTR, Exit::Interrupted),
            (KVM_EXIT_IRQ_WINDOW_OPEN, Exit::InterruptWindow),
            (KVM_EXIT_SHUTDOWN, Exit::Shutdown),
        ] {
            set32(&page, offset_of!(kvm_run, exit_reason), reason);
            assert_eq!(page.decode(), exit);
        }
    }

    #[test]
    fn a_failed_entry_and_a_system_event_have_their_details() {
        let page = page();
        let set64 = |at, value| page.0.u64_at(at).unwrap().store(value, Ordering::Relaxed);
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_FAIL_ENTRY);
        set64(DETAILS, 0x1_8000_0021);
        set32(&page, DETAILS + 8, 3);
        assert_eq!(page.decode(), Exit::FailEntry { reason: 0x1_8000_0021, cpu: 3 });
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_SYSTEM_EVENT);
        set32(&page, DETAILS, KVM_SYSTEM_EVENT_RESET);
        set32(&page, DETAILS + 4, 2);
        set64(DETAILS + 8, 0x11);
        set64(DETAILS + 16, 0x22);
        set64(DETAILS + 24, 0x33);
        let exit = Exit::SystemEvent { kind: KVM_SYSTEM_EVENT_RESET, data: vec![0x11, 0x22] };
        assert_eq!(page.decode(), exit);
    }

    #[test]
    fn an_mmio_exit_has_address_direction_and_data() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_MMIO);
        page.0.u64_at(DETAILS).unwrap().store(0x1_fee0_0000, Ordering::Relaxed);
        set32(&page, DETAILS + offset_of!(mmio_exit, len), 4);
        for (is_write, direction) in [(0, Direction::Read), (1, Direction::Write)] {
            page.0.copy_in(DETAILS + offset_of!(mmio_exit, is_write), &[is_write]);
            assert_eq!(page.decode(), Exit::Mmio { addr: 0x1_fee0_0000, direction, len: 4 });
        }
        page.set_mmio_data([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(page.mmio_data(), [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut bytes = [0; 8];
        page.0.copy_out(DETAILS + 8, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8], "where the structure has them");
    }

    #[test]
    fn the_data_of_a_port_exit_is_as_wide_as_its_elements() {
        for (size, value, rest) in [
            (Size::Byte, 0x11, [0x11, 0xee, 0xee, 0xee, 0xee, 0xee]),
            (Size::Word, 0x2211, [0x11, 0x22, 0xee, 0xee, 0xee, 0xee]),
            (Size::Dword, 0x4433_2211, [0x11, 0x22, 0x33, 0x44, 0xee, 0xee]),
        ] {
            let page = page();
            let data = 4096..4096 + size.bytes();
            let io = Io { port: 0x3f8, direction: Direction::Read, size, count: 1, data };
            page.0.copy_in(4096, &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66]);
            assert_eq!(page.io_value(&io), value);
            page.0.copy_in(4096, &[0xee; 6]);
            page.set_io_value(&io, 0x6655_4433_2211);
            let mut bytes = [0; 6];
            page.io_data(&Io { data: 4096..4102, ..io.clone() }, &mut bytes);
            assert_eq!(bytes, rest, "no byte past them");
        }
        let (page, mut bytes) = (page(), [0; 4]);
        let data = 4096..4100;
        let io = Io { port: 0, direction: Direction::Read, size: Size::Word, count: 2, data };
        page.set_io_data(&io, &[1, 2, 3, 4]);
        page.io_data(&io, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4]);
    }

    #[test]
    fn the_length_of_a_counted_array_is_believed_up_to_its_end() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_INTERNAL_ERROR);
        set32(&page, DETAILS + 4, 3);
        for (at, value) in [(8, 1), (16, 2), (24, 3), (32, 4)] {
            page.0.u64_at(DETAILS + at).unwrap().store(value, Ordering::Relaxed);
        }
        let Exit::InternalError { data, .. } = page.decode() else { panic!() };
        assert_eq!(data, [1, 2, 3]);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_vector_may_be_held_while_the_guest_listens_and_kvm_takes_no_other() {
        let page = page();
        for (listens, ready, held) in [(0, 0, false), (1, 0, true), (0, 1, false), (1, 1, false)] {
            page.0.copy_in(offset_of!(kvm_run, if_flag), &[listens]);
            page.0.copy_in(offset_of!(kvm_run, ready_for_interrupt_injection), &[ready]);
            assert_eq!((page.ready_for_interrupt(), page.may_hold_vector()), (ready == 1, held));
        }
        page.forget_readiness();
        assert!(!page.ready_for_interrupt());
        for on in [true, false] {
            page.request_interrupt_window(on);
            assert_eq!(page.u8(offset_of!(kvm_run, request_interrupt_window)), u8::from(on));
        }
    }

    #[test]
    fn immediate_exit_is_seen_by_kvm_and_taken_once() {
        let page = page();
        let other = page.immediate_exit();
        other.set(true);
        assert_eq!(page.u8(IMMEDIATE_EXIT), 1);
        other.take();
        assert_eq!(page.u8(IMMEDIATE_EXIT), 0);
        other.set(true);
        other.set(false);
        assert_eq!(page.u8(IMMEDIATE_EXIT), 0);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_stop_for_a_debugger_says_what_and_where() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_DEBUG);
        set32(&page, DETAILS, 3);
        page.0.u64_at(DETAILS + 8).unwrap().store(0xfff0, Ordering::Relaxed);
        page.0.u64_at(DETAILS + 16).unwrap().store(0x4000, Ordering::Relaxed);
        let exit = DebugExit { what: 3, addr: 0xfff0, status: 0x4000 };
        assert_eq!(page.decode(), Exit::Debug(exit));
    }

    #[test]
    fn exits_nobody_asked_for_keep_their_number() {
        let page = page();
        set32(&page, offset_of!(kvm_run, exit_reason), KVM_EXIT_TPR_ACCESS);
        assert_eq!(page.decode(), Exit::Unexpected(KVM_EXIT_TPR_ACCESS));
    }
}
