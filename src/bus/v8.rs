//! V8's serialization as [`Value`]s: what a worker's frame holds, and a frame for a worker.
//!
//! The tags are the `ipc` room's. V8 numbers objects as it meets them, and names one that it meets
//! again by its number. What such a name stands for is read again from where the object lies: so a
//! name costs no memory, and one that leads into itself ends at the depth that values may nest.

use std::borrow::Cow;

use super::value::{Budget, MAX_DEPTH, Pairs, Untranslatable, Value, integer};
use crate::ipc::frame::LENGTH_PREFIX;
use crate::ipc::v8::{Cursor, VERSION, VERSION_DENO, VERSION_TAG, Writer, tag, unzigzag};

/// Reads a whole frame, length prefix and all.
///
/// # Errors
/// It holds what cannot be passed on, or cannot be read.
pub fn read(frame: &[u8]) -> Result<Value<'_>, Untranslatable> {
    let payload = frame.get(LENGTH_PREFIX..).ok_or(Untranslatable::Unreadable)?;
    let [VERSION_TAG, VERSION | VERSION_DENO, rest @ ..] = payload else {
        return Err(Untranslatable::Unreadable);
    };
    let mut reader = Reader {
        cursor: Cursor { rest },
        whole: rest,
        met: Vec::new(),
        next: 0,
        budget: Budget::full(),
    };
    reader.any(0)
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    whole: &'a [u8],
    /// Where each object lies, by its number.
    met: Vec<usize>,
    /// The number of the next one.
    next: usize,
    budget: Budget,
}

type Read<'a> = Result<Value<'a>, Untranslatable>;

impl<'a> Reader<'a> {
    fn any(&mut self, depth: usize) -> Read<'a> {
        let at = self.position();
        let tag = some(self.cursor.tag())?;
        self.value(tag, at, depth)
    }

    fn position(&self) -> usize {
        self.whole.len().saturating_sub(self.cursor.rest.len())
    }

    /// The object that begins at `at` has been met.
    fn meets(&mut self, at: usize) {
        if self.next == self.met.len() {
            self.met.push(at);
        }
        self.next = self.next.saturating_add(1);
    }

    /// What `tag`, which lies at `at` or behind padding there, begins.
    fn value(&mut self, tag: u8, at: usize, depth: usize) -> Read<'a> {
        self.budget.spend()?;
        if depth > MAX_DEPTH {
            return Err(Untranslatable::TooDeep);
        }
        let cursor = &mut self.cursor;
        Ok(match tag {
            tag::UNDEFINED | tag::HOLE => Value::Undefined,
            tag::NULL => Value::Null,
            tag::TRUE => Value::Bool(true),
            tag::FALSE => Value::Bool(false),
            tag::INT32 => Value::Number(super::value::number(unzigzag(some(cursor.varint())?))),
            tag::UINT32 => {
                let number = u32::try_from(some(cursor.varint())?).ok();
                Value::Number(some(number)?.into())
            }
            tag::DOUBLE => Value::Number(f64::from_le_bytes(some(cursor.array())?)),
            tag::LATIN1 | tag::UTF16 | tag::UTF8 => Value::Text(some(cursor.text(tag))?.into_str()),
            tag::BIGINT | tag::BIGINT_OBJECT => return Err(Untranslatable::BigInt),
            tag::VERIFY_OBJECT_COUNT => {
                some(cursor.varint())?;
                return self.any(depth.saturating_add(1));
            }
            tag::REFERENCE => return self.again(depth),
            _ => {
                self.meets(at);
                return self.object(tag, depth);
            }
        })
    }

    /// An object that has been met before.
    fn again(&mut self, depth: usize) -> Read<'a> {
        let id = some(self.cursor.varint().and_then(|id| usize::try_from(id).ok()))?;
        let at = *some(self.met.get(id))?;
        let here = (self.cursor, self.next);
        self.cursor = Cursor { rest: some(self.whole.get(at..))? };
        self.next = id;
        let value = self.any(depth.saturating_add(1))?;
        (self.cursor, self.next) = here;
        Ok(value)
    }

    /// What has a number.
    fn object(&mut self, tag: u8, depth: usize) -> Read<'a> {
        let cursor = &mut self.cursor;
        Ok(match tag {
            tag::BEGIN_OBJECT => {
                let pairs = self.pairs(tag::END_OBJECT, depth)?;
                some(self.cursor.varint())?;
                Value::object(pairs)
            }
            tag::BEGIN_DENSE_ARRAY => return self.dense(depth),
            tag::BEGIN_SPARSE_ARRAY => return self.sparse(depth),
            tag::BEGIN_MAP => {
                self.pass_over(tag::END_MAP, depth)?;
                Value::Object(Pairs::new())
            }
            tag::BEGIN_SET => {
                self.pass_over(tag::END_SET, depth)?;
                Value::Object(Pairs::new())
            }
            tag::BEGIN_ERROR => return self.error(depth),
            tag::DATE => Value::Date(f64::from_le_bytes(some(cursor.array())?)),
            tag::NUMBER_OBJECT => Value::Number(f64::from_le_bytes(some(cursor.array())?)),
            tag::TRUE_OBJECT => Value::Bool(true),
            tag::FALSE_OBJECT => Value::Bool(false),
            tag::STRING_OBJECT => Value::Text(self.text()?),
            tag::REGEXP => {
                self.text()?;
                some(self.cursor.varint())?;
                Value::Object(Pairs::new())
            }
            tag::ARRAY_BUFFER => {
                let length = some(cursor.varint())?;
                let bytes = some(cursor.bytes(length))?;
                return self.view(bytes);
            }
            tag::RESIZABLE_ARRAY_BUFFER => {
                let length = some(cursor.varint())?;
                some(cursor.varint())?;
                let bytes = some(cursor.bytes(length))?;
                return self.view(bytes);
            }
            tag::HOST_OBJECT => return self.host_object(depth),
            _ => return Err(Untranslatable::Unreadable),
        })
    }

    /// Keys and values until the end tag, which is taken.
    fn pairs(&mut self, end: u8, depth: usize) -> Result<Pairs<'a>, Untranslatable> {
        let mut pairs = Pairs::new();
        loop {
            let at = self.position();
            let tag = some(self.cursor.tag())?;
            if tag == end {
                return Ok(pairs);
            }
            let key = match self.value(tag, at, depth.saturating_add(1))? {
                Value::Text(text) => text,
                // Keys that look like the index of an array.
                Value::Number(number) => {
                    Cow::Owned(some(integer(number)).map(|number| number.to_string())?)
                }
                _ => return Err(Untranslatable::Unreadable),
            };
            pairs.push((key, self.any(depth.saturating_add(1))?));
        }
    }

    /// Values until the end tag, and how many there were.
    fn pass_over(&mut self, end: u8, depth: usize) -> Result<(), Untranslatable> {
        loop {
            let at = self.position();
            let tag = some(self.cursor.tag())?;
            if tag == end {
                some(self.cursor.varint())?;
                return Ok(());
            }
            self.value(tag, at, depth.saturating_add(1))?;
        }
    }

    fn dense(&mut self, depth: usize) -> Read<'a> {
        let length = some(self.cursor.varint())?;
        let mut list = Vec::new();
        for _ in 0..length {
            list.push(self.any(depth.saturating_add(1))?);
        }
        // What has a name in a list is in neither of the languages of the bus.
        self.pairs(tag::END_DENSE_ARRAY, depth)?;
        some(self.cursor.varint())?;
        some(self.cursor.varint())?;
        Ok(Value::List(list))
    }

    fn sparse(&mut self, depth: usize) -> Read<'a> {
        let length = some(self.cursor.varint().and_then(|n| usize::try_from(n).ok()))?;
        let mut list = Vec::new();
        let pairs = self.pairs(tag::END_SPARSE_ARRAY, depth)?;
        for (key, value) in pairs {
            let Some(at) = key.parse().ok().filter(|at: &usize| *at < length) else { continue };
            while list.len() <= at {
                self.budget.spend()?;
                list.push(Value::Undefined);
            }
            *some(list.get_mut(at))? = value;
        }
        while list.len() < length {
            self.budget.spend()?;
            list.push(Value::Undefined);
        }
        some(self.cursor.varint())?;
        some(self.cursor.varint())?;
        Ok(Value::List(list))
    }

    fn error(&mut self, depth: usize) -> Read<'a> {
        loop {
            match some(self.cursor.tag())? {
                tag::END_ERROR => return Ok(Value::Object(Pairs::new())),
                tag::ERROR_CAUSE => drop(self.any(depth.saturating_add(1))?),
                tag::ERROR_MESSAGE | tag::ERROR_STACK => drop(self.text()?),
                prototype if tag::ERROR_PROTOTYPES.contains(&prototype) => {}
                _ => return Err(Untranslatable::Unreadable),
            }
        }
    }

    /// A buffer may be followed by the view of it that was meant, which is an object of its own.
    fn view(&mut self, bytes: &'a [u8]) -> Read<'a> {
        let mut ahead = self.cursor;
        if ahead.tag() != Some(tag::ARRAY_BUFFER_VIEW) {
            return Ok(Value::Binary(bytes.into()));
        }
        some(ahead.varint())?; // Which of the typed arrays.
        let offset = some(ahead.varint().and_then(|n| usize::try_from(n).ok()))?;
        let length = some(ahead.varint().and_then(|n| usize::try_from(n).ok()))?;
        some(ahead.varint())?; // Flags.
        let at = self.position();
        self.cursor = ahead;
        self.meets(at);
        let seen = bytes.get(offset..).and_then(|bytes| bytes.get(..length));
        Ok(Value::Binary(some(seen)?.into()))
    }

    /// Node's own extension: a view of a buffer, or some other native object as a plain one.
    fn host_object(&mut self, depth: usize) -> Read<'a> {
        match some(self.cursor.varint())? {
            0 => {
                some(self.cursor.varint())?; // Which of the typed arrays.
                let length = some(self.cursor.varint())?;
                Ok(Value::Binary(some(self.cursor.bytes(length))?.into()))
            }
            1 => self.any(depth.saturating_add(1)),
            _ => Err(Untranslatable::Unreadable),
        }
    }

    /// A string in a place where nothing else may stand.
    fn text(&mut self) -> Result<Cow<'a, str>, Untranslatable> {
        let tag = some(self.cursor.tag())?;
        Ok(some(self.cursor.text(tag))?.into_str())
    }
}

fn some<T>(option: Option<T>) -> Result<T, Untranslatable> {
    option.ok_or(Untranslatable::Unreadable)
}

/// A whole frame with this value, as V8 would write it.
#[must_use]
pub fn write(value: &Value<'_>) -> Vec<u8> {
    let mut writer = Writer { frame: vec![0; LENGTH_PREFIX] };
    writer.frame.extend([VERSION_TAG, VERSION]);
    write_value(&mut writer, value);
    let length = u32::try_from(writer.frame.len().saturating_sub(LENGTH_PREFIX));
    if let Some(prefix) = writer.frame.first_chunk_mut() {
        // What comes from the bus is bounded far below.
        *prefix = length.unwrap_or(u32::MAX).to_be_bytes();
    }
    writer.frame
}

fn write_value(writer: &mut Writer, value: &Value<'_>) {
    match value {
        Value::Undefined => writer.frame.push(tag::UNDEFINED),
        Value::Null => writer.frame.push(tag::NULL),
        Value::Bool(true) => writer.frame.push(tag::TRUE),
        Value::Bool(false) => writer.frame.push(tag::FALSE),
        Value::Number(number) => write_number(writer, *number),
        Value::Text(text) => writer.text(text),
        Value::Date(millis) => {
            writer.frame.push(tag::DATE);
            writer.frame.extend(millis.to_le_bytes());
        }
        Value::Binary(bytes) => {
            // What Node's own layer writes of a Buffer.
            writer.frame.extend([tag::HOST_OBJECT, 0, 10]);
            writer.varint(bytes.len() as u64);
            writer.frame.extend_from_slice(bytes);
        }
        Value::List(list) => {
            writer.frame.push(tag::BEGIN_DENSE_ARRAY);
            writer.varint(list.len() as u64);
            for item in list {
                write_value(writer, item);
            }
            writer.frame.extend([tag::END_DENSE_ARRAY, 0]);
            writer.varint(list.len() as u64);
        }
        Value::Object(pairs) => {
            writer.frame.push(tag::BEGIN_OBJECT);
            for (key, value) in pairs {
                match index(key) {
                    Some(index) => write_number(writer, index.into()),
                    None => writer.text(key),
                }
                write_value(writer, value);
            }
            writer.frame.push(tag::END_OBJECT);
            writer.varint(pairs.len() as u64);
        }
    }
}

fn write_number(writer: &mut Writer, number: f64) {
    // V8 writes a small integer short, and -0 is none.
    let whole = integer(number).filter(|whole| *whole != 0 || number.is_sign_positive());
    match whole.and_then(|whole| i32::try_from(whole).ok()) {
        Some(small) => {
            writer.frame.push(tag::INT32);
            writer.varint(u64::from(((small << 1) ^ (small >> 31)).cast_unsigned()));
        }
        None => {
            writer.frame.push(tag::DOUBLE);
            writer.frame.extend(number.to_le_bytes());
        }
    }
}

/// The index of an array that a key is, as far as V8 writes it as a small integer.
fn index(key: &str) -> Option<i32> {
    let index = key.parse().ok().filter(|index: &i32| *index >= 0)?;
    // "01" and "+1" are names.
    let plain = key.len() == 1 || !key.starts_with(['0', '+']);
    (plain && key.bytes().all(|byte| byte.is_ascii_digit())).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::super::value::testing::Any;
    use super::*;

    fn framed(payload: &[u8]) -> Vec<u8> {
        [&[0; LENGTH_PREFIX], &b"\xff\x0f"[..], payload].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        bolero::check!().with_type::<Any>().for_each(|any| {
            let value = any.value();
            assert_eq!(read(&write(&value)), Ok(value));
        });
    }

    #[test]
    fn an_object_that_is_met_again_stands_there_again() {
        // [a, a, {b: a}] with a = {x: 1}
        let list = b"A\x03o\"\x01xI\x02{\x01^\x01o\"\x01b^\x01{\x01$\0\x03";
        let a = || Value::Object(vec![("x".into(), 1.into())]);
        let b = Value::Object(vec![("b".into(), a())]);
        assert_eq!(read(&framed(list)), Ok(Value::List(vec![a(), a(), b])));
        // Numbers go on where they were: the second name is of the third object.
        let list = b"A\x05o{\0^\x01o\"\x01y_{\x01^\x02T$\0\x05";
        let y = || Value::Object(vec![("y".into(), Value::Undefined)]);
        let none = || Value::Object(vec![]);
        let expected = vec![none(), none(), y(), y(), true.into()];
        assert_eq!(read(&framed(list)), Ok(Value::List(expected)));
    }

    #[test]
    fn what_holds_itself_or_explodes_is_refused() {
        assert_eq!(read(&framed(b"o\"\x04self^\0{\x01")), Err(Untranslatable::TooDeep));
        assert_eq!(read(&framed(b"A\x02^\0^\0$\0\x02")), Err(Untranslatable::TooDeep));
        // a0 = [], a1 = [a0, a0], a2 = [a1, a1] and so on: a million in some hundred bytes.
        let mut bomb = b"A\x20".to_vec();
        bomb.extend(b"A\0$\0\0");
        for id in 1..32 {
            bomb.extend([b'A', 2, b'^', id, b'^', id, b'$', 0, 2]);
        }
        bomb.extend(b"$\0\x20");
        assert_eq!(read(&framed(&bomb)), Err(Untranslatable::TooMany));
        let sparse = [&b"a"[..], &[0xff, 0xff, 0xff, 0xff, 0x0f], b"@\0\0"].concat();
        assert_eq!(read(&framed(&sparse)), Err(Untranslatable::TooMany));
        let deep = [b"A\x01".repeat(1 << 20), b"$\0\x01".repeat(1 << 20)].concat();
        assert_eq!(read(&framed(&deep)), Err(Untranslatable::TooDeep));
        let long = [&b"A"[..], &[0xff, 0xff, 0xff, 0xff, 0x0f], b"T"].concat();
        assert_eq!(read(&framed(&long)), Err(Untranslatable::Unreadable));
        assert_eq!(read(&framed(b"Z\0")), Err(Untranslatable::BigInt));
    }

    #[test]
    fn keys_that_are_indices_are_written_as_v8_does() {
        for (key, number) in [("0", Some(0)), ("17", Some(17)), ("2147483647", Some(i32::MAX))] {
            assert_eq!(index(key), number);
        }
        for name in ["", "01", "-1", "+1", "1.0", "2147483648", " 1", "१"] {
            assert_eq!(index(name), None, "{name}");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let _any = (read(bytes), read(&framed(bytes)));
        });
        bolero::check!().with_type::<(Any, u16, u8)>().for_each(|(any, at, byte)| {
            let mut frame = write(&any.value());
            let at = usize::from(*at) % frame.len();
            frame[at] = *byte;
            let _any = read(&frame);
        });
    }
}
