//! The grammar of an answer: a schema for its content, calls of tools in the model's manner, thoughts in front of both.
//! Written in llguidance's dialect of Lark. Between keys, values and items of JSON one space is allowed and no line break:
//! small models would go on with white space until their tokens are used up.

use serde_json::{Value, json};

use crate::manner::{Calls, DEEPSEEK_CALL, DEEPSEEK_END, DEEPSEEK_SEPARATOR, Manner};
use crate::markup::Markup;
use crate::request::{Called, ToolUse};
use crate::vocabulary::{Frame, Vocabulary};

/// What an answer has to keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The schema of its content.
    pub content: Option<&'a Value>,
    pub tools: Option<&'a ToolUse>,
    pub manner: &'a Manner,
    /// The prompt has begun the thoughts.
    pub thinks: bool,
}

/// The grammar, or nothing when any answer will do.
pub(crate) fn grammar(wanted: &Wanted<'_>, vocabulary: &dyn Vocabulary) -> Option<String> {
    let writer = Writer { vocabulary };
    let mut rules = vec![];
    let content = wanted.content.map(|schema| {
        rules.push(format!("content: {}", json_rule(schema)));
        "content".to_owned()
    });
    let calls = wanted.tools.zip(wanted.manner.calls());
    let body = match (content, calls) {
        (content, None) => content?,
        (content, Some((tools, family))) => {
            let is_forced = tools.called != Called::Maybe;
            let is_loose = content.is_none() && tools.is_parallel && !tools.is_strict();
            if !is_forced && is_loose {
                return None;
            }
            writer.calls(&mut rules, tools, family);
            match content {
                _ if is_forced => "calls".to_owned(),
                Some(content) => format!("calls | {content}"),
                None => writer.text_or_calls(&mut rules, family),
            }
        }
    };
    let start = match wanted.manner.thoughts {
        None => "start: body".to_owned(),
        Some((begin, end)) => {
            rules.push(writer.until(end));
            rules.push("gap: /[ \\n]{1,2}/".to_owned());
            if wanted.thinks {
                "start: thoughts gap? body".to_owned()
            } else {
                format!("start: body | {} thoughts gap? body", writer.mark(begin))
            }
        }
    };
    rules.insert(0, format!("body: {body}"));
    rules.insert(0, start);
    rules.push(String::new());
    Some(rules.join("\n"))
}

/// A grammar of nothing but a schema: to try it.
pub(crate) fn of_schema(schema: &Value) -> String {
    format!("start: {}\n", json_rule(schema))
}

fn json_rule(schema: &Value) -> String {
    let schema = if composes(schema) { schema.clone() } else { closed(schema) };
    let mut schema = match schema {
        Value::Object(object) => object,
        // `true`: anything.
        _ => serde_json::Map::new(),
    };
    let spaces = json!({"whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?"});
    schema.insert("x-guidance".into(), spaces);
    format!("%json {}", Value::Object(schema))
}

/// Keywords that say more of an object than its properties do.
const OF_OBJECTS: [&str; 10] = [
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "$ref",
    "anyOf",
    "oneOf",
    "if",
    "not",
];

/// Whether an object is put together of several schemas, of which each would have to know the others' properties.
fn composes(schema: &Value) -> bool {
    let has = |name: &str| schema.get(name).is_some();
    let is_mixed = has("properties") && ["$ref", "anyOf", "oneOf", "if", "not"].into_iter().any(has);
    has("allOf") || is_mixed || parts(schema).iter().any(|(_, inner)| composes(inner))
}

/// The schema without properties that it does not name, where it leaves them open: small models would go on to add others until
/// their tokens are used up. What keeps to it keeps to the schema.
fn closed(schema: &Value) -> Value {
    let Value::Object(object) = schema else { return schema.clone() };
    let mut out = object.clone();
    for (name, value) in &mut out {
        match (name.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(inner)) => {
                inner.values_mut().for_each(|schema| *schema = closed(schema));
            }
            ("anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(inner)) => {
                inner.iter_mut().for_each(|schema| *schema = closed(schema));
            }
            ("items" | "additionalProperties", schema) => *schema = closed(schema),
            _ => {}
        }
    }
    let named = |name: &Value| {
        let properties = object.get("properties").and_then(Value::as_object);
        name.as_str().is_some_and(|name| properties.is_some_and(|properties| properties.contains_key(name)))
    };
    let is_open = object.get("properties").is_some_and(Value::is_object)
        && !OF_OBJECTS.iter().any(|name| object.contains_key(*name))
        && object.get("required").and_then(Value::as_array).is_none_or(|required| required.iter().all(named));
    if is_open {
        out.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(out)
}

struct Writer<'a> {
    vocabulary: &'a dyn Vocabulary,
}

impl Writer<'_> {
    /// A mark: the control token where it is one, else its letters.
    fn mark(&self, text: &str) -> String {
        match self.control(text) {
            Some(token) => format!("<[{token}]>"),
            None => quoted(text),
        }
    }

    fn control(&self, text: &str) -> Option<i32> {
        match self.vocabulary.tokenize(text, Frame::Left, Markup::Obeyed).as_slice() {
            [token] if self.vocabulary.plain_piece(*token).is_empty() => Some(*token),
            _ => None,
        }
    }

    /// Thoughts up to their end.
    fn until(&self, end: &str) -> String {
        match self.control(end) {
            Some(token) => format!("thoughts: ANY? <[{token}]>\nANY: /(.|\\n)+/"),
            None => format!("thoughts[lazy]: /(.|\\n)*{}/", escaped(end)),
        }
    }

    /// Text, or calls that some text may lead to.
    fn text_or_calls(&self, rules: &mut Vec<String>, family: Calls) -> String {
        if family.is_bare() {
            rules.push("text: /[^{ \\n](.|\\n)*/".to_owned());
            return "text | calls".to_owned();
        }
        if self.control(family.open()).is_some() {
            rules.push("text: /(.|\\n)+/".to_owned());
            return "text | calls | text calls".to_owned();
        }
        // The longest text goes on into the letters of a mark and finds no way back: what leads to calls ends with the mark.
        let mark = escaped(family.open());
        rules.push(format!("text: TEXT\nTEXT: /(.|\\n)+/ & ~/(.|\\n)*{mark}(.|\\n)*/"));
        rules.push(format!("lead[lazy]: /(.|\\n)*{mark}/"));
        "text | lead rest".to_owned()
    }

    /// Adds the rules `calls`, one call or several of the tools that may be called, and `rest`, all of it behind its first mark.
    fn calls(&self, rules: &mut Vec<String>, tools: &ToolUse, family: Calls) {
        let mut names = vec![];
        for (i, tool) in tools.callable() {
            rules.push(format!("arguments{i}: {}", json_rule(&tool.parameters)));
            rules.push(format!("call{i}: {}", self.call(family, i, &tool.name)));
            names.push(format!("call{i}"));
        }
        let one = format!("({})", names.join(" | "));
        let several = |between: &str| if tools.is_parallel { format!("{one} ({between} {one})*") } else { one.clone() };
        let open = self.mark(family.open());
        let rest = match family {
            Calls::Hermes => several(&format!("{} {open}", quoted("\n"))),
            Calls::MistralList => format!("{} {} {}", quoted("["), several(&quoted(", ")), quoted("]")),
            Calls::MistralNamed => several(&open),
            // More than one is not what these models were made for, and the mark may be left out.
            Calls::Llama => {
                rules.push(format!("calls: {one}"));
                return;
            }
            Calls::DeepSeek { .. } => format!("{} {}", several(&quoted("\n")), self.mark(DEEPSEEK_END)),
        };
        rules.push(format!("rest: {rest}"));
        rules.push(format!("calls: {open} rest"));
    }

    /// A call behind the mark that begins it, or the list of them.
    fn call(&self, family: Calls, i: usize, name: &str) -> String {
        let object = |key: &str| {
            let name = Value::from(name);
            format!("{} arguments{i} {}", quoted(&format!("{{\"name\": {name}, \"{key}\": ")), quoted("}"))
        };
        let [begin, end] = DEEPSEEK_CALL.map(|mark| self.mark(mark));
        let separator = self.mark(DEEPSEEK_SEPARATOR);
        match family {
            Calls::Hermes => {
                format!("{} {} {} {}", quoted("\n"), object("arguments"), quoted("\n"), self.mark("</tool_call>"))
            }
            Calls::MistralList => object("arguments"),
            Calls::MistralNamed => {
                format!("{} {} arguments{i}", quoted(name), self.mark("[ARGS]"))
            }
            Calls::Llama => object("parameters"),
            Calls::DeepSeek { is_fenced: true } => {
                let name = quoted(&format!("{name}\n```json\n"));
                format!("{begin} {} {separator} {name} arguments{i} {} {end}", quoted("function"), quoted("\n```"))
            }
            Calls::DeepSeek { is_fenced: false } => format!("{begin} {} {separator} arguments{i} {end}", quoted(name)),
        }
    }
}

/// A text as Lark writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text inside of a regular expression.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if "\\/[](){}.*+?|^$&~".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}

/// Where a schema is at fault: the innermost part that cannot be compiled by itself, as a path below `at`.
pub(crate) fn culprit(schema: &Value, at: &str, fails: &mut dyn FnMut(&Value) -> bool) -> String {
    let mut tries = TRIES;
    let definitions: Vec<(String, Value)> = ["$defs", "definitions"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), schema.get(name)?.clone())))
        .collect();
    let mut place = at.to_owned();
    let mut part = schema.clone();
    while let Some((path, inner)) = parts(&part).into_iter().find(|(_, inner)| {
        tries = tries.saturating_sub(1);
        let Value::Object(object) = inner else { return false };
        let mut alone = object.clone();
        for (name, value) in &definitions {
            alone.entry(name.clone()).or_insert_with(|| value.clone());
        }
        tries > 0 && fails(&Value::Object(alone))
    }) {
        place.push_str(&path);
        part = inner;
    }
    place
}

/// Parts that are tried at most: a schema has few, and each takes a compilation.
const TRIES: usize = 128;

/// The schemas directly inside of a schema, by path.
fn parts(schema: &Value) -> Vec<(String, Value)> {
    let mut parts = vec![];
    for name in ["properties", "patternProperties", "$defs", "definitions"] {
        if let Some(Value::Object(inner)) = schema.get(name) {
            parts.extend(inner.iter().map(|(key, value)| (format!(".{name}.{key}"), value.clone())));
        }
    }
    for name in ["anyOf", "oneOf", "allOf", "prefixItems"] {
        if let Some(Value::Array(inner)) = schema.get(name) {
            parts.extend(inner.iter().enumerate().map(|(i, value)| (format!(".{name}[{i}]"), value.clone())));
        }
    }
    for name in ["items", "additionalProperties", "additionalItems"] {
        if let Some(value @ Value::Object(_)) = schema.get(name) {
            parts.push((format!(".{name}"), value.clone()));
        }
    }
    parts
}

#[cfg(test)]
mod tests;
