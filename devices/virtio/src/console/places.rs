//! Ports that come and go while the device is there.

use std::sync::Arc;

use thiserror::Error;
use trapline_device::Clock;

use super::port::Patience;
use super::regs::{F_EMERG_WRITE, F_MULTIPORT};
use super::{Console, Inner, PORTS_MAX, PortSetup, Role};

/// Why a port cannot come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// Another one has the number.
    #[error("there is a port {0} already")]
    Taken(usize),
    /// Only a console can be what a driver without multiport takes for one.
    #[error("port 0 is a console's")]
    OfConsole,
    /// There is no such number.
    #[error("there is no port {number}: the last one is {}", .places - 1)]
    NoPlace {
        /// The number asked for.
        number: usize,
        /// How many there are.
        places: usize,
    },
    /// Every number is some port's.
    #[error("there is no port left of {0}")]
    Full(usize),
}

impl Console {
    /// A device without ports, which come later, with this many places for them: numbers from 0 on, of
    /// which 0 is for a console. A device with one place has no multiport, as one with a console
    /// alone. The size of a terminal is not offered.
    ///
    /// # Panics
    /// When there is no place, or more than [`PORTS_MAX`].
    pub fn with_places(places: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        let possible = (1..=PORTS_MAX).contains(&places);
        assert!(possible, "a console device has from 1 to {PORTS_MAX} places for ports");
        let multiport = if places > 1 { F_MULTIPORT } else { 0 };
        Self::build(vec![None; places], F_EMERG_WRITE | multiport, clock)
    }

    /// A port comes, and the driver is told. Without a `number` it has the first free one: 0 is for the
    /// first console. Returns the number.
    ///
    /// # Errors
    /// There is no such number, or none left.
    pub fn add_port(&self, number: Option<usize>, port: PortSetup) -> Result<usize, PortError> {
        let mut inner = self.inner.lock();
        let first = usize::from(!port.is_console);
        let free = |number: &usize| matches!(inner.ports.get(*number), Some(None));
        let number = match number {
            Some(number) if number >= self.places => {
                return Err(PortError::NoPlace { number, places: self.places });
            }
            Some(0) if !port.is_console => return Err(PortError::OfConsole),
            Some(number) if !free(&number) => return Err(PortError::Taken(number)),
            Some(number) => number,
            None => (first..self.places).find(free).ok_or(PortError::Full(self.places))?,
        };
        let Inner { ports, state, run, .. } = &mut *inner;
        if let Some(place) = ports.get_mut(number) {
            *place = Some(port);
        }
        if let Some(patience) = run.patience.get_mut(number) {
            *patience = Patience::default();
        }
        state.comes(number, run.multiport);
        drop(inner);
        self.poll(number);
        Ok(number)
    }

    /// A port goes, and the driver is told. What the guest has sent to it is lost, as far as its back
    /// end has not taken it. Says whether there was one.
    pub fn remove_port(&self, number: usize) -> bool {
        let mut inner = self.inner.lock();
        // Its back end goes after the lock.
        let gone = inner.ports.get_mut(number).and_then(Option::take);
        if gone.is_some() {
            inner.state.goes(number);
        }
        drop(inner);
        if gone.is_some() {
            // Requests that waited for room are given back.
            self.again(Role::receive_queue(number).saturating_add(1));
            if self.is_multiport() {
                self.again(Role::CONTROL_RECEIVE);
            }
        }
        gone.is_some()
    }
}
