//! A JSON object for each line.

use std::io::{self, Write};

use serde_json::json;
use trapline_access::record::{Blob, Op};

use super::{Access, Exporter, verb};
use crate::{Event, Meta, Sites, Stream, outside};

pub(super) struct Json;

impl Exporter for Json {
    fn begin(&mut self, to: &mut dyn Write, meta: &Meta, _streams: &[Stream]) -> io::Result<()> {
        serde_json::to_writer(&mut *to, &json!({ "meta": meta }))?;
        writeln!(to)
    }

    fn access(&mut self, to: &mut dyn Write, access: &Access<'_>) -> io::Result<()> {
        let Access { event, site, address, .. } = access;
        let mut object = json!({
            "number": event.number,
            "time_ns": event.time_ns,
            "stream": event.stream.to_string(),
            "direction": verb(site.direction),
            "region": site.region,
            "register": site.register,
            "space": site.space.to_string(),
            "address": address,
            "offset": site.offset,
            "bytes": site.bytes,
            "outcome": access.outcome().to_string(),
        });
        let fields = site.decode(event.record.value);
        let more = match event.record.op {
            Op::String(_) => ("values", json!(access.values())),
            _ => ("value", json!(event.record.value)),
        };
        if let Some(object) = object.as_object_mut() {
            object.insert(more.0.to_owned(), more.1);
            if !fields.is_empty() && matches!(event.record.op, Op::Access(_)) {
                object.insert("fields".to_owned(), json!(fields));
            }
        }
        serde_json::to_writer(&mut *to, &object)?;
        writeln!(to)
    }

    fn other(&mut self, to: &mut dyn Write, event: &Event, sites: &Sites) -> io::Result<()> {
        let (device, value) = (sites.device(event.record.slot), event.record.value);
        let mut object = match event.record.op {
            Op::Time | Op::Access(_) | Op::Odd { .. } | Op::String(_) => return Ok(()),
            Op::Turn => json!({ "event": "turn", "device": device, "turn": value }),
            Op::In if event.record.offset >= outside::BLOBS => {
                json!({ "event": "in", "device": device, "kind": event.record.offset,
                    "bytes": Blob::of(value).len })
            }
            Op::In => json!({ "event": "in", "device": device, "kind": event.record.offset,
                "value": value }),
            Op::Out => json!({ "event": "out", "device": device, "kind": event.record.offset,
                "value": value }),
            Op::Rang => json!({ "event": "rang", "device": device, "times": value }),
            Op::Edit => json!({ "event": "edit", "generation": value }),
            Op::Stop => json!({ "event": "stop" }),
            Op::Reset => json!({ "event": "reset" }),
            Op::Snapshot => json!({ "event": "snapshot", "state": value }),
            Op::Lost => json!({ "event": "lost", "records": value }),
        };
        if let Some(object) = object.as_object_mut() {
            object.insert("number".to_owned(), json!(event.number));
            object.insert("time_ns".to_owned(), json!(event.time_ns));
            object.insert("stream".to_owned(), json!(event.stream.to_string()));
        }
        serde_json::to_writer(&mut *to, &object)?;
        writeln!(to)
    }
}
