//! A request for a response, as a chat.

use galerne_api::surface::{Call, Dialect};
use serde_json::{Map, Value, json};

use super::{Repeated, unsupported};
use crate::refusal::Refusal;
use crate::request::{self, invalid};

/// The chat's body, and what the answer repeats of the request.
pub(crate) fn as_chat(dialect: Dialect, body: &str) -> Result<(String, Repeated), Refusal> {
    request::check(dialect, Call::Response, body)?;
    let asked: Map<String, Value> = serde_json::from_str(body).map_err(|error| request::malformed(&error))?;
    let mut chat = Map::new();
    let mut messages = Vec::new();
    if let Some(text) = asked.get("instructions").and_then(Value::as_str) {
        messages.push(json!({"role": "system", "content": text}));
    }
    match asked.get("input") {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) => add_items(&mut messages, items)?,
        _ => return Err(invalid("input", "`input` is missing")),
    }
    chat.insert("messages".to_owned(), Value::Array(messages));
    for (name, to) in SAME {
        if let Some(value) = asked.get(name).filter(|value| !value.is_null()) {
            chat.insert(to.to_owned(), value.clone());
        }
    }
    if let Some(tools) = asked.get("tools").and_then(Value::as_array).filter(|tools| !tools.is_empty()) {
        let tools: Result<Vec<Value>, Refusal> =
            tools.iter().enumerate().map(|(at, tool)| function(at, tool)).collect();
        chat.insert("tools".to_owned(), Value::Array(tools?));
    }
    if let Some(choice) = asked.get("tool_choice").filter(|choice| !choice.is_null()) {
        chat.insert("tool_choice".to_owned(), tool_choice(choice)?);
    }
    if let Some(format) = text_format(asked.get("text").unwrap_or(&Value::Null))? {
        chat.insert("response_format".to_owned(), format);
    }
    if let Some(effort) = asked.get("reasoning").and_then(|reasoning| reasoning.get("effort")) {
        chat.insert("reasoning_effort".to_owned(), effort.clone());
    }
    if asked.get("stream") == Some(&Value::Bool(true)) {
        chat.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    Ok((Value::Object(chat).to_string(), repeated(&asked)))
}

/// Fields with another name at most.
const SAME: [(&str, &str); 7] = [
    ("model", "model"),
    ("max_output_tokens", "max_tokens"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("parallel_tool_calls", "parallel_tool_calls"),
    ("stream", "stream"),
    ("service_tier", "service_tier"),
];

/// What clients require in an answer, with OpenAI's defaults.
fn repeated(asked: &Map<String, Value>) -> Repeated {
    let defaults = json!({
        "background": false, "instructions": null, "max_output_tokens": null, "max_tool_calls": null, "metadata": {},
        "parallel_tool_calls": true, "prompt_cache_key": null, "safety_identifier": null, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0, "user": null,
    });
    let Value::Object(mut out) = defaults else { return Map::new() };
    for (name, value) in &mut out {
        if let Some(given) = asked.get(name).filter(|given| !given.is_null()) {
            *value = given.clone();
        }
    }
    if let Some(Value::Object(text)) = out.get_mut("text") {
        text.entry("format").or_insert_with(|| json!({"type": "text"}));
    }
    let effort = asked.get("reasoning").and_then(|reasoning| reasoning.get("effort")).cloned();
    out.insert("reasoning".to_owned(), json!({"effort": effort, "summary": null}));
    let fixed = json!({
        "previous_response_id": null, "store": false, "truncation": "disabled", "top_logprobs": 0, "service_tier": "default",
        "presence_penalty": 0.0, "frequency_penalty": 0.0,
    });
    out.extend(fixed.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())));
    out
}

fn add_items(messages: &mut Vec<Value>, items: &[Value]) -> Result<(), Refusal> {
    for (at, item) in items.iter().enumerate() {
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        match text("type").unwrap_or("message") {
            "message" => messages.push(message(at, item)?),
            "function_call" => {
                let function = json!({"name": text("name"), "arguments": text("arguments")});
                let call = json!({"id": text("call_id"), "type": "function", "function": function});
                add_call(messages, call);
            }
            "function_call_output" => {
                let output = item.get("output").unwrap_or(&Value::Null);
                let content = content(&format!("input[{at}].output"), output)?;
                messages.push(json!({"role": "tool", "tool_call_id": text("call_id"), "content": content}));
            }
            // What the model thought is not read again by its templates.
            "reasoning" => {}
            other => {
                let param = format!("input[{at}].type");
                return Err(unsupported(param, format!("items of the type `{other}` are not served here")));
            }
        }
    }
    Ok(())
}

/// Calls of one turn belong to one message.
fn add_call(messages: &mut Vec<Value>, call: Value) {
    let last = messages.last_mut().filter(|last| last["role"] == "assistant");
    match last.and_then(|last| last.get_mut("tool_calls")).and_then(Value::as_array_mut) {
        Some(calls) => calls.push(call),
        None => messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]})),
    }
}

fn message(at: usize, item: &Value) -> Result<Value, Refusal> {
    let role = item.get("role").and_then(Value::as_str);
    let Some(role @ ("user" | "assistant" | "system" | "developer")) = role else {
        let param = format!("input[{at}].role");
        return Err(invalid(param.clone(), format!("`{param}` must be `user`, `assistant`, `system` or `developer`")));
    };
    let content = content(&format!("input[{at}].content"), item.get("content").unwrap_or(&Value::Null))?;
    Ok(json!({"role": role, "content": content}))
}

/// A text, or parts as chats have them; parts that are texts only become one text, which every engine reads.
fn content(param: &str, content: &Value) -> Result<Value, Refusal> {
    let parts = match content {
        Value::String(_) => return Ok(content.clone()),
        Value::Array(parts) => parts,
        _ => return Err(invalid(param, format!("`{param}` must be a text or a list of parts"))),
    };
    let told: Result<Vec<Value>, Refusal> =
        parts.iter().enumerate().map(|(at, part)| content_part(param, at, part)).collect();
    let told = told?;
    let texts: Option<Vec<&str>> = told.iter().map(|part| part.get("text").and_then(Value::as_str)).collect();
    Ok(texts.map_or_else(|| Value::Array(told.clone()), |texts| Value::String(texts.concat())))
}

fn content_part(param: &str, at: usize, part: &Value) -> Result<Value, Refusal> {
    let text = |name: &str| part.get(name).and_then(Value::as_str);
    match (text("type").unwrap_or_default(), text("text").or_else(|| text("refusal")), text("image_url")) {
        ("input_text" | "output_text" | "text" | "refusal", Some(text), _) => Ok(json!({"type": "text", "text": text})),
        ("input_image", _, Some(url)) => {
            let detail = text("detail").unwrap_or("auto");
            Ok(json!({"type": "image_url", "image_url": {"url": url, "detail": detail}}))
        }
        (kind, ..) => {
            let param = format!("{param}[{at}]");
            Err(unsupported(param, format!("content of the type `{kind}` cannot be told to a chat")))
        }
    }
}

fn function(at: usize, tool: &Value) -> Result<Value, Refusal> {
    if tool.get("type").and_then(Value::as_str) != Some("function") {
        let kind = tool.get("type").unwrap_or(&Value::Null);
        let param = format!("tools[{at}].type");
        return Err(unsupported(param, format!("only tools of the type `function` are served here, not {kind}")));
    }
    let mut function = Map::new();
    for name in ["name", "description", "parameters", "strict"] {
        if let Some(value) = tool.get(name).filter(|value| !value.is_null()) {
            function.insert(name.to_owned(), value.clone());
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

fn tool_choice(choice: &Value) -> Result<Value, Refusal> {
    match (choice, choice.get("type").and_then(Value::as_str), choice.get("name")) {
        (Value::String(_), ..) => Ok(choice.clone()),
        (_, Some("function"), Some(name)) => Ok(json!({"type": "function", "function": {"name": name}})),
        _ => Err(unsupported("tool_choice", "`tool_choice` can be `none`, `auto`, `required`, or a function by name")),
    }
}

/// The chat's `response_format`.
fn text_format(text: &Value) -> Result<Option<Value>, Refusal> {
    if text.get("verbosity").is_some_and(|verbosity| !verbosity.is_null() && verbosity != "medium") {
        let why = "`text.verbosity` can only be `medium` here: engines do not know it";
        return Err(unsupported("text.verbosity", why));
    }
    let Some(format) = text.get("format").filter(|format| !format.is_null()) else { return Ok(None) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(json!({"type": "json_object"}))),
        Some("json_schema") => {
            let mut schema = format.as_object().cloned().unwrap_or_default();
            schema.remove("type");
            Ok(Some(json!({"type": "json_schema", "json_schema": schema})))
        }
        _ => Err(invalid("text.format", "`text.format.type` must be `text`, `json_object` or `json_schema`")),
    }
}
