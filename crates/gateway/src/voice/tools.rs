//! Tool calls in a stream: `id`, `type` and the function's name come in a call's first chunk and in no other.
//!
//! Clients join the texts of all chunks, so an engine that repeats the name makes them call `get_weatherget_weather`.

use std::borrow::Cow;

use uuid::Uuid;

use crate::request::{Fields, List, ObjectWriter};

/// Most calls kept apart in one answer.
const CALLS_MAX: usize = 1024;

/// The calls begun so far, by choice and index.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<(u32, u32)>);

impl Calls {
    /// The list of calls in a chunk of the choice, as clients join it.
    pub(super) fn told<'a>(&mut self, choice: u32, calls: &'a str) -> Cow<'a, str> {
        let Ok(List(list)) = serde_json::from_str::<List<'_>>(calls) else { return Cow::Borrowed(calls) };
        let told: Vec<String> = list.iter().map(|call| self.call(choice, call)).collect();
        Cow::Owned(format!("[{}]", told.join(",")))
    }

    fn call(&mut self, choice: u32, call: &Fields<'_>) -> String {
        let given = call.get("index").and_then(|index| index.get().parse::<u32>().ok());
        let next = u32::try_from(self.0.iter().filter(|(of, _)| *of == choice).count()).unwrap_or(u32::MAX);
        // Engines that send whole calls leave the index out: each is a new one.
        let index = given.unwrap_or(next);
        let is_first = !self.0.contains(&(choice, index));
        if is_first && self.0.len() < CALLS_MAX {
            self.0.push((choice, index));
        }
        let mut out = ObjectWriter::with_capacity(128);
        out.raw("index", &index.to_string());
        if is_first {
            match call.get("id").map(|id| id.get()).filter(|id| *id != r#""""#) {
                Some(id) => out.raw("id", id),
                None => out.text("id", &format!("call_{}", Uuid::now_v7().simple())),
            }
            out.text("type", "function");
        }
        for (name, value) in &call.0 {
            match name.as_ref() {
                "index" | "id" | "type" => {}
                "function" => out.raw(name, &function(value.get(), is_first)),
                _ => out.raw(name, value.get()),
            }
        }
        out.into_text()
    }
}

fn function(function: &str, is_first: bool) -> String {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(function) else { return function.to_owned() };
    let mut out = ObjectWriter::with_capacity(function.len() + 24);
    for (name, value) in &fields.0 {
        let (is_name, value) = (name == "name", value.get());
        if value != "null" && (is_first || !is_name) {
            out.raw(name, value);
        }
    }
    if is_first && fields.get("arguments").is_none() {
        out.text("arguments", "");
    }
    out.into_text()
}
