//! Why a vCPU could not go on, in words.

use crate::arch;
use crate::crash::hex;
use crate::run::Stop;
use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};

/// A triple fault in words.
pub(crate) const TRIPLE_FAULT: &str = "triple fault: an exception could not be delivered, nor the double \
     fault that followed (on AMD processors KVM shows the registers as after a reset)";

/// An access that nobody can make for the guest, in words.
pub(crate) fn undecoded(addr: u64) -> String {
    format!(
        "it accessed the device address {addr:#x} with an instruction of which the processor does \
         not tell register and size, like a load of a pair or one with write-back: devices take \
         single loads and stores only"
    )
}

/// A refused entry in words.
pub(crate) fn entry_failure(reason: u64, cpu: u32) -> String {
    let hint = arch::entry_failure_hint(reason);
    format!(
        "the processor refused to enter the guest, hardware reason {reason:#x} on host CPU \
         {cpu}{hint}"
    )
}

/// What a firmware call of the guest asks for; or, if that is no way to go on, why.
pub(crate) fn system_event(kind: u32, data: &[u64]) -> Result<Stop, String> {
    let details = || words(data);
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Ok(Stop::Off),
        KVM_SYSTEM_EVENT_RESET => Ok(Stop::Reset),
        KVM_SYSTEM_EVENT_CRASH => {
            Err(format!("the guest reported a crash of its own, with {}", details()))
        }
        _ => Err(format!("the guest made the unknown system event {kind}, with {}", details())),
    }
}

/// An internal error of KVM's in words (`Documentation/virt/kvm/api.rst`, `KVM_EXIT_INTERNAL_ERROR`).
pub(crate) fn internal_error(suberror: u32, data: &[u64]) -> String {
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "it cannot emulate an instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions came in a combination it does not handle",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "delivering an event to the guest failed",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "the processor left the guest unexpectedly",
        _ => "of an unknown kind",
    };
    let mut cause = format!("KVM internal error {suberror}: {what}");
    match instruction(suberror, data) {
        Some(bytes) => cause.push_str(&format!(", instruction {}", hex(&bytes))),
        None if !data.is_empty() => cause.push_str(&format!(", with {}", words(data))),
        None => {}
    }
    cause
}

/// The instruction bytes of an emulation failure, if KVM gave any: after a word of flags a byte of
/// length and up to 15 bytes.
fn instruction(suberror: u32, data: &[u64]) -> Option<Vec<u8>> {
    let [flags, rest @ ..] = data else { return None };
    let given = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    if suberror != KVM_INTERNAL_ERROR_EMULATION || flags & given == 0 {
        return None;
    }
    let mut bytes = rest.iter().take(2).flat_map(|word| word.to_le_bytes());
    let len = usize::from(bytes.next()?).min(15);
    Some(bytes.take(len).collect()).filter(|bytes: &Vec<u8>| !bytes.is_empty())
}

fn words(data: &[u64]) -> String {
    if data.is_empty() {
        return "no details".to_owned();
    }
    let words: Vec<String> = data.iter().map(|word| format!("{word:#x}")).collect();
    format!("details {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulation_failure_shows_the_instruction_if_kvm_gave_it() {
        let bytes = [3, 0x0f, 0xc7, 0x08, 0, 0, 0, 0];
        let data = [1, u64::from_le_bytes(bytes), 0];
        assert_eq!(
            internal_error(1, &data),
            "KVM internal error 1: it cannot emulate an instruction, instruction 0f c7 08"
        );
        let without = internal_error(1, &[0, 0x1234]);
        assert!(without.ends_with("with details 0x0 0x1234"), "{without}");
        assert!(internal_error(1, &[]).ends_with("emulate an instruction"));
        assert!(internal_error(1, &[1, u64::MAX, u64::MAX]).contains("ff ff"), "length is clamped");
    }

    #[test]
    fn an_internal_error_is_named_and_what_kvm_says_of_it() {
        for (suberror, what) in [
            (KVM_INTERNAL_ERROR_EMULATION, "it cannot emulate an instruction"),
            (KVM_INTERNAL_ERROR_SIMUL_EX, "exceptions came in a combination it does not handle"),
            (KVM_INTERNAL_ERROR_DELIVERY_EV, "delivering an event to the guest failed"),
            (
                KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
                "the processor left the guest unexpectedly",
            ),
            (77, "of an unknown kind"),
        ] {
            let told = format!("KVM internal error {suberror}: {what}");
            assert_eq!(internal_error(suberror, &[]), told);
            assert_eq!(internal_error(suberror, &[2, 3]), format!("{told}, with details 0x2 0x3"));
        }
    }

    #[test]
    fn instruction_bytes_are_those_that_kvm_says_are_there() {
        let error = KVM_INTERNAL_ERROR_EMULATION;
        let bytes: Vec<u8> = (0x80..0x90).collect();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let given = |len: u8| [1, word(0) & !0xff | u64::from(len), word(8), u64::MAX];
        assert_eq!(instruction(error, &given(15)).unwrap(), bytes[1..]);
        assert_eq!(instruction(error, &given(9)).unwrap(), bytes[1..10]);
        assert_eq!(
            instruction(error, &given(200)).unwrap(),
            bytes[1..],
            "no instruction is longer"
        );
        assert_eq!(instruction(error, &given(0)), None);
        assert_eq!(instruction(error, &[3, 0x9001]).unwrap(), [0x90], "more flags");
        assert_eq!(instruction(error, &[2, 0x9001]), None, "without the flag");
        assert_eq!(instruction(KVM_INTERNAL_ERROR_DELIVERY_EV, &given(15)), None);
        assert_eq!(instruction(error, &[1]), None);
        assert_eq!(instruction(error, &[]), None);
    }

    #[test]
    fn an_access_without_description_names_its_address() {
        assert!(undecoded(0x0900_0018).starts_with("it accessed the device address 0x9000018 "));
    }

    #[test]
    fn a_reset_is_a_reset_and_not_a_shutdown() {
        assert_eq!(system_event(KVM_SYSTEM_EVENT_RESET, &[]), Ok(Stop::Reset));
        assert_eq!(system_event(KVM_SYSTEM_EVENT_SHUTDOWN, &[0]), Ok(Stop::Off));
        let crash = system_event(KVM_SYSTEM_EVENT_CRASH, &[0xdead]).unwrap_err();
        assert_eq!(crash, "the guest reported a crash of its own, with details 0xdead");
        let unknown = system_event(77, &[]).unwrap_err();
        assert_eq!(unknown, "the guest made the unknown system event 77, with no details");
    }

    #[test]
    fn a_refused_entry_shows_the_hardware_reason_in_hex() {
        let told = entry_failure(0x8000_0021, 3);
        assert!(told.contains("0x80000021 on host CPU 3"), "{told}");
    }
}
