//! A device for the tests of transports: it remembers what it was told, answers every request with
//! two bytes, and has a configuration of six.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use trapline_device::{Form, SaveState, Saved, StateError};

use crate::features::OF_QUEUES;
use crate::{Activation, DeviceType, Link, Queue, VirtioDevice};

/// A feature of its own, and one that needs it.
pub(crate) const FEATURE: u64 = 1 << 3;
pub(crate) const DEPENDENT: u64 = 1 << 4;
/// Sizes of its queues.
pub(crate) const SIZES: [u16; 2] = [8, 4];
/// Its configuration at first.
pub(crate) const CONFIG: [u8; 6] = [1, 2, 3, 4, 5, 6];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Activate(u64),
    Process(u16),
    StopQueue(u16),
    Reset,
}

#[derive(Default)]
pub(crate) struct Toy {
    calls: Mutex<Vec<Call>>,
    queues: Mutex<Vec<Arc<Queue>>>,
    config: Mutex<Option<[u8; 6]>>,
    link: Mutex<Option<Link>>,
    /// Whether requests are kept instead of answered.
    pub(crate) keeps: Mutex<bool>,
    pub(crate) kept: Mutex<Vec<crate::Chain>>,
}

impl Toy {
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock())
    }

    pub(crate) fn link(&self) -> Link {
        self.link.lock().clone().unwrap()
    }

    pub(crate) fn queue(&self, index: usize) -> Arc<Queue> {
        Arc::clone(&self.queues.lock()[index])
    }

    pub(crate) fn set_config(&self, config: [u8; 6]) {
        *self.config.lock() = Some(config);
        self.link().config_changed();
    }

    fn note(&self, call: Call) {
        self.calls.lock().push(call);
    }
}

impl VirtioDevice for Toy {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn features(&self) -> u64 {
        OF_QUEUES | FEATURE | DEPENDENT
    }

    fn can_have(&self, features: u64) -> bool {
        features & DEPENDENT == 0 || features & FEATURE != 0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        SIZES.to_vec()
    }

    fn config_len(&self) -> u32 {
        6
    }

    fn config_read(&self, offset: u32, data: &mut [u8]) {
        let config = self.config.lock().unwrap_or(CONFIG);
        data.copy_from_slice(&config[offset as usize..][..data.len()]);
    }

    fn config_write(&self, offset: u32, data: &[u8]) {
        let mut config = self.config.lock();
        config.get_or_insert(CONFIG)[offset as usize..][..data.len()].copy_from_slice(data);
    }

    fn attach(&self, link: &Link) {
        *self.link.lock() = Some(link.clone());
    }

    fn activate(&self, activation: &Activation<'_>) {
        self.note(Call::Activate(activation.features));
        *self.queues.lock() = activation.queues.to_vec();
    }

    fn process(&self, queue: u16) {
        self.note(Call::Process(queue));
        let queue = self.queue(queue.into());
        let Some(mut serving) = queue.serve() else { return };
        while let Some(chain) = serving.pop() {
            if *self.keeps.lock() {
                self.kept.lock().push(chain);
                continue;
            }
            let written = u32::try_from(chain.writable_len().min(2)).unwrap();
            let written = chain
                .write_at(serving.mem(), 0, &b"ok"[..written as usize])
                .map_or(0, |()| written);
            serving.complete(chain, written);
        }
    }

    fn stop_queue(&self, queue: u16) {
        self.note(Call::StopQueue(queue));
    }

    fn reset(&self) {
        self.note(Call::Reset);
        *self.config.lock() = None;
    }
}

#[derive(Serialize, Deserialize)]
struct ToyV1 {
    config: Option<[u8; 6]>,
}

impl Form for ToyV1 {
    const NAME: &'static str = "toy";
    const VERSION: u32 = 1;
}

impl SaveState for Toy {
    fn save(&self) -> Saved {
        Saved::encode(&ToyV1 { config: *self.config.lock() })
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        *self.config.lock() = saved.decode::<ToyV1>()?.config;
        Ok(())
    }
}
