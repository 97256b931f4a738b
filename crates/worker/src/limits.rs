//! Every bound of the worker, with its why.

use std::time::Duration;

/// Largest request body. A context of 128k tokens is about 0.5 MB of text; 8 MiB leaves room for JSON escapes.
pub const BODY_BYTES: usize = 8 * 1024 * 1024;

/// Sequences that may generate at once; with as many kept for their prefix this stays below llama.cpp's 256 per context.
pub const SEQUENCES: usize = 120;

/// Tokens in one step. 512 is where prompt throughput flattens on CPUs, and bounds the wait of a cancelled prompt.
pub const STEP_TOKENS: usize = 512;

/// Prompt tokens in one step while answers are being generated: every running stream waits for them.
pub const STEP_PROMPT_TOKENS_WHILE_ANSWERING: usize = 128;

/// Shorter common prefixes are computed again: the bookkeeping would cost more.
pub const PREFIX_TOKENS_MIN: usize = 8;

/// Stop strings per request. OpenAI takes 4, Mistral more.
pub const STOPS: usize = 16;

/// Bytes of one stop string; as many may be held back from a stream.
pub const STOP_BYTES: usize = 256;

/// Entries of `logit_bias`; OpenAI takes 300 tokens.
pub const BIASES: usize = 1024;

/// Inputs of one embeddings request; OpenAI's own limit.
pub const EMBEDDING_INPUTS: usize = 2048;

/// Messages of one conversation. Longer ones do not fit any context.
pub const MESSAGES: usize = 4096;

/// Time given to running requests after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(30);

/// Longest deadline a caller may set.
pub const DEADLINE_MS: u64 = 24 * 3600 * 1000;

/// Instructions a chat template may execute: about 100 per message, so a loop that never ends is cut in milliseconds.
pub const TEMPLATE_FUEL: u64 = 5_000_000;

/// Texts above this are tokenised away from the thread that serves HTTP (4 KiB take about 100 µs).
pub const INLINE_TEXT_BYTES: usize = 4096;

/// Keys or tensors in a GGUF header; the largest known models have about 2,000 tensors.
pub const GGUF_ENTRIES: u64 = 65_536;

/// Bytes of one string in a GGUF header; chat templates are the longest, tens of KiB.
pub const GGUF_STRING_BYTES: u64 = 4 * 1024 * 1024;
