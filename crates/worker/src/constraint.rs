//! Answers that keep to a grammar: which tokens may come next. llguidance does the work; here it gets the model's vocabulary.
//! The vocabulary's tree is built once, when the first grammar is asked for; a grammar is compiled once for each request.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::sample::{Sampler, Strike};
use crate::vocabulary::Vocabulary;

/// Compiles grammars for one vocabulary.
pub(crate) struct Grammars {
    factory: ParserFactory,
    /// Tokens that end an answer.
    ends: Arc<[i32]>,
}

/// The grammar of one answer, and how far the answer has come in it.
pub(crate) struct Constraint {
    matcher: Matcher,
    ends: Arc<[i32]>,
}

/// The grammar and the model disagree: there is no next token.
#[derive(Debug, thiserror::Error)]
#[error("no token follows the grammar: {0}")]
pub(crate) struct Stuck(String);

/// What marks a control token's text in the tree of the vocabulary, so that no text is mistaken for it.
const CONTROL: u8 = 0xff;

impl Grammars {
    pub(crate) fn new(vocabulary: &dyn Vocabulary) -> Result<Self, String> {
        let number = |n: usize| u32::try_from(n).map_err(|_| "the vocabulary is too large".to_owned());
        let size = number(vocabulary.size())?;
        let ends: Vec<u32> = vocabulary.ends().iter().filter_map(|&token| u32::try_from(token).ok()).collect();
        let Some(end) = ends.first() else { return Err("the model has no token that ends an answer".into()) };
        let word = |token: i32| {
            let plain = vocabulary.plain_piece(token);
            if !plain.is_empty() {
                return plain;
            }
            let control = vocabulary.piece(token);
            if control.is_empty() { control } else { [&[CONTROL], control.as_slice()].concat() }
        };
        let words: Vec<Vec<u8>> = (0..size.cast_signed()).map(word).collect();
        let tree = TokTrie::from(&TokRxInfo::new(size, *end), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(tree));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        factory.quiet();
        // Errors are told to whoever sent the grammar: the grammar need not be in them.
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, ends: vocabulary.ends().into() })
    }

    /// Compiles a grammar in Lark's syntax; the error says what is wrong with it.
    pub(crate) fn compile(&self, grammar: &str) -> Result<Constraint, String> {
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned()));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(Constraint { matcher, ends: Arc::clone(&self.ends) }),
        }
    }
}

impl Constraint {
    /// For another answer that begins at the same place.
    pub(crate) fn fork(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), ends: Arc::clone(&self.ends) }
    }

    /// Chooses a token that may come next, and takes it. First one is chosen freely and kept if it may; only when it may not
    /// are all tokens judged, which costs far more, and one of the allowed is chosen. The probabilities are those of choosing
    /// among the allowed at once: p + (1 - z) p / z = p / z, where z is the weight of all that are allowed.
    pub(crate) fn choose(
        &mut self,
        sampler: &mut Sampler,
        logits: &[f32],
        strike: Option<Strike<'_>>,
    ) -> Result<i32, Stuck> {
        let token = sampler.choose(logits, strike);
        if self.take(token)? {
            return Ok(token);
        }
        // A structure that is whole ends, however many tokens were asked for at least: what `strike` excludes is not.
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| Stuck(e.to_string()))?;
        let exclude = |logits: &mut [f32]| {
            for (token, logit) in (0_u32..).zip(logits) {
                if !mask.is_allowed(token) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        };
        let token = sampler.choose(logits, Some(&exclude));
        if self.take(token)? { Ok(token) } else { Err(Stuck(format!("the token {token} was allowed and is none"))) }
    }

    fn take(&mut self, token: i32) -> Result<bool, Stuck> {
        // Nothing but the end follows what is whole, and the matcher takes not even that.
        if self.is_done() {
            return Ok(self.ends.contains(&token));
        }
        let Ok(token) = u32::try_from(token) else { return Ok(false) };
        let taken = self.matcher.try_consume_tokens(&[token]).map_err(|e| Stuck(e.to_string()))?;
        Ok(taken == 1)
    }

    /// Whether nothing can follow.
    pub(crate) fn is_done(&self) -> bool {
        self.matcher.is_stopped()
    }
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
