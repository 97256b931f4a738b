//! From token pieces to text: whole characters only, and nothing of a stop string.
//! INVARIANT: what was handed out is a prefix of the final text, however the pieces were cut.

/// Turns pieces of bytes into text and watches for stop strings across their borders.
#[derive(Debug)]
pub(crate) struct TextStream {
    bytes: Vec<u8>,
    held: String,
    stops: Vec<String>,
    /// Stop strings count; before, the text passes.
    is_watching: bool,
}

/// What one piece brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Emitted {
    /// Text that can be handed out now; may be empty.
    Text(String),
    /// The last text: a stop string was met right after it.
    Stopped(String),
}

impl TextStream {
    #[must_use]
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { bytes: Vec::new(), held: String::new(), stops, is_watching: true }
    }

    /// From here on stop strings count, or do not.
    pub(crate) fn watch(&mut self, is_watching: bool) {
        self.is_watching = is_watching;
    }

    /// Bytes that were taken and not handed out.
    pub(crate) fn held(&self) -> usize {
        self.held.len() + self.bytes.len()
    }

    /// Takes the bytes of one token.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Emitted {
        self.bytes.extend_from_slice(piece);
        let text = take_whole_characters(&mut self.bytes);
        self.emit(&text)
    }

    /// Ends the text: what was held back is handed out, a broken last character as U+FFFD.
    pub(crate) fn finish(&mut self) -> Emitted {
        let rest = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        match self.emit(&rest) {
            Emitted::Text(mut text) => {
                text.push_str(&std::mem::take(&mut self.held));
                Emitted::Text(text)
            }
            stopped @ Emitted::Stopped(_) => stopped,
        }
    }

    fn emit(&mut self, text: &str) -> Emitted {
        if self.stops.is_empty() || !self.is_watching {
            return Emitted::Text(text.to_owned());
        }
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let mut last = std::mem::take(&mut self.held);
            last.truncate(at);
            // Half a character that came with the stop string came after it.
            self.bytes.clear();
            return Emitted::Stopped(last);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Emitted::Text(std::mem::replace(&mut self.held, rest))
    }
}

/// Removes the longest run of whole characters; bytes that can never become one turn into U+FFFD.
fn take_whole_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let broken = chunk.invalid();
        let may_continue = done + broken.len() == bytes.len() && is_incomplete(broken);
        if !broken.is_empty() && !may_continue {
            text.push(char::REPLACEMENT_CHARACTER);
            done += broken.len();
        }
    }
    bytes.drain(..done);
    text
}

/// Whether these bytes are the beginning of a character whose end has not come yet.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Length of the longest end of `text` with which `stop` begins, without being complete.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| {
            text.is_char_boundary(text.len() - n) && stop.as_bytes().starts_with(&text.as_bytes()[text.len() - n..])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (String, bool) {
        let mut stream = TextStream::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            match stream.push(piece) {
                Emitted::Text(text) => out.push_str(&text),
                Emitted::Stopped(text) => return (out + &text, true),
            }
        }
        match stream.finish() {
            Emitted::Text(text) => (out + &text, false),
            Emitted::Stopped(text) => (out + &text, true),
        }
    }

    #[test]
    fn a_character_cut_between_tokens_arrives_whole() {
        assert_eq!(run(&[], &[b"caf\xc3", b"\xa9 \xf0\x9f", b"\x98\x80"]), ("café 😀".into(), false));
    }

    #[test]
    fn a_broken_character_becomes_a_replacement() {
        assert_eq!(run(&[], &[b"a\xff", b"b\xc3"]), ("a\u{fffd}b\u{fffd}".into(), false));
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_shown() {
        assert_eq!(run(&["STOP"], &[b"go S", b"TO", b"P on"]), ("go ".into(), true));
        assert_eq!(run(&["STOP"], &[b"go S", b"TO", b"RE"]), ("go STORE".into(), false));
    }

    #[test]
    fn nothing_comes_after_a_stop_string_not_even_half_a_character() {
        let mut stream = TextStream::new(vec!["STOP".into()]);
        assert_eq!(stream.push(b"go STOP\xc3"), Emitted::Stopped("go ".into()));
        assert_eq!(stream.finish(), Emitted::Text(String::new()));
    }

    #[test]
    fn a_stop_string_counts_from_where_it_is_watched_for() {
        let mut stream = TextStream::new(vec!["b".into()]);
        stream.watch(false);
        assert_eq!(stream.push(b"ab"), Emitted::Text("ab".into()));
        stream.watch(true);
        assert_eq!(stream.push(b"cb"), Emitted::Stopped("c".into()));
    }

    #[test]
    fn the_earliest_stop_string_wins() {
        assert_eq!(run(&["b", "ab"], &[b"xab"]), ("x".into(), true));
    }

    proptest! {
        #[test]
        fn cuts_do_not_change_the_text(text in ".{0,40}", cuts in prop::collection::vec(1_usize..5, 0..40), stop in "[a-c]{1,3}") {
            let bytes = text.as_bytes();
            let mut pieces: Vec<&[u8]> = vec![];
            let mut rest = bytes;
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            pieces.push(rest);
            let expected = match text.find(&stop) {
                Some(at) => (text[..at].to_owned(), true),
                None => (text.clone(), false),
            };
            prop_assert_eq!(run(&[&stop], &pieces), expected);
            prop_assert_eq!(run(&[], &pieces), (text, false));
        }
    }
}
