//! Forwarded windows: a channel in the place of a region's handler.

use std::sync::atomic::{AtomicBool, Ordering};

use trapline_access::{Channel, Delivery, Forwarded, Handler, IoCx, Requester, Size, Window};

/// A window's channel in the place of its region's handler, for one access.
pub(crate) struct Forwarder<'a> {
    channel: &'a dyn Channel,
    user_data: u64,
    posted: bool,
    /// The offset that the region's handler would see at the start of the window.
    start: u64,
    gone: AtomicBool,
}

impl<'a> Forwarder<'a> {
    /// For `window` of a region with this device offset, if it is one to forward.
    pub(crate) fn new(window: &'a Window, device_offset: u64) -> Option<Self> {
        let Delivery::Forward { channel, user_data, posted } = &window.delivery else {
            return None;
        };
        Some(Self {
            channel: channel.get(),
            user_data: *user_data,
            posted: *posted,
            start: window.offset.wrapping_add(device_offset),
            gone: AtomicBool::new(false),
        })
    }

    /// Whether somebody has answered so far.
    pub(crate) fn is_alive(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }

    /// Passes on that something was written to a window of no length.
    pub(crate) fn ring(&self, requester: Requester) -> bool {
        self.channel.write(&self.access(requester, self.start, None), 0)
    }

    fn access(&self, requester: Requester, offset: u64, size: Option<Size>) -> Forwarded {
        let Self { user_data, posted, start, .. } = *self;
        Forwarded { requester, user_data, offset: offset.wrapping_sub(start), size, posted }
    }
}

impl Handler for Forwarder<'_> {
    fn read(&self, cx: &IoCx<'_>, offset: u64, size: Size) -> u64 {
        // Once it is gone nothing is asked for any more, so the rest of the access is quick.
        let alive = self.is_alive();
        let access = Forwarded { posted: false, ..self.access(cx.requester(), offset, Some(size)) };
        let answer = alive.then(|| self.channel.read(&access)).flatten();
        self.gone.store(answer.is_none(), Ordering::Relaxed);
        answer.unwrap_or(u64::MAX)
    }

    fn write(&self, cx: &IoCx<'_>, offset: u64, size: Size, value: u64) {
        let access = self.access(cx.requester(), offset, Some(size));
        let taken = self.is_alive() && self.channel.write(&access, value);
        self.gone.store(!taken, Ordering::Relaxed);
    }
}
