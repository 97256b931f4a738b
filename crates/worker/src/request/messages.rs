//! The messages of a chat, and how they become a prompt.

use galerne_api::openai::{ChatMessage, MessageContent, Parameters};
use serde_json::{Map, Value};

use super::{Refused, flag};
use crate::limits;

/// Where the prompt of a chat ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rendering {
    pub ending: Ending,
    /// The last message's text, if the answer is to begin with it (Mistral's `prefix`).
    pub prefix: Option<String>,
    /// Further variables for the template.
    pub variables: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Where the assistant begins to speak.
    Turn,
    /// Inside the last message, which the answer continues.
    Message,
    /// After the last message.
    Nothing,
}

/// How a chat becomes a prompt: Mistral's `prefix` on the last message, vLLM's `continue_final_message`,
/// `add_generation_prompt` and `chat_template_kwargs`.
pub(crate) fn rendering(parameters: &Parameters, messages: &[ChatMessage]) -> Result<Rendering, Refused> {
    let continues = flag(parameters, "continue_final_message")?.unwrap_or(false);
    let adds = flag(parameters, "add_generation_prompt")?;
    let is_prefix = |message: &ChatMessage| message.other.get("prefix") == Some(&Value::Bool(true));
    let last = messages.len().saturating_sub(1);
    if let Some(i) = messages.iter().position(is_prefix)
        && (i != last || messages[i].role != "assistant")
    {
        let text = "`prefix` belongs to the last message, and that must be the assistant's";
        return Err(Refused::new(&format!("messages[{i}].prefix"), "invalid_value", text));
    }
    let is_prefixed = messages.last().is_some_and(is_prefix);
    if (continues || is_prefixed) && adds == Some(true) {
        let text = "`add_generation_prompt` begins a new turn, where the last message is to be continued";
        return Err(Refused::new("add_generation_prompt", "invalid_value", text));
    }
    let ending = if continues || is_prefixed {
        Ending::Message
    } else if adds.unwrap_or(true) {
        Ending::Turn
    } else {
        Ending::Nothing
    };
    let content = messages.last().and_then(|message| message.content.as_ref());
    let prefix = match content.filter(|_| is_prefixed) {
        Some(content) => Some(text_of(last, content)?),
        None => None,
    };
    let variables = match parameters.other.get("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(variables)) => variables.clone(),
        Some(_) => {
            let text = "`chat_template_kwargs` must be an object";
            return Err(Refused::new("chat_template_kwargs", "invalid_type", text));
        }
    };
    const OWN: [&str; 5] = ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"];
    if let Some(name) = variables.keys().find(|name| OWN.contains(&name.as_str())) {
        let text = format!("the template's variable `{name}` is set by the request's own parameters");
        return Err(Refused::new(&format!("chat_template_kwargs.{name}"), "invalid_value", text));
    }
    Ok(Rendering { ending, prefix, variables })
}

/// The messages as a chat template sees them: text only, other keys as sent.
pub(crate) fn template_messages(messages: &[ChatMessage]) -> Result<Vec<Value>, Refused> {
    if messages.is_empty() {
        return Err(Refused::new("messages", "invalid_value", "`messages` is empty"));
    }
    if messages.len() > limits::MESSAGES {
        let message = format!("`messages` has {} entries; at most {} are taken", messages.len(), limits::MESSAGES);
        return Err(Refused::new("messages", "invalid_value", message));
    }
    messages.iter().enumerate().map(|(i, message)| template_message(i, message)).collect()
}

fn template_message(i: usize, message: &ChatMessage) -> Result<Value, Refused> {
    if !ROLES.contains(&message.role.as_str()) {
        let text = format!("role `{}` is not one of {}", message.role, ROLES.join(", "));
        return Err(Refused::new(&format!("messages[{i}].role"), "invalid_value", text));
    }
    let mut out = Map::new();
    // Templates of models made before `developer` existed know `system` only.
    let role = if message.role == "developer" { "system" } else { &message.role };
    out.insert("role".into(), Value::from(role));
    let content = match &message.content {
        Some(content) => text_of(i, content)?,
        None if message.role == "assistant" => String::new(),
        None => {
            let param = format!("messages[{i}].content");
            return Err(Refused::new(&param, "invalid_value", format!("`{param}` is missing")));
        }
    };
    out.insert("content".into(), Value::from(content));
    for (key, value) in &message.other {
        let param = format!("messages[{i}].{key}");
        match key.as_str() {
            "name" | "tool_calls" | "tool_call_id" => {
                out.insert(key.clone(), value.clone());
            }
            // Templates of reasoning models take it back.
            "reasoning_content" if value.is_string() => {
                out.insert(key.clone(), value.clone());
            }
            "refusal" | "audio" | "annotations" | "reasoning_content" if value.is_null() => {}
            // Read by `rendering`.
            "prefix" if matches!(value, Value::Null | Value::Bool(_)) => {}
            _ => {
                let text = format!("`{param}` is not supported by this engine");
                return Err(Refused::new(&param, "unsupported_parameter", text));
            }
        }
    }
    Ok(Value::Object(out))
}

fn text_of(i: usize, content: &MessageContent) -> Result<String, Refused> {
    let parts = match content {
        MessageContent::Text(text) => return Ok(text.clone()),
        MessageContent::Parts(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (j, part) in parts.iter().enumerate() {
        match (&part.text, part.kind.as_str()) {
            (Some(text), "text") => texts.push(text.as_str()),
            (_, kind) => {
                let text = format!("content of type `{kind}` is not supported: this model reads text only");
                return Err(Refused::new(&format!("messages[{i}].content[{j}]"), "unsupported_parameter", text));
            }
        }
    }
    Ok(texts.join("\n"))
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
