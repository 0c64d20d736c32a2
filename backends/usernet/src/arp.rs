//! ARP (RFC 826): the gateway says which Ethernet address it has. The guest's is seen in its frames.

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetProtocol};

use crate::addresses::Addresses;
use crate::outbox::Outbox;

/// Answers who asks for the gateway.
pub(crate) fn answer(addresses: &Addresses, outbox: &mut Outbox, packet: &[u8]) {
    let Ok(packet) = ArpPacket::new_checked(packet) else { return };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    if target_protocol_addr != addresses.host {
        return;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: addresses.mac(),
        source_protocol_addr: addresses.host,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    outbox.frame(source_hardware_addr, EthernetProtocol::Arp, reply.buffer_len(), |buf| {
        reply.emit(&mut ArpPacket::new_unchecked(buf));
    });
}
