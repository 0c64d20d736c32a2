//! A network that needs no rights on the host, behind a card: see `trapline-usernet`.

use std::io;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use trapline_device::{Clock, EventLoop};
use trapline_guestio::Buffers;
use trapline_usernet::{Forward, FramesReady, MTU, UserNet, UserNetOptions};

use crate::{Abilities, FRAME_MAX, HEADER_LEN, Header, Mac, NetBackend, NetCard, Offloads, rarp};

/// The network as a back end. Frames end in this process, so nobody need cut them or sum them up.
pub struct User {
    net: Arc<UserNet>,
    card: OnceLock<Weak<dyn NetCard>>,
    /// Begins with the frame that is being sent, in one piece.
    frame: Mutex<Vec<u8>>,
}

impl User {
    /// A network of its own.
    ///
    /// # Errors
    /// The host's, with the forwarded port that it is about.
    pub fn new(
        options: &UserNetOptions,
        event_loop: &Arc<dyn EventLoop>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<Self>, (Forward, io::Error)> {
        let net = UserNet::new(options, event_loop, clock)?;
        let this = Arc::new(Self { net, card: OnceLock::new(), frame: Mutex::default() });
        let ready: Weak<Self> = Arc::downgrade(&this);
        this.net.attach(ready);
        Ok(this)
    }
}

impl FramesReady for User {
    fn frames_ready(&self) {
        if let Some(card) = self.card.get().and_then(Weak::upgrade) {
            card.ready(0);
        }
    }
}

impl NetBackend for User {
    fn abilities(&self) -> Abilities {
        let sends = Offloads { csum: true, tso4: true, tso6: true, ecn: true, ..Offloads::NONE };
        Abilities { sends, mtu: Some(MTU), ..Abilities::PLAIN }
    }

    fn attach(&self, card: Weak<dyn NetCard>) {
        self.card.get_or_init(|| card);
    }

    fn set_receiving(&self, _pair: u16, on: bool) {
        self.net.set_receiving(on);
    }

    fn send(&self, _pair: u16, _header: &Header, frame: &mut Buffers) -> io::Result<()> {
        let len = usize::try_from(frame.len()).ok().filter(|len| *len <= FRAME_MAX);
        let len = len.ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = self.frame.lock();
        // It only grows: what it had before is written over.
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        let copied = frame.copy_to(bytes.get_mut(..len).unwrap_or_default());
        self.net.send(bytes.get(..copied).unwrap_or_default());
        Ok(())
    }

    fn announce(&self, mac: Mac) {
        self.net.send(&rarp(mac));
    }

    fn receive(&self, _pair: u16, buf: &mut [u8]) -> io::Result<usize> {
        let (header, frame) =
            buf.split_at_mut_checked(HEADER_LEN).ok_or(io::ErrorKind::InvalidInput)?;
        header.fill(0);
        let len = self.net.receive(frame).ok_or(io::ErrorKind::WouldBlock)?;
        Ok(HEADER_LEN + len)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicU32, Ordering};

    use trapline_guestmem::GuestMem;
    use trapline_testkit::TestClock;

    use super::*;
    use crate::{Addresses, NetError, NetMode, NetOptions, UserBackend, UserOptions};

    #[derive(Default)]
    struct Card(AtomicU32);

    impl NetCard for Card {
        fn ready(&self, _pair: u16) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn room(&self, _pair: u16) {}

        fn link_changed(&self) {}
    }

    fn options(forwards: &[&str]) -> UserNetOptions {
        let forwards = forwards.iter().map(|text| text.parse().unwrap()).collect();
        UserNetOptions { addresses: Addresses::new(0), forwards }
    }

    /// A card that asks who the gateway is gets an answer, and hears of it when it wants to.
    #[test]
    fn frames_go_in_and_come_out_behind_a_header() {
        let polled = trapline_testkit::event_loop();
        let event_loop: Arc<dyn EventLoop> = polled.clone();
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        let user =
            User::new(&options(&[]), &event_loop, &clock).map_err(|(_, error)| error).unwrap();
        let card = Arc::new(Card::default());
        let weak: Weak<Card> = Arc::downgrade(&card);
        user.attach(weak);

        let mac = [2, 0, 0, 0, 0, 7];
        // RFC 826: Ethernet, IPv4, a request of 192.168.33.15 for 192.168.33.1.
        let arp = [0, 1, 8, 0, 6, 4, 0, 1];
        let asked = [
            &[0xff; 6][..],
            &mac,
            &[8, 6],
            &arp,
            &mac,
            &[192, 168, 33, 15],
            &[0; 6],
            &[192, 168, 33, 1],
        ]
        .concat();
        let mem = GuestMem::new(&[(0, 0x1000)]).unwrap();
        mem.write(0x100, &asked).unwrap();
        let send = || {
            let mut frame = Buffers::new(&mem);
            frame.push(0x100, 10).unwrap();
            frame.push(0x10a, asked.len() - 10).unwrap();
            user.send(0, &Header::default(), &mut frame).unwrap();
        };
        send();
        polled.settle(4);
        assert_eq!(card.0.load(Ordering::Relaxed), 0, "it has not said that it wants to know");
        user.set_receiving(0, true);
        polled.settle(4);
        assert_eq!(card.0.load(Ordering::Relaxed), 1);

        let mut packet = vec![0xee; 2048];
        let len = user.receive(0, &mut packet).unwrap();
        assert_eq!(packet[..HEADER_LEN], [0; HEADER_LEN]);
        let frame = &packet[HEADER_LEN..len];
        assert_eq!(frame[..14], [&mac[..], &[2, 1, 1, 1, 1, 1, 8, 6]].concat());
        // A reply, with the gateway's address.
        assert_eq!(frame[20..22], [0, 2]);
        assert_eq!(frame[22..32], [2, 1, 1, 1, 1, 1, 192, 168, 33, 1]);
        let error = user.receive(0, &mut packet).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);

        // A frame without room for it is lost, and no more than that.
        send();
        assert!(user.receive(0, &mut [0; HEADER_LEN + 8]).is_err());
        assert!(user.receive(0, &mut [0; 4]).is_err());
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let event_loop: Arc<dyn EventLoop> = trapline_testkit::event_loop();
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        let forwards = [format!("tcp:{port}:22")];
        let forwards: Vec<&str> = forwards.iter().map(String::as_str).collect();
        let network = options(&forwards);
        let user = UserOptions { network, backend: UserBackend::Embedded };
        let card = NetOptions::new(0, NetMode::User(user));
        let error = card.open(&event_loop, &clock).err().unwrap();
        assert!(matches!(error, NetError::Forward { .. }));
        let wanted = format!(
            "cannot forward tcp port {port} of 127.0.0.1: Address already in use (os error 98)"
        );
        assert_eq!(error.to_string(), wanted);
    }
}
