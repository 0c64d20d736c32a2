//! One viewer: a thread that reads what it says, and one that writes what it shall see.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::keyboard::Hands;
use super::pixel::{Converter, PixelFormat};
use super::wire::{self, Encodings, Message, RAW, Request, ZRLE};
use super::zrle::Zrle;
use crate::screen::Seen;
use crate::{Input, Rect, Screen};

/// How often the screen is looked at while a viewer waits for news.
const LOOK_INTERVAL: Duration = Duration::from_millis(33);

/// A viewer, as its two threads and the server share it.
pub(super) struct Viewer {
    stream: TcpStream,
    session: Mutex<Session>,
    changed: Condvar,
}

/// The state of a viewer's session: what it has set, and the update that it waits for (RFC 6143, 7.5).
#[derive(Clone, Copy)]
struct Session {
    format: PixelFormat,
    encodings: Encodings,
    request: Option<Request>,
    ended: bool,
}

impl Viewer {
    pub(super) fn new(stream: TcpStream) -> Self {
        let (format, encodings) = (PixelFormat::NATIVE, Encodings::default());
        let session = Mutex::new(Session { format, encodings, request: None, ended: false });
        Self { stream, session, changed: Condvar::new() }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends the connection, and with it both threads.
    pub(super) fn end(&self) {
        self.session.lock().ended = true;
        self.changed.notify_all();
        // It fails on a connection that is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Obeys the viewer until it goes.
    pub(super) fn read_all(&self, input: Arc<dyn Input>) {
        let mut hands = Hands::new(input);
        let mut from = BufReader::new(&self.stream);
        while let Ok(message) = wire::read(&mut from) {
            match message {
                Message::SetPixelFormat(format) => self.session.lock().format = format,
                Message::SetEncodings(encodings) => self.session.lock().encodings = encodings,
                Message::Update(request) => self.ask(request),
                Message::Key { down, symbol } => hands.key(down, symbol),
                Message::Pointer { buttons, x, y } => hands.pointer(buttons, x, y),
                Message::CutText => {}
            }
        }
        self.end();
    }

    /// One answer may be for several requests (RFC 6143, 7.5.3).
    fn ask(&self, new: Request) {
        let mut session = self.session.lock();
        session.request = Some(session.request.map_or(new, |old| Request {
            incremental: old.incremental && new.incremental,
            area: old.area.around(new.area),
        }));
        self.changed.notify_all();
    }

    /// Shows the viewer what it asks for until it goes.
    pub(super) fn write_all(&self, screen: &Screen) {
        let mut painter = Painter::new(screen);
        while let Some((session, request)) = self.next() {
            let rects = painter.news(request);
            if rects.is_empty() && painter.on_screen(request) {
                self.wait_for_news(request);
                continue;
            }
            if painter.send(&rects, &session, &mut &self.stream).is_err() {
                break;
            }
            self.pause();
        }
        self.end();
    }

    /// Waits for a request, and takes it.
    fn next(&self) -> Option<(Session, Request)> {
        let mut session = self.session.lock();
        loop {
            if session.ended {
                return None;
            }
            if let Some(request) = session.request.take() {
                return Some((*session, request));
            }
            self.changed.wait(&mut session);
        }
    }

    /// Puts a request back that there is no answer to yet, and waits a little.
    fn wait_for_news(&self, request: Request) {
        self.ask(request);
        self.pause();
    }

    /// Lets a moment pass, so that a viewer cannot keep a processor busy; not after the end.
    fn pause(&self) {
        let mut session = self.session.lock();
        let until = Instant::now() + LOOK_INTERVAL;
        while !session.ended && !self.changed.wait_until(&mut session, until).timed_out() {}
    }
}

/// Makes updates. Its buffers are as large as the largest one so far, at most a whole picture.
struct Painter<'a> {
    screen: &'a Screen,
    seen: Seen,
    blank: bool,
    zrle: Zrle,
    converter: (PixelFormat, Converter),
    pixels: Vec<u32>,
    update: Vec<u8>,
}

impl<'a> Painter<'a> {
    fn new(screen: &'a Screen) -> Self {
        Self {
            screen,
            seen: screen.unseen(),
            blank: true,
            zrle: Zrle::new(),
            converter: (PixelFormat::NATIVE, Converter::new(PixelFormat::NATIVE)),
            pixels: Vec::new(),
            update: Vec::new(),
        }
    }

    /// What to send for a request. The first one is answered in full: there is no picture yet that
    /// it could be a change of.
    fn news(&mut self, request: Request) -> Vec<Rect> {
        self.screen.update();
        let all = !request.incremental || self.blank;
        self.screen.news(&mut self.seen, request.area, all)
    }

    fn on_screen(&self, request: Request) -> bool {
        request.area.clip(self.screen.mode()).is_some()
    }

    /// Sends an update. One without rectangles answers a request for nothing on the screen.
    fn send(&mut self, rects: &[Rect], session: &Session, to: &mut impl Write) -> io::Result<()> {
        if self.converter.0 != session.format {
            self.converter = (session.format, Converter::new(session.format));
        }
        self.blank &= rects.is_empty();
        self.update.clear();
        // FramebufferUpdate (RFC 6143, 7.6.1). There are fewer tiles than u16 holds.
        self.update.extend([0, 0]);
        self.update.extend(u16::try_from(rects.len()).unwrap_or(u16::MAX).to_be_bytes());
        for rect in rects.iter().take(u16::MAX.into()) {
            self.paint(*rect, session.encodings);
        }
        to.write_all(&self.update)
    }

    fn paint(&mut self, rect: Rect, encodings: Encodings) {
        let converter = &self.converter.1;
        self.pixels.clear();
        self.screen.lines(rect, |line| self.pixels.extend(converter.values(line)));
        if encodings.zrle {
            wire::rect_header(rect, ZRLE, &mut self.update);
            self.zrle.encode(&self.pixels, rect.width.into(), converter, &mut self.update);
        } else {
            wire::rect_header(rect, RAW, &mut self.update);
            self.pixels.iter().for_each(|pixel| converter.push(*pixel, &mut self.update));
        }
    }
}
