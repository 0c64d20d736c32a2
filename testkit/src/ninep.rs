//! Messages of a 9P client, right or wrong.

/// A field of a message, in the notation of the protocol.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// `x[1]`
    U8(u8),
    /// `x[2]`
    U16(u16),
    /// `x[4]`
    U32(u32),
    /// `x[8]`
    U64(u64),
    /// `x[s]`: a string with its length.
    Str(&'a [u8]),
    /// Bytes as they are.
    Bytes(&'a [u8]),
}

/// A message of this type, `size[4] type[1] tag[2]` before its fields.
///
/// # Panics
/// When something is longer than its length can say.
#[expect(clippy::expect_used, reason = "a test's mistake")]
pub fn message(kind: u8, tag: u16, fields: &[Field<'_>]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, kind];
    bytes.extend(tag.to_le_bytes());
    for field in fields {
        match field {
            Field::U8(value) => bytes.push(*value),
            Field::U16(value) => bytes.extend(value.to_le_bytes()),
            Field::U32(value) => bytes.extend(value.to_le_bytes()),
            Field::U64(value) => bytes.extend(value.to_le_bytes()),
            Field::Str(text) => {
                let len = u16::try_from(text.len()).expect("a string has at most 64 KiB");
                bytes.extend(len.to_le_bytes());
                bytes.extend(*text);
            }
            Field::Bytes(more) => bytes.extend(*more),
        }
    }
    let len = u32::try_from(bytes.len()).expect("a message has at most 4 GiB");
    bytes.splice(..4, len.to_le_bytes());
    bytes
}
