//! The protocol of QEMU's monitor (QMP): commands and events in JSON, beside the socket on which a
//! client plays the processor.
//!
//! A [`Monitor`] is one client's side of it and does no I/O: bytes in, bytes out. What commands there
//! are, and what they do, is a [`Managed`]'s business.
//!
//! Spec: QEMU, `docs/interop/qmp-spec.txt`.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// The longest that a command can be, in bytes.
const COMMAND_MAX: usize = 1 << 20;

/// The version of QEMU whose schema the answers have: major, minor and micro.
const VERSION: [u32; 3] = [7, 2, 0];

/// What a command is given, and what it answers.
pub type Arguments = Map<String, Value>;

/// What a monitor is about.
pub trait Managed {
    /// Does what a command says, and returns its answer; an empty object, if there is none.
    ///
    /// # Errors
    /// What the client is told instead.
    fn execute(&self, command: &str, arguments: &Arguments) -> Result<Value, Refusal>;
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// QEMU's class of errors.
    pub class: Class,
    /// What is wrong, in a sentence.
    pub reason: String,
}

/// Classes of errors (`QapiErrorClass`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// All that is in no other.
    GenericError,
    /// There is no such command, or not yet.
    CommandNotFound,
    /// There is no device of that name.
    DeviceNotFound,
    /// There is no device of that kind.
    DeviceNotActive,
}

impl Refusal {
    /// One of [`Class::GenericError`].
    pub fn new(reason: impl Into<String>) -> Self {
        Self { class: Class::GenericError, reason: reason.into() }
    }

    /// There is no such command.
    pub fn unknown(command: &str) -> Self {
        let reason = format!("The command {command} has not been found");
        Self { class: Class::CommandNotFound, reason }
    }

    fn answer(&self) -> Value {
        json!({ "error": { "class": format!("{:?}", self.class), "desc": self.reason } })
    }
}

/// What QEMU says of its version.
pub fn version() -> Value {
    let [major, minor, micro] = VERSION;
    let package = concat!("trapline ", env!("CARGO_PKG_VERSION"));
    json!({ "qemu": { "major": major, "minor": minor, "micro": micro }, "package": package })
}

/// An event, as a client gets it. `ns` is when it happened, in nanoseconds since 1970.
pub fn event(name: &str, data: Value, ns: u64) -> Vec<u8> {
    let at = Duration::from_nanos(ns);
    let time = json!({ "seconds": at.as_secs(), "microseconds": at.subsec_micros() });
    let mut event = json!({ "timestamp": time, "event": name });
    if let (Value::Object(data), Some(event)) = (data, event.as_object_mut())
        && !data.is_empty()
    {
        event.insert("data".to_owned(), Value::Object(data));
    }
    line(&event)
}

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.extend(b"\r\n");
    line
}

/// One client's monitor.
#[derive(Debug, Default)]
pub struct Monitor {
    /// What has come of a command that is not complete yet.
    received: Vec<u8>,
    /// Whether the client has said what it can, before which there is nothing else to be said.
    negotiated: bool,
}

impl Monitor {
    /// What a client is told as soon as it is there.
    pub fn greeting() -> Vec<u8> {
        line(&json!({ "QMP": { "version": version(), "capabilities": [] } }))
    }

    /// Whether events are for this client, too.
    pub fn hears_events(&self) -> bool {
        self.negotiated
    }

    /// Takes what a client has sent, and returns what it is to be told.
    pub fn receive(&mut self, bytes: &[u8], managed: &impl Managed) -> Vec<u8> {
        self.received.extend(bytes);
        let mut answers = Vec::new();
        loop {
            let mut values = serde_json::Deserializer::from_slice(&self.received).into_iter();
            let next: Option<Result<Value, _>> = values.next();
            let used = values.byte_offset();
            match next {
                None => {
                    self.received.clear();
                    return answers;
                }
                Some(Ok(command)) => {
                    self.received.drain(..used);
                    answers.extend(line(&self.answer(&command, managed)));
                }
                Some(Err(error)) if error.is_eof() && self.received.len() <= COMMAND_MAX => {
                    return answers;
                }
                Some(Err(error)) => {
                    // The client is understood again from its next line on.
                    let end = self.received.iter().position(|byte| *byte == b'\n');
                    self.received.drain(..end.map_or(self.received.len(), |end| end + 1));
                    let refusal = Refusal::new(format!("JSON parse error: {error}"));
                    answers.extend(line(&refusal.answer()));
                }
            }
        }
    }

    fn answer(&mut self, command: &Value, managed: &impl Managed) -> Value {
        let mut answer = match self.perform(command, managed) {
            Ok(value) => json!({ "return": value }),
            Err(refusal) => refusal.answer(),
        };
        if let (Some(id), Some(answer)) = (command.get("id"), answer.as_object_mut()) {
            answer.insert("id".to_owned(), id.clone());
        }
        answer
    }

    fn perform(&mut self, command: &Value, managed: &impl Managed) -> Result<Value, Refusal> {
        let members = command.as_object();
        let members = members.ok_or_else(|| Refusal::new("QMP input must be a JSON object"))?;
        let known = |name: &&String| ["execute", "arguments", "id"].contains(&name.as_str());
        if let Some(unknown) = members.keys().find(|name| !known(name)) {
            return Err(Refusal::new(format!("QMP input member '{unknown}' is unexpected")));
        }
        let name = members.get("execute").and_then(Value::as_str);
        let name = name.ok_or_else(|| Refusal::new("QMP input lacks member 'execute'"))?;
        let none = Arguments::new();
        let arguments = match members.get("arguments") {
            None => &none,
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(Refusal::new("QMP input member 'arguments' must be an object")),
        };
        match (name, self.negotiated) {
            ("qmp_capabilities", false) => {
                self.negotiated = true;
                Ok(json!({}))
            }
            ("qmp_capabilities", true) => {
                let reason = "Capabilities negotiation is already complete, command ignored";
                Err(Refusal { class: Class::CommandNotFound, reason: reason.to_owned() })
            }
            (_, false) => {
                let reason = "Expecting capabilities negotiation with 'qmp_capabilities'";
                Err(Refusal { class: Class::CommandNotFound, reason: reason.to_owned() })
            }
            (_, true) => managed.execute(name, arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it was asked to do.
    struct Echo;

    impl Managed for Echo {
        fn execute(&self, command: &str, arguments: &Arguments) -> Result<Value, Refusal> {
            match command {
                "echo" => Ok(json!({ "said": arguments })),
                _ => Err(Refusal::unknown(command)),
            }
        }
    }

    /// The answers to some input, which comes in pieces of `len` bytes.
    fn answers(monitor: &mut Monitor, input: &str, len: usize) -> Vec<Value> {
        let said: Vec<u8> =
            input.as_bytes().chunks(len).flat_map(|piece| monitor.receive(piece, &Echo)).collect();
        let said = String::from_utf8(said).unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_client_negotiates_first_and_then_commands() {
        let (early, negotiate) = (r#"{"execute":"echo"}"#, r#"{"execute":"qmp_capabilities"}"#);
        let command = r#"{ "execute": "echo", "arguments": { "a": [1, "}"] }, "id": 7 }"#;
        let unknown = r#"{"execute":"paint"}"#;
        let all = [early, negotiate, negotiate, command, unknown].concat();
        for len in [1, 2, 7, all.len()] {
            let mut monitor = Monitor::default();
            let said = answers(&mut monitor, &all, len);
            assert_eq!(said.len(), 5, "{said:?}");
            assert_eq!(said[0]["error"]["class"], "CommandNotFound");
            assert_eq!(said[1], json!({ "return": {} }));
            assert_eq!(said[2]["error"]["class"], "CommandNotFound");
            assert_eq!(said[3], json!({ "return": { "said": { "a": [1, "}"] } }, "id": 7 }));
            assert_eq!(said[4]["error"]["desc"], "The command paint has not been found");
            assert!(monitor.hears_events());
        }
    }

    #[test]
    fn what_is_no_command_is_refused_and_the_next_line_understood() {
        let mut monitor = Monitor::default();
        let said = answers(&mut monitor, "{\"execute\":\"qmp_capabilities\"}{]\n17\n", 1000);
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[1]["error"]["desc"].as_str().unwrap().starts_with("JSON parse error"));
        assert_eq!(said[2]["error"]["desc"], "QMP input must be a JSON object");
        for (input, desc) in [
            (r#"{"id":1}"#, "QMP input lacks member 'execute'"),
            (r#"{"execute":1}"#, "QMP input lacks member 'execute'"),
            (r#"{"execute":"echo","x":1}"#, "QMP input member 'x' is unexpected"),
            (
                r#"{"execute":"echo","arguments":1}"#,
                "QMP input member 'arguments' must be an object",
            ),
        ] {
            assert_eq!(answers(&mut monitor, input, 5)[0]["error"]["desc"], desc);
        }
        assert_eq!(answers(&mut monitor, r#"{"execute":"echo"}"#, 5).len(), 1);
    }

    #[test]
    fn a_command_without_end_is_not_kept_for_ever() {
        let mut monitor = Monitor::default();
        let piece = "[".repeat(100);
        assert_eq!(answers(&mut monitor, &piece, 100).len(), 0);
        let text = format!("\"{}", "x".repeat(COMMAND_MAX + 1));
        let said = answers(&mut Monitor::default(), &text, text.len());
        assert_eq!(said.len(), 1);
        let mut monitor = Monitor::default();
        answers(&mut monitor, &text, text.len());
        assert!(monitor.received.is_empty());
    }

    #[test]
    fn events_have_the_time_and_data_where_there_is_any() {
        let parse = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
        let gone = parse(event("DEVICE_DELETED", json!({ "device": "a" }), 1_000_002_999));
        assert_eq!(gone["timestamp"], json!({ "seconds": 1, "microseconds": 2 }));
        assert_eq!(gone["data"], json!({ "device": "a" }));
        assert_eq!(parse(event("RESUME", json!({}), 0)).get("data"), None);
        let greeting = parse(Monitor::greeting());
        assert_eq!(greeting["QMP"]["version"]["qemu"]["major"], 7);
    }
}
