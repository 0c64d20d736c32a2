//! The identification registers, one handler for the whole GIC.
//!
//! Spec: Arm IHI 0069, "Identification registers"; CoreSight architecture, "Component and
//! Peripheral ID registers". The last 48 bytes of every 64 KiB register frame.

/// Which block's frame the registers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The distributor's frame.
    Distributor,
    /// `RD_base` of a redistributor.
    Redistributor,
    /// The control frame of the ITS.
    Its,
}

/// Offset of the first identification register (`PIDR4`) in a frame.
pub const FIRST: u64 = 0xffd0;

/// What the identification registers of a frame say. They are configuration so that a recording
/// of another implementation can be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRegisters {
    /// The frame's component.
    pub component: Component,
    /// `PIDR0`: part number bits 7:0, if not the component's own.
    pub part: Option<u8>,
    /// `PIDR2[7:4]`: the architecture revision, 3 for GICv3.
    pub architecture: u8,
    /// `PIDR4`, 0x44 unless another implementation is imitated.
    pub pidr4: u8,
}

impl IdRegisters {
    /// The values of this model.
    pub const fn new(component: Component) -> Self {
        Self { component, part: None, architecture: 3, pidr4: 0x44 }
    }

    /// The 32-bit value at `offset` of the frame, if an identification register is there.
    pub const fn read(&self, offset: u64) -> Option<u32> {
        Some(match offset {
            // PIDR4: SIZE (7:4) = 4, a frame of 2^4 4 KiB pages; DES_2 (3:0) = 4, the number of
            // JEP106 continuation codes of Arm.
            0xffd0 => self.pidr4 as u32,
            // PIDR5 to PIDR7: reserved.
            0xffd4 | 0xffd8 | 0xffdc => 0,
            // PIDR0: part number 7:0, of the components of Arm's GIC-500.
            0xffe0 => match (self.part, self.component) {
                (Some(part), _) => part as u32,
                (None, Component::Distributor) => 0x92,
                (None, Component::Redistributor) => 0x93,
                (None, Component::Its) => 0x94,
            },
            // PIDR1: DES_0 (7:4) = 0xb of Arm's JEP106 code 0x3b; part number 11:8 = 4.
            0xffe4 => 0xb4,
            // PIDR2: architecture revision, JEDEC (bit 3), DES_1 (2:0) = 3.
            0xffe8 => ((self.architecture & 0xf) as u32) << 4 | 0xb,
            // PIDR3: no customer modification.
            0xffec => 0,
            0xfff0 => 0x0d,
            0xfff4 => 0xf0,
            0xfff8 => 0x05,
            0xfffc => 0xb1,
            _ => return None,
        })
    }
}
