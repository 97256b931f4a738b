//! A file in the words of each surface.

use galerne_model::file::{File, Origin, Purpose, Visibility};
use serde_json::{Map, Value, json};

use crate::surface::Surface;

/// Purposes that may be uploaded, in the words of either.
pub(super) const ACCEPTED: [(&str, Purpose); 3] =
    [("batch", Purpose::Batch), ("fine-tune", Purpose::FineTune), ("user_data", Purpose::UserData)];

/// Purposes of theirs that nothing here reads.
pub(super) const REFUSED: [&str; 5] = ["assistants", "vision", "evals", "ocr", "agentic_safety"];

/// Longest name that is kept, in bytes.
const NAME_MAX_BYTES: usize = 255;

/// A file as it is answered.
pub(crate) fn shown(file: &File, surface: Surface) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    put("id", json!(file.id));
    put("object", json!("file"));
    put("bytes", json!(file.bytes));
    put("created_at", json!(file.created_at.as_second()));
    put("expires_at", json!(file.expires_at.map(|at| at.as_second())));
    put("filename", json!(file.filename));
    put("purpose", json!(purpose(file.purpose, surface)));
    if surface != Surface::Mistral {
        put("status", json!("processed"));
        put("status_details", Value::Null);
    }
    if surface != Surface::OpenAi {
        put("sample_type", json!(sample_type(file.purpose)));
        put("source", json!(source(file.origin)));
        put("num_lines", json!(file.lines));
        put("mimetype", json!(file.media_type));
        put("signature", json!(file.sha256));
        put("visibility", json!(visibility(file.visibility)));
        put("deleted", json!(false));
    }
    Value::Object(out)
}

/// A purpose as it is written.
pub(super) fn purpose(purpose: Purpose, surface: Surface) -> &'static str {
    match (purpose, surface) {
        (Purpose::Batch, _) | (Purpose::BatchOutput | Purpose::BatchErrors, Surface::Mistral) => "batch",
        (Purpose::BatchOutput | Purpose::BatchErrors, Surface::Union | Surface::OpenAi) => "batch_output",
        (Purpose::FineTune, _) => "fine-tune",
        (Purpose::UserData, _) => "user_data",
    }
}

/// Mistral's word for what is in a file.
pub(super) fn sample_type(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Batch => "batch_request",
        Purpose::BatchOutput => "batch_result",
        Purpose::BatchErrors => "batch_error",
        Purpose::FineTune => "instruct",
        Purpose::UserData => "user_data",
    }
}

/// Mistral's word for where a file came from.
pub(super) fn source(origin: Origin) -> &'static str {
    match origin {
        Origin::Upload => "upload",
        Origin::Batch => "mistral",
    }
}

fn visibility(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Project => "workspace",
        Visibility::Principal => "user",
    }
}

/// A name as it is kept: the last part of a path, without what moves a terminal or ends a header.
pub(super) fn clean_name(given: &str) -> String {
    let last = given.rsplit(['/', '\\']).next().unwrap_or("");
    let is_harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut name: String = last.chars().filter(|c| !is_harmful(*c)).collect();
    while name.len() > NAME_MAX_BYTES {
        name.pop();
    }
    let name = name.trim();
    if name.is_empty() || name.bytes().all(|byte| byte == b'.') { "file".to_owned() } else { name.to_owned() }
}

/// How a browser is told to save a file: RFC 6266.
pub(super) fn disposition(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let mut coded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            coded.push(char::from(byte));
        } else {
            coded.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{coded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_letters_and_loses_its_folders_and_tricks() {
        for (given, kept) in [
            ("requests.jsonl", "requests.jsonl"),
            ("/etc/passwd", "passwd"),
            ("..\\..\\évènement 1.jsonl", "évènement 1.jsonl"),
            ("a\r\nset-cookie: x", "aset-cookie: x"),
            ("gnp.\u{202e}lnosj", "gnp.lnosj"),
            ("..", "file"),
            ("", "file"),
            ("folder/", "file"),
        ] {
            assert_eq!(clean_name(given), kept, "{given:?}");
        }
        let long = clean_name(&"é".repeat(200));
        assert_eq!(long, "é".repeat(127), "cut between characters");
    }

    #[test]
    fn a_name_in_a_header_is_ascii_and_says_it_all() {
        assert_eq!(
            disposition("é \"1\".jsonl"),
            "attachment; filename=\"_ _1_.jsonl\"; filename*=UTF-8''%C3%A9%20%221%22.jsonl"
        );
    }
}
