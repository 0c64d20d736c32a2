//! What stands behind a transport: the trait a device implements.

use std::sync::{Arc, Weak};

use trapline_device::SaveState;

use crate::Queue;

/// What kind of device it is (virtio 1.3, chapter 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum DeviceType {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Rng = 4,
    /// Memory balloon, by its traditional interface.
    Balloon = 5,
    /// SCSI host.
    Scsi = 8,
    /// 9P transport.
    P9 = 9,
    /// Socket device.
    Vsock = 19,
    /// File system.
    Fs = 26,
}

/// What a transport does for its device outside of a queue.
pub trait DeviceEvents: Send + Sync {
    /// See [`Link::config_changed`].
    fn config_changed(&self);

    /// See [`Link::needs_reset`].
    fn needs_reset(&self);

    /// See [`Link::process_soon`].
    fn process_soon(&self, queue: u16);
}

/// A device's way to its transport. Clones lead to the same one; one that leads to none does
/// nothing.
#[derive(Clone)]
pub struct Link(Weak<dyn DeviceEvents>);

impl Link {
    /// A way to this transport.
    pub fn new(transport: Weak<dyn DeviceEvents>) -> Self {
        Self(transport)
    }

    /// The configuration is another now: the driver is told, and can tell by the generation that
    /// what it read in several accesses is of two.
    pub fn config_changed(&self) {
        if let Some(transport) = self.0.upgrade() {
            transport.config_changed();
        }
    }

    /// The device has met something that it can recover from only by a reset (`DEVICE_NEEDS_RESET`).
    pub fn needs_reset(&self) {
        if let Some(transport) = self.0.upgrade() {
            transport.needs_reset();
        }
    }

    /// Has [`VirtioDevice::process`] called for this queue as after a driver's notification: for a
    /// timer, or a thread with results.
    pub fn process_soon(&self, queue: u16) {
        if let Some(transport) = self.0.upgrade() {
            transport.process_soon(queue);
        }
    }
}

/// Answers [`VirtioDevice::config_read`] of a device whose whole configuration space is `config`.
pub(crate) fn read_config(config: &[u8], offset: u32, data: &mut [u8]) {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let from = config.get(offset..).unwrap_or_default();
    data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// What a driver has settled on when it starts the device (`DRIVER_OK`).
#[derive(Clone, Copy, Debug)]
pub struct Activation<'a> {
    /// The features it accepted: of those offered, a set without broken dependencies.
    pub features: u64,
    /// All queues the device has, in order. Those the driver has not enabled stay stopped
    /// ([`Queue::serve`]).
    pub queues: &'a [Arc<Queue>],
}

impl Activation<'_> {
    /// Whether this feature was accepted.
    pub const fn has(&self, feature: u64) -> bool {
        self.features & feature == feature
    }
}

/// A virtio device, whatever registers a driver reaches it by.
///
/// Calls come from the threads of vCPUs and from the event loop, at the same time, so a device has
/// a lock of its own. It may serve queues, which notify the driver, while it holds it: a queue's
/// lock comes after the device's, and nothing below a queue calls a device.
///
/// What is saved of it is what the device remembers; features, queues and registers are the
/// transport's.
pub trait VirtioDevice: SaveState + Send + Sync {
    /// Which kind it is.
    fn device_type(&self) -> DeviceType;

    /// The features it offers: those of its kind, and what queues do for it
    /// ([`crate::features::OF_QUEUES`]). The transport adds its own. The same for the device's
    /// life.
    fn features(&self) -> u64;

    /// Whether it can have these of the features it offers, with `VERSION_1` and without broken
    /// dependencies between features of its kind.
    fn can_have(&self, _features: u64) -> bool {
        true
    }

    /// The most descriptors of each queue, powers of two of at most 1,024. The same for the
    /// device's life.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Length of the configuration space in bytes. The same for the device's life.
    fn config_len(&self) -> u32 {
        0
    }

    /// Copies from the configuration space, in little-endian order; `offset` and length are inside
    /// of it.
    fn config_read(&self, _offset: u32, data: &mut [u8]) {
        data.fill(0);
    }

    /// Writes to the configuration space, inside of it. What cannot be written stays as it is.
    fn config_write(&self, _offset: u32, _data: &[u8]) {}

    /// The transport that the device is behind. Called once, before anything else.
    fn attach(&self, _link: &Link) {}

    /// The driver is ready. The queues start when this returns, and each is processed once.
    fn activate(&self, activation: &Activation<'_>);

    /// A driver has notified this queue, or it is to be looked at again. Called by one thread at a
    /// time for each queue; may come without cause. Serves it ([`Queue::serve`]) until it is empty,
    /// or hands out no more ([`crate::Serving::pop`]).
    fn process(&self, queue: u16);

    /// Ends or waits for every request of this queue that has begun. The queue has stopped already,
    /// so nothing is completed any more; when this returns, nothing is read from or written to the
    /// requests' buffers.
    fn stop_queue(&self, _queue: u16) {}

    /// As after power-on, with every queue stopped before. What holds for [`Self::stop_queue`]
    /// holds for all of them.
    fn reset(&self);
}
