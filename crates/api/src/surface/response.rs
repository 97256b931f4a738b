//! Fields of `POST /responses`, which is told to the engine as a chat.

use super::Fate::{Gateway, NoEffect, Only, Refused};
use super::Of::Both;
use super::Takes::{Flag, List, Number, Object, Text, TextOrList, TextOrObject};
use super::{Field, field};

pub(super) const RESPONSE: &[Field] = &[
    field("background", Both, Flag, Only(&["false"]), "nothing is stored that could be asked for later"),
    field("context_management", Both, List, Refused, "nothing is stored here: send the items that count"),
    field("conversation", Both, TextOrObject, Refused, "nothing is stored here: send the earlier items as `input`"),
    field(
        "include",
        Both,
        List,
        Only(&["[]", r#"["reasoning.encrypted_content"]"#]),
        "reasoning is told openly, so nothing is encrypted, and nothing else can be included",
    ),
    field(
        "input",
        Both,
        TextOrList,
        Gateway,
        "a text, or messages, function calls and their outputs; reasoning of earlier turns is read past",
    ),
    field("instructions", Both, Text, Gateway, "the first message, of the role `system`"),
    field("max_output_tokens", Both, Number, Gateway, "goes to the engine as `max_tokens`"),
    field("max_tool_calls", Both, Number, NoEffect, "it bounds built-in tools, of which there are none"),
    field("metadata", Both, Object, Gateway, "told back in the answer, and kept nowhere"),
    field("model", Both, Text, Gateway, "the name of an endpoint"),
    field("parallel_tool_calls", Both, Flag, Gateway, ""),
    field("previous_response_id", Both, Text, Refused, "nothing is stored here: send the earlier items as `input`"),
    field("prompt", Both, Object, Refused, "no prompts are stored here: send `instructions`"),
    field("prompt_cache_key", Both, Text, NoEffect, "cached prompts are found by their text"),
    field(
        "prompt_cache_options",
        Both,
        Object,
        NoEffect,
        "a hint; how long prompts stay cached is the engine's affair",
    ),
    field(
        "prompt_cache_retention",
        Both,
        Text,
        NoEffect,
        "a hint; how long prompts stay cached is the engine's affair",
    ),
    field(
        "reasoning",
        Both,
        Object,
        Gateway,
        "`effort` goes to the engine as `reasoning_effort`; no summaries are made",
    ),
    field("safety_identifier", Both, Text, NoEffect, "who asks is known by the key"),
    field(
        "service_tier",
        Both,
        Text,
        Gateway,
        "`flex`, `default` (`standard_only`), `priority`; `auto` is what the key may have. The answer names the one used",
    ),
    field("store", Both, Flag, Only(&["false"]), "nothing is stored here; left out, it is answered as `false`"),
    field("stream", Both, Flag, Gateway, ""),
    field("stream_options", Both, Object, NoEffect, "there is no padding to switch off"),
    field("temperature", Both, Number, Gateway, ""),
    field(
        "text",
        Both,
        Object,
        Gateway,
        "`format` goes to the engine as `response_format`; `verbosity` can only be `medium`",
    ),
    field("tool_choice", Both, TextOrObject, Gateway, "`none`, `auto`, `required`, or a function by name"),
    field("tools", Both, List, Gateway, "functions; no built-in tools"),
    field("top_logprobs", Both, Number, Only(&["0"]), "ask for them at `/v1/chat/completions`"),
    field("top_p", Both, Number, Gateway, ""),
    field("truncation", Both, Text, Only(&[r#""disabled""#]), "what does not fit is refused, not cut"),
    field("user", Both, Text, NoEffect, "who asks is known by the key"),
];
