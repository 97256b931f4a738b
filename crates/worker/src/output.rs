//! The text of one choice as it is handed out, with the scores of the tokens it is made of.
//! INVARIANT: a token's score goes out with the first text that shows any of it, and never for a token behind a stop string.

use crate::job::Piece;
use crate::score::Scored;
use crate::text::{Emitted, TextStream};

#[derive(Debug)]
pub(crate) struct Output {
    choice: usize,
    text: TextStream,
    /// Bytes handed out.
    handed: usize,
    /// Tokens of which nothing was handed out, with the byte where each begins.
    pending: Vec<(usize, Option<Scored>)>,
}

/// What a token brought.
#[derive(Debug)]
pub(crate) struct Brought {
    /// May be empty.
    pub piece: Piece,
    /// A stop string was met: this was the last.
    pub is_stopped: bool,
}

impl Output {
    pub(crate) fn new(choice: usize, stops: Vec<String>) -> Self {
        Self { choice, text: TextStream::new(stops), handed: 0, pending: vec![] }
    }

    /// Takes a token's bytes; stop strings count when `is_watching`.
    pub(crate) fn push(&mut self, bytes: &[u8], scored: Option<Scored>, is_watching: bool) -> Brought {
        self.pending.push((self.handed + self.text.held(), scored));
        self.text.watch(is_watching);
        let emitted = self.text.push(bytes);
        self.brought(emitted, false)
    }

    /// Hands out what was held back.
    pub(crate) fn finish(&mut self) -> Brought {
        let emitted = self.text.finish();
        self.brought(emitted, true)
    }

    fn brought(&mut self, emitted: Emitted, is_end: bool) -> Brought {
        let (text, is_stopped) = match emitted {
            Emitted::Text(text) => (text, false),
            Emitted::Stopped(text) => (text, true),
        };
        self.handed += text.len();
        let handed = self.handed;
        let shown = if is_end && !is_stopped {
            self.pending.len()
        } else {
            self.pending.iter().take_while(|(start, _)| *start < handed).count()
        };
        let scored: Vec<Scored> = self.pending.drain(..shown).filter_map(|(_, scored)| scored).collect();
        if is_stopped {
            self.pending.clear();
        }
        Brought { piece: Piece { choice: self.choice, text, tokens: shown, scored }, is_stopped }
    }
}

impl Piece {
    /// Whether there is anything to hand out.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(token: i32) -> Option<Scored> {
        Some(Scored { token, logprob: -1.0, top: vec![] })
    }

    fn tokens(brought: &Brought) -> Vec<i32> {
        brought.piece.scored.iter().map(|scored| scored.token).collect()
    }

    #[test]
    fn scores_wait_for_their_text() {
        let mut output = Output::new(0, vec!["STOP".into()]);
        let first = output.push(b"go S", scored(1), true);
        assert_eq!((first.piece.text.as_str(), tokens(&first)), ("go ", vec![1]));
        // Held back: it may be the beginning of the stop string.
        assert!(output.push(b"T", scored(2), true).piece.is_empty());
        let third = output.push(b"A", scored(3), true);
        assert_eq!((third.piece.text.as_str(), tokens(&third), third.piece.tokens), ("STA", vec![2, 3], 2));
        // Half a character.
        assert!(output.push(b"\xc3", scored(4), true).piece.is_empty());
        let last = output.finish();
        assert_eq!((last.piece.text.as_str(), tokens(&last)), ("\u{fffd}", vec![4]));
    }

    #[test]
    fn tokens_of_a_stop_string_have_no_scores() {
        let mut output = Output::new(0, vec!["STOP".into()]);
        assert!(output.push(b"ST", scored(1), true).piece.is_empty());
        let end = output.push(b"OP on", scored(2), true);
        assert_eq!((end.piece.text.as_str(), tokens(&end), end.is_stopped), ("", vec![], true));
        assert!(output.finish().piece.is_empty());
    }

    #[test]
    fn before_the_least_number_of_tokens_nothing_stops() {
        let mut output = Output::new(0, vec!["a".into()]);
        assert!(!output.push(b"a", None, false).is_stopped);
        assert!(output.push(b"a", None, true).is_stopped);
    }
}
