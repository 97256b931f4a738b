//! Chunks of an answer as they are told: whatever an engine left out or repeated, no text of it is lost.

use galerne_api::surface::Dialect;
use galerne_model::ids::RequestId;
use galerne_model::ledger::Operation;
use serde_json::Value;
use uuid::Uuid;

use super::{Teller, Voice};
use crate::fuzz::Dice;

/// Name of the model that callers know.
const MODEL: &str = "m \"1\"";

/// Chunks of a stream, one a line: JSON stays JSON, the model has the caller's name, and the text stays the text.
pub fn told(input: &[u8]) {
    let (mut dice, bytes) = Dice::of(input);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let operation = [Operation::Chat, Operation::Completion, Operation::Fim][dice.below(3)];
    let mut teller = Teller::new(voice(operation, dice.below(2) == 0), false, RequestId::from_uuid(Uuid::nil()));
    for line in text.lines() {
        let told = teller.chunk(line);
        let Some(said) = sound_chunk(line) else { continue };
        let told: Value = match serde_json::from_str(&told) {
            Ok(told) => told,
            Err(error) => panic!("{error}: `{line}` is told as `{told}`"),
        };
        if said.get("model").is_some() {
            assert_eq!(told["model"], MODEL, "{line}");
        }
        assert_eq!(texts(&said, operation), texts(&told, operation), "`{line}` is told as `{told}`");
    }
}

fn voice(operation: Operation, names_tier: bool) -> Voice {
    Voice {
        dialect: Dialect::Union,
        operation,
        model: MODEL.to_owned(),
        renames: true,
        named_tier: names_tier.then_some("default"),
        base64: false,
        prefix: None,
        repeated: None,
    }
}

/// A chunk that a client could read: an object, no name in it twice, with choices that are objects.
fn sound_chunk(line: &str) -> Option<Value> {
    let chunk: Value = serde_json::from_str(line).ok()?;
    let choices = chunk.as_object()?.get("choices")?.as_array()?;
    let is_sound = |choice: &Value| {
        let delta = choice.get("delta");
        let text = choice.get("text");
        // One of them, or the text would be two texts.
        let is_one = delta.is_none() || text.is_none();
        choice.is_object() && is_one && delta.is_none_or(Value::is_object) && text.is_none_or(Value::is_string)
    };
    (choices.iter().all(is_sound) && has_no_name_twice(line, &chunk)).then_some(chunk)
}

/// As many names when parsed as are written: a second one of a kind is gone by then.
fn has_no_name_twice(line: &str, chunk: &Value) -> bool {
    fn names(value: &Value) -> usize {
        match value {
            Value::Array(list) => list.iter().map(names).sum(),
            Value::Object(object) => object.len() + object.values().map(names).sum::<usize>(),
            _ => 0,
        }
    }
    let (mut colons, mut in_text, mut escaped) = (0, false, false);
    for byte in line.bytes() {
        colons += usize::from(byte == b':' && !in_text);
        in_text = in_text != (byte == b'"' && !escaped);
        escaped = in_text && byte == b'\\' && !escaped;
    }
    colons == names(chunk)
}

/// What the model wrote, choice by choice, wherever it stands.
fn texts(chunk: &Value, operation: Operation) -> Vec<(Value, String)> {
    let choices = chunk["choices"].as_array().into_iter().flatten();
    choices
        .map(|choice| {
            let index = choice.get("index").filter(|index| !index.is_null()).cloned().unwrap_or_else(|| Value::from(0));
            let delta = choice.get("delta").and_then(|delta| delta.get("content")).and_then(Value::as_str);
            // The middle of a text is told as a message.
            let text = choice.get("text").and_then(Value::as_str).filter(|_| operation != Operation::Chat);
            let said = if operation == Operation::Fim { text.or(delta) } else { delta.or(text) };
            (index, said.unwrap_or_default().to_owned())
        })
        .collect()
}
