//! MessagePack, as much as is read here: into values that borrow, bounded in depth and number.

/// Deepest nesting.
const DEPTH_MAX: usize = 16;
/// Most values of one message: a batch of a thousand blocks of 64 tokens has 70,000.
const VALUES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    Bool,
    Integer(i128),
    Float,
    Text(&'a str),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
}

/// Reads one value that is all of `bytes`; nothing when they are anything else.
pub(super) fn read(bytes: &[u8]) -> Option<Value<'_>> {
    let mut reader = Reader { rest: bytes, left: VALUES_MAX };
    let value = reader.value(0)?;
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1).filter(|_| depth < DEPTH_MAX)?;
        let first = self.take(1)?[0];
        match first {
            0x00..=0x7f => Some(Value::Integer(i128::from(first))),
            0x80..=0x8f => self.map(usize::from(first & 0x0f), depth),
            0x90..=0x9f => self.list(usize::from(first & 0x0f), depth),
            0xa0..=0xbf => self.text(usize::from(first & 0x1f)),
            0xc0 => Some(Value::Nil),
            0xc2 | 0xc3 => Some(Value::Bool),
            0xc4..=0xc6 => {
                let length = self.length(1 << (first - 0xc4))?;
                self.take(length).map(Value::Bytes)
            }
            0xca => self.take(4).map(|_| Value::Float),
            0xcb => self.take(8).map(|_| Value::Float),
            0xcc..=0xcf => self.unsigned(1 << (first - 0xcc)).map(|number| Value::Integer(i128::from(number))),
            0xd0..=0xd3 => self.signed(1 << (first - 0xd0)),
            0xd9..=0xdb => {
                let length = self.length(1 << (first - 0xd9))?;
                self.text(length)
            }
            0xdc | 0xdd => {
                let count = self.length(2 << (first - 0xdc))?;
                self.list(count, depth)
            }
            0xde | 0xdf => {
                let count = self.length(2 << (first - 0xde))?;
                self.map(count, depth)
            }
            0xe0..=0xff => Some(Value::Integer(i128::from(first.cast_signed()))),
            // Extensions, and the one byte that is never used.
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => None,
        }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn unsigned(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn signed(&mut self, bytes: usize) -> Option<Value<'a>> {
        let number = self.unsigned(bytes)?;
        let unused = 64 - 8 * u32::try_from(bytes).ok()?;
        Some(Value::Integer(i128::from((number << unused).cast_signed() >> unused)))
    }

    fn length(&mut self, bytes: usize) -> Option<usize> {
        usize::try_from(self.unsigned(bytes)?).ok()
    }

    fn text(&mut self, length: usize) -> Option<Value<'a>> {
        std::str::from_utf8(self.take(length)?).ok().map(Value::Text)
    }

    fn list(&mut self, count: usize, depth: usize) -> Option<Value<'a>> {
        // Each takes a byte at least: a count that lies reserves nothing.
        let mut list = Vec::with_capacity(count.min(self.rest.len()).min(self.left));
        for _ in 0..count {
            list.push(self.value(depth + 1)?);
        }
        Some(Value::List(list))
    }

    fn map(&mut self, count: usize, depth: usize) -> Option<Value<'a>> {
        let mut map = Vec::with_capacity(count.min(self.rest.len()).min(self.left));
        for _ in 0..count {
            map.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        Some(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read() {
        let bytes = [
            &[0xdc, 0, 13, 0x07, 0xff, 0xc0, 0xc3][..],
            &[0xcd, 1, 0, 0xd1, 0xff, 0, 0xcf, 0xff, 0, 0, 0, 0, 0, 0, 1][..],
            &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0xa2, b'h', b'i', 0xd9, 1, b'x', 0xc4, 2, 8, 9],
            &[0x81, 0xa1, b'k', 0x90, 0xdb, 0, 0, 0, 0],
        ]
        .concat();
        let Some(Value::List(all)) = read(&bytes) else { panic!("a list") };
        use Value::{Bool, Bytes, Float, Integer, List, Map, Nil, Text};
        let expected = [
            Integer(7),
            Integer(-1),
            Nil,
            Bool,
            Integer(256),
            Integer(-256),
            Integer(0xff00_0000_0000_0001),
            Float,
            Text("hi"),
            Text("x"),
            Bytes(&[8, 9]),
            Map(vec![(Text("k"), List(vec![]))]),
            Text(""),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn lies_are_refused_and_reserve_nothing() {
        for bytes in [
            &[][..],
            &[0x92, 1],
            &[0xdd, 0xff, 0xff, 0xff, 0xff, 1],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
            &[0xc6, 0xff, 0xff, 0xff, 0xff],
            &[0xa1, 0xff],
            &[1, 2],
            &[0xc1],
            &[0xd4, 1, 1],
            &[0x91; 40],
        ] {
            assert_eq!(read(bytes), None, "{bytes:?}");
        }
    }
}
