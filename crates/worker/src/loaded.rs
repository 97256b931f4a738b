//! A loaded model as the HTTP side sees it.

use std::sync::Arc;

use crate::template::ChatTemplate;
use crate::vocabulary::Vocabulary;

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
    /// Text of the token that begins every text; empty when the model has none.
    pub bos: String,
    /// The CPU variant or the device in use.
    pub backend: String,
    /// Tokens of prompt and answer together.
    pub context: usize,
    pub load_ms: u64,
}
