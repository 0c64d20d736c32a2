//! A device with its queues and a driver's rings, without registers: for tests of what a device does
//! with requests, which look at it in the middle of things. Tests that are the same behind all
//! registers are in `behind`.

use std::sync::Arc;

use parking_lot::Mutex;
use trapline_guestmem::GuestMem;
use trapline_testkit::virtio::{Part, Ring};

use crate::{Activation, DeviceEvents, Link, Queue, QueueEvents, QueuePlace, VirtioDevice};

/// Where the first queue is, and how far it is to the next.
const RINGS: u64 = 0x1_0000;
const RING: u64 = 0x4000;
/// The most turns until nobody has anything to do.
const TURNS: usize = 1024;

/// What a transport hears.
#[derive(Default)]
pub(crate) struct Events {
    /// Queues that are to be processed.
    pub(crate) queues: Mutex<Vec<u16>>,
    /// How often the driver was to be told of used buffers, and of another configuration.
    pub(crate) used: Mutex<u32>,
    pub(crate) configs: Mutex<u32>,
    /// How many queues have broken. A test that expects it takes it out.
    pub(crate) broken: Mutex<u32>,
}

impl QueueEvents for Events {
    fn used(&self, _queue: u16) {
        *self.used.lock() += 1;
    }

    fn broken(&self, _queue: u16) {
        *self.broken.lock() += 1;
    }

    fn again(&self, queue: u16) {
        self.queues.lock().push(queue);
    }
}

impl DeviceEvents for Events {
    fn config_changed(&self) {
        *self.configs.lock() += 1;
    }

    fn needs_reset(&self) {
        panic!("a device does not ask for a reset");
    }

    fn process_soon(&self, queue: u16) {
        self.again(queue);
    }
}

/// The device.
pub(crate) struct Alone<D> {
    pub(crate) device: Arc<D>,
    pub(crate) events: Arc<Events>,
    pub(crate) mem: GuestMem,
    pub(crate) queues: Vec<Arc<Queue>>,
    /// One for each queue, once it is started.
    pub(crate) rings: Vec<Ring<GuestMem>>,
}

impl<D: VirtioDevice> Alone<D> {
    /// A device that nobody has started, with queues in this memory.
    pub(crate) fn new(device: Arc<D>, mem: GuestMem) -> Self {
        let events = Arc::<Events>::default();
        let queue = |(index, size): (u16, &u16)| {
            Arc::new(Queue::new(index, *size, mem.clone(), events.clone()))
        };
        let queues = (0..).zip(&device.queue_sizes()).map(queue).collect();
        let transport: Arc<dyn DeviceEvents> = events.clone();
        device.attach(&Link::new(Arc::downgrade(&transport)));
        Self { device, events, mem, queues, rings: Vec::new() }
    }

    /// Starts it with these features and empty rings. The queues have none of their own features, so
    /// every turn with an answer is a notification.
    pub(crate) fn start(&mut self, features: u64) {
        self.rings = self.queues.iter().map(|queue| self.empty_ring(queue)).collect();
        self.device.activate(&Activation { features, queues: &self.queues });
        for queue in &self.queues {
            queue.start(&self.place(queue.index()), 0).unwrap();
            self.events.again(queue.index());
        }
        self.settle();
    }

    /// Starts it with all the features it offers.
    pub(crate) fn start_with_all(&mut self) {
        self.start(self.device.features());
    }

    fn empty_ring(&self, queue: &Queue) -> Ring<GuestMem> {
        let at = RINGS + u64::from(queue.index()) * RING;
        Ring::new(self.mem.clone(), at, queue.max_size())
    }

    /// Where a queue is.
    pub(crate) fn place(&self, queue: u16) -> QueuePlace {
        let ring = &self.rings[usize::from(queue)];
        let (descriptors, driver) = (ring.descriptors(), ring.driver());
        QueuePlace { size: ring.size(), descriptors, driver, device: ring.device() }
    }

    /// Takes a queue's requests out again, of which the device does not hear.
    pub(crate) fn empty(&mut self, queue: u16) {
        let index = usize::from(queue);
        self.queues[index].stop();
        self.rings[index] = self.empty_ring(&self.queues[index]);
        self.queues[index].start(&self.place(queue), 0).unwrap();
    }

    /// As a transport resets it.
    pub(crate) fn reset(&self) {
        self.queues.iter().for_each(|queue| queue.stop());
        self.device.reset();
    }

    /// Processes queues until nobody wants to.
    pub(crate) fn settle(&self) {
        for _ in 0..TURNS {
            let next = self.events.queues.lock().pop();
            let Some(queue) = next else { return };
            self.device.process(queue);
        }
        panic!("it never ends");
    }

    /// Notifies a queue.
    pub(crate) fn notify(&self, queue: u16) {
        self.events.again(queue);
        self.settle();
    }

    /// Gives a queue a request, and notifies it.
    pub(crate) fn add(&mut self, queue: u16, parts: &[Part]) {
        self.rings[usize::from(queue)].add(parts);
        self.notify(queue);
    }

    /// The next request that has come back: how much was written.
    pub(crate) fn used(&mut self, queue: u16) -> Option<u32> {
        self.rings[usize::from(queue)].take_used().map(|(_, written)| written)
    }

    pub(crate) fn bytes(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read(addr, &mut bytes).unwrap();
        bytes
    }
}

impl<D> Drop for Alone<D> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(*self.events.broken.lock(), 0, "no queue breaks unnoticed");
        }
    }
}
