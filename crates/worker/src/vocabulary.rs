//! What the HTTP side asks of a model without disturbing the engine thread: texts to tokens.
//! Two implementations: llama.cpp's, and one token per byte for the tests of the HTTP side.

use std::fmt::Debug;

/// A tokeniser. Immutable, so any thread may use it.
pub(crate) trait Vocabulary: Debug + Send + Sync {
    /// Tokens of `text`, special tokens in it recognised; with `special`, the ones that the model wants around every text.
    fn tokenize(&self, text: &str, special: bool) -> Vec<i32>;

    /// The number of tokens; valid ones are below.
    fn size(&self) -> usize;

    /// Bytes of the longest token: a text has at least its length divided by this in tokens.
    fn longest(&self) -> usize;
}

/// Cuts a text before every `every`th special token in it. llama.cpp's time grows with the square of their number in one
/// text (2 MB of them: 95 s); a special token never joins with what stands before it, so the parts give the same tokens.
pub(crate) fn parts<'t>(text: &'t str, specials: &[String], every: usize) -> Vec<&'t str> {
    let mut begins = [false; 256];
    for special in specials {
        if let Some(first) = special.bytes().next() {
            begins[usize::from(first)] = true;
        }
    }
    let bytes = text.as_bytes();
    let (mut parts, mut from, mut at, mut met) = (vec![], 0, 0, 0);
    while at < bytes.len() {
        let is_candidate = begins[usize::from(bytes[at])];
        let special =
            specials.iter().filter(|_| is_candidate).find(|s| !s.is_empty() && bytes[at..].starts_with(s.as_bytes()));
        let Some(special) = special else {
            at += 1;
            continue;
        };
        if met == every {
            parts.push(&text[from..at]);
            (from, met) = (at, 0);
        }
        met += 1;
        at += special.len();
    }
    parts.push(&text[from..]);
    parts
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

    fn longest(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_before_special_tokens_only() {
        let specials = ["<s>".to_owned(), "é!".to_owned()];
        assert_eq!(parts("a<s>b<s><s>é!ec", &specials, 2), ["a<s>b<s>", "<s>é!ec"]);
        assert_eq!(parts("aé<é", &specials, 1), ["aé<é"]);
        assert_eq!(parts("", &specials, 1), [""]);
        let long = "<s>".repeat(1000);
        assert_eq!(parts(&long, &specials, 100).len(), 10);
        assert_eq!(parts(&long, &specials, 100).concat(), long);
    }

    #[test]
    fn the_first_special_token_comes_once() {
        assert_eq!(tokenize_prompt(&Bytes, "<s>a", "<s>").len(), 4);
        assert_eq!(tokenize_prompt(&Bytes, "a", "<s>"), [0, 97]);
        assert_eq!(tokenize_prompt(&Bytes, "a", ""), [0, 97]);
    }
}
