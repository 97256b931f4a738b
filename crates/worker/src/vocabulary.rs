//! What the HTTP side asks of a model without disturbing the engine thread: texts to tokens.
//! Two implementations: llama.cpp's, and one token per byte for the tests of the HTTP side.

use std::fmt::Debug;

use crate::markup::{Markup, Specials, stretches};

/// A tokeniser. Immutable, so any thread may use it.
pub(crate) trait Vocabulary: Debug + Send + Sync {
    /// Tokens of `text`.
    fn tokenize(&self, text: &str, frame: Frame, markup: Markup) -> Vec<i32>;

    /// Texts that stand for control tokens.
    fn controls(&self) -> &Specials;

    /// The number of tokens; valid ones are below.
    fn size(&self) -> usize;

    /// Bytes of the longest token: a text has at least its length divided by this in tokens.
    fn longest(&self) -> usize;
}

/// Whether the tokens that a model wants around every text are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    Added,
    Left,
}

/// Cuts a text before every `every`th special token in it. llama.cpp's time grows with the square of their number in one
/// text (2 MB of them: 95 s); a special token never joins with what stands before it, so the parts give the same tokens.
pub(crate) fn parts<'t>(text: &'t str, specials: &Specials, every: usize) -> Vec<&'t str> {
    let bytes = text.as_bytes();
    let (mut parts, mut from, mut at, mut met) = (vec![], 0, 0, 0);
    while at < bytes.len() {
        let Some(length) = specials.at(bytes, at) else {
            at += 1;
            continue;
        };
        if met == every {
            parts.push(&text[from..at]);
            (from, met) = (at, 0);
        }
        met += 1;
        at += length;
    }
    parts.push(&text[from..]);
    parts
}

/// The tokens of a rendered chat prompt: templates write the first special token themselves, and twice confuses models.
/// What messages say is plain text (`markup`).
pub(crate) fn tokenize_prompt(vocabulary: &dyn Vocabulary, text: &str, bos: &str) -> Vec<i32> {
    let mut frame = if bos.is_empty() || !text.starts_with(bos) { Frame::Added } else { Frame::Left };
    let mut tokens = vec![];
    for (markup, stretch) in stretches(text, vocabulary.controls()) {
        tokens.extend(vocabulary.tokenize(&stretch, frame, markup));
        frame = Frame::Left;
    }
    tokens
}

/// One token per byte, but for the control token `<end>`.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Bytes {
    controls: Specials,
}

#[cfg(test)]
impl Bytes {
    pub(crate) const END: i32 = 1;

    pub(crate) fn new() -> Self {
        Self { controls: Specials::new([b"<end>".to_vec()]) }
    }
}

#[cfg(test)]
impl Vocabulary for Bytes {
    fn tokenize(&self, text: &str, frame: Frame, markup: Markup) -> Vec<i32> {
        let bytes = text.as_bytes();
        let mut tokens = if frame == Frame::Added { vec![0] } else { vec![] };
        let mut at = 0;
        while at < bytes.len() {
            match self.controls.at(bytes, at).filter(|_| markup == Markup::Obeyed) {
                Some(length) => {
                    tokens.push(Self::END);
                    at += length;
                }
                None => {
                    tokens.push(i32::from(bytes[at]));
                    at += 1;
                }
            }
        }
        tokens
    }

    fn controls(&self) -> &Specials {
        &self.controls
    }

    fn size(&self) -> usize {
        256
    }

    fn longest(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_before_special_tokens_only() {
        let specials = Specials::new(["<s>", "é!"].map(|text| text.as_bytes().to_vec()));
        assert_eq!(parts("a<s>b<s><s>é!ec", &specials, 2), ["a<s>b<s>", "<s>é!ec"]);
        assert_eq!(parts("aé<é", &specials, 1), ["aé<é"]);
        assert_eq!(parts("", &specials, 1), [""]);
        let long = "<s>".repeat(1000);
        assert_eq!(parts(&long, &specials, 100).len(), 10);
        assert_eq!(parts(&long, &specials, 100).concat(), long);
    }

    #[test]
    fn the_first_special_token_comes_once() {
        assert_eq!(tokenize_prompt(&Bytes::new(), "<s>a", "<s>").len(), 4);
        assert_eq!(tokenize_prompt(&Bytes::new(), "a", "<s>"), [0, 97]);
        assert_eq!(tokenize_prompt(&Bytes::new(), "a", ""), [0, 97]);
    }
}
