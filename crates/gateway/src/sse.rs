//! Server-sent events, cut at blank lines, whatever the network makes of them.
//!
//! Lines end with `\n` or `\r\n`; a lone `\r`, which the standard allows and no engine sends, is part of the line.
//! INVARIANT: the events and the rest, joined, are the input, byte for byte.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

/// Longest event; a chunk with log probabilities of many choices takes tens of kilobytes.
pub(crate) const EVENT_MAX_BYTES: usize = 1024 * 1024;

/// An event is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_MAX_BYTES} bytes")]
pub(crate) struct EventTooLong;

/// Bytes that are not yet a whole event.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    pending: BytesMut,
    /// Bytes of `pending` in which no event ends.
    scanned: usize,
    /// Where the line that `scanned` stands in begins.
    line: usize,
}

/// One event as it came, its blank line included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event(pub(crate) Bytes);

impl Parser {
    /// Adds what the network brought.
    pub(crate) fn feed(&mut self, part: &[u8]) {
        self.pending.extend_from_slice(part);
    }

    /// The next whole event.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>, EventTooLong> {
        while let Some(found) = self.pending[self.scanned..].iter().position(|&byte| byte == b'\n') {
            let end = self.scanned + found;
            let blank = matches!(&self.pending[self.line..end], b"" | b"\r");
            self.scanned = end + 1;
            self.line = end + 1;
            if blank {
                let event = self.pending.split_to(self.scanned).freeze();
                self.scanned = 0;
                self.line = 0;
                return Ok(Some(Event(event)));
            }
        }
        self.scanned = self.pending.len();
        if self.scanned > EVENT_MAX_BYTES { Err(EventTooLong) } else { Ok(None) }
    }
}

impl Event {
    /// The `data:` lines joined by line ends; nothing for comments and for bytes that are no text.
    pub(crate) fn data(&self) -> Option<Cow<'_, str>> {
        let text = std::str::from_utf8(&self.0).ok()?;
        let mut lines = text.lines().filter_map(|line| {
            let value = line.strip_prefix("data:")?;
            Some(value.strip_prefix(' ').unwrap_or(value))
        });
        let first = lines.next()?;
        let mut joined = Cow::Borrowed(first);
        for line in lines {
            let text = joined.to_mut();
            text.push('\n');
            text.push_str(line);
        }
        Some(joined)
    }
}

/// Whether a chunk carries something the model wrote. Inside a JSON string these names would have escaped quotes.
pub(crate) fn carries_content(data: &str) -> bool {
    ["\"content\":", "\"text\":", "\"reasoning_content\":", "\"reasoning\":", "\"arguments\":"].iter().any(|name| {
        data.split(name)
            .skip(1)
            .any(|rest| rest.trim_start().strip_prefix('"').is_some_and(|text| !text.starts_with('"')))
    })
}

/// Whether a chunk says why a choice ended.
pub(crate) fn finishes(data: &str) -> bool {
    data.split("\"finish_reason\":").skip(1).any(|rest| rest.trim_start().starts_with('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(parser: &mut Parser) -> Vec<Event> {
        std::iter::from_fn(|| parser.next_event().expect("short events")).collect()
    }

    #[test]
    fn a_chunk_with_an_empty_delta_is_not_content() {
        assert!(!carries_content(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#));
        assert!(!carries_content(r#"{"choices":[{"delta":{"content":null}}]}"#));
        assert!(carries_content(r#"{"choices":[{"delta":{"content": "\"content\":\"\""}}]}"#));
        assert!(!carries_content(r#"{"x":"\"content\":\"a"}"#));
        assert!(carries_content(r#"{"choices":[{"text":""},{"text":"b"}]}"#));
    }

    #[test]
    fn a_chunk_finishes_with_a_reason_and_not_with_words_about_one() {
        assert!(finishes(r#"{"choices":[{"delta":{},"finish_reason": "stop"}]}"#));
        assert!(!finishes(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#));
        assert!(!finishes(r#"{"choices":[{"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason":null}]}"#));
    }

    #[test]
    fn an_event_that_never_ends_is_given_up() {
        let mut parser = Parser::default();
        parser.feed(&vec![b'x'; EVENT_MAX_BYTES]);
        assert_eq!(parser.next_event(), Ok(None));
        parser.feed(b"y");
        assert_eq!(parser.next_event(), Err(EventTooLong));
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_events(
            lines in proptest::collection::vec("(data: ?[a-zé\r]{0,6}|: c|event: x|)(\n|\r\n)", 0..24),
            cuts in proptest::collection::vec(0usize..200, 0..12),
        ) {
            let input = lines.concat().into_bytes();
            let mut whole = Parser::default();
            whole.feed(&input);
            let expected = events(&mut whole);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.push(0);
            cuts.push(input.len());
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                parser.feed(&input[pair[0]..pair[1]]);
                found.extend(events(&mut parser));
            }
            prop_assert_eq!(&found, &expected);
            let mut joined: Vec<u8> = found.iter().flat_map(|event| event.0.to_vec()).collect();
            joined.extend_from_slice(&parser.pending);
            prop_assert_eq!(joined, input);
        }
    }
}
