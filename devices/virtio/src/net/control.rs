//! Commands on the control queue. Each is answered at once: a driver waits for it with its processor
//! busy.

use trapline_net::Mac;

use super::filter::{State, TABLE_MAX};
use super::offloads::{OF_GUEST, are_whole};
use super::regs::{
    ANNOUNCE_ACK, CLASS_ANNOUNCE, CLASS_GUEST_OFFLOADS, CLASS_MAC, CLASS_MQ, CLASS_RX, CLASS_VLAN,
    F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN,
    F_GUEST_ANNOUNCE, F_MQ, GUEST_OFFLOADS_SET, MAC_ADDR_SET, MAC_TABLE_SET, MQ_VQ_PAIRS_SET,
    RX_ALLMULTI, RX_ALLUNI, RX_NOBCAST, RX_NOMULTI, RX_NOUNI, RX_PROMISC, VLAN_ADD, VLAN_DEL,
};

/// The longest command that is looked at: two tables of 65,536 addresses each would be longer, and
/// nobody has them.
pub(super) const COMMAND_MAX: usize = 4096;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// What is received, or an address.
    Filter,
    /// What the driver takes.
    Offloads,
    /// How many pairs of queues are in use.
    Pairs,
}

/// Something is wrong with a command, or there is no such one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wrong;

/// Does what a command of a driver with these features says, with a device of `pairs` pairs of queues.
pub(super) fn execute(
    state: &mut State,
    (features, pairs): (u64, u16),
    command: &[u8],
) -> Result<Done, Wrong> {
    let ([class, command], data) = command.split_first_chunk::<2>().ok_or(Wrong)?;
    let has = |feature| if features & feature != 0 { Ok(()) } else { Err(Wrong) };
    match (*class, *command) {
        (CLASS_RX, command) => {
            let extra = command > RX_ALLMULTI;
            has(if extra { F_CTRL_RX_EXTRA } else { F_CTRL_RX })?;
            set_mode(state, command, data)?;
        }
        (CLASS_MAC, MAC_TABLE_SET) => {
            has(F_CTRL_RX)?;
            let (unicast, rest) = table(data)?;
            let (multicast, _) = table(rest)?;
            (state.unicast, state.multicast) = (unicast, multicast);
        }
        (CLASS_MAC, MAC_ADDR_SET) => {
            has(F_CTRL_MAC_ADDR)?;
            let mac = *data.first_chunk().ok_or(Wrong)?;
            if !Mac(mac).is_one_cards() {
                return Err(Wrong);
            }
            state.mac = mac;
        }
        (CLASS_VLAN, command @ (VLAN_ADD | VLAN_DEL)) => {
            has(F_CTRL_VLAN)?;
            let vlan = u16::from_le_bytes(*data.first_chunk().ok_or(Wrong)?);
            if !state.set_vlan(vlan, command == VLAN_ADD) {
                return Err(Wrong);
            }
        }
        (CLASS_ANNOUNCE, ANNOUNCE_ACK) => {
            has(F_GUEST_ANNOUNCE)?;
            // Nobody has asked.
            if !std::mem::take(&mut state.announce) {
                return Err(Wrong);
            }
        }
        (CLASS_MQ, MQ_VQ_PAIRS_SET) => {
            has(F_MQ)?;
            let wanted = u16::from_le_bytes(*data.first_chunk().ok_or(Wrong)?);
            if !(1..=pairs).contains(&wanted) {
                return Err(Wrong);
            }
            state.pairs = wanted;
            return Ok(Done::Pairs);
        }
        (CLASS_GUEST_OFFLOADS, GUEST_OFFLOADS_SET) => {
            has(F_CTRL_GUEST_OFFLOADS)?;
            let wanted = u64::from_le_bytes(*data.first_chunk().ok_or(Wrong)?);
            if wanted & !(features & OF_GUEST) != 0 || !are_whole(wanted) {
                return Err(Wrong);
            }
            state.offloads = Some(wanted);
            return Ok(Done::Offloads);
        }
        _ => return Err(Wrong),
    }
    Ok(Done::Filter)
}

fn set_mode(state: &mut State, command: u8, data: &[u8]) -> Result<(), Wrong> {
    let on = match data.first() {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(Wrong),
    };
    let mode = match command {
        RX_PROMISC => &mut state.promiscuous,
        RX_ALLMULTI => &mut state.all_multicast,
        RX_ALLUNI => &mut state.all_unicast,
        RX_NOMULTI => &mut state.no_multicast,
        RX_NOUNI => &mut state.no_unicast,
        RX_NOBCAST => &mut state.no_broadcast,
        _ => return Err(Wrong),
    };
    *mode = on;
    Ok(())
}

type Table = Option<Vec<[u8; 6]>>;

/// A table of addresses, its length in front, and what is behind it. One that is too long is all
/// addresses, which a driver has to expect (5.1.6.5.2.2).
fn table(data: &[u8]) -> Result<(Table, &[u8]), Wrong> {
    let (count, rest) = data.split_first_chunk().ok_or(Wrong)?;
    let count = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| Wrong)?;
    let bytes = count.checked_mul(6).ok_or(Wrong)?;
    let (addresses, rest) = rest.split_at_checked(bytes).ok_or(Wrong)?;
    let addresses = addresses.as_chunks::<6>().0;
    Ok(((count <= TABLE_MAX).then(|| addresses.to_vec()), rest))
}
