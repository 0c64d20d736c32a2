//! The capabilities by which a driver finds the structures, and the window onto the BAR that one of
//! them is.

use trapline_device::Size;
use trapline_pci::{CapabilityId, ConfigSpace};

use super::regs::{
    CAP_BAR, CAP_COMMON_CFG, CAP_DATA, CAP_DEVICE_CFG, CAP_ISR_CFG, CAP_LENGTH, CAP_NOTIFY_CFG,
    CAP_OFFSET, CAP_PCI_CFG, COMMON, DEVICE, ISR, MODERN_BAR, MODERN_BAR_LEN, NOTIFY,
    NOTIFY_MULTIPLIER, PAGE,
};

/// `VIRTIO_PCI_CAP_PCI_CFG`: accesses to the BAR by way of configuration space, for firmware that
/// cannot reach it (4.1.4.9).
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfigWindow {
    /// Offset of the capability.
    at: u16,
}

impl ConfigWindow {
    /// Adds a capability for each structure, and the window's. Every device has one for its
    /// configuration, if only of nothing: drivers exist that take the lack for a legacy device.
    pub(super) fn add_all(config: &mut ConfigSpace) -> Self {
        for (kind, offset) in
            [(CAP_COMMON_CFG, COMMON), (CAP_ISR_CFG, ISR), (CAP_DEVICE_CFG, DEVICE)]
        {
            add(config, kind, MODERN_BAR, (offset, PAGE), &[]);
        }
        let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
        add(config, CAP_NOTIFY_CFG, MODERN_BAR, (NOTIFY, PAGE), &multiplier);
        let at = add(config, CAP_PCI_CFG, 0, (0, 0), &[0; 4]);
        config.allow(at + CAP_BAR, &[0xff]);
        config.allow(at + CAP_OFFSET, &[0xff; 8]);
        config.allow(at + CAP_DATA, &[0xff; 4]);
        Self { at }
    }

    /// A read of configuration space, by way of `through` where it is of the window's data.
    pub(super) fn read(
        self,
        config: &ConfigSpace,
        offset: u16,
        size: Size,
        through: impl FnOnce(u64, Size) -> u64,
    ) -> u32 {
        let Some(inside) = self.inside(offset) else { return config.read(offset, size) };
        let value = self.target(config).map_or(u64::MAX, |(at, length)| through(at, length));
        let value = value >> (8 * inside) & size.ones();
        u32::try_from(value).unwrap_or(u32::MAX)
    }

    /// Puts the window's data right in the bytes of `config`. `false`: the window is open, so reading it
    /// reads the BAR.
    pub(super) fn shown(self, config: &ConfigSpace, bytes: &mut [u8]) -> bool {
        let start = usize::from(self.at + CAP_DATA);
        if let Some(data) = bytes.get_mut(start..start + 4) {
            data.fill(0xff);
        }
        self.target(config).is_none()
    }

    /// A write of configuration space. The window's data goes on to `through`.
    pub(super) fn write(
        self,
        config: &mut ConfigSpace,
        offset: u16,
        size: Size,
        value: u32,
        through: impl FnOnce(u64, Size, u64),
    ) {
        config.write(offset, size, value);
        if self.inside(offset).is_some()
            && let Some((at, length)) = self.target(config)
        {
            through(at, length, config.read(self.at + CAP_DATA, length).into());
        }
    }

    pub(super) fn register(self, offset: u16) -> Option<&'static str> {
        let field = offset.checked_sub(self.at)?;
        Some(match field {
            CAP_BAR => "pci_cfg_cap.bar",
            CAP_OFFSET..CAP_LENGTH => "pci_cfg_cap.offset",
            CAP_LENGTH..CAP_DATA => "pci_cfg_cap.length",
            CAP_DATA..20 => "pci_cfg_data",
            _ => return None,
        })
    }

    /// Which byte of the window's data an offset is.
    fn inside(self, offset: u16) -> Option<u16> {
        offset.checked_sub(self.at + CAP_DATA).filter(|inside| *inside < 4)
    }

    /// Where in the BAR the window is, and how wide, if the driver has set it to something that
    /// there is.
    fn target(self, config: &ConfigSpace) -> Option<(u64, Size)> {
        let bar = config.read(self.at + CAP_BAR, Size::Byte);
        let offset = u64::from(config.read(self.at + CAP_OFFSET, Size::Dword));
        let length = config.read(self.at + CAP_LENGTH, Size::Dword);
        let length = Size::new(length.try_into().ok()?).filter(|length| *length <= Size::Dword)?;
        let fits = offset.is_multiple_of(length.bytes() as u64)
            && offset + length.bytes() as u64 <= MODERN_BAR_LEN;
        (bar == u32::from(MODERN_BAR) && fits).then_some((offset, length))
    }
}

/// Adds a capability of this type, with what follows `struct virtio_pci_cap`.
fn add(config: &mut ConfigSpace, kind: u8, bar: u8, (offset, len): (u64, u64), more: &[u8]) -> u16 {
    let dword = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let cap_len = usize::from(CAP_DATA) + more.len();
    let cap_len = u8::try_from(cap_len).unwrap_or(u8::MAX);
    let head = [cap_len, kind, bar, 0, 0, 0];
    let body = [&head[..], &dword(offset), &dword(len), more].concat();
    config.add_capability(CapabilityId::VENDOR, &body)
}

#[cfg(test)]
mod tests {
    use trapline_pci::Identity;

    use super::*;

    /// Reads every byte as a guest does, whose reads may not reach the BAR.
    fn read_all(window: ConfigWindow, config: &ConfigSpace) -> Vec<u8> {
        let read = |at| window.read(config, at, Size::Byte, |_, _| panic!("the BAR was read"));
        (0..256).map(|at| u8::try_from(read(at)).unwrap()).collect()
    }

    #[test]
    fn configuration_space_is_shown_while_the_window_is_closed() {
        let mut config = ConfigSpace::new(&Identity::default());
        let window = ConfigWindow::add_all(&mut config);
        let shown = |config: &ConfigSpace| {
            let read = |at| u8::try_from(config.read(at, Size::Byte)).unwrap();
            let mut bytes: Vec<u8> = (0..256).map(read).collect();
            window.shown(config, &mut bytes).then_some(bytes)
        };
        assert_eq!(shown(&config), Some(read_all(window, &config)));
        let register = |at| window.at + at;
        config.write(register(CAP_DATA), Size::Dword, 0x1234_5678);
        assert_eq!(shown(&config), Some(read_all(window, &config)), "data that went nowhere");
        config.write(register(CAP_BAR), Size::Byte, MODERN_BAR.into());
        config.write(register(CAP_LENGTH), Size::Dword, 4);
        assert_eq!(shown(&config), None, "reading the data reads the BAR");
        config.write(register(CAP_LENGTH), Size::Dword, 3);
        assert_eq!(shown(&config), Some(read_all(window, &config)), "no width that there is");
    }
}
