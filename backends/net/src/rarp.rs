//! A packet by which bridges and switches learn where a card is.

use crate::Mac;

/// Length of the packet: the shortest that Ethernet has, without its checksum.
pub const RARP_LEN: usize = 60;

/// A reverse request for the address of `mac` (RFC 903), to everybody, as machines that have moved
/// send.
pub fn rarp(mac: Mac) -> [u8; RARP_LEN] {
    let mut frame = [0; RARP_LEN];
    // Ethernet's type; hardware, protocol and lengths of their addresses; "request reverse".
    let head = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
    let none = [0; 4];
    let fields: [&[u8]; 6] = [&Mac::BROADCAST.0, &mac.0, &head, &mac.0, &none, &mac.0];
    let bytes = fields.into_iter().flatten();
    frame.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_for_the_card_and_comes_from_it() {
        let frame = rarp(Mac([2, 3, 4, 5, 6, 7]));
        let expected = "ffffffffffff02030405060780350001080006040003\
            02030405060700000000020304050607";
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.strip_prefix(expected).unwrap(), "0".repeat(44));
    }
}
