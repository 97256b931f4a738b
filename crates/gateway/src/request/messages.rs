//! Mistral's `prefix`: the last message is the beginning of the answer.
//!
//! Engines say the same of the whole request (`continue_final_message`), so the mark is taken off the message.

use galerne_api::error::Code;
use galerne_api::surface::Dialect;
use serde_json::value::RawValue;

use super::{List, ObjectWriter, invalid, malformed};
use crate::refusal::Refusal;

/// Whose turn follows the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A new answer.
    New,
    /// The last message goes on.
    GoesOn,
}

/// Looks for a prefix; nearly no request has one, and those are told by one search.
pub(super) fn turn(dialect: Dialect, messages: &RawValue) -> Result<Turn, Refusal> {
    if !messages.get().contains("\"prefix\"") {
        return Ok(Turn::New);
    }
    let List(list) = serde_json::from_str(messages.get()).map_err(|error| malformed(&error))?;
    let mut turn = Turn::New;
    for (at, message) in list.iter().enumerate() {
        let Some(prefix) = message.get("prefix") else { continue };
        let param = format!("messages[{at}].prefix");
        if dialect == Dialect::OpenAi {
            let text = format!("`{param}` is Mistral's and not taken under /openai/v1; hint: send it to /v1");
            return Err(Refusal::new(Code::UnknownParameter, text).param(param));
        }
        match prefix.get() {
            "false" => {}
            "true" if at + 1 < list.len() => {
                return Err(invalid(param, "only the last message can be the beginning of the answer"));
            }
            "true" if message.get("role").is_none_or(|role| role.get() != r#""assistant""#) => {
                return Err(invalid(
                    param,
                    "only a message of the role `assistant` can be the beginning of the answer",
                ));
            }
            "true" => turn = Turn::GoesOn,
            _ => return Err(invalid(param.clone(), format!("`{param}` takes true or false"))),
        }
    }
    Ok(turn)
}

/// The text of the last message, as JSON; nothing where it has parts.
pub(super) fn last_text(messages: &str) -> Option<String> {
    let List(list) = serde_json::from_str(messages).ok()?;
    let content = list.last()?.get("content")?.get();
    content.starts_with('"').then(|| content.to_owned())
}

/// The messages as engines know them.
pub(super) fn without_prefix(messages: &str) -> String {
    let Ok(List(list)) = serde_json::from_str::<List<'_>>(messages) else { return messages.to_owned() };
    let mut out = String::with_capacity(messages.len());
    for message in &list {
        out.push(if out.is_empty() { '[' } else { ',' });
        let mut object = ObjectWriter::with_capacity(128);
        for (name, value) in message.0.iter().filter(|(name, _)| name != "prefix") {
            object.raw(name, value.get());
        }
        out.push_str(&String::from_utf8(object.finish()).expect("made of texts"));
    }
    out.push(']');
    out
}
