//! Scores of tokens in OpenAI's two shapes.

use galerne_api::openai::{ChatLogprobs, TextLogprobs, TokenLogprob};
use serde_json::{Map, Value};

use crate::score::Scored;
use crate::vocabulary::Vocabulary;

/// What stands for minus infinity, which JSON has not; OpenAI's own value.
const LEAST: f32 = -9999.0;

pub(super) fn chat(vocabulary: &dyn Vocabulary, scored: &[Scored]) -> ChatLogprobs {
    let token = |token: i32, logprob: f32, top_logprobs: Option<Vec<TokenLogprob>>| {
        let bytes = vocabulary.piece(token);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        TokenLogprob { token: text, logprob: logprob.max(LEAST), bytes: Some(bytes), top_logprobs }
    };
    let with_top = |scored: &Scored| {
        let top = scored.top.iter().map(|(other, logprob)| token(*other, *logprob, None)).collect();
        token(scored.token, scored.logprob, Some(top))
    };
    ChatLogprobs { content: Some(scored.iter().map(with_top).collect()), refusal: None }
}

/// Adds to `to`; `offset` is where the next token begins, in characters.
pub(super) fn text(vocabulary: &dyn Vocabulary, scored: &[Scored], to: &mut TextLogprobs, offset: &mut usize) {
    for scored in scored {
        let mut top: Map<String, Value> = Map::new();
        let entries = scored.top.iter().copied().chain([(scored.token, scored.logprob)]);
        for (token, logprob) in entries {
            // Several tokens may be parts of characters and look alike: the likeliest comes first and stays.
            top.entry(shown(vocabulary, token)).or_insert_with(|| Value::from(logprob.max(LEAST)));
        }
        push(vocabulary, scored.token, Some((scored.logprob.max(LEAST), top)), to, offset);
    }
}

/// The first token of a prompt: nothing stands before it, so it has no score.
pub(super) fn unscored(vocabulary: &dyn Vocabulary, token: i32, to: &mut TextLogprobs, offset: &mut usize) {
    push(vocabulary, token, None, to, offset);
}

fn push(
    vocabulary: &dyn Vocabulary,
    token: i32,
    scores: Option<(f32, Map<String, Value>)>,
    to: &mut TextLogprobs,
    offset: &mut usize,
) {
    let text = shown(vocabulary, token);
    to.text_offset.push(*offset);
    *offset += text.chars().count();
    to.tokens.push(text);
    let (logprob, top) = scores.unzip();
    to.token_logprobs.push(logprob);
    to.top_logprobs.push(top);
}

fn shown(vocabulary: &dyn Vocabulary, token: i32) -> String {
    String::from_utf8_lossy(&vocabulary.piece(token)).into_owned()
}
