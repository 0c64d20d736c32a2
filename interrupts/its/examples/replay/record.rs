//! The fields of a recording's JSON records, and how they are read.

use gicv3_its::Target;
use serde_json::{Map, Value};

/// One line of a recording.
pub(crate) type Record = Map<String, Value>;
/// A result, or what is wrong with the text.
pub(crate) type Fallible<T> = Result<T, String>;

pub(crate) fn op(record: Option<&Record>) -> Option<&str> {
    record?.get("op")?.as_str()
}

pub(crate) fn integer(value: &Value) -> Fallible<u64> {
    let text = match value {
        Value::Number(number) => return number.as_u64().ok_or(format!("bad number {number}")),
        Value::Bool(value) => return Ok((*value).into()),
        Value::String(text) => text,
        other => return Err(format!("bad number {other}")),
    };
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text.as_str(), 10),
    };
    u64::from_str_radix(digits, radix).map_err(|error| format!("bad number {text}: {error}"))
}

pub(crate) fn optional(record: &Record, key: &str) -> Fallible<Option<u64>> {
    record.get(key).filter(|value| !value.is_null()).map(integer).transpose()
}

pub(crate) fn number(record: &Record, key: &str) -> Fallible<u64> {
    optional(record, key)?.ok_or(format!("no {key}"))
}

pub(crate) fn short(record: &Record, key: &str) -> Fallible<u32> {
    u32::try_from(number(record, key)?).map_err(|_| format!("{key} out of range"))
}

pub(crate) fn cpu(record: &Record) -> Fallible<Target> {
    Ok(Target(short(record, "cpu")?))
}

pub(crate) fn place(record: &Record) -> Fallible<(u64, u32)> {
    let size = optional(record, "size")?.unwrap_or(4);
    Ok((number(record, "off")?, u32::try_from(size).map_err(|_| "size")?))
}

pub(crate) fn length(record: &Record) -> Fallible<usize> {
    let len = number(record, "len")?;
    usize::try_from(len).ok().filter(|_| len <= crate::ram::Ram::LEN).ok_or("len".to_owned())
}

pub(crate) fn truth(record: &Record, key: &str) -> Fallible<bool> {
    number(record, key).map(|value| value != 0)
}

pub(crate) fn text<'a>(record: &'a Record, key: &str) -> Option<&'a str> {
    record.get(key)?.as_str()
}

pub(crate) fn bytes(hex: &str) -> Fallible<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err("hex of odd length".to_owned());
    }
    pairs
        .iter()
        .map(|pair| {
            let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
            u8::from_str_radix(pair, 16).map_err(|error| error.to_string())
        })
        .collect()
}
