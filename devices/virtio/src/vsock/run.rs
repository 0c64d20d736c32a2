//! What the device has in hand: its connections, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::connection::Connection;
use crate::Queue;

/// Ports of a connection: the guest's, the host's.
pub(super) type Ports = (u32, u32);

/// What lasts until the next reset.
#[derive(Default)]
pub(super) struct Run {
    pub(super) queues: Vec<Arc<Queue>>,
    pub(super) connections: BTreeMap<Ports, Connection>,
    /// By the numbers of the back end.
    pub(super) numbers: BTreeMap<u32, Ports>,
    /// Who may be owed something, in turns.
    pub(super) turns: VecDeque<Ports>,
    /// Connections that are no more, or were never: a packet that says so, each.
    pub(super) resets: VecDeque<(Ports, u16)>,
    pub(super) next_port: u32,
    /// The driver has not heard yet that all connections are lost.
    pub(super) lost: bool,
}

impl Run {
    pub(super) fn add(&mut self, ports: Ports, connection: Connection) {
        self.numbers.insert(connection.id, ports);
        self.connections.insert(ports, connection);
        self.queue(ports);
    }

    /// It may be owed something.
    pub(super) fn queue(&mut self, ports: Ports) {
        if let Some(connection) = self.connections.get_mut(&ports)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.turns.push_back(ports);
        }
    }

    /// Who is owed a packet next: `Some(None)` is a reset's receiver.
    pub(super) fn next_owed(&mut self) -> Option<Option<Ports>> {
        if !self.resets.is_empty() {
            return Some(None);
        }
        while let Some(ports) = self.turns.pop_front() {
            let Some(connection) = self.connections.get_mut(&ports) else { continue };
            connection.queued = connection.has_data() || connection.owes();
            if connection.queued {
                // It has its next turn behind the others.
                self.turns.push_back(ports);
                return Some(Some(ports));
            }
        }
        None
    }
}
