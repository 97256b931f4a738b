//! A request's body for a replica in the pieces that make it up, so that a prompt of megabytes is not copied to rename its
//! model: what the gateway writes is copied, what the caller wrote stays where it was read.

use bytes::{BufMut as _, Bytes, BytesMut};

/// Shorter values are copied: a piece of its own costs about as much as copying this much.
const COPIED_BELOW_BYTES: usize = 1024;

/// A body in pieces; written in one go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Segments {
    parts: Vec<Bytes>,
    length: usize,
}

impl Segments {
    /// Its pieces, in order, none empty.
    pub(crate) fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// Bytes of all pieces together.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.length += part.len();
            self.parts.push(part);
        }
    }
}

impl From<Vec<u8>> for Segments {
    fn from(bytes: Vec<u8>) -> Self {
        let mut segments = Self::default();
        segments.push(bytes.into());
        segments
    }
}

/// Writes a JSON object from values that are JSON already, most of them parts of `source`.
pub(crate) struct SegmentWriter<'a> {
    source: &'a Bytes,
    /// What was written since the last piece.
    open: BytesMut,
    done: Segments,
    is_first: bool,
}

impl<'a> SegmentWriter<'a> {
    /// `source` is the body that the caller sent.
    pub(crate) fn new(source: &'a Bytes) -> Self {
        let mut open = BytesMut::with_capacity(source.len().min(COPIED_BELOW_BYTES) + 256);
        open.put_u8(b'{');
        Self { source, open, done: Segments::default(), is_first: true }
    }

    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        if !std::mem::take(&mut self.is_first) {
            self.open.put_u8(b',');
        }
        serde_json::to_writer((&mut self.open).writer(), name).expect("texts serialise into memory");
        self.open.put_u8(b':');
        match self.in_source(json) {
            Some(part) if part.len() >= COPIED_BELOW_BYTES => {
                self.done.push(self.open.split().freeze());
                self.done.push(part);
            }
            Some(_) | None => self.open.extend_from_slice(json.as_bytes()),
        }
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) {
        let json = serde_json::to_string(text).expect("texts serialise into memory");
        self.raw(name, &json);
    }

    pub(crate) fn finish(mut self) -> Segments {
        self.open.put_u8(b'}');
        self.done.push(self.open.freeze());
        self.done
    }

    /// `json` as a part of the source; nothing when it was made elsewhere.
    fn in_source(&self, json: &str) -> Option<Bytes> {
        let at = json.as_ptr().addr().checked_sub(self.source.as_ptr().addr())?;
        let end = at.checked_add(json.len())?;
        (end <= self.source.len()).then(|| self.source.slice(at..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(segments: &Segments) -> String {
        assert_eq!(segments.length(), segments.parts().iter().map(Bytes::len).sum::<usize>());
        String::from_utf8(segments.parts().concat()).expect("text")
    }

    #[test]
    fn long_values_stay_where_they_are_and_short_ones_are_copied() {
        let long = format!("\"{}\"", "x".repeat(COPIED_BELOW_BYTES));
        let source = Bytes::from(format!("{{\"a\":1,\"long\":{long},\"b\":true}}"));
        let text = std::str::from_utf8(&source).expect("text");
        let at = text.find(&long).expect("in it");
        let mut writer = SegmentWriter::new(&source);
        writer.text("model", "w\"");
        writer.raw("a", &text[5..6]);
        writer.raw("long", &text[at..at + long.len()]);
        writer.raw("b", "true");
        let segments = writer.finish();
        assert_eq!(joined(&segments), format!("{{\"model\":\"w\\\"\",\"a\":1,\"long\":{long},\"b\":true}}"));
        assert_eq!(segments.parts().len(), 3);
        assert_eq!(segments.parts()[1].as_ptr(), source[at..].as_ptr(), "not copied");
    }

    #[test]
    fn a_long_value_that_is_not_of_the_source_is_copied() {
        let source = Bytes::from_static(b"{}");
        let long = format!("\"{}\"", "y".repeat(COPIED_BELOW_BYTES));
        let mut writer = SegmentWriter::new(&source);
        writer.raw("long", &long);
        let segments = writer.finish();
        assert_eq!(joined(&segments), format!("{{\"long\":{long}}}"));
        assert_eq!(segments.parts().len(), 1);
        assert_eq!(joined(&SegmentWriter::new(&source).finish()), "{}");
    }
}
