//! What the HTTP side asks of a model without disturbing the engine thread: texts to tokens.
//! Two implementations: llama.cpp's, and one token per byte for the tests of the HTTP side.

use std::fmt::Debug;

/// A tokeniser. Immutable, so any thread may use it.
pub(crate) trait Vocabulary: Debug + Send + Sync {
    /// Tokens of `text`, special tokens in it recognised; with `special`, the ones that the model wants around every text.
    fn tokenize(&self, text: &str, special: bool) -> Vec<i32>;

    /// The number of tokens; valid ones are below.
    fn size(&self) -> usize;
}

/// The tokens of a rendered chat prompt: templates write the first special token themselves, and twice confuses models.
pub(crate) fn tokenize_prompt(vocabulary: &dyn Vocabulary, text: &str, bos: &str) -> Vec<i32> {
    vocabulary.tokenize(text, bos.is_empty() || !text.starts_with(bos))
}

/// One token per byte.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Bytes;

#[cfg(test)]
impl Vocabulary for Bytes {
    fn tokenize(&self, text: &str, special: bool) -> Vec<i32> {
        special.then_some(0).into_iter().chain(text.bytes().map(i32::from)).collect()
    }

    fn size(&self) -> usize {
        256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_token_comes_once() {
        assert_eq!(tokenize_prompt(&Bytes, "<s>a", "<s>").len(), 4);
        assert_eq!(tokenize_prompt(&Bytes, "a", "<s>"), [0, 97]);
        assert_eq!(tokenize_prompt(&Bytes, "a", ""), [0, 97]);
    }
}
