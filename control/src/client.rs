//! Who asks.

use std::io;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::api;
use crate::endpoint::{Endpoint, Method};
use crate::folder::Folder;
use crate::http::{self, Connection};
use crate::name::GuestName;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a guest.
#[derive(Debug)]
pub struct Client {
    folder: Folder,
    name: GuestName,
    /// Nothing, once the guest has closed it.
    connection: Option<Connection>,
    patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No guest of that name runs.
    #[error("no guest called {0} is running")]
    NoGuest(GuestName),
    /// The guest says no.
    #[error("{reason}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// Its sentence.
        reason: String,
    },
    /// It does not answer in time.
    #[error("guest {0} does not answer")]
    Late(GuestName),
    /// It has ended meanwhile.
    #[error("guest {0} has ended")]
    Ended(GuestName),
    /// It does not speak as it should.
    #[error("guest {name} gives an answer that makes no sense: {why}")]
    Senseless {
        /// The guest.
        name: GuestName,
        /// What is wrong.
        why: String,
    },
    /// The kernel says so.
    #[error("cannot talk to guest {name}")]
    Io {
        /// The guest.
        name: GuestName,
        /// What it says.
        source: io::Error,
    },
}

impl Client {
    /// Connects to guest `name`.
    ///
    /// # Errors
    /// It does not run, or not as the user that asks.
    pub fn connect(folder: &Folder, name: &GuestName) -> Result<Self, AskError> {
        let connection = connect(folder, name, PATIENCE)?;
        Ok(Self {
            folder: folder.clone(),
            name: name.clone(),
            connection: Some(connection),
            patience: PATIENCE,
        })
    }

    /// The guest's name.
    pub fn name(&self) -> &GuestName {
        &self.name
    }

    /// The process that runs the guest, as the kernel knows it; it answers also for one that is stopped.
    pub fn pid(&self) -> Option<u32> {
        let peer =
            rustix::net::sockopt::socket_peercred(self.connection.as_ref()?.stream()).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// Has answers be waited for as long as `patience`, in place of 20 s.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Asks for `E`.
    ///
    /// # Errors
    /// The guest says no, or nothing that makes sense.
    pub fn ask<E: Endpoint>(&mut self, request: &E::Request) -> Result<E::Answer, AskError> {
        let body = self.exchange(E::METHOD, E::PATH, &self.body::<E>(request)?)?;
        let json = if body.is_empty() { b"null" } else { body.as_slice() };
        serde_json::from_slice(json).map_err(|error| self.senseless(error))
    }

    /// What `GET path` gives as text.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn text(&mut self, path: &str) -> Result<String, AskError> {
        let body = self.exchange(Method::Get, path, &[])?;
        String::from_utf8(body).map_err(|error| self.senseless(error))
    }

    /// Asks for `E`, whose answers come as lines until the guest ends or `each` says that it is
    /// enough (`false`).
    ///
    /// # Errors
    /// As [`Client::ask`]. A guest that ends is none.
    pub fn lines<E: Endpoint>(
        &mut self,
        request: &E::Request,
        mut each: impl FnMut(E::Answer) -> bool,
    ) -> Result<(), AskError> {
        let deadline = Instant::now() + self.patience;
        let body = self.body::<E>(request)?;
        let (mut connection, response) = self.send(E::METHOD, E::PATH, &body, deadline)?;
        // Lines come when there is something to say, which is nobody's promise.
        let for_ever = || Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let fault = |fault| fault_error(&self.name, fault);
        if let Some(len) = response.len {
            let body = connection.body(len, Instant::now() + self.patience).map_err(fault)?;
            return Err(refused(response.code, &body));
        }
        let mut rest = Vec::new();
        loop {
            let chunk = match connection.chunk(for_ever()) {
                Ok(chunk) if chunk.is_empty() => return Ok(()),
                Ok(chunk) => chunk,
                Err(http::Fault::Closed) => return Ok(()),
                Err(fault) => return Err(fault_error(&self.name, fault)),
            };
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if !each(parse(&line).map_err(|error| self.senseless(error))?) {
                    return Ok(());
                }
            }
        }
    }

    /// Waits until the guest has closed the connection, no longer than `patience`; whether it has.
    pub fn wait_for_end(&mut self, patience: Duration) -> bool {
        let Some(connection) = &mut self.connection else { return true };
        let deadline = Instant::now() + patience;
        // It says nothing more.
        let said = connection.body(usize::MAX, deadline);
        !matches!(said, Err(http::Fault::Io(error)) if http::timed_out(&error))
    }

    fn body<E: Endpoint>(&self, request: &E::Request) -> Result<Vec<u8>, AskError> {
        if size_of::<E::Request>() == 0 {
            return Ok(Vec::new());
        }
        serde_json::to_vec(request).map_err(|error| self.senseless(error))
    }

    /// Sends a request and gives the body of the answer.
    fn exchange(&mut self, method: Method, path: &str, body: &[u8]) -> Result<Vec<u8>, AskError> {
        let deadline = Instant::now() + self.patience;
        let (mut connection, response) = self.send(method, path, body, deadline)?;
        let fault = |fault| fault_error(&self.name, fault);
        let len = response.len.unwrap_or(0);
        let body = connection.body(len, deadline).map_err(fault)?;
        if response.keep_alive {
            self.connection = Some(connection);
        }
        if (200..300).contains(&response.code) {
            Ok(body)
        } else {
            Err(refused(response.code, &body))
        }
    }

    /// Sends a request and gives the head of the answer, and where the rest of it comes.
    ///
    /// A guest lets go of clients that have been silent for long: between two requests, and before the
    /// first. It reads all that has been sent to it before, so what it has not read is sent again.
    fn send(
        &mut self,
        method: Method,
        path: &str,
        body: &[u8],
        deadline: Instant,
    ) -> Result<(Connection, http::Response), AskError> {
        let message = http::request(method, path, body);
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect_again()?,
            };
            match respond(&mut connection, &message, deadline) {
                Ok(response) => return Ok((connection, response)),
                Err(fault) if is_unread(&fault) && Instant::now() < deadline => {}
                Err(fault) => return Err(fault_error(&self.name, fault)),
            }
        }
    }

    /// A new connection in place of one that the guest has closed.
    fn connect_again(&self) -> Result<Connection, AskError> {
        connect(&self.folder, &self.name, self.patience).map_err(|error| match error {
            AskError::NoGuest(name) => AskError::Ended(name),
            error => error,
        })
    }

    fn senseless(&self, why: impl ToString) -> AskError {
        AskError::Senseless { name: self.name.clone(), why: why.to_string() }
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(line)
}

/// Sends a request and reads the head of the answer. Who refuses a request need not have read all of it.
fn respond(
    connection: &mut Connection,
    message: &[u8],
    deadline: Instant,
) -> Result<http::Response, http::Fault> {
    let written = connection.write(message, deadline).map_err(http::Fault::Io);
    match (connection.response(deadline), written) {
        (Ok(response), _) => Ok(response),
        (Err(_), Err(fault)) | (Err(fault), Ok(())) => Err(fault),
    }
}

fn connect(folder: &Folder, name: &GuestName, patience: Duration) -> Result<Connection, AskError> {
    let stream = folder.connect(name, patience).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NoGuest(name.clone())
        }
        io::ErrorKind::WouldBlock => AskError::Late(name.clone()),
        _ => AskError::Io { name: name.clone(), source },
    })?;
    let peer = rustix::net::sockopt::socket_peercred(&stream);
    if peer.is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
        Ok(Connection::new(stream))
    } else {
        Err(AskError::NoGuest(name.clone()))
    }
}

/// Whether the other end has closed the connection without having read all that was sent: the kernel
/// refuses to take more, or says that it has thrown away what it had (unix(7)).
fn is_unread(fault: &http::Fault) -> bool {
    let http::Fault::Io(error) = fault else { return false };
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Whether the other end has closed the connection.
fn is_over(fault: &http::Fault) -> bool {
    matches!(fault, http::Fault::Closed) || is_unread(fault)
}

fn fault_error(name: &GuestName, fault: http::Fault) -> AskError {
    let name = name.clone();
    match fault {
        fault if is_over(&fault) => AskError::Ended(name),
        http::Fault::Io(error) if http::timed_out(&error) => AskError::Late(name),
        http::Fault::Io(source) => AskError::Io { name, source },
        http::Fault::Refused(refusal) => AskError::Senseless { name, why: refusal.reason },
        http::Fault::Closed => AskError::Ended(name),
    }
}

fn refused(code: u16, body: &[u8]) -> AskError {
    let reason = serde_json::from_slice(body)
        .map_or_else(|_| format!("HTTP status {code}"), |fault: api::Fault| fault.fault_message);
    AskError::Refused { code, reason }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn who_is_refused_before_it_has_asked_hears_why() {
        let (here, there) = UnixStream::pair().unwrap();
        let refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        (&there).write_all(refusal).unwrap();
        drop(there);
        let asked = http::request(Method::Get, "/text", &[]);
        let deadline = Instant::now() + Duration::from_secs(60);
        let response = respond(&mut Connection::new(here), &asked, deadline).unwrap();
        assert_eq!(response.code, 503);
    }
}
