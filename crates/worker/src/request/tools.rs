//! Tools of a chat, and the form of its answer.

use galerne_api::openai::Parameters;
use serde_json::{Map, Value, json};

use super::names::shorten;
use super::{Refused, flag};
use crate::limits;

/// The tools of a request, and whether they have to be called.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToolUse {
    pub tools: Vec<Tool>,
    pub called: Called,
    /// Whether one answer may hold several calls: never when a tool is named, which is called once.
    pub is_parallel: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
    /// Whether every call has to keep to the schema.
    pub is_strict: bool,
    /// As it was sent, for the chat template.
    pub sent: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    /// As the model likes.
    Maybe,
    /// One of them, whichever.
    Some,
    /// This one.
    One(usize),
}

impl ToolUse {
    /// The tools that may be called, with their place in the list.
    pub(crate) fn callable(&self) -> impl Iterator<Item = (usize, &Tool)> {
        let is_callable = |i: usize| match self.called {
            Called::One(one) => i == one,
            Called::Maybe | Called::Some => true,
        };
        self.tools.iter().enumerate().filter(move |(i, _)| is_callable(*i))
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.tools.iter().any(|tool| tool.is_strict)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tools.iter().map(|tool| tool.name.clone()).collect()
    }
}

/// The tools of a request; none when they may not be called.
pub(crate) fn tool_use(parameters: &Parameters) -> Result<Option<ToolUse>, Refused> {
    let is_parallel = flag(parameters, "parallel_tool_calls")?.unwrap_or(true);
    let get = |name: &str| parameters.other.get(name).filter(|value| !value.is_null());
    let tools = match get("tools") {
        None => vec![],
        Some(Value::Array(list)) if list.len() <= limits::TOOLS => {
            list.iter().enumerate().map(|(i, tool)| read_tool(i, tool)).collect::<Result<Vec<_>, _>>()?
        }
        Some(Value::Array(list)) => {
            let text = format!("`tools` has {} entries; at most {} are taken", list.len(), limits::TOOLS);
            return Err(Refused::new("tools", "invalid_value", text));
        }
        Some(_) => return Err(Refused::new("tools", "invalid_type", "`tools` must be a list")),
    };
    if let Some((i, tool)) = tools.iter().enumerate().find(|(i, tool)| tools[..*i].iter().any(|t| t.name == tool.name))
    {
        let text = format!("two tools are called `{}`", tool.name);
        return Err(Refused::new(&format!("tools[{i}].function.name"), "invalid_value", text));
    }
    let called = match get("tool_choice") {
        None => Some(Called::Maybe),
        Some(choice) => read_choice(choice, &tools)?,
    };
    if called.is_some_and(|called| called != Called::Maybe) && tools.is_empty() {
        return Err(Refused::new("tool_choice", "invalid_value", "`tool_choice` needs `tools`"));
    }
    Ok(called.filter(|_| !tools.is_empty()).map(|called| {
        // A model that is inclined to would call the one tool again until its tokens are used up.
        let is_parallel = is_parallel && !matches!(called, Called::One(_));
        ToolUse { tools, called, is_parallel }
    }))
}

fn read_tool(i: usize, tool: &Value) -> Result<Tool, Refused> {
    let refused =
        |field: &str, code: &'static str, text: String| Err(Refused::new(&format!("tools[{i}]{field}"), code, text));
    if tool.get("type").and_then(Value::as_str) != Some("function") {
        let kind = shorten(&tool.get("type").unwrap_or(&Value::Null).to_string());
        let text = format!("a tool of type {kind} is not supported by this engine; `function` is");
        return refused(".type", "unsupported_parameter", text);
    }
    let Some(Value::Object(function)) = tool.get("function") else {
        return refused(".function", "invalid_type", "a tool needs its `function`, an object".into());
    };
    let name = match function.get("name").and_then(Value::as_str) {
        Some(name) if is_name(name) => name.to_owned(),
        _ => {
            let text = "a tool's name has 1 to 64 of the characters A-Z, a-z, 0-9, `_`, `-` and `.`";
            return refused(".function.name", "invalid_value", text.into());
        }
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => {
            return refused(".function.parameters", "invalid_type", "`parameters` is a JSON schema, an object".into());
        }
    };
    let is_strict = match function.get("strict") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_strict)) => *is_strict,
        Some(_) => return refused(".function.strict", "invalid_type", "`strict` must be true or false".into()),
    };
    Ok(Tool { name, parameters, is_strict, sent: tool.clone() })
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

/// `None` when no tool may be called.
fn read_choice(choice: &Value, tools: &[Tool]) -> Result<Option<Called>, Refused> {
    if let Some(word) = choice.as_str() {
        return match word {
            "none" => Ok(None),
            "auto" => Ok(Some(Called::Maybe)),
            // Mistral's word for it is the second one.
            "required" | "any" => Ok(Some(Called::Some)),
            _ => {
                let text = format!(
                    "`tool_choice` is `{}`; it must be none, auto, required, any, or a function",
                    shorten(word)
                );
                Err(Refused::new("tool_choice", "invalid_value", text))
            }
        };
    }
    let name = choice.get("function").and_then(|function| function.get("name")).and_then(Value::as_str);
    let is_function = choice.get("type").is_none_or(|kind| kind == "function");
    let Some(name) = name.filter(|_| is_function) else {
        let text = "`tool_choice` must be a word, or {\"type\": \"function\", \"function\": {\"name\": …}}";
        return Err(Refused::new("tool_choice", "invalid_type", text));
    };
    match tools.iter().position(|tool| tool.name == name) {
        Some(i) => Ok(Some(Called::One(i))),
        None => {
            let text = format!("`tool_choice` names `{}`, which is none of the `tools`", shorten(name));
            Err(Refused::new("tool_choice.function.name", "invalid_value", text))
        }
    }
}

/// The schema that an answer has to keep to, if any.
pub(crate) fn response_format(parameters: &Parameters) -> Result<Option<Value>, Refused> {
    let Some(format) = parameters.other.get("response_format").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let Some(kind) = format.get("type").and_then(Value::as_str) else {
        return Err(Refused::new("response_format.type", "invalid_type", "`response_format` needs a `type`"));
    };
    match kind {
        "text" => Ok(None),
        "json_object" => Ok(Some(json!({"type": "object"}))),
        "json_schema" => {
            let wrapper = format.get("json_schema").and_then(Value::as_object);
            match wrapper.and_then(|wrapper| Some((wrapper, wrapper.get("schema")?))) {
                Some((wrapper, schema @ Value::Object(_))) => {
                    unknown_format(wrapper)?;
                    Ok(Some(schema.clone()))
                }
                _ => {
                    let at = "response_format.json_schema.schema";
                    Err(Refused::new(at, "invalid_type", "`json_schema.schema` must be a JSON schema, an object"))
                }
            }
        }
        other => {
            let text = format!("`{}` is none of text, json_object and json_schema", shorten(other));
            Err(Refused::new("response_format.type", "invalid_value", text))
        }
    }
}

fn unknown_format(wrapper: &Map<String, Value>) -> Result<(), Refused> {
    match wrapper.keys().find(|key| !["name", "description", "schema", "strict"].contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let at = format!("response_format.json_schema.{}", shorten(key));
            Err(Refused::new(&at, "unknown_parameter", format!("unknown parameter `{at}`")))
        }
    }
}
