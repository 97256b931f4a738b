//! The grammar of a chat's answer, compiled; or which schema cannot be, and where in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::App;
use super::problem::Problem;
use crate::constraint::{Constraint, Grammars};
use crate::grammar::{self, Wanted};
use crate::limits;
use crate::request::{Refused, ToolUse};

/// Where the schema of an answer stands in a request.
const CONTENT: &str = "response_format.json_schema.schema";

/// Longest search for where in a schema its fault is, one compilation more or less: past it what was found so far is named. Most
/// schemas take milliseconds; one of hundreds of heavy parts would take minutes of the cores that compute answers.
const SEARCH_TIME: Duration = Duration::from_secs(2);

/// What the answer has to keep to, if anything. Compiling takes milliseconds, and the first time in a worker some hundred of
/// them: not on the thread that serves HTTP.
pub(super) async fn constraint(
    app: &Arc<App>,
    content: Option<Value>,
    tools: Option<ToolUse>,
    thinks: bool,
) -> Result<Option<Constraint>, Problem> {
    if content.is_none() && tools.is_none() {
        return Ok(None);
    }
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || {
        let loaded = app.ready()?;
        let wanted = Wanted { content: content.as_ref(), tools: tools.as_ref(), manner: &loaded.manner, thinks };
        let Some(text) = grammar::grammar(&wanted, &*loaded.vocabulary) else { return Ok(None) };
        if text.len() > limits::GRAMMAR_BYTES {
            let message = format!(
                "the schemas of the request make a grammar of {} bytes; at most {} are taken",
                text.len(),
                limits::GRAMMAR_BYTES
            );
            return Err(
                Refused::new(if content.is_some() { CONTENT } else { "tools" }, "invalid_schema", message).into()
            );
        }
        let grammars = loaded.grammars().as_ref().map_err(|why| {
            let text = format!("this model's answers cannot be kept to a schema: {why}");
            Refused::new("response_format", "unsupported_parameter", text)
        })?;
        match grammars.compile(&text) {
            Ok(constraint) => Ok(Some(constraint)),
            Err(why) => Err(fault(grammars, content.as_ref(), tools.as_ref(), &why).into()),
        }
    });
    done.await.unwrap_or_else(|_| Err(Problem::engine_gone()))
}

/// Which schema is at fault, and where in it.
fn fault(grammars: &Grammars, content: Option<&Value>, tools: Option<&ToolUse>, why: &str) -> Refused {
    let of_tools = tools.into_iter().flat_map(ToolUse::callable);
    let of_tools = of_tools.map(|(i, tool)| (format!("tools[{i}].function.parameters"), &tool.parameters));
    for (at, schema) in content.map(|schema| (CONTENT.to_owned(), schema)).into_iter().chain(of_tools) {
        let failure = |schema: &Value| grammars.compile(&grammar::of_schema(schema)).err();
        if let Some(why) = failure(schema) {
            let until = Instant::now() + SEARCH_TIME;
            let at = grammar::culprit(schema, &at, &mut |part| Instant::now() < until && failure(part).is_some());
            return refused(&at, &why);
        }
    }
    refused(if content.is_some() { CONTENT } else { "tools" }, why)
}

fn refused(at: &str, why: &str) -> Refused {
    let first = why.lines().next().unwrap_or_default();
    let shown: String = first.chars().take(300).collect();
    Refused::new(at, "invalid_schema", format!("the schema cannot be kept to at `{at}`: {shown}"))
}
