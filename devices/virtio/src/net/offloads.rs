//! Offloads, as features of the device and as a back end's.

use trapline_net::{Abilities, Offloads};

use super::regs::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4,
    F_GUEST_USO6, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO,
};

/// Those that a driver can change while it runs.
pub(super) const OF_GUEST: u64 = F_GUEST_CSUM
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_GUEST_UFO
    | F_GUEST_USO4
    | F_GUEST_USO6;

/// A feature, and the features of which it needs one (5.1.3.1).
const NEEDS: [(u64, u64); 11] = [
    (F_GUEST_TSO4, F_GUEST_CSUM),
    (F_GUEST_TSO6, F_GUEST_CSUM),
    (F_GUEST_ECN, F_GUEST_TSO4 | F_GUEST_TSO6),
    (F_GUEST_UFO, F_GUEST_CSUM),
    (F_GUEST_USO4, F_GUEST_CSUM),
    (F_GUEST_USO6, F_GUEST_CSUM),
    (F_HOST_TSO4, F_CSUM),
    (F_HOST_TSO6, F_CSUM),
    (F_HOST_ECN, F_HOST_TSO4 | F_HOST_TSO6),
    (F_HOST_UFO, F_CSUM),
    (F_HOST_USO, F_CSUM),
];

/// Whether each of these features has what it needs among them.
pub(super) fn are_whole(features: u64) -> bool {
    NEEDS.iter().all(|(feature, needed)| features & feature == 0 || features & needed != 0)
}

/// What a device with this back end offers.
pub(super) fn offered(abilities: &Abilities) -> u64 {
    let (sends, receives) = (abilities.sends, abilities.receives);
    let table = [
        (sends.csum, F_CSUM),
        (sends.tso4, F_HOST_TSO4),
        (sends.tso6, F_HOST_TSO6),
        (sends.ecn, F_HOST_ECN),
        (sends.ufo, F_HOST_UFO),
        (sends.uso4 && sends.uso6, F_HOST_USO),
        (receives.csum, F_GUEST_CSUM),
        (receives.tso4, F_GUEST_TSO4),
        (receives.tso6, F_GUEST_TSO6),
        (receives.ecn, F_GUEST_ECN),
        (receives.ufo, F_GUEST_UFO),
        (receives.uso4, F_GUEST_USO4),
        (receives.uso6, F_GUEST_USO6),
    ];
    table.iter().filter(|(can, _)| *can).map(|(_, feature)| feature).sum()
}

/// What the driver takes, by features or by a command's bits.
pub(super) fn received(features: u64) -> Offloads {
    let has = |feature| features & feature != 0;
    Offloads {
        csum: has(F_GUEST_CSUM),
        tso4: has(F_GUEST_TSO4),
        tso6: has(F_GUEST_TSO6),
        ecn: has(F_GUEST_ECN),
        ufo: has(F_GUEST_UFO),
        uso4: has(F_GUEST_USO4),
        uso6: has(F_GUEST_USO6),
    }
}

/// What the device takes from a driver with these features.
pub(super) fn sent(features: u64) -> Offloads {
    let has = |feature| features & feature != 0;
    Offloads {
        csum: has(F_CSUM),
        tso4: has(F_HOST_TSO4),
        tso6: has(F_HOST_TSO6),
        ecn: has(F_HOST_ECN),
        ufo: has(F_HOST_UFO),
        uso4: has(F_HOST_USO),
        uso6: has(F_HOST_USO),
    }
}
