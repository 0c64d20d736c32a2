//! End points: what can be asked, of which type the answer is, and who gives it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::server::Chunks;

/// The methods that end points have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Looks, and changes nothing. There is no body.
    Get,
    /// Does something.
    Put,
    /// Changes a part of something.
    Patch,
}

impl Method {
    /// Its name in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }

    /// The method of a name, if an end point can have it.
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Get, Self::Put, Self::Patch].into_iter().find(|one| one.name() == name)
    }
}

/// One thing that can be asked of a guest.
pub trait Endpoint {
    /// The method.
    const METHOD: Method;
    /// The whole path, which begins with a slash.
    const PATH: &'static str;
    /// What a request carries as JSON; `()` is no body.
    type Request: Serialize + DeserializeOwned;
    /// What the answer carries as JSON; `()` is no body (204).
    type Answer: Serialize + DeserializeOwned;
}

/// Why something is not done, with the HTTP status that says so to a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The status.
    pub status: Status,
    /// A sentence for whoever asked.
    pub reason: String,
}

/// HTTP statuses of refusals (RFC 9110, section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// 400: the request is not what the end point takes.
    BadRequest,
    /// 404: what was asked for is not there.
    NotFound,
    /// 405: the path has no such method.
    MethodNotAllowed,
    /// 408: the request did not come in time.
    RequestTimeout,
    /// 409: not in the state that the guest is in.
    Conflict,
    /// 411: a body without its length.
    LengthRequired,
    /// 413: the body is too large.
    ContentTooLarge,
    /// 431: the head is too large.
    HeadTooLarge,
    /// 500: it was tried, and failed.
    Failed,
    /// 503: there are too many clients.
    Busy,
    /// 505: another version of HTTP.
    Version,
}

impl Status {
    /// Its number.
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::LengthRequired => 411,
            Self::ContentTooLarge => 413,
            Self::HeadTooLarge => 431,
            Self::Failed => 500,
            Self::Busy => 503,
            Self::Version => 505,
        }
    }
}

impl Refusal {
    /// A refusal with this status, for this reason.
    pub fn new(status: Status, reason: impl fmt::Display) -> Self {
        Self { status, reason: reason.to_string() }
    }

    /// The request is not what the end point takes.
    pub fn bad_request(reason: impl fmt::Display) -> Self {
        Self::new(Status::BadRequest, reason)
    }

    /// The guest is not in a state to do it.
    pub fn conflict(reason: impl fmt::Display) -> Self {
        Self::new(Status::Conflict, reason)
    }

    /// It is not there.
    pub fn not_found(reason: impl fmt::Display) -> Self {
        Self::new(Status::NotFound, reason)
    }

    /// It was tried, and failed.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::new(Status::Failed, reason)
    }
}

/// Where the lines of an answer go that has no end of its own. Each is sent at once.
pub struct Lines<'a>(pub(crate) &'a mut Chunks<'a>);

impl Lines<'_> {
    /// Waits for as long as `at_most`.
    ///
    /// # Errors
    /// There is nobody to read any more: the client has gone, or the guest ends.
    pub fn wait(&self, at_most: Duration) -> io::Result<()> {
        self.0.wait(at_most)
    }

    /// Sends `value` as one line of JSON.
    ///
    /// # Errors
    /// Nobody reads any more, or nobody has for too long.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.0.send(&line)
    }
}

/// What a route answers.
pub(crate) enum Answer {
    /// Nothing more than that it is done.
    Done,
    /// A body of a media type.
    Body(&'static str, Vec<u8>),
    /// Lines of JSON, until what writes them returns.
    Lines(WriteLines),
}

/// Writes lines until it returns.
pub(crate) type WriteLines = Box<dyn FnOnce(&mut Lines<'_>) -> io::Result<()> + Send>;

type Serve = Arc<dyn Fn(&[u8]) -> Result<Answer, Refusal> + Send + Sync>;

#[derive(Clone)]
struct Route {
    method: Method,
    path: &'static str,
    serve: Serve,
}

/// Who answers what. What is served here runs on a thread of the client's own, several at once; it may
/// wait, and what it has not finished when the server goes is waited for.
#[derive(Clone, Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Answers requests of `E` with what `serve` says.
    #[must_use]
    pub fn serve<E: Endpoint>(
        self,
        serve: impl Fn(E::Request) -> Result<E::Answer, Refusal> + Send + Sync + 'static,
    ) -> Self {
        self.route(E::METHOD, E::PATH, move |body| {
            let answer = serve(request::<E>(body)?)?;
            let json = serde_json::to_vec(&answer).map_err(Refusal::failed)?;
            // What serde makes of `()`.
            Ok(if json == b"null" { Answer::Done } else { Answer::Body(JSON, json) })
        })
    }

    /// Answers requests of `E` with lines of JSON, each an `E::Answer`, which what `serve` returns writes
    /// for as long as somebody reads.
    #[must_use]
    pub fn serve_lines<E: Endpoint, W>(
        self,
        serve: impl Fn(E::Request) -> Result<W, Refusal> + Send + Sync + 'static,
    ) -> Self
    where
        W: FnOnce(&mut Lines<'_>) -> io::Result<()> + Send + 'static,
    {
        self.route(E::METHOD, E::PATH, move |body| {
            serve(request::<E>(body)?).map(|write| Answer::Lines(Box::new(write)))
        })
    }

    /// Answers `GET path` with text of a media type.
    #[must_use]
    pub fn serve_text(
        self,
        path: &'static str,
        media_type: &'static str,
        serve: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.route(Method::Get, path, move |body| {
            no_body(body)?;
            Ok(Answer::Body(media_type, serve().into_bytes()))
        })
    }

    /// The methods and paths that are answered.
    pub fn paths(&self) -> impl Iterator<Item = (Method, &'static str)> {
        self.0.iter().map(|route| (route.method, route.path))
    }

    fn route(
        mut self,
        method: Method,
        path: &'static str,
        serve: impl Fn(&[u8]) -> Result<Answer, Refusal> + Send + Sync + 'static,
    ) -> Self {
        assert!(
            !self.0.iter().any(|route| route.method == method && route.path == path),
            "two answers to {} {path}",
            method.name()
        );
        self.0.push(Route { method, path, serve: Arc::new(serve) });
        self
    }

    /// Answers one request. `Err` has the methods that the path has, if it has others.
    pub(crate) fn answer(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Answer, (Refusal, Vec<Method>)> {
        let at_path = || self.0.iter().filter(|route| route.path == path);
        let found =
            Method::of(method).and_then(|method| at_path().find(|route| route.method == method));
        if let Some(route) = found {
            return (route.serve)(body).map_err(|refusal| (refusal, Vec::new()));
        }
        let methods: Vec<Method> = at_path().map(|route| route.method).collect();
        let refusal = if methods.is_empty() {
            Refusal::not_found(format!("there is no {path}"))
        } else {
            Refusal::new(Status::MethodNotAllowed, format!("{path} has no {method}"))
        };
        Err((refusal, methods))
    }
}

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json";

/// What a body says, which has to be there if the end point has a request.
fn request<E: Endpoint>(body: &[u8]) -> Result<E::Request, Refusal> {
    let takes_none = size_of::<E::Request>() == 0;
    if takes_none {
        no_body(body)?;
    } else if !body.trim_ascii_start().starts_with(b"{") {
        // serde takes an array of a structure's fields for one, too.
        return Err(Refusal::bad_request("the body must be an object"));
    }
    let json = if takes_none { b"null" } else { body };
    serde_json::from_slice(json).map_err(|error| Refusal::bad_request(format!("the body: {error}")))
}

fn no_body(body: &[u8]) -> Result<(), Refusal> {
    match body {
        [] => Ok(()),
        _ => Err(Refusal::bad_request("there must be no body")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Balloon, BalloonUpdate, GetBalloon, PatchBalloon};

    fn status(method: &str, path: &str, body: &str) -> Result<Option<String>, u16> {
        let set = |update: BalloonUpdate| match update.amount_mib {
            0 => Err(Refusal::conflict("nothing is left")),
            _ => Ok(()),
        };
        let get = |()| Ok(Balloon { amount_mib: 3, actual_mib: 2 });
        let routes = Routes::default().serve::<PatchBalloon>(set).serve::<GetBalloon>(get);
        match routes.answer(method, path, body.as_bytes()) {
            Ok(Answer::Done) => Ok(None),
            Ok(Answer::Body(_, body)) => Ok(Some(String::from_utf8(body).unwrap())),
            Ok(Answer::Lines(_)) => unreachable!(),
            Err((refusal, methods)) => {
                assert_eq!(!methods.is_empty(), refusal.status == Status::MethodNotAllowed);
                Err(refusal.status.code())
            }
        }
    }

    #[test]
    fn a_request_is_found_by_method_and_path_and_has_the_types_of_its_end_point() {
        let balloon = r#"{"amount_mib":3,"actual_mib":2}"#.to_owned();
        assert_eq!(status("PATCH", "/balloon", r#"{"amount_mib":4}"#), Ok(None));
        assert_eq!(status("GET", "/balloon", ""), Ok(Some(balloon)));
        assert_eq!(status("PATCH", "/balloon", r#"{"amount_mib":0}"#), Err(409));
        let more = r#"{"amount_mib":4,"more":1}"#;
        for body in ["", "{}", "null", r#"{"amount_mib":-1}"#, more, "{\"amount_mib\":4}x", "[4]"] {
            assert_eq!(status("PATCH", "/balloon", body), Err(400), "{body}");
        }
        assert_eq!(status("GET", "/balloon", "null"), Err(400));
        assert_eq!(status("PUT", "/balloon", ""), Err(405));
        assert_eq!(status("get", "/balloon", ""), Err(405));
        assert_eq!(status("GET", "/balloons", ""), Err(404));
    }
}
