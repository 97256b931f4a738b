//! Why something is as it is, and what a code means.

use clap::Args;
use galerne_api::client::encode_segment;
use galerne_api::error::Code;
use galerne_api::nearest::nearest;
use galerne_api::v1::why::Why;

use crate::commands::values::split_reference;
use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;
use crate::table::{Column, Table};
use crate::{output, reason};

/// Options of `galerne why`.
#[derive(Debug, Args)]
pub struct WhyArguments {
    /// endpoint/NAME, budget/NAME, pull/NAME, or an id: batch_…, request_…, event_…; kind and name may be two words
    #[arg(required = true, num_args = 1..=2, value_name = "WHAT")]
    words: Vec<String>,
}

/// Options of `galerne explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The code, as it stands in brackets behind an error; without one all are listed
    code: Option<String>,
}

impl WhyArguments {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let (kind, name) = match self.words.as_slice() {
            [kind, name] => (kind.as_str(), name.as_str()),
            words => parse(words.first().map_or("", String::as_str))?,
        };
        let path = format!("/api/v1/why/{}/{}", encode_segment(kind), encode_segment(name));
        let why: Why = session.client()?.read(&path, &session.place.pairs()).await?;
        if session.is_json() {
            return session.output.json(&why);
        }
        reason::write(&mut session.output, &why.reason)
    }
}

/// Kind and name (or id) of what is asked about. An id says its kind itself.
fn parse(reference: &str) -> Result<(&str, &str), Failure> {
    if let Some((kind, name)) = split_reference(reference) {
        return Ok((kind, name));
    }
    if let Some((kind, digits)) = reference.split_once('_')
        && digits.len() == 32
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok((kind, reference));
    }
    Err(Failure::usage(format!("`{reference}` does not say what is asked about"))
        .hint(format!("if it is an endpoint: galerne why endpoint/{reference}"))
        .hint("a request is named by the id in its x-request-id header: galerne why request_…"))
}

impl ExplainArguments {
    pub(crate) fn run(&self, output: &mut Output) -> Result<(), Failure> {
        match &self.code {
            Some(code) => explain(output, code),
            None => list(output),
        }
    }
}

fn explain(output: &mut Output, text: &str) -> Result<(), Failure> {
    let Some(code) = Code::parse(text.trim_matches(['[', ']'])) else {
        let failure = Failure::new(Code::NotFound, format!("there is no code `{text}`"));
        return Err(match near(text) {
            Some(near) => failure.hint(format!("did you mean `{near}`? galerne explain {near}")),
            None => failure.hint("see all of them: galerne explain"),
        });
    };
    if output.format() == output::Format::Json {
        return output.json(&serde_json::json!({
            "code": code, "title": code.title(), "http_status": code.http_status(),
            "exit_code": code.exit().number(), "page": code.page(),
        }));
    }
    output.line(code.page().trim_end())?;
    output.note(format!("\nHTTP status {}, exit code {}", code.http_status(), code.exit().number()));
    Ok(())
}

fn list(output: &mut Output) -> Result<(), Failure> {
    if output.format() == output::Format::Json {
        let items: Vec<_> =
            Code::ALL.iter().map(|code| serde_json::json!({ "code": code, "title": code.title() })).collect();
        return output.json(&serde_json::json!({ "items": items }));
    }
    let mut table =
        Table::new(&[Column::Word("code"), Column::Number("HTTP"), Column::Number("exit"), Column::Text("meaning")]);
    for code in Code::ALL {
        let (status, exit) = (code.http_status().to_string(), code.exit().number().to_string());
        table.row([code.to_string(), status, exit, code.title().to_owned()]);
    }
    table.write(output, "")
}

/// The code that is spelt nearly so, else the one that shares the most words with what was typed; the first word says
/// what it is about and counts double.
fn near(text: &str) -> Option<Code> {
    if let [spelt, ..] = nearest(text, Code::ALL.iter().map(|code| code.as_str())).as_slice() {
        return Code::parse(spelt);
    }
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 2).collect();
    let shared = |code: &Code| {
        let hits = |words: &[&str]| words.iter().filter(|word| code.as_str().contains(**word)).count();
        hits(&words) + hits(words.get(..1).unwrap_or_default())
    };
    Code::ALL.iter().copied().max_by_key(shared).filter(|code| shared(code) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_kind_with_a_name_or_an_id() {
        assert_eq!(parse("endpoint/org/smol").expect("a name may hold a slash"), ("endpoint", "org/smol"));
        let id = "request_0197200000007000800000000000000a";
        assert_eq!(parse(id).expect("an id"), ("request", id));
        assert!(parse("smol").is_err());
        assert!(parse("request_12").is_err());
    }

    #[test]
    fn a_misspelt_code_is_answered_with_the_nearest() {
        assert_eq!(near("budget-exceeded"), Some(Code::BudgetExhausted));
        assert_eq!(near("not_fond"), Some(Code::NotFound));
        assert_eq!(near("zzz"), None);
    }
}
