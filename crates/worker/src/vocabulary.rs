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

    /// The bytes that a token stands for; of a control token, the text it is written as.
    fn piece(&self, token: i32) -> Vec<u8>;

    /// The bytes that a token adds to a text: none for a control token.
    fn plain_piece(&self, token: i32) -> Vec<u8>;

    /// Tokens that end an answer.
    fn ends(&self) -> Vec<i32>;

    /// How the model is told to fill a gap, if it knows how.
    fn gap(&self) -> Option<Gap>;

    /// Bytes of the longest token: a text has at least its length divided by this in tokens.
    fn longest(&self) -> usize;
}

/// Whether the tokens that a model wants around every text are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    Added,
    Left,
}

/// The tokens around a gap that is to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// What stands before it, what stands behind it, and where to write: Code Llama, StarCoder, Qwen, DeepSeek.
    Middle { prefix: i32, suffix: i32, middle: i32 },
    /// What stands behind it, then what stands before it, and it goes on from there: Codestral.
    Continued { suffix: i32, prefix: i32 },
}

/// The prompt of a gap. What is written around it is data: the text of a control token in it is text.
pub(crate) fn tokenize_gap(vocabulary: &dyn Vocabulary, gap: Gap, before: &str, behind: &str) -> Vec<i32> {
    let plain = |text: &str| vocabulary.tokenize(text, Frame::Left, Markup::Plain);
    let mut tokens = vocabulary.tokenize("", Frame::Added, Markup::Plain);
    match gap {
        Gap::Middle { prefix, suffix, middle } => {
            tokens.push(prefix);
            tokens.extend(plain(before));
            tokens.push(suffix);
            tokens.extend(plain(behind));
            tokens.push(middle);
        }
        Gap::Continued { suffix, prefix } => {
            tokens.push(suffix);
            tokens.extend(plain(behind));
            tokens.push(prefix);
            tokens.extend(plain(before));
        }
    }
    tokens
}

/// What tokens say, as far as it is UTF-8.
pub(crate) fn text_of(vocabulary: &dyn Vocabulary, tokens: &[i32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|&token| vocabulary.piece(token)).collect();
    String::from_utf8_lossy(&bytes).into_owned()
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
    pub(crate) gap: Option<Gap>,
}

#[cfg(test)]
impl Bytes {
    pub(crate) const END: i32 = 1;

    pub(crate) fn new() -> Self {
        Self { controls: Specials::new([b"<end>".to_vec()]), gap: None }
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

    fn piece(&self, token: i32) -> Vec<u8> {
        if token == Self::END { b"<end>".to_vec() } else { u8::try_from(token).into_iter().collect() }
    }

    fn plain_piece(&self, token: i32) -> Vec<u8> {
        if token == Self::END { vec![] } else { self.piece(token) }
    }

    fn ends(&self) -> Vec<i32> {
        vec![Self::END]
    }

    fn gap(&self) -> Option<Gap> {
        self.gap
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
    fn a_gap_is_written_as_the_model_knows_it() {
        let vocabulary = Bytes::new();
        let middle = Gap::Middle { prefix: 2, suffix: 3, middle: 4 };
        assert_eq!(
            tokenize_gap(&vocabulary, middle, "a<end>", "b"),
            [&[0, 2, 97][..], &b"<end>".map(i32::from), &[3, 98, 4]].concat()
        );
        let continued = Gap::Continued { suffix: 3, prefix: 2 };
        assert_eq!(tokenize_gap(&vocabulary, continued, "a", "b"), [0, 3, 98, 2, 97]);
    }

    #[test]
    fn the_first_special_token_comes_once() {
        assert_eq!(tokenize_prompt(&Bytes::new(), "<s>a", "<s>").len(), 4);
        assert_eq!(tokenize_prompt(&Bytes::new(), "a", "<s>"), [0, 97]);
        assert_eq!(tokenize_prompt(&Bytes::new(), "a", ""), [0, 97]);
    }
}
