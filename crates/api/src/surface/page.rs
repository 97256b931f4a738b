//! The compatibility page, printed from the tables.

use std::fmt::Write as _;

use super::routes::{BESIDE, SERVED, State, not_served};
use super::{Call, Dialect, Fate, Field, Of};

/// The part of `docs/gateway.md` that is printed: routes, fields, and what is not served.
pub fn page() -> String {
    let mut out = String::new();
    routes(&mut out);
    for call in Call::ALL.into_iter().filter(|call| !call.fields().is_empty()) {
        fields(&mut out, call);
    }
    unserved(&mut out);
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing into memory");
}

fn routes(out: &mut String) {
    line(out, format_args!("## Routes\n\n| route | `/v1` | `/openai/v1` | `/mistral/v1` | |\n|---|---|---|---|---|"));
    for route in SERVED.iter().chain(BESIDE) {
        let here = |dialect: Dialect| if dialect.has(route.of) { "served" } else { "404" };
        let [union, openai, mistral] = Dialect::ALL.map(here);
        let (method, path, note) = (route.method, route.path, route.note);
        line(out, format_args!("| `{method} {path}` | {union} | {openai} | {mistral} | {note} |"));
    }
}

fn fields(out: &mut String, call: Call) {
    let route = SERVED.iter().find(|route| route.state == State::Body(call)).expect("every call has a route");
    let (method, path) = (route.method, route.path);
    line(
        out,
        format_args!("\n## Fields of `{method} {path}`\n\n| field | type | of | here | |\n|---|---|---|---|---|"),
    );
    for field in call.fields() {
        let Field { name, takes, note, .. } = field;
        let (of, takes, fate) = (whose(field.of), takes.name(), fate(field.fate));
        line(out, format_args!("| `{name}` | {takes} | {of} | {fate} | {note} |"));
    }
}

fn whose(of: Of) -> &'static str {
    match of {
        Of::Both => "both",
        Of::OpenAi => "OpenAI",
        Of::Mistral => "Mistral",
        Of::Engines => "engines",
    }
}

fn fate(fate: Fate) -> String {
    match fate {
        Fate::Gateway => "served by the gateway".to_owned(),
        Fate::Engine => "to the engine".to_owned(),
        Fate::Renamed(name) => format!("to the engine as `{name}`"),
        Fate::NoEffect => "taken, without effect".to_owned(),
        Fate::Only(values) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("only {}", values.join(", "))
        }
        Fate::Refused => "refused".to_owned(),
    }
}

fn unserved(out: &mut String) {
    let rows = not_served();
    line(out, format_args!("\n## Not served\n\n| | of | routes that answer 501 `not_served` |\n|---|---|---|"));
    for group in rows.chunk_by(|a, b| a.0 == b.0) {
        for of in [Of::OpenAi, Of::Mistral] {
            let paths: Vec<String> = group
                .iter()
                .filter(|(_, whose, ..)| *whose == of)
                .map(|(_, _, path, methods)| format!("`{methods} {path}`"))
                .collect();
            if !paths.is_empty() {
                line(out, format_args!("| {} | {} | {} |", group[0].0, whose(of), paths.join(", ")));
            }
        }
    }
}
