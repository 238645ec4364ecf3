//! What a packet carries, between the languages it is written in.
//!
//! A worker speaks V8's serialization or JSON, the bus JSON or MessagePack; whatever comes in one of
//! them is read into a [`Value`] and written in another. What JavaScript has and the others have not
//! becomes what it would become in the official adapter, which hands the same values to
//! `JSON.stringify` and to `@msgpack/msgpack`:
//!
//! | in a worker | JSON on the bus | MessagePack on the bus | in a worker of another host |
//! |---|---|---|---|
//! | undefined in an object | left out | nil | none, null |
//! | undefined in a list, a hole | null | nil | null |
//! | null, true, false, text | itself | itself | itself |
//! | -0 | 0 | 0 | 0 |
//! | NaN, an infinity | null | itself | null, itself |
//! | Date | ISO 8601 text | timestamp | text, Date |
//! | Buffer, typed array, DataView, ArrayBuffer | (makes it MessagePack) | bin | Buffer |
//! | Map, Set, RegExp, Error | {} | {} | {} |
//! | boxed number, text, boolean | what is in the box | the same | the same |
//! | the same object twice | twice | twice | two objects |
//! | half a surrogate pair | U+FFFD | U+FFFD | U+FFFD |
//! | BigInt, an object within itself | the packet stays on this host, counted | the same | |
//!
//! The official adapter differs in three of these, where it loses something: an ArrayBuffer is `{}`
//! there in MessagePack, boxed values are objects in it, and a worker gets a Uint8Array where this
//! makes a Buffer, which is one.
//!
//! Two bounds keep a packet from costing more than it is worth: [`MAX_DEPTH`] and [`MAX_VALUES`].

use std::borrow::Cow;
use std::collections::HashSet;

/// How deep values may nest. The official adapter's MessagePack gives up at the same depth.
pub const MAX_DEPTH: usize = 100;
/// Values in one packet, each place that one object stands at counted: 32 MiB of them in memory.
pub const MAX_VALUES: usize = 1 << 20;

/// A value of JavaScript's that can leave this host, or come to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value<'a> {
    /// No value; a hole in a list.
    #[default]
    Undefined,
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// Milliseconds since 1970.
    Date(f64),
    /// What a buffer holds, or what is seen of it.
    Binary(Cow<'a, [u8]>),
    /// A list.
    List(Vec<Self>),
    /// Keys in their order; no key twice.
    Object(Pairs<'a>),
}

/// The keys of an object, and their values.
pub type Pairs<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// Why a value cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untranslatable {
    /// Neither JSON nor MessagePack has it.
    #[error("a BigInt has no form on the bus")]
    BigInt,
    /// Perhaps an object within itself.
    #[error("values nest deeper than {MAX_DEPTH}, or one holds itself")]
    TooDeep,
    /// There are too many of them.
    #[error("more than {MAX_VALUES} values")]
    TooMany,
    /// It is longer than a worker would be sent.
    #[error("{got} bytes, more than {max}")]
    TooLong {
        /// Its length.
        got: usize,
        /// The bound.
        max: usize,
    },
    /// It is not of the language that it should be of.
    #[error("it cannot be read")]
    Unreadable,
}

/// How many values may still come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) const fn full() -> Self {
        Self(MAX_VALUES)
    }

    /// Spends one.
    pub(super) fn spend(&mut self) -> Result<(), Untranslatable> {
        self.0 = self.0.checked_sub(1).ok_or(Untranslatable::TooMany)?;
        Ok(())
    }
}

impl<'a> Value<'a> {
    /// The value of a key; `Undefined` when it is no object, or has no such key.
    #[must_use]
    pub fn get(&self, key: &str) -> &Self {
        const NONE: &Value<'static> = &Value::Undefined;
        match self {
            Self::Object(pairs) => {
                pairs.iter().find(|(name, _)| name == key).map_or(NONE, |(_, value)| value)
            }
            _ => NONE,
        }
    }

    /// Whether there is any: neither undefined nor null.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        !matches!(self, Self::Undefined | Self::Null)
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its members, if it is a list.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// The number, if it is an integer that JavaScript keeps exact.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Number(number) => integer(*number),
            _ => None,
        }
    }

    /// Whether there is anything in it that JSON has no form for.
    #[must_use]
    pub fn has_binary(&self) -> bool {
        match self {
            Self::Binary(_) => true,
            Self::List(list) => list.iter().any(Self::has_binary),
            Self::Object(pairs) => pairs.iter().any(|(_, value)| value.has_binary()),
            _ => false,
        }
    }

    /// An object of these pairs. Of equal keys the last counts, at the place of the first.
    pub(super) fn object(mut pairs: Pairs<'a>) -> Self {
        /// Keys up to which looking at all of them is quicker than a table.
        const FEW: usize = 8;
        let double = if pairs.len() <= FEW {
            let before = |at| pairs.get(..at).unwrap_or_default();
            pairs.iter().enumerate().any(|(at, (key, _))| before(at).iter().any(|(k, _)| k == key))
        } else {
            let mut seen = HashSet::with_capacity(pairs.len());
            pairs.iter().any(|(key, _)| !seen.insert(key))
        };
        if double {
            let mut places: std::collections::HashMap<Cow<'a, str>, usize> = Default::default();
            let mut single: Pairs<'a> = Vec::with_capacity(pairs.len());
            for (key, value) in pairs {
                match places.get(&key).and_then(|at| single.get_mut(*at)) {
                    Some(place) => place.1 = value,
                    None => {
                        places.insert(key.clone(), single.len());
                        single.push((key, value));
                    }
                }
            }
            pairs = single;
        }
        Self::Object(pairs)
    }
}

/// The integer that a number is, within what JavaScript keeps exact; -0 is 0.
pub(super) fn integer(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked on the line above")]
    Some(number as i64)
}

/// As a number of JavaScript's.
#[expect(clippy::cast_precision_loss, reason = "it is a JavaScript number there anyway")]
pub(super) const fn number(integer: i64) -> f64 {
    integer as f64
}

impl From<bool> for Value<'_> {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<i32> for Value<'_> {
    fn from(int: i32) -> Self {
        Self::Number(int.into())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Values for property tests.

    use super::Value;

    /// A value, without what no language but V8's has.
    #[derive(Clone, Debug, bolero::TypeGenerator)]
    pub(crate) enum Any {
        Null,
        Bool(bool),
        Int(i64),
        Double(f64),
        Text(String),
        Date(i64),
        Binary(Vec<u8>),
        List(#[generator(bolero::generator::produce_with::<Vec<Leaf>>())] Vec<Leaf>),
        Object(Vec<(String, Leaf)>),
    }

    /// A value in a value.
    #[derive(Clone, Debug, bolero::TypeGenerator)]
    pub(crate) enum Leaf {
        Null,
        Int(i32),
        Text(String),
        Binary(Vec<u8>),
        List(Vec<Option<bool>>),
    }

    impl Any {
        pub(crate) fn value(&self) -> Value<'static> {
            match self {
                Self::Null => Value::Null,
                Self::Bool(bool) => Value::Bool(*bool),
                Self::Int(int) => Value::Number(super::number(*int)),
                Self::Double(double) if double.is_finite() => Value::Number(*double),
                Self::Double(_) => Value::Number(0.5),
                Self::Text(text) => Value::Text(text.clone().into()),
                Self::Date(millis) => Value::Date(super::number(millis % 8_640_000_000_000_000)),
                Self::Binary(bytes) => Value::Binary(bytes.clone().into()),
                Self::List(list) => Value::List(list.iter().map(Leaf::value).collect()),
                Self::Object(pairs) => Value::object(
                    pairs.iter().map(|(key, leaf)| (key.clone().into(), leaf.value())).collect(),
                ),
            }
        }
    }

    impl Leaf {
        fn value(&self) -> Value<'static> {
            match self {
                Self::Null => Value::Null,
                Self::Int(int) => Value::from(*int),
                Self::Text(text) => Value::Text(text.clone().into()),
                Self::Binary(bytes) => Value::Binary(bytes.clone().into()),
                Self::List(list) => Value::List(
                    list.iter().map(|item| item.map_or(Value::Null, Value::Bool)).collect(),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_keys_the_last_counts() {
        for many in [2, 20] {
            let mut pairs: Pairs<'_> =
                (0..many).map(|n| (Cow::from(format!("k{n}")), Value::from(n))).collect();
            pairs.push(("k0".into(), true.into()));
            let Value::Object(pairs) = Value::object(pairs) else { panic!("no object") };
            assert_eq!(pairs.len(), usize::try_from(many).expect("small"));
            assert_eq!(pairs[0], ("k0".into(), true.into()));
        }
    }

    #[test]
    fn integers_are_what_javascript_keeps_exact() {
        assert_eq!(integer(-0.0), Some(0));
        assert_eq!(integer(9_007_199_254_740_991.0), Some((1 << 53) - 1));
        for no in [0.5, f64::NAN, f64::INFINITY, 9_007_199_254_740_992.0] {
            assert_eq!(integer(no), None);
        }
    }
}
