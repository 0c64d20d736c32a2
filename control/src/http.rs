//! HTTP/1.1 on a Unix socket, as far as both ends need it: `httparse` reads heads, and the rest is
//! lengths and limits.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::endpoint::{Method, Refusal, Status};

/// Bytes of a head, requests' and answers'.
const HEAD_MAX: usize = 8 << 10;
/// Fields of a head.
const FIELDS_MAX: usize = 32;
/// Bytes of a request's body.
pub(crate) const BODY_MAX: usize = 64 << 10;
/// Bytes of an answer's body that a client takes.
const ANSWER_MAX: usize = 64 << 20;

/// One end of a connection, with what was read and not used yet.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

/// What a client asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    /// The connection is for another request afterwards.
    pub(crate) keep_alive: bool,
    /// The client knows chunks (HTTP/1.1).
    pub(crate) chunks: bool,
}

/// What a guest answers.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) code: u16,
    /// How long the body is; `None` is in chunks.
    pub(crate) len: Option<usize>,
    pub(crate) keep_alive: bool,
}

/// Why there is no message.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The other end has nothing more to say.
    Closed,
    /// The connection is broken, or its time is up.
    Io(io::Error),
    /// It is not what it should be.
    Refused(Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Reads a request, which may take `idle` to begin and `whole` to be there. One that has not begun in
    /// time cannot be sent any more, and what came just before is read: so a client knows of each that it
    /// could not send, or that was not read whole, that nothing was done.
    pub(crate) fn request(&mut self, idle: Duration, whole: Duration) -> Result<Request, Fault> {
        if self.buffer.is_empty() {
            match self.fill(Instant::now() + idle) {
                Err(Fault::Io(error)) if timed_out(&error) => {
                    self.stream.shutdown(Shutdown::Read).map_err(Fault::Io)?;
                    self.fill(Instant::now() + whole)?;
                }
                read => read?,
            }
        }
        let deadline = Instant::now() + whole;
        let late = |fault| match fault {
            Fault::Io(error) if timed_out(&error) => {
                Refusal::new(Status::RequestTimeout, "the request did not come in time").into()
            }
            fault => fault,
        };
        let head = loop {
            if let Some(head) = RequestHead::parse(&self.buffer)? {
                break head;
            }
            if self.buffer.len() >= HEAD_MAX {
                return Err(Refusal::new(Status::HeadTooLarge, "the head is too large").into());
            }
            self.fill(deadline).map_err(late)?;
        };
        self.buffer.drain(..head.len);
        if head.waits && self.buffer.len() < head.body {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n", deadline).map_err(Fault::Io)?;
        }
        while self.buffer.len() < head.body {
            self.fill(deadline).map_err(late)?;
        }
        let body = self.take(head.body);
        let RequestHead { method, path, keep_alive, chunks, .. } = head;
        Ok(Request { method, path, body, keep_alive, chunks })
    }

    /// Reads the head of an answer.
    pub(crate) fn response(&mut self, deadline: Instant) -> Result<Response, Fault> {
        loop {
            if let Some((response, len)) = parse_response(&self.buffer)? {
                self.buffer.drain(..len);
                return Ok(response);
            }
            if self.buffer.len() >= HEAD_MAX {
                return Err(Refusal::failed("the answer has no end of its head").into());
            }
            self.fill(deadline)?;
        }
    }

    /// Reads the body of an answer that has a length.
    pub(crate) fn body(&mut self, len: usize, deadline: Instant) -> Result<Vec<u8>, Fault> {
        while self.buffer.len() < len {
            self.fill(deadline)?;
        }
        Ok(self.take(len))
    }

    /// Reads a chunk of an answer; nothing is its end.
    pub(crate) fn chunk(&mut self, deadline: Instant) -> Result<Vec<u8>, Fault> {
        let wrong = || Fault::from(Refusal::failed("the answer is not in chunks"));
        let (start, len) = loop {
            match httparse::parse_chunk_size(&self.buffer).map_err(|_| wrong())? {
                httparse::Status::Complete((start, len)) => break (start, len),
                httparse::Status::Partial if self.buffer.len() < HEAD_MAX => self.fill(deadline)?,
                httparse::Status::Partial => return Err(wrong()),
            }
        };
        let len = usize::try_from(len).ok().filter(|len| *len <= ANSWER_MAX).ok_or_else(wrong)?;
        let mut all = self.body(start + len + 2, deadline)?;
        all.truncate(start + len);
        Ok(all.split_off(start))
    }

    /// Writes all of `data`, by then.
    pub(crate) fn write(&self, mut data: &[u8], deadline: Instant) -> io::Result<()> {
        while !data.is_empty() {
            self.stream.set_write_timeout(Some(left(deadline)?))?;
            match (&self.stream).write(data) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => data = data.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(len.min(self.buffer.len()));
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Reads more.
    fn fill(&mut self, deadline: Instant) -> Result<(), Fault> {
        let mut piece = [0; 4096];
        loop {
            let left = left(deadline).map_err(Fault::Io)?;
            self.stream.set_read_timeout(Some(left)).map_err(Fault::Io)?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(Fault::Closed),
                Ok(count) => {
                    self.buffer.extend_from_slice(piece.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Io(error)),
            }
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Whether an error says that the time was up. The kernel calls it EAGAIN.
pub(crate) fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

struct RequestHead {
    method: String,
    path: String,
    /// Bytes of the head.
    len: usize,
    /// Bytes of the body.
    body: usize,
    keep_alive: bool,
    chunks: bool,
    /// The client sends the body when it hears that it is wanted (`Expect: 100-continue`).
    waits: bool,
}

impl RequestHead {
    /// The head at the beginning of `bytes`, if it is there whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        let len = match request.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::new(Status::HeadTooLarge, "the head has too many fields"));
            }
            Err(httparse::Error::Version) => {
                return Err(Refusal::new(Status::Version, "HTTP/1.1 is spoken here"));
            }
            Err(error) => return Err(Refusal::bad_request(error)),
        };
        let fields = Fields(request.headers);
        let chunks = request.version == Some(1);
        if chunks && fields.all("host").count() != 1 {
            return Err(Refusal::bad_request("there must be one Host"));
        }
        if fields.all("transfer-encoding").next().is_some() {
            return Err(Refusal::new(Status::LengthRequired, "a body must have a Content-Length"));
        }
        let body = fields.content_length()?.unwrap_or(0);
        if body > BODY_MAX {
            return Err(Refusal::new(Status::ContentTooLarge, "the body is too large"));
        }
        let path = request.path.unwrap_or_default().to_owned();
        if !path.starts_with('/') {
            return Err(Refusal::bad_request("the target must be a path"));
        }
        if path.contains('?') {
            return Err(Refusal::bad_request("the target must have no query"));
        }
        Ok(Some(Self {
            method: request.method.unwrap_or_default().to_owned(),
            path,
            len,
            body,
            keep_alive: fields.keep_alive(chunks),
            chunks,
            waits: fields.has("expect", "100-continue"),
        }))
    }
}

fn parse_response(bytes: &[u8]) -> Result<Option<(Response, usize)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes).map_err(Refusal::failed)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let fields = Fields(response.headers);
    let chunked = fields.has("transfer-encoding", "chunked");
    let body = fields.content_length()?.unwrap_or(0);
    if body > ANSWER_MAX {
        return Err(Refusal::failed("the answer is too large"));
    }
    let keep_alive = fields.keep_alive(response.version == Some(1));
    let code = response.code.unwrap_or_default();
    Ok(Some((Response { code, len: (!chunked).then_some(body), keep_alive }, len)))
}

/// The fields of a head.
struct Fields<'h, 'b>(&'h [httparse::Header<'b>]);

impl Fields<'_, '_> {
    fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value)
    }

    /// Whether a field that is a list has `word`.
    fn has(&self, name: &str, word: &str) -> bool {
        let words = self.all(name).flat_map(|value| value.split(|byte| *byte == b','));
        words.map(<[u8]>::trim_ascii).any(|one| one.eq_ignore_ascii_case(word.as_bytes()))
    }

    fn content_length(&self) -> Result<Option<usize>, Refusal> {
        let mut lengths = self.all("content-length").map(|value| {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(value).ok().filter(|_| digits);
            // Whatever has more digits is too long all the same.
            number.map(|number| number.parse().unwrap_or(usize::MAX))
        });
        let Some(first) = lengths.next() else { return Ok(None) };
        match first.filter(|first| lengths.all(|length| length == Some(*first))) {
            Some(length) => Ok(Some(length)),
            None => Err(Refusal::bad_request("the Content-Length is no number")),
        }
    }

    fn keep_alive(&self, by_default: bool) -> bool {
        !self.has("connection", "close") && (by_default || self.has("connection", "keep-alive"))
    }
}

/// A request, as it is sent.
pub(crate) fn request(method: Method, path: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!("{} {path} HTTP/1.1\r\nHost: localhost\r\n", method.name());
    if !body.is_empty() {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    let mut message = (head + "\r\n").into_bytes();
    message.extend_from_slice(body);
    message
}

/// What an answer says beside its body.
pub(crate) struct Head<'a> {
    pub(crate) code: u16,
    pub(crate) media_type: Option<&'a str>,
    /// How long the body is; `None` is in chunks, or until the connection ends.
    pub(crate) len: Option<usize>,
    pub(crate) keep_alive: bool,
    pub(crate) chunked: bool,
    /// The methods that the path has.
    pub(crate) allow: &'a [Method],
}

impl Head<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 {} {}\r\nServer: trapline\r\n", self.code, reason(self.code));
        if let Some(media_type) = self.media_type {
            head += &format!("Content-Type: {media_type}\r\n");
        }
        if !self.allow.is_empty() {
            let names: Vec<_> = self.allow.iter().map(|method| method.name()).collect();
            head += &format!("Allow: {}\r\n", names.join(", "));
        }
        match self.len {
            // What has none by definition must not say that it has none of 0 bytes.
            Some(_) if self.code == 204 => {}
            Some(len) => head += &format!("Content-Length: {len}\r\n"),
            None if self.chunked => head += "Transfer-Encoding: chunked\r\n",
            None => {}
        }
        if !self.keep_alive {
            head += "Connection: close\r\n";
        }
        (head + "\r\n").into_bytes()
    }
}

/// The words of RFC 9110 for a status.
fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far more than anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_came_just_before_the_time_was_up_is_read_and_nothing_is_taken_afterwards() {
        let (here, there) = UnixStream::pair().unwrap();
        let client = Connection::new(there);
        let message = request(Method::Put, "/double", b"{}");
        client.write(&message, Instant::now() + LONG).unwrap();
        let mut server = Connection::new(here);
        let asked = server.request(Duration::ZERO, LONG).unwrap();
        assert_eq!((asked.path.as_str(), asked.body.as_slice()), ("/double", &b"{}"[..]));
        let refused = client.write(&message, Instant::now() + LONG).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
        assert!(matches!(server.request(LONG, LONG), Err(Fault::Closed)));
    }

    #[test]
    fn who_says_nothing_in_time_is_closed_on() {
        let (here, there) = UnixStream::pair().unwrap();
        assert!(matches!(Connection::new(here).request(Duration::ZERO, LONG), Err(Fault::Closed)));
        drop(there);
    }
}
