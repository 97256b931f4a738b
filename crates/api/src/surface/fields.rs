//! Fields of completions, FIM, embeddings and tokens.

use super::Fate::{Engine, Gateway, NoEffect, Only, Refused, Renamed};
use super::Of::{Both, Engines, Mistral, OpenAi};
use super::Takes::{Flag, List, Number, Object, Text, TextOrList};
use super::{Field, field};

/// `POST /completions`.
pub(super) const COMPLETION: &[Field] = &[
    field("add_special_tokens", Engines, Flag, Engine, "adds the tokenizer's own tokens to the prompt"),
    field("allowed_token_ids", Engines, List, Engine, "the only tokens that may be answered"),
    field("bad_words", Engines, List, Engine, "words that are not answered"),
    field("best_of", OpenAi, Number, Engine, "1 to 128; each choice counts for limits and budgets"),
    field(
        "cache_salt",
        Engines,
        Text,
        Refused,
        "the embedded engine keeps cached prompts apart by tenant; a server outside may share them among all who call it",
    ),
    field("echo", OpenAi, Flag, Engine, ""),
    field("frequency_penalty", OpenAi, Number, Engine, ""),
    field("ignore_eos", Engines, Flag, Engine, "answers to the last token allowed"),
    field("include_stop_str_in_output", Engines, Flag, Engine, ""),
    field("logit_bias", OpenAi, Object, Engine, ""),
    field("logprobs", OpenAi, Number, Engine, "a number, as in OpenAI's older API"),
    field("max_tokens", OpenAi, Number, Engine, "bounds what is held from a budget as well"),
    field("metadata", Mistral, Object, NoEffect, "nothing is stored that it could be kept with"),
    field("min_p", Engines, Number, Engine, ""),
    field("min_tokens", Engines, Number, Engine, ""),
    field("model", OpenAi, Text, Gateway, "the name of an endpoint"),
    field("n", OpenAi, Number, Engine, "1 to 128; each choice counts for limits and budgets"),
    field("presence_penalty", OpenAi, Number, Engine, ""),
    field("priority", Engines, Number, Refused, "who goes first is the operator's to say: send `service_tier`"),
    field(
        "prompt",
        OpenAi,
        TextOrList,
        Gateway,
        "a text, a list of tokens, or a list of either; the engine says how many it takes",
    ),
    field("prompt_cache_key", Engines, Text, NoEffect, "cached prompts are found by their text"),
    field("random_seed", Mistral, Number, Renamed("seed"), "Mistral's word for `seed`"),
    field("repetition_penalty", Engines, Number, Engine, ""),
    field("request_id", Engines, Text, Refused, "the gateway names requests; read `x-request-id`"),
    field("response_format", Engines, Object, Engine, ""),
    field("seed", OpenAi, Number, Engine, ""),
    field(
        "service_tier",
        Engines,
        Text,
        Gateway,
        "`flex`, `default` (`standard_only`), `priority`; `auto` is what the key may have. The answer names the one used",
    ),
    field("skip_special_tokens", Engines, Flag, Engine, ""),
    field("spaces_between_special_tokens", Engines, Flag, Engine, ""),
    field("stop", OpenAi, TextOrList, Engine, ""),
    field("stop_token_ids", Engines, List, Engine, ""),
    field("store", Engines, Flag, Only(&["false"]), "nothing is stored here"),
    field("stream", OpenAi, Flag, Gateway, ""),
    field("stream_options", OpenAi, Object, Gateway, "`include_usage` is served; other options go to the engine"),
    field("structured_outputs", Engines, Object, Engine, "an engine's way to say `response_format`"),
    field("suffix", OpenAi, Text, Engine, "what comes after the answer, where the model can fill in"),
    field("temperature", OpenAi, Number, Engine, ""),
    field("top_k", Engines, Number, Engine, ""),
    field("top_p", OpenAi, Number, Engine, ""),
    field("truncate_prompt_tokens", Engines, Number, Engine, ""),
    field("user", OpenAi, Text, NoEffect, "who asks is known by the key"),
    field("vllm_xargs", Engines, Object, Engine, "vLLM's extra arguments"),
];

/// `POST /fim/completions`.
pub(super) const FIM: &[Field] = &[
    field("max_tokens", Mistral, Number, Engine, "bounds what is held from a budget as well"),
    field("metadata", Mistral, Object, NoEffect, "nothing is stored that it could be kept with"),
    field("min_tokens", Mistral, Number, Engine, ""),
    field("model", Mistral, Text, Gateway, "the name of an endpoint"),
    field("prompt", Mistral, Text, Gateway, "what comes before the answer"),
    field("prompt_cache_key", Mistral, Text, NoEffect, "cached prompts are found by their text"),
    field("random_seed", Mistral, Number, Renamed("seed"), ""),
    field("seed", Engines, Number, Engine, "OpenAI's word for `random_seed`"),
    field("stop", Mistral, TextOrList, Engine, ""),
    field("stream", Mistral, Flag, Gateway, ""),
    field("suffix", Mistral, Text, Engine, "what comes after the answer"),
    field("temperature", Mistral, Number, Engine, ""),
    field("top_p", Mistral, Number, Engine, ""),
];

/// `POST /embeddings`.
pub(super) const EMBEDDING: &[Field] = &[
    field("dimensions", OpenAi, Number, Engine, "shorter vectors, where the model was trained for it"),
    field("encoding_format", Both, Text, Gateway, "`float` or `base64`, which is made here where the engine does not"),
    field("input", Both, TextOrList, Gateway, "a text, a list of tokens, or a list of either"),
    field("inputs", Mistral, TextOrList, Renamed("input"), "Mistral's older word for `input`"),
    field("metadata", Mistral, Object, NoEffect, "nothing is stored that it could be kept with"),
    field("model", Both, Text, Gateway, "the name of an endpoint"),
    field("output_dimension", Mistral, Number, Renamed("dimensions"), "Mistral's word for `dimensions`"),
    field(
        "output_dtype",
        Mistral,
        Text,
        Only(&[r#""float""#]),
        "how Mistral rounds to fewer bits is not published, so it cannot be done exactly",
    ),
    field(
        "service_tier",
        Engines,
        Text,
        Gateway,
        "`flex`, `default` (`standard_only`), `priority`; `auto` is what the key may have",
    ),
    field("truncate_prompt_tokens", Engines, Number, Engine, ""),
    field("user", OpenAi, Text, NoEffect, "who asks is known by the key"),
];

/// `POST /tokenize`.
pub(super) const TOKENISE: &[Field] = &[
    field("add_generation_prompt", Engines, Flag, Engine, ""),
    field("add_special_tokens", Engines, Flag, Engine, ""),
    field("chat_template_kwargs", Engines, Object, Engine, ""),
    field("content", Engines, Text, Renamed("prompt"), "llama-server's word for `prompt`"),
    field("continue_final_message", Engines, Flag, Engine, ""),
    field("messages", Engines, List, Gateway, "a conversation, as the model's template writes it"),
    field("model", Engines, Text, Gateway, "the name of an endpoint"),
    field("prompt", Engines, Text, Gateway, "a text"),
    field("return_token_strs", Engines, Flag, Engine, ""),
    field("tools", Engines, List, Engine, ""),
];

/// `POST /detokenize`.
pub(super) const DETOKENISE: &[Field] = &[
    field("model", Engines, Text, Gateway, "the name of an endpoint"),
    field("tokens", Engines, List, Gateway, "a list of tokens"),
];
