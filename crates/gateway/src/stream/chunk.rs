//! Chunks of an answer, written anew where the client is to see something else than the engine said.

use crate::request::{Fields, ObjectWriter};

/// A chunk with `usage` in place of its own, or without any.
pub(super) fn with_usage(data: &str, usage: Option<&str>) -> String {
    rewritten(data, |name, value| if name == "usage" { None } else { Some(value) }, usage)
}

/// A chunk of the same answer that has no choices and the usage.
pub(super) fn apart(data: &str, usage: &str) -> String {
    let keep = |name: &str, value| match name {
        "usage" => None,
        "choices" => Some("[]"),
        _ => Some(value),
    };
    rewritten(data, keep, Some(usage))
}

fn rewritten<'a>(data: &'a str, keep: impl Fn(&str, &'a str) -> Option<&'a str>, usage: Option<&str>) -> String {
    let Ok(fields) = serde_json::from_str::<Fields<'a>>(data) else { return data.to_owned() };
    let mut chunk = ObjectWriter::with_capacity(data.len() + 96);
    for (name, value) in &fields.0 {
        if let Some(value) = keep(name, value.get()) {
            chunk.raw(name, value);
        }
    }
    if let Some(usage) = usage {
        chunk.raw("usage", usage);
    }
    String::from_utf8(chunk.finish()).expect("made of texts")
}

/// Writes a chunk of an answer with `usage: null` at its end; these are most chunks, so it is not parsed.
pub(super) fn with_null_usage(data: &str, out: &mut Vec<u8>) {
    match data.strip_suffix('}') {
        // What came in several lines is one of those that are rarely sent.
        Some(open) if open.len() > 1 && open.contains('\n') => {
            write_data(out, [open, ",\"usage\":null}"].concat().as_bytes());
        }
        Some(open) if open.len() > 1 => {
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(open.as_bytes());
            out.extend_from_slice(b",\"usage\":null}\n\n");
        }
        Some(_) | None => write_data(out, data.as_bytes()),
    }
}

pub(super) fn write_data(out: &mut Vec<u8>, data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}
