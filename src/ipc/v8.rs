//! V8's serialization: a skipper that reads the outermost keys of a value, and a writer.
//!
//! Owns the tags. To find the end of a value the reader must know how long each kind is, but not what
//! it means, and most of the format is simpler that way: an object, an array, a Map are all "values
//! until their end tag", keys among them. So one loop with a stack of awaited end tags walks any
//! nesting without recursing. It refuses what it does not know: after an unknown tag the rest of
//! the frame has no structure, and the value is unreadable.

use super::frame::LENGTH_PREFIX;
use super::reply::HANDLE;
use super::value::{Fields, Scalar, Text, Top, Value};

/// First byte of every serialized value, in front of the version.
pub(crate) const VERSION_TAG: u8 = 0xff;
/// The version Node writes, and the one the router writes: every reader accepts its elders.
pub(crate) const VERSION: u8 = 15;
/// The version Deno writes.
pub(crate) const VERSION_DENO: u8 = 16;

/// How deep a value may nest. V8 itself recurses as it writes, and gives up far earlier.
const MAX_DEPTH: usize = 1 << 16;

pub(crate) mod tag {
    pub(crate) const PADDING: u8 = 0;
    pub(crate) const ARRAY_BUFFER: u8 = b'B';
    pub(crate) const ARRAY_BUFFER_VIEW: u8 = b'V';
    pub(crate) const BEGIN_DENSE_ARRAY: u8 = b'A';
    pub(crate) const BEGIN_ERROR: u8 = b'r';
    pub(crate) const BEGIN_MAP: u8 = b';';
    pub(crate) const BEGIN_OBJECT: u8 = b'o';
    pub(crate) const BEGIN_SET: u8 = b'\'';
    pub(crate) const BEGIN_SPARSE_ARRAY: u8 = b'a';
    pub(crate) const BIGINT: u8 = b'Z';
    pub(crate) const BIGINT_OBJECT: u8 = b'z';
    pub(crate) const DATE: u8 = b'D';
    pub(crate) const DOUBLE: u8 = b'N';
    pub(crate) const END_DENSE_ARRAY: u8 = b'$';
    pub(crate) const END_ERROR: u8 = b'.';
    pub(crate) const END_MAP: u8 = b':';
    pub(crate) const END_OBJECT: u8 = b'{';
    pub(crate) const END_SET: u8 = b',';
    pub(crate) const END_SPARSE_ARRAY: u8 = b'@';
    pub(crate) const FALSE: u8 = b'F';
    pub(crate) const FALSE_OBJECT: u8 = b'x';
    pub(crate) const HOLE: u8 = b'-';
    pub(crate) const HOST_OBJECT: u8 = b'\\';
    pub(crate) const INT32: u8 = b'I';
    pub(crate) const LATIN1: u8 = b'"';
    pub(crate) const NULL: u8 = b'0';
    pub(crate) const NUMBER_OBJECT: u8 = b'n';
    pub(crate) const REFERENCE: u8 = b'^';
    pub(crate) const REGEXP: u8 = b'R';
    pub(crate) const RESIZABLE_ARRAY_BUFFER: u8 = b'~';
    pub(crate) const SHARED_ARRAY_BUFFER: u8 = b'u';
    pub(crate) const STRING_OBJECT: u8 = b's';
    pub(crate) const TRANSFERRED_ARRAY_BUFFER: u8 = b't';
    pub(crate) const TRUE: u8 = b'T';
    pub(crate) const TRUE_OBJECT: u8 = b'y';
    pub(crate) const UINT32: u8 = b'U';
    pub(crate) const UNDEFINED: u8 = b'_';
    pub(crate) const UTF16: u8 = b'c';
    pub(crate) const UTF8: u8 = b'S';
    pub(crate) const VERIFY_OBJECT_COUNT: u8 = b'?';

    // Within an error only, where bytes have other meanings.
    pub(crate) const ERROR_CAUSE: u8 = b'c';
    pub(crate) const ERROR_MESSAGE: u8 = b'm';
    pub(crate) const ERROR_STACK: u8 = b's';
    /// EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError.
    pub(crate) const ERROR_PROTOTYPES: &[u8] = b"ERFSTU";
}

/// What a payload (without its length prefix) says at the top; None when it cannot be read.
pub(super) fn read(payload: &[u8]) -> Option<Top<'_>> {
    let [VERSION_TAG, VERSION | VERSION_DENO, rest @ ..] = payload else { return None };
    let mut cursor = Cursor { rest };
    let first = cursor.tag()?;
    if first != tag::BEGIN_OBJECT {
        return Some(match cursor.scalar(first)? {
            Scalar::Text(text) => Top::Text(text),
            _ => Top::Opaque,
        });
    }
    let mut fields = Box::<Fields<'_>>::default();
    loop {
        match cursor.field(&mut fields) {
            Some(true) => {}
            Some(false) => return Some(Top::Object(fields)),
            // A socket comes with it, and a worker without an answer never sends anything again: a
            // value of the application's that some later V8 writes is no reason to let it wait.
            None => return fields.cmd.is(HANDLE).then_some(Top::Object(fields)),
        }
    }
}

/// Whether `bytes` are one string, to their last byte.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let mut cursor = Cursor { rest: bytes };
    cursor.skip_text().is_some() && cursor.rest.is_empty()
}

/// What is left of a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    pub(crate) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// One key of an object, and its value; false at the object's end.
    fn field(&mut self, fields: &mut Fields<'a>) -> Option<bool> {
        let tag = self.tag()?;
        if tag == tag::END_OBJECT {
            return Some(false);
        }
        let key = self.scalar(tag)?;
        let tag = self.tag()?;
        let value = self.scalar(tag)?;
        // A key that looks like an array index is a number, and none that is looked for.
        if let Scalar::Text(key) = key {
            fields.set(&key, value);
        }
        Some(true)
    }

    /// The value that `tag` begins: itself if it is a scalar, otherwise passed over.
    fn scalar(&mut self, tag: u8) -> Option<Scalar<'a>> {
        Some(match tag {
            tag::UNDEFINED | tag::NULL => Scalar::Absent,
            tag::TRUE => Scalar::Bool(true),
            tag::FALSE => Scalar::Bool(false),
            tag::INT32 => Scalar::integer(unzigzag(self.varint()?)),
            tag::UINT32 => Scalar::integer(i64::try_from(self.varint()?).ok()?),
            tag::DOUBLE => Scalar::number(f64::from_le_bytes(self.array()?)),
            tag::LATIN1 | tag::UTF16 | tag::UTF8 => Scalar::Text(self.text(tag)?),
            _ => {
                self.skip(tag)?;
                Scalar::Opaque
            }
        })
    }

    pub(crate) fn text(&mut self, tag: u8) -> Option<Text<'a>> {
        if !matches!(tag, tag::LATIN1 | tag::UTF16 | tag::UTF8) {
            return None;
        }
        let length = self.varint()?;
        let bytes = self.bytes(length)?;
        Some(match tag {
            tag::LATIN1 => Text::Latin1(bytes),
            tag::UTF16 => Text::Utf16(bytes),
            _ => Text::Utf8(String::from_utf8_lossy(bytes)),
        })
    }

    /// Passes over the value that `tag` begins, however deep it nests.
    fn skip(&mut self, mut tag: u8) -> Option<()> {
        // The end tags awaited, innermost last.
        let mut open: Vec<u8> = Vec::new();
        // Whether a value must follow, even where an end tag could: behind a prefix.
        let mut owed = false;
        loop {
            if !owed && open.last() == Some(&tag) {
                open.pop();
                self.end(tag)?;
            } else if !owed && open.last() == Some(&tag::END_ERROR) {
                owed = self.error_part(tag)?;
            } else {
                let (prefix, end) = match self.value(tag)? {
                    Step::Whole => (false, None),
                    Step::Prefix => (true, None),
                    Step::Open(end) => (false, Some(end)),
                };
                owed = prefix;
                open.extend(end);
                if open.len() > MAX_DEPTH {
                    return None;
                }
            }
            if !owed && open.is_empty() {
                return Some(());
            }
            tag = self.tag()?;
        }
    }

    /// One value, or its beginning.
    fn value(&mut self, tag: u8) -> Option<Step> {
        match tag {
            tag::UNDEFINED
            | tag::NULL
            | tag::TRUE
            | tag::FALSE
            | tag::TRUE_OBJECT
            | tag::FALSE_OBJECT
            | tag::HOLE => {}
            tag::INT32 | tag::UINT32 => drop(self.varint()?),
            tag::DOUBLE | tag::DATE | tag::NUMBER_OBJECT => drop(self.array::<8>()?),
            tag::BIGINT | tag::BIGINT_OBJECT => {
                // Bit 0 is the sign, the rest the number of bytes.
                let length = self.varint()? >> 1;
                self.bytes(length)?;
            }
            tag::LATIN1 | tag::UTF16 | tag::UTF8 => {
                let length = self.varint()?;
                self.bytes(length)?;
            }
            tag::STRING_OBJECT => self.skip_text()?,
            tag::REGEXP => {
                self.skip_text()?;
                self.varint()?;
            }
            tag::REFERENCE | tag::TRANSFERRED_ARRAY_BUFFER | tag::SHARED_ARRAY_BUFFER => {
                self.varint()?;
                self.skip_view()?;
            }
            tag::ARRAY_BUFFER => {
                let length = self.varint()?;
                self.bytes(length)?;
                self.skip_view()?;
            }
            tag::RESIZABLE_ARRAY_BUFFER => {
                let length = self.varint()?;
                self.varint()?;
                self.bytes(length)?;
                self.skip_view()?;
            }
            tag::HOST_OBJECT => return self.host_object(),
            tag::VERIFY_OBJECT_COUNT => {
                self.varint()?;
                return Some(Step::Prefix);
            }
            tag::BEGIN_OBJECT => return Some(Step::Open(tag::END_OBJECT)),
            tag::BEGIN_MAP => return Some(Step::Open(tag::END_MAP)),
            tag::BEGIN_SET => return Some(Step::Open(tag::END_SET)),
            tag::BEGIN_ERROR => return Some(Step::Open(tag::END_ERROR)),
            tag::BEGIN_DENSE_ARRAY => {
                self.varint()?;
                return Some(Step::Open(tag::END_DENSE_ARRAY));
            }
            tag::BEGIN_SPARSE_ARRAY => {
                self.varint()?;
                return Some(Step::Open(tag::END_SPARSE_ARRAY));
            }
            _ => return None,
        }
        Some(Step::Whole)
    }

    /// What stands behind an end tag: the count of what was written.
    fn end(&mut self, tag: u8) -> Option<()> {
        match tag {
            tag::END_ERROR => {}
            tag::END_DENSE_ARRAY | tag::END_SPARSE_ARRAY => {
                self.varint()?;
                self.varint()?;
            }
            _ => drop(self.varint()?),
        }
        Some(())
    }

    /// One part of an error; whether a value (its cause) must follow.
    fn error_part(&mut self, part: u8) -> Option<bool> {
        match part {
            tag::ERROR_CAUSE => return Some(true),
            tag::ERROR_MESSAGE | tag::ERROR_STACK => self.skip_text()?,
            prototype if tag::ERROR_PROTOTYPES.contains(&prototype) => {}
            _ => return None,
        }
        Some(false)
    }

    /// Node's own extension: a view of a buffer, or some other native object as a plain one.
    fn host_object(&mut self) -> Option<Step> {
        const VIEW: u64 = 0;
        const PLAIN_OBJECT: u64 = 1;
        match self.varint()? {
            VIEW => {
                self.varint()?; // Which of the typed arrays.
                let length = self.varint()?;
                self.bytes(length)?;
                Some(Step::Whole)
            }
            PLAIN_OBJECT => Some(Step::Prefix),
            _ => None,
        }
    }

    /// A buffer may be followed by the view of it that was meant.
    fn skip_view(&mut self) -> Option<()> {
        let mut ahead = Cursor { rest: self.rest };
        if ahead.tag() == Some(tag::ARRAY_BUFFER_VIEW) {
            for _ in ["kind", "offset", "length", "flags"] {
                ahead.varint()?;
            }
            self.rest = ahead.rest;
        }
        Some(())
    }

    /// A string in a place where nothing else may stand.
    fn skip_text(&mut self) -> Option<()> {
        let tag = self.tag()?;
        if !matches!(tag, tag::LATIN1 | tag::UTF16 | tag::UTF8) {
            return None;
        }
        let length = self.varint()?;
        self.bytes(length)?;
        Some(())
    }

    pub(crate) fn tag(&mut self) -> Option<u8> {
        loop {
            let (tag, rest) = self.rest.split_first()?;
            self.rest = rest;
            if *tag != tag::PADDING {
                return Some(*tag);
            }
        }
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        const LONGEST: u32 = 9; // bytes: 63 bits, more than V8 ever writes
        let mut value = 0;
        for at in 0..LONGEST {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << at.saturating_mul(7);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }
}

enum Step {
    /// A whole value.
    Whole,
    /// Something in front of a value.
    Prefix,
    /// Values until this end tag.
    Open(u8),
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    let magnitude = (value >> 1).cast_signed();
    if value & 1 == 0 { magnitude } else { !magnitude }
}

/// A whole frame: length prefix and payload. Writes what V8 would, byte for byte.
pub(super) fn write(value: &Value<'_>) -> Vec<u8> {
    let mut writer = Writer { frame: vec![0; LENGTH_PREFIX] };
    writer.frame.extend([VERSION_TAG, VERSION]);
    writer.value(value);
    let length = u32::try_from(writer.frame.len().saturating_sub(LENGTH_PREFIX));
    if let Some(prefix) = writer.frame.first_chunk_mut() {
        // The router's own messages have some hundred bytes; the reader refuses what is cut short.
        *prefix = length.unwrap_or(u32::MAX).to_be_bytes();
    }
    writer.frame
}

/// A frame as it is written.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) frame: Vec<u8>,
}

impl Writer {
    fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Null => self.frame.push(tag::NULL),
            Value::Int(int) => self.int(*int),
            Value::Text(text) => self.text(text),
            Value::Object(pairs) => {
                self.frame.push(tag::BEGIN_OBJECT);
                for (key, value) in *pairs {
                    self.text(key);
                    self.value(value);
                }
                self.frame.push(tag::END_OBJECT);
                self.varint(pairs.len() as u64);
            }
        }
    }

    fn int(&mut self, int: i64) {
        if i32::try_from(int).is_ok() {
            self.frame.push(tag::INT32);
            self.varint(((int << 1) ^ (int >> 63)).cast_unsigned());
        } else {
            self.frame.push(tag::DOUBLE);
            #[expect(
                clippy::cast_precision_loss,
                reason = "it is a JavaScript number there anyway"
            )]
            self.frame.extend((int as f64).to_le_bytes());
        }
    }

    pub(crate) fn text(&mut self, text: &str) {
        if text.is_ascii() {
            self.frame.push(tag::LATIN1);
            self.varint(text.len() as u64);
            self.frame.extend(text.as_bytes());
        } else if let Some(latin1) =
            text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<Vec<u8>>>()
        {
            self.frame.push(tag::LATIN1);
            self.varint(latin1.len() as u64);
            self.frame.extend(latin1);
        } else {
            let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            // The reader maps the units where they lie, so they must lie on an even offset. The
            // length prefix is even, so that counting from its start is counting from the payload's.
            let mut length = Self { frame: Vec::new() };
            length.varint(bytes.len() as u64);
            let units_at = self.frame.len().saturating_add(1).saturating_add(length.frame.len());
            if units_at % 2 == 1 {
                self.frame.push(tag::PADDING);
            }
            self.frame.push(tag::UTF16);
            self.frame.extend(length.frame);
            self.frame.extend(bytes);
        }
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                return self.frame.push(low & 0x7f);
            }
            self.frame.push(low | 0x80);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::javascript::{Js, send, unhex};
    use super::*;
    use crate::ipc::Serialization::Advanced;

    /// The payload of a frame whose length prefix is right.
    fn payload(frame: &[u8]) -> &[u8] {
        let (prefix, payload) = frame.split_first_chunk().unwrap();
        assert_eq!(usize::try_from(u32::from_be_bytes(*prefix)).unwrap(), payload.len());
        payload
    }

    fn fields(payload: &[u8]) -> Option<Box<Fields<'_>>> {
        match read(payload) {
            Some(Top::Object(fields)) => Some(fields),
            _ => None,
        }
    }

    /// The frames a Node worker wrote, one for each kind of value.
    fn corpus() -> Vec<Vec<u8>> {
        let lines = include_str!("every_value.hex").lines().filter(|line| !line.starts_with('#'));
        lines.map(unhex).collect()
    }

    #[test]
    fn a_value_of_any_kind_ends_where_the_next_key_begins() {
        let mut objects = 0;
        for frame in corpus() {
            let payload = payload(&frame);
            // Node's other top-level values.
            if !payload.starts_with(b"\xff\x0fo\"\x06before") {
                assert!(matches!(read(payload), Some(Top::Opaque | Top::Text(_))), "{payload:x?}");
                continue;
            }
            objects += 1;
            let fields = fields(payload).unwrap_or_else(|| panic!("unreadable: {payload:x?}"));
            assert!(fields.kind.is("sticky:connection"), "{payload:x?}");
            let sid = fields.data.string().unwrap();
            let name = &payload[b"\xff\x0fo\"\x06before\"?".len()..];
            assert!(name.starts_with(sid.strip_prefix("end-").unwrap().as_bytes()), "{sid}");
        }
        assert!(objects > 50, "{objects}");
    }

    #[test]
    fn a_frame_that_is_cut_short_is_unreadable() {
        for frame in corpus() {
            let payload = payload(&frame);
            // An object's count at the end is the only thing that nothing depends on.
            let least = payload.len() - usize::from(payload.ends_with(b"{\x04"));
            for cut in 0..least {
                assert_eq!(read(&payload[..cut]), None, "{cut} of {payload:x?}");
            }
        }
    }

    #[test]
    fn a_tag_that_nobody_knows_hides_the_rest() {
        for tag in (0..=u8::MAX).filter(|tag| !tag.is_ascii_graphic() && *tag != tag::PADDING) {
            let head = b"\xff\x0fo\"\x04type\"\x11sticky:connection\"\x01v".as_slice();
            assert_eq!(read(&[head, &[tag], b"\"\x04data\"\x01a{\x03"].concat()), None);
        }
        // A host object of a kind that Node does not have, an error with a part V8's do not have.
        for value in ["5c02 00", "5c", "7271", "7b", "2e", "24 00 00", "3f"] {
            let value = unhex(value);
            assert_eq!(read(&[b"\xff\x0fo\"\x01v", &value[..], b"{\x01"].concat()), None);
        }
    }

    #[test]
    fn the_socket_is_known_even_when_its_message_is_not() {
        let head = b"\xff\x0fo\"\x03cmd\"\x0bNODE_HANDLE\"\x04type\"\x0anet.Socket\"\x03msg\x99";
        assert!(fields(head).unwrap().cmd.is("NODE_HANDLE"));
        let ack = b"\xff\x0fo\"\x03cmd\"\x0fNODE_HANDLE_ACK\"\x03msg\x99";
        assert_eq!(fields(ack), None);
    }

    #[test]
    fn versions() {
        for version in 0..=u8::MAX {
            let readable = read(&[VERSION_TAG, version, tag::NULL]).is_some();
            assert_eq!(readable, version == VERSION || version == VERSION_DENO, "{version}");
        }
        assert_eq!(read(b""), None);
        assert_eq!(read(b"\xff"), None);
        assert_eq!(read(b"\xff\x0f"), None);
        assert_eq!(read(b"\xff\xff\x0f0"), None);
    }

    #[test]
    fn numbers() {
        let cases = [
            ("4900", Scalar::Int(0)),
            ("4901", Scalar::Int(-1)),
            ("490a", Scalar::Int(5)),
            ("49feffffff0f", Scalar::Int(i64::from(i32::MAX))),
            ("49ffffffff0f", Scalar::Int(i64::from(i32::MIN))),
            ("5580d0acf30e", Scalar::Int(4_000_000_000)),
            ("4e0000000065cded41", Scalar::Int(4_000_000_000)),
            ("4e000000000000f83f", Scalar::Opaque),
            ("5500", Scalar::Int(0)),
            // More than JavaScript has.
            ("55ffffffffffffffff7f", Scalar::Opaque),
            ("49ffffffffffffffff7f", Scalar::Opaque),
            ("5f", Scalar::Absent),
            ("30", Scalar::Absent),
            ("54", Scalar::Bool(true)),
            ("46", Scalar::Bool(false)),
        ];
        for (hex, expected) in cases {
            let frame = [b"\xff\x0fo\"\x03seq", &unhex(hex)[..], b"{\x01"].concat();
            assert_eq!(fields(&frame).unwrap().seq, expected, "{hex}");
        }
        // A varint that does not end.
        let frame = [b"\xff\x0fo\"\x03seqU", &[0x80; 12][..], b"\x01{\x01"].concat();
        assert_eq!(fields(&frame), None);
    }

    #[test]
    fn strings_of_either_width_and_their_padding() {
        let cases = [
            ("ff0f6f 22 01 61 63 02 ac20 7b01", "a"),
            ("ff0f6f 22 02 6161 00 63 02 ac20 7b01", "aa"),
        ];
        for (hex, key) in cases {
            assert_eq!(write(&Value::Object(&[(key, Value::Text("€"))]))[4..], unhex(hex)[..]);
            assert!(fields(&unhex(hex)).is_some());
        }
        let frame = unhex("ff0f6f 22 04 64617461 00 00 63 04 3dd8 00de 7b01");
        assert_eq!(fields(&frame).unwrap().data.string().as_deref(), Some("😀"));
        let frame = unhex("ff0f6f 22 04 64617461 53 03 e282ac 7b01");
        assert_eq!(fields(&frame).unwrap().data.string().as_deref(), Some("€"));
        // An odd number of bytes has half a unit too many, and half a unit is nothing.
        let frame = unhex("ff0f6f 22 04 64617461 63 03 ac20 ac 7b01");
        assert_eq!(fields(&frame).unwrap().data.string().as_deref(), Some("€"));
        assert_eq!(read(&unhex("ff0f 22 05 7265616479")), Some(Top::Text(Text::Latin1(b"ready"))));
    }

    #[test]
    fn buffers_of_node() {
        let frame = unhex("ff0f6f 22 04 64617461 5c 00 0a 03 010203 22 04 74797065 49 06 7b02");
        let fields = fields(&frame).unwrap();
        assert_eq!((&fields.data, fields.kind.int()), (&Scalar::Opaque, Some(3)));
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_index_keys_do_not() {
        let frame = unhex("ff0f6f 22 03 736571 49 02 49 00 22 01 78 22 03 736571 49 04 7b03");
        assert_eq!(fields(&frame).unwrap().seq, Scalar::Int(2));
    }

    #[test]
    fn a_hostile_depth_costs_neither_stack_nor_time() {
        for open in [&b"o\"\0"[..], b"A\x01", b";", b"'", b"\\\x01", b"?\0", b"rc"] {
            let payload = [b"\xff\x0fo\"\x01a", open.repeat(1 << 20).as_slice()].concat();
            assert_eq!(read(&payload), None);
        }
        // What is deep but within the bound ends where it should.
        let deep = [b"A\x01".repeat(MAX_DEPTH), b"$\0\x01".repeat(MAX_DEPTH)].concat();
        let payload = [b"\xff\x0fo\"\x01a", &deep[..], b"\"\x03seqI\x04{\x02"].concat();
        assert_eq!(fields(&payload).unwrap().seq, Scalar::Int(2));
    }

    #[test]
    fn lengths_beyond_the_frame_are_refused() {
        for tag in [b"\"", b"c", b"S", b"B", b"Z", b"z"] {
            let endless = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..];
            for length in [endless, &[0xff, 0xff, 0xff, 0xff, 0x0f], &[9]] {
                let payload = [b"\xff\x0fo\"\x01a", &tag[..], length, b"x{\x01"].concat();
                assert_eq!(read(&payload), None);
            }
        }
    }

    #[test]
    fn the_writer_writes_what_the_test_writer_writes() {
        bolero::check!().with_type::<(i32, String)>().for_each(|(int, text)| {
            let value = [
                ("cmd", Value::Text(text)),
                ("ü", Value::Int((*int).into())),
                ("€", Value::Null),
                ("msg", Value::Object(&[("t", Value::Text(text))])),
            ];
            let written = write(&Value::Object(&value));
            let inner = super::super::javascript::Leaf::Text(text.clone());
            let message = [
                ("cmd", Js::Text(text.clone())),
                ("ü", Js::Int(*int)),
                ("€", Js::Null),
                ("msg", Js::Object(vec![("t".to_owned(), inner)])),
            ];
            assert_eq!(written, send(Advanced, &message));
            let fields = fields(payload(&written)).unwrap();
            assert_eq!(fields.cmd.string().as_ref(), Some(text));
        });
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            read(bytes);
            read(&[&[VERSION_TAG, VERSION][..], bytes].concat());
            read(&[b"\xff\x0fo\"\x01a", &bytes[..]].concat());
        });
    }

    #[test]
    fn any_change_to_a_real_frame_is_survived() {
        let corpus = corpus();
        bolero::check!().with_type::<(u8, u16, u8, u16, u8)>().for_each(|(which, a, x, b, y)| {
            let mut frame = corpus[usize::from(*which) % corpus.len()].clone();
            let length = frame.len();
            frame[usize::from(*a) % length] = *x;
            frame[usize::from(*b) % length] ^= *y;
            read(&frame[LENGTH_PREFIX..]);
        });
    }
}
