//! A loaded model as the HTTP side sees it.

use std::sync::{Arc, OnceLock};

use crate::constraint::Grammars;
use crate::fingerprint::Fingerprint;
use crate::manner::{MARKS, Manner, Tools};
use crate::markup::Markup;
use crate::template::ChatTemplate;
use crate::vocabulary::{Frame, Vocabulary};

/// What a worker does with its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Generate,
    Embed,
}

/// What requests are prepared with.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub vocabulary: Arc<dyn Vocabulary>,
    pub template: Option<ChatTemplate>,
    /// How it writes thoughts and calls.
    pub manner: Manner,
    /// The control tokens among the marks of thoughts and calls: a chat's answer shows them, for they are read.
    pub marks: Arc<[i32]>,
    /// What compiles grammars: made when the first one is asked for, from the whole vocabulary.
    pub grammars: OnceLock<Result<Grammars, String>>,
    /// Text of the token that begins every text; empty when the model has none.
    pub bos: String,
    /// The CPU variant or the device in use.
    pub backend: String,
    /// Of the program, the weights, and how they are served.
    pub fingerprint: Fingerprint,
    /// Tokens of prompt and answer together.
    pub context: usize,
    pub load_ms: u64,
    /// As the file names it: adapters are made for one.
    pub architecture: String,
}

impl Loaded {
    /// Whether its vocabulary marks a gap in a text.
    pub(crate) fn fills_gaps(&self) -> bool {
        self.vocabulary.gap().is_some()
    }

    /// Whether its template writes tools, in a way in which calls can be read. Others are told of tools in a message of ours,
    /// which is served and promises less.
    pub(crate) fn calls_functions(&self) -> bool {
        self.template.is_some() && matches!(self.manner.tools, Tools::Template(_))
    }

    pub(crate) fn grammars(&self) -> &Result<Grammars, String> {
        self.grammars.get_or_init(|| Grammars::new(&*self.vocabulary))
    }
}

/// The control tokens among the marks of thoughts and calls.
pub(crate) fn marks(vocabulary: &dyn Vocabulary) -> Arc<[i32]> {
    let control = |text: &&str| match vocabulary.tokenize(text, Frame::Left, Markup::Obeyed).as_slice() {
        [token] if vocabulary.plain_piece(*token).is_empty() => Some(*token),
        _ => None,
    };
    MARKS.iter().filter_map(control).collect()
}
