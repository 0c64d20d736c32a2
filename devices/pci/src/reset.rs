//! The ways a function is reset by its own registers: function-level reset, and leaving D3hot.
//!
//! Spec: PCI Express Base 3.0, 6.6.2 and 7.8.4; PCI ECN "Advanced Capabilities" (2006); PCI Bus
//! Power Management Interface 1.2, chapters 3 and 5.

use trapline_device::Size;

use crate::config::{CapabilityId, ConfigSpace};
use crate::regs::{
    AF_CAPABILITIES, AF_CONTROL, AF_INITIATE_FLR, AF_LEN, AF_TP_FLR, EXPRESS_CAPABILITIES,
    EXPRESS_CONTROL_MASK, EXPRESS_CONTROL_RESET, EXPRESS_DEVICE_CAPABILITIES,
    EXPRESS_DEVICE_CONTROL, EXPRESS_FLR, EXPRESS_INITIATE_FLR, EXPRESS_INTEGRATED_ENDPOINT,
    EXPRESS_LEN, EXPRESS_ROLE_BASED_ERRORS, PM_CAPABILITIES, PM_CONTROL, PM_D3HOT, PM_STATE,
    PM_VERSION,
};

/// Offsets of the capabilities that can reset the function.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resets {
    express: Option<u16>,
    advanced_features: Option<u16>,
    power_management: Option<u16>,
}

impl Resets {
    /// Adds the PCI Express capability, with function-level reset.
    pub(crate) fn add_express(&mut self, config: &mut ConfigSpace) {
        let at = config.add_capability(CapabilityId::EXPRESS, &[0; EXPRESS_LEN - 2]);
        config.set(at + EXPRESS_CAPABILITIES, &EXPRESS_INTEGRATED_ENDPOINT.to_le_bytes());
        let capabilities = EXPRESS_ROLE_BASED_ERRORS | EXPRESS_FLR;
        config.set(at + EXPRESS_DEVICE_CAPABILITIES, &capabilities.to_le_bytes());
        config.set(at + EXPRESS_DEVICE_CONTROL, &EXPRESS_CONTROL_RESET.to_le_bytes());
        let writable = EXPRESS_CONTROL_MASK | EXPRESS_INITIATE_FLR;
        config.allow(at + EXPRESS_DEVICE_CONTROL, &writable.to_le_bytes());
        self.express = Some(at);
    }

    /// Has the PCI Express capability at `at`, which says that there is function-level reset, be what
    /// begins one.
    pub(crate) fn reset_by_express(&mut self, at: u16, config: &mut ConfigSpace) {
        config.allow(at + EXPRESS_DEVICE_CONTROL, &EXPRESS_INITIATE_FLR.to_le_bytes());
        self.express = Some(at);
    }

    /// Adds the advanced features capability, with function-level reset.
    pub(crate) fn add_advanced_features(&mut self, config: &mut ConfigSpace, place: Option<u16>) {
        debug_assert_eq!(AF_CAPABILITIES, 3);
        let body = [AF_LEN, AF_TP_FLR, 0, 0];
        let at = config.add_capability_maybe_at(place, CapabilityId::ADVANCED_FEATURES, &body);
        config.allow(at + AF_CONTROL, &[AF_INITIATE_FLR]);
        self.advanced_features = Some(at);
    }

    /// Adds the power management capability, with D0 and D3hot.
    pub(crate) fn add_power_management(&mut self, config: &mut ConfigSpace, place: Option<u16>) {
        let at = config.add_capability_maybe_at(place, CapabilityId::POWER_MANAGEMENT, &[0; 6]);
        config.set(at + PM_CAPABILITIES, &PM_VERSION.to_le_bytes());
        config.allow(at + PM_CONTROL, &PM_STATE.to_le_bytes());
        self.power_management = Some(at);
    }

    /// The power state: 0 to 3.
    pub(crate) fn state(self, config: &ConfigSpace) -> u16 {
        let control = self.power_management.map(|at| config.read(at + PM_CONTROL, Size::Word));
        control.and_then(|control| u16::try_from(control).ok()).unwrap_or(0) & PM_STATE
    }

    /// Whether the function does anything besides answering configuration accesses.
    pub(crate) fn awake(self, config: &ConfigSpace) -> bool {
        self.state(config) == 0
    }

    /// Whether what was just written asks for a reset; `before` was the power state. Takes back
    /// what does not stay in the registers.
    pub(crate) fn take(self, config: &mut ConfigSpace, before: u16) -> bool {
        let state = self.state(config);
        if let Some(at) = self.power_management
            && (1..PM_D3HOT).contains(&state)
        {
            // A state that there is not: the write is completed and discarded (3.2.4).
            let control = config.read(at + PM_CONTROL, Size::Word);
            let [low, high, ..] =
                (control & !u32::from(PM_STATE) | u32::from(before)).to_le_bytes();
            config.update(at + PM_CONTROL, &[low, high]);
        }
        let woken = before == PM_D3HOT && state == 0;
        let express = self.express.map(|at| (at + EXPRESS_DEVICE_CONTROL, EXPRESS_INITIATE_FLR));
        let features = self.advanced_features.map(|at| (at + AF_CONTROL, AF_INITIATE_FLR.into()));
        // Both bits read 0: there is a reset when one is written.
        let initiated = [express, features].into_iter().flatten().fold(false, |any, (at, bit)| {
            let control = config.read(at, Size::Word);
            let [low, high, ..] = (control & !u32::from(bit)).to_le_bytes();
            config.update(at, &[low, high]);
            any || control & u32::from(bit) != 0
        });
        woken || initiated
    }
}
