//! Lines of a batch: what each must say, and what is said of it at the end.
//!
//! OpenAI's line: `{"custom_id", "method": "POST", "url", "body"}`. Mistral's: `{"custom_id", "body"}`, the model said once
//! for all. Answers have the same shape for both. Pure: text in, values out.

use std::collections::HashSet;

use galerne_model::batch::{Fault, Surface};
use galerne_model::ledger::Operation;
use galerne_model::limits;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Longest `custom_id`.
const CUSTOM_ID_MAX_CHARS: usize = 512;
/// Faults that are told; a file in another format has one on every line.
pub(super) const FAULTS_MAX: usize = 100;

/// Where work of a kind is asked for, in OpenAI's words and Mistral's.
pub(super) const PATHS: [(Operation, &str); 4] = [
    (Operation::Chat, "/v1/chat/completions"),
    (Operation::Completion, "/v1/completions"),
    (Operation::Fim, "/v1/fim/completions"),
    (Operation::Embedding, "/v1/embeddings"),
];

/// The path of a kind of work.
pub(super) fn path_of(operation: Operation) -> &'static str {
    PATHS.iter().find(|(known, _)| *known == operation).map_or("", |(_, path)| path)
}

/// What every line of a batch must agree with.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) surface: Surface,
    pub(super) operation: Operation,
    /// The model of all requests: the batch's own, or what the first line says.
    pub(super) model: Option<String>,
}

/// Reads the lines of a batch, one after the other, and keeps what is wrong with them.
#[derive(Debug)]
pub(super) struct Judge {
    rules: Rules,
    seen: HashSet<String>,
    count: u64,
    faults: Vec<Fault>,
}

/// A line as it is read again when its request is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) custom_id: Option<String>,
    /// The body to send.
    pub(super) body: Vec<u8>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    custom_id: Option<Value>,
    #[serde(default)]
    method: Option<Value>,
    #[serde(default)]
    url: Option<Value>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    model: Option<Value>,
    #[serde(default)]
    stream: Option<Value>,
}

impl Judge {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, seen: HashSet::new(), count: 0, faults: Vec::new() }
    }

    /// Looks at a line that is not empty; `number` counts from 1 over all lines of the file.
    pub(super) fn look(&mut self, number: u64, text: &[u8]) {
        self.count += 1;
        if let Err((code, message, param)) = self.check(text)
            && self.faults.len() < FAULTS_MAX
        {
            let (code, param) = (code.to_owned(), param.map(str::to_owned));
            self.faults.push(Fault { code, message, param, line: Some(number) });
        }
    }

    /// A line that is too long to be kept in memory.
    pub(super) fn too_long(&mut self, number: u64) {
        self.count += 1;
        if self.faults.len() < FAULTS_MAX {
            let message = format!("This line has more than {} bytes.", limits::INFERENCE_BODY_MAX_BYTES);
            let code = "line_too_long".to_owned();
            self.faults.push(Fault { code, message, param: None, line: Some(number) });
        }
    }

    /// Whether more lines would change nothing.
    pub(super) fn has_seen_enough(&self) -> bool {
        self.faults.len() >= FAULTS_MAX || self.count > limits::BATCH_REQUESTS_MAX
    }

    /// How many requests there are and their model, or what is wrong.
    pub(super) fn verdict(mut self) -> Result<(u64, String), Vec<Fault>> {
        let whole = |code: &str, message: String| Fault { code: code.to_owned(), message, param: None, line: None };
        if self.count == 0 {
            return Err(vec![whole("empty_file", "The input file has no request.".to_owned())]);
        }
        if self.count > limits::BATCH_REQUESTS_MAX {
            let most = limits::BATCH_REQUESTS_MAX;
            self.faults.insert(0, whole("too_many_tasks", format!("A batch may have {most} requests.")));
        }
        match self.rules.model {
            Some(model) if self.faults.is_empty() => Ok((self.count, model)),
            _ => Err(self.faults),
        }
    }

    fn check(&mut self, text: &[u8]) -> Result<(), (&'static str, String, Option<&'static str>)> {
        let text =
            std::str::from_utf8(text).map_err(|_| ("invalid_json_line", "This line is not UTF-8.".to_owned(), None))?;
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| {
            let plain = serde_json::from_str::<Value>(text).is_ok_and(|value| !value.is_object());
            let why = if plain { "it is JSON, but not an object".to_owned() } else { error.to_string() };
            ("invalid_json_line", format!("This line is not parseable as valid JSON: {why}."), None)
        })?;
        let missing = |name: &'static str| {
            ("missing_required_parameter", format!("Missing required parameter: '{name}'."), Some(name))
        };
        let wrong = |name: &'static str, what: String| ("invalid_value", what, Some(name));
        if let Some(name) = line.more.keys().next() {
            let shown: String = name.chars().take(60).collect();
            return Err(("unknown_parameter", format!("Unknown parameter: '{shown}'."), None));
        }
        let is_openai = self.rules.surface == Surface::OpenAi;
        match line.custom_id {
            Some(Value::String(id)) if !id.is_empty() && id.chars().count() <= CUSTOM_ID_MAX_CHARS => {
                if !self.seen.insert(id.clone()) {
                    let shown: String = id.chars().take(80).collect();
                    let text = format!("The custom_id '{shown}' was used by a line before this one.");
                    return Err(("duplicate_custom_id", text, Some("custom_id")));
                }
            }
            Some(Value::Null) | None if !is_openai => {}
            Some(Value::Null) | None => return Err(missing("custom_id")),
            Some(_) => {
                let what = format!("'custom_id' must be a string of 1 to {CUSTOM_ID_MAX_CHARS} characters.");
                return Err(wrong("custom_id", what));
            }
        }
        if is_openai {
            let url = path_of(self.rules.operation);
            match line.method.as_ref().and_then(Value::as_str) {
                Some("POST") => {}
                None if line.method.is_none() => return Err(missing("method")),
                _ => return Err(wrong("method", "'method' must be 'POST'.".to_owned())),
            }
            match line.url.as_ref().and_then(Value::as_str) {
                Some(given) if given == url => {}
                None if line.url.is_none() => return Err(missing("url")),
                _ => {
                    let text = format!("The URL of this request does not match the batch's endpoint '{url}'.");
                    return Err(("url_mismatch", text, Some("url")));
                }
            }
        }
        let body = line.body.ok_or_else(|| missing("body"))?;
        let named: Named =
            serde_json::from_str(body.get()).map_err(|_| wrong("body", "'body' must be an object.".to_owned()))?;
        if named.stream.is_some_and(|stream| stream != Value::Bool(false) && stream != Value::Null) {
            return Err(wrong("body.stream", "Requests of a batch are not streamed.".to_owned()));
        }
        match (named.model, &self.rules.model) {
            (Some(Value::String(model)), Some(known)) if model != *known => {
                let text =
                    format!("This line names the model '{model}' and the others '{known}': a batch has one model.");
                Err(("model_mismatch", text, Some("body.model")))
            }
            (Some(Value::String(model)), None) => {
                self.rules.model = Some(model);
                Ok(())
            }
            (Some(Value::String(_)), Some(_)) => Ok(()),
            (None | Some(Value::Null), Some(_)) if !is_openai => Ok(()),
            (None | Some(Value::Null), _) => Err(missing("body.model")),
            (Some(_), _) => Err(wrong("body.model", "'body.model' must be a string.".to_owned())),
        }
    }
}

/// The request of a line that a judge has found good.
pub(super) fn request(text: &[u8], model: &str) -> Result<Request, serde_json::Error> {
    let line: Line<'_> = serde_json::from_slice(text)?;
    let custom_id = line.custom_id.and_then(|id| id.as_str().map(str::to_owned));
    let body = line.body.map_or("{}", RawValue::get);
    let mut fields: Map<String, Value> = serde_json::from_str(body)?;
    fields.insert("model".to_owned(), Value::String(model.to_owned()));
    Ok(Request { custom_id, body: serde_json::to_vec(&fields)? })
}

/// The `custom_id` of a line, if it can be read.
pub(super) fn custom_id(text: &[u8]) -> Option<String> {
    let line: Line<'_> = serde_json::from_slice(text).ok()?;
    line.custom_id?.as_str().map(str::to_owned)
}

#[derive(Serialize)]
struct Told<'a> {
    id: &'a str,
    custom_id: Option<&'a str>,
    response: Option<Response<'a>>,
    error: Option<Value>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: &'a str,
    body: &'a RawValue,
}

/// The line of a request that was answered, or refused for good.
pub(super) fn told(id: &str, custom_id: Option<&str>, status_code: u16, request_id: &str, body: &[u8]) -> Vec<u8> {
    let raw: &RawValue = serde_json::from_slice(body).unwrap_or(RawValue::NULL);
    // A raw value may hold line ends between its parts, and a line has none.
    let compact;
    let body = if raw.get().contains(['\n', '\r']) {
        let value: Value = serde_json::from_str(raw.get()).unwrap_or(Value::Null);
        compact = RawValue::from_string(value.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned());
        &*compact
    } else {
        raw
    };
    let response = Some(Response { status_code, request_id, body });
    line(&Told { id, custom_id, response, error: None })
}

/// The line of a request that was not made.
pub(super) fn not_made(id: &str, custom_id: Option<&str>, code: &str, message: &str) -> Vec<u8> {
    line(&Told { id, custom_id, response: None, error: Some(json!({ "code": code, "message": message })) })
}

fn line(told: &Told<'_>) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(told).expect("texts and JSON serialise into memory");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests;
