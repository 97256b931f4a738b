//! Server-sent events, cut at blank lines, whatever the network makes of them, and the few facts of a chunk that count.
//!
//! Lines end with `\n` or `\r\n`; a lone `\r`, which the standard allows and no engine sends, is part of the line.
//! Nothing here parses JSON: each byte is looked at twice, once for the ends of lines, once for the names of fields.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

/// Longest event; a chunk with log probabilities of many choices takes tens of kilobytes.
pub(crate) const EVENT_MAX_BYTES: usize = 1024 * 1024;

/// An event is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_MAX_BYTES} bytes")]
pub(crate) struct EventTooLong;

/// Looks for the end of an event in bytes that grow.
#[derive(Debug, Default)]
pub(crate) struct Border {
    /// Bytes in which the event does not end.
    scanned: usize,
    /// Where the line that `scanned` stands in begins.
    line: usize,
}

impl Border {
    /// The length of the event at the start of `bytes`, its blank line included; nothing while it is not whole. Asked again,
    /// `bytes` must be the same and more; after an event, what follows it.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, EventTooLong> {
        while let Some(found) = memchr(b'\n', &bytes[self.scanned..]) {
            let end = self.scanned + found;
            let is_blank = matches!(&bytes[self.line..end], b"" | b"\r");
            self.scanned = end + 1;
            self.line = end + 1;
            if is_blank {
                *self = Self::default();
                return Ok(Some(end + 1));
            }
        }
        self.scanned = bytes.len();
        if self.scanned > EVENT_MAX_BYTES { Err(EventTooLong) } else { Ok(None) }
    }
}

/// The `data:` lines of an event joined by line ends; nothing for comments and for bytes that are no text.
pub(crate) fn data(event: &[u8]) -> Option<Cow<'_, str>> {
    // Nearly all: one line.
    if let Some(rest) = event.strip_prefix(b"data:")
        && let Some(end) = memchr(b'\n', rest)
        && matches!(&rest[end..], b"\n\n" | b"\n\r\n")
    {
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        return Some(Cow::Borrowed(value(line.strip_suffix('\r').unwrap_or(line))));
    }
    let text = std::str::from_utf8(event).ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("data:").map(value));
    let first = lines.next()?;
    let mut joined = Cow::Borrowed(first);
    for line in lines {
        let text = joined.to_mut();
        text.push('\n');
        text.push_str(line);
    }
    Some(joined)
}

fn value(text: &str) -> &str {
    text.strip_prefix(' ').unwrap_or(text)
}

/// What a chunk of an answer says, as far as the gateway passes it on, counts it or changes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// It carries something the model wrote.
    pub(crate) has_content: bool,
    /// It says why a choice ended.
    pub(crate) finishes: bool,
    /// It has a field `usage`, be it `null`.
    pub(crate) names_usage: bool,
    /// It has a `usage` that is not `null`.
    pub(crate) has_usage: bool,
    /// It is an error instead of a chunk.
    pub(crate) is_error: bool,
}

/// Reads the facts off a chunk. Inside a JSON string a name would have escaped quotes.
pub(crate) fn facts(data: &str) -> Facts {
    let bytes = data.as_bytes();
    let mut facts = Facts { is_error: is_error(bytes), ..Facts::default() };
    for colon in memchr_iter(b':', bytes) {
        let Some(before) = name_before(&bytes[..colon]) else { continue };
        let after = || bytes[colon + 1..].trim_ascii_start();
        match before.last() {
            Some(b't') => {
                let is_text =
                    [&b"\"content"[..], b"\"text", b"\"reasoning_content"].iter().any(|n| before.ends_with(n));
                facts.has_content |= is_text && is_said(after());
            }
            Some(b'g') => facts.has_content |= before.ends_with(b"\"reasoning") && is_said(after()),
            Some(b's') => facts.has_content |= before.ends_with(b"\"arguments") && is_said(after()),
            Some(b'n') => facts.finishes |= before.ends_with(b"\"finish_reason") && after().starts_with(b"\""),
            Some(b'e') if before.ends_with(b"\"usage") => {
                facts.names_usage = true;
                facts.has_usage |= !after().starts_with(b"null");
            }
            Some(_) | None => {}
        }
    }
    facts
}

/// The bytes up to the end of the name before a colon; nothing inside a text. Blanks between are legal, and hardly sent.
fn name_before(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.last() {
        Some(b'"') => bytes.strip_suffix(b"\""),
        Some(b' ' | b'\t' | b'\n' | b'\r') => bytes.trim_ascii_end().strip_suffix(b"\""),
        Some(_) | None => None,
    }
}

/// Whether the first name of an object is `error`.
fn is_error(bytes: &[u8]) -> bool {
    let object = bytes.trim_ascii_start().strip_prefix(b"{");
    object.is_some_and(|inside| inside.trim_ascii_start().starts_with(b"\"error\""))
}

/// Whether a value is a text that is not empty.
fn is_said(value: &[u8]) -> bool {
    value.first() == Some(&b'"') && value.get(1) != Some(&b'"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn has_content(data: &str) -> bool {
        facts(data).has_content
    }

    #[test]
    fn a_chunk_with_an_empty_delta_is_not_content() {
        assert!(!has_content(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#));
        assert!(!has_content(r#"{"choices":[{"delta":{"content":null}}]}"#));
        assert!(has_content(r#"{"choices":[{"delta":{"content": "\"content\":\"\""}}]}"#));
        assert!(!has_content(r#"{"x":"\"content\":\"a"}"#));
        assert!(has_content(r#"{"choices":[{"text":""},{"text":"b"}]}"#));
        for name in ["text", "reasoning_content", "reasoning", "arguments"] {
            assert!(has_content(&format!(r#"{{"{name}":"b"}}"#)), "{name}");
            assert!(!has_content(&format!(r#"{{"{name}":"","{name}s":"b"}}"#)), "{name}");
        }
    }

    #[test]
    fn a_chunk_finishes_with_a_reason_and_not_with_words_about_one() {
        let finishes = |data: &str| facts(data).finishes;
        assert!(finishes(r#"{"choices":[{"delta":{},"finish_reason": "stop"}]}"#));
        assert!(!finishes(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#));
        assert!(!finishes(r#"{"choices":[{"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason":null}]}"#));
    }

    #[test]
    fn usage_that_is_null_is_named_and_not_there() {
        let usage = |data: &str| (facts(data).names_usage, facts(data).has_usage);
        assert_eq!(usage(r#"{"choices":[],"usage": {"prompt_tokens":1}}"#), (true, true));
        assert_eq!(usage(r#"{"choices":[],"usage": null}"#), (true, false));
        assert_eq!(usage(r#"{"content":"\"usage\":{}"}"#), (false, false));
        assert!(facts(r#"{"error":{"message":"x"}}"#).is_error && !facts(r#"{"x":{"error":1}}"#).is_error);
    }

    #[test]
    fn blanks_where_json_allows_them_change_no_fact() {
        let facts = facts("{ \"choices\" : [ {\"text\" :\t\"x\", \"finish_reason\" : \"stop\"} ], \"usage\"\n: {} }");
        assert!(facts.has_content && facts.finishes && facts.has_usage);
        assert!(super::facts("{ \"error\" : {} }").is_error);
    }

    #[test]
    fn the_data_of_an_event_is_its_data_lines() {
        assert_eq!(data(b"data: {}\n\n").as_deref(), Some("{}"));
        assert_eq!(data(b"data:{}\r\n\r\n").as_deref(), Some("{}"));
        assert_eq!(data(b"event: x\ndata: a\nid: 1\ndata: b\n\n").as_deref(), Some("a\nb"));
        assert_eq!(data(b"data: a\ndata\n\n").as_deref(), Some("a"));
        assert_eq!(data(b": comment\n\n"), None);
        assert_eq!(data(b"data: \xff\n\n"), None);
    }

    #[test]
    fn an_event_that_never_ends_is_given_up() {
        let mut border = Border::default();
        let mut bytes = vec![b'x'; EVENT_MAX_BYTES];
        assert_eq!(border.find(&bytes), Ok(None));
        bytes.push(b'y');
        assert_eq!(border.find(&bytes), Err(EventTooLong));
    }

    proptest! {
        #[test]
        fn any_cut_of_the_bytes_gives_the_same_events(
            lines in proptest::collection::vec("(data: ?[a-zé\r]{0,6}|: c|event: x|)(\n|\r\n)", 0..24),
            cuts in proptest::collection::vec(0usize..200, 0..12),
        ) {
            let input = lines.concat().into_bytes();
            let events = |cuts: &[usize]| {
                let (mut border, mut begin, mut found) = (Border::default(), 0, Vec::new());
                for &cut in cuts {
                    while let Some(length) = border.find(&input[begin..cut]).expect("short events") {
                        found.push(input[begin..begin + length].to_vec());
                        begin += length;
                    }
                }
                (found, begin)
            };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.push(input.len());
            cuts.sort_unstable();
            let (found, begin) = events(&cuts);
            prop_assert_eq!(&found, &events(&[input.len()]).0);
            prop_assert_eq!([found.concat(), input[begin..].to_vec()].concat(), input);
        }

        #[test]
        fn no_text_makes_the_facts_panic(data in "[{}\":,a-z\\\\ é]{0,60}(\"content\"|\"usage\"|\"finish_reason\"|\"arguments\")?: *(null|\"|\"\"|\"a\")?") {
            let facts = facts(&data);
            prop_assert!(facts.names_usage || !facts.has_usage);
        }
    }
}
