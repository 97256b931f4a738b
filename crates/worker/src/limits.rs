//! Every bound of the worker, with its why.

use std::time::Duration;

/// Largest request body. A context of 128k tokens is about 0.5 MB of text; 8 MiB leaves room for JSON escapes.
pub(crate) const BODY_BYTES: usize = 8 * 1024 * 1024;

/// Sequences that may generate at once; llama.cpp takes 256 in one context.
pub(crate) const SEQUENCES: usize = 256;

/// Tokens in one step. 512 is where prompt throughput flattens on CPUs, and bounds the wait of a cancelled prompt.
pub(crate) const STEP_TOKENS: usize = 512;

/// Prompt tokens in one step while answers are being generated: every running stream waits for them.
pub(crate) const STEP_PROMPT_TOKENS_WHILE_ANSWERING: usize = 128;

/// Steps of one adapter before it is another's turn. Changing it makes llama.cpp lay out its graphs anew; a turn this long
/// keeps that a small part, and a stream beside another waits for no more than a few hundred milliseconds.
pub(crate) const TURN_STEPS: usize = 8;

/// Adapters attached at once; each keeps its weights in memory.
pub(crate) const ADAPTERS: usize = 16;

/// Longest name of an adapter.
pub(crate) const ADAPTER_NAME_BYTES: usize = 128;

/// Memory that an adapter takes beside its weights: nodes of the graphs.
pub(crate) const ADAPTER_SPARE_BYTES: u64 = 16 << 20;

/// How often an idle engine looks whether a leaving adapter is free: a request that names it is still being prepared.
pub(crate) const ADAPTER_LOOK: Duration = Duration::from_millis(5);

/// Shorter common prefixes are not copied from another slot: a copy takes about as long as two to four prompt tokens.
pub(crate) const PREFIX_TOKENS_MIN: usize = 16;

/// Stop strings per request. OpenAI takes 4, Mistral more.
pub(crate) const STOPS: usize = 16;

/// Bytes of one stop string; as many may be held back from a stream.
pub(crate) const STOP_BYTES: usize = 256;

/// Entries of `logit_bias`; OpenAI takes 300 tokens.
pub(crate) const BIASES: usize = 1024;

/// Answers to one request; OpenAI takes 128, but they would wait here for one another.
pub(crate) const CHOICES: usize = 32;

/// Likeliest tokens told beside each token; OpenAI's own limit for chats.
pub(crate) const TOP_LOGPROBS: usize = 20;

/// Tokens of prompts whose scores are wanted in one step: each takes a row of logits, which is 0.6 MB for 150,000 tokens.
pub(crate) const SCORED_TOKENS_AT_ONCE: usize = 32;

/// Tools of one request; OpenAI's own limit.
pub(crate) const TOOLS: usize = 128;

/// Bytes of the grammar of an answer, schemas included; a schema of 100 KiB compiles in about a second.
pub(crate) const GRAMMAR_BYTES: usize = 256 * 1024;

/// Accounts of ended requests kept for whoever asks: a few hundred kilobytes, and far more than are cut off at once.
pub(crate) const ACCOUNTS: usize = 4096;

/// Longest wait for the end of a request whose account is asked for: a batch of a long prompt on a large model.
pub(crate) const ACCOUNT_WAIT: Duration = Duration::from_secs(30);

/// Longest name of a cache scope; tenants' ids take 39.
pub(crate) const CACHE_SCOPE_BYTES: usize = 128;

/// Longest name of a request.
pub(crate) const REQUEST_ID_BYTES: usize = 128;

/// Inputs of one embeddings request; OpenAI's own limit.
pub(crate) const EMBEDDING_INPUTS: usize = 2048;

/// Messages of one conversation. Longer ones do not fit any context.
pub(crate) const MESSAGES: usize = 4096;

/// Time given to running requests after SIGTERM.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

/// Longest deadline a caller may set.
pub(crate) const DEADLINE_MS: u64 = 24 * 3600 * 1000;

/// Instructions a chat template may execute: about 100 per message, so a loop that never ends is cut in milliseconds.
pub(crate) const TEMPLATE_FUEL: u64 = 2_000_000;

/// Texts above this are tokenised away from the thread that serves HTTP (4 KiB take about 100 µs).
pub(crate) const INLINE_TEXT_BYTES: usize = 4096;

/// Keys or tensors in a GGUF header; the largest known models have about 2,000 tensors.
pub(crate) const GGUF_ENTRIES: u64 = 65_536;

/// Bytes of one string in a GGUF header; chat templates are the longest, tens of KiB.
pub(crate) const GGUF_STRING_BYTES: u64 = 4 * 1024 * 1024;

/// Special tokens tokenised in one call, whose time grows with the square of their number; 512 take below a millisecond.
pub(crate) const SPECIALS_AT_ONCE: usize = 512;
