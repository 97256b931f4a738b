//! Doors for fuzzing: each takes bytes of anybody's making and panics when what was made of them is wrong.
//!
//! Wrong is more than a panic inside: what is decoded may not depend on how the network cut the bytes, decoding undoes
//! encoding, a refusal says what is wrong, and where the standard has a simple reading, a second reader of a few lines must
//! agree with the fast one. What memory an input may take is watched by whoever calls.
//! Deliberately absent: chance. The first byte of an input seeds what a target draws (cuts, counts, the route), so that the
//! same bytes always do the same.

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use galerne_api::surface::{Call, Dialect};
use galerne_model::ids::RequestId;
use galerne_model::ledger::Operation;
use galerne_model::snapshot::Snapshot;
use serde_json::Value;
use uuid::Uuid;

use crate::digest::Digester;
use crate::refusal::Refusal;
use crate::request::{Asked, Fields};
use crate::sse::{self, Border};
use crate::{authenticate, meter, responses};

pub use crate::spool::fuzz::frames;
pub use crate::upstream::fuzz::{Lie, address, chunked, head, lie, reply};
pub use crate::voice::fuzz::told;

/// Longest text of a refusal that is all ours; names and values from outside are cut before they get into it.
const REFUSAL_MAX_CHARS: usize = 600;
/// What the endpoint's model is called where it runs.
const UPSTREAM_MODEL: &str = "weights \"of\" it";

/// Numbers drawn from one byte: the same byte, the same numbers.
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice of an input, and the rest of it.
    pub(crate) fn of(input: &[u8]) -> (Self, &[u8]) {
        match input.split_first() {
            Some((&seed, rest)) => (Self::new(seed), rest),
            None => (Self::new(0), input),
        }
    }

    pub(crate) fn new(seed: u8) -> Self {
        Self(0x9E37_79B9_7F4A_7C15 ^ u64::from(seed) << 17)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap_or(0) % bound
    }

    /// The bytes in pieces, none empty: mostly short ones, sometimes all that is left.
    pub(crate) fn pieces<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = match self.below(4) {
                0 => 1,
                1 => 3,
                2 => 40,
                _ => rest.len(),
            };
            let (piece, after) = rest.split_at(1 + self.below(most.min(rest.len())));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// A stream of events: cut anywhere it gives the same events, and their facts are what a JSON parser finds in them.
pub fn events(input: &[u8]) {
    let (mut dice, bytes) = Dice::of(input);
    let Some((whole, rest)) = cut_into_events(bytes, &[bytes]) else {
        assert!(bytes.len() > sse::EVENT_MAX_BYTES, "only an event of a megabyte is too long");
        return;
    };
    let pieces = dice.pieces(bytes);
    assert_eq!(cut_into_events(bytes, &pieces), Some((whole.clone(), rest)), "a cut of the bytes changes the events");
    assert_eq!([whole.concat(), bytes[rest..].to_vec()].concat(), bytes, "an event is lost or made up");
    assert!(!bytes[rest..].starts_with(b"\n") && !ends_event(&bytes[rest..]), "a whole event is kept back");
    for event in &whole {
        assert!(ends_event(event), "an event does not end with a blank line");
        let told = sse::data(event);
        assert_eq!(told.as_deref(), data_by_the_standard(event).as_deref(), "{}", event.escape_ascii());
        if let Some(data) = told {
            check_facts(&data);
        }
    }
}

/// The events in `bytes` as they come in `pieces`, and where the unfinished one begins.
fn cut_into_events(bytes: &[u8], pieces: &[&[u8]]) -> Option<(Vec<Vec<u8>>, usize)> {
    let (mut border, mut begin, mut end, mut found) = (Border::default(), 0, 0, Vec::new());
    for piece in pieces {
        end += piece.len();
        while let Some(length) = border.find(&bytes[begin..end]).ok()? {
            found.push(bytes[begin..begin + length].to_vec());
            begin += length;
        }
    }
    Some((found, begin))
}

/// Whether a line in it is blank.
fn ends_event(bytes: &[u8]) -> bool {
    matches!(bytes, b"\n" | b"\r\n")
        || bytes.windows(2).any(|two| two == b"\n\n")
        || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// The data of an event as the standard says it, line by line; a lone carriage return is part of its line here.
fn data_by_the_standard(event: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(event).ok()?;
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let values = lines.filter_map(|line| line.strip_prefix("data:"));
    let values: Vec<&str> = values.map(|value| value.strip_prefix(' ').unwrap_or(value)).collect();
    (!values.is_empty()).then(|| values.join("\n"))
}

/// Work that is not seen is not charged: what a parser finds in a chunk, the search must find too.
fn check_facts(data: &str) {
    let facts = sse::facts(data);
    assert!(facts.names_usage || !facts.has_usage);
    // A name written with escapes is legal and sent by nobody; the search does not look for it.
    let Ok(Value::Object(chunk)) = serde_json::from_str::<Value>(data) else { return };
    if data.contains("\\u") {
        return;
    }
    if let Some(usage) = chunk.get("usage") {
        assert!(facts.names_usage, "a usage is not seen: {data}");
        assert!(facts.has_usage || usage.is_null(), "a usage is taken for null: {data}");
    }
    assert_eq!(facts.is_error, chunk.keys().next().is_some_and(|first| first == "error"), "{data}");
    for choice in chunk.get("choices").and_then(Value::as_array).into_iter().flatten() {
        let is_text = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        let delta = choice.get("delta");
        let of_delta = |name| is_text(delta.and_then(|delta| delta.get(name)));
        let calls = delta.and_then(|delta| delta.get("tool_calls")).and_then(Value::as_array).into_iter().flatten();
        let has_arguments =
            calls.map(|call| call.get("function").and_then(|called| called.get("arguments"))).any(is_text);
        let has_content = is_text(choice.get("text"))
            || ["content", "reasoning_content", "reasoning"].into_iter().any(of_delta)
            || has_arguments;
        assert!(facts.has_content || !has_content, "content is not seen: {data}");
        assert!(facts.finishes || !choice.get("finish_reason").is_some_and(Value::is_string), "{data}");
    }
}

/// The body of any operation on any surface: taken or refused by name, the same each time, and what the engine gets is JSON
/// with each name once, our name for the model, and the caller's values byte for byte.
pub fn requests(input: &[u8]) {
    let (mut dice, bytes) = Dice::of(input);
    let dialect = Dialect::ALL[dice.below(Dialect::ALL.len())];
    let call = Call::ALL[dice.below(Call::ALL.len())];
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if call == Call::Response {
        match responses::as_chat(dialect, text) {
            Ok((chat, _)) => decoded(dialect, Call::Chat, &chat, &mut dice),
            Err(refusal) => check_refusal(&refusal, dialect),
        }
        return;
    }
    decoded(dialect, call, text, &mut dice);
}

fn decoded(dialect: Dialect, call: Call, text: &str, dice: &mut Dice) {
    let source = Bytes::copy_from_slice(text.as_bytes());
    let text = std::str::from_utf8(&source).expect("it was text");
    let asked = match Asked::parse(dialect, call, text) {
        Ok(asked) => asked,
        Err(refusal) => return check_refusal(&refusal, dialect),
    };
    let context = [1, 128, 4_096, 1 << 20, u32::MAX][dice.below(5)];
    let bound = asked.bound(context);
    assert!(bound.prompt_max.0 >= 0 && bound.completion_max.0 >= 0, "a bound is negative: {bound:?}");
    assert!(i64::from(asked.estimate(context)) <= bound.total_max.0, "an estimate is above the bound: {bound:?}");
    let sent = asked.upstream_body(&source, UPSTREAM_MODEL);
    let sent_text = String::from_utf8(sent.parts().concat()).expect("a body of texts is text");
    assert_eq!(sent.length(), sent_text.len());
    let fields: Fields<'_> = serde_json::from_str(&sent_text).expect("the engine gets JSON with each name once");
    let model = fields.get("model").map(|model| model.get().to_owned());
    assert_eq!(model, serde_json::to_string(UPSTREAM_MODEL).ok(), "the engine is asked for another model");
    for (name, value) in &fields.0 {
        let ours =
            ["model", "stream_options", "messages", "tool_choice", "continue_final_message", "add_generation_prompt"];
        let is_as_it_came = || asked.fields().0.iter().any(|(_, given)| given.get() == value.get());
        assert!(ours.contains(&name.as_ref()) || is_as_it_came(), "`{name}` is not as the caller wrote it");
    }
    if let Some(question) = asked.tokenize_body(&source, UPSTREAM_MODEL) {
        let question = question.parts().concat();
        serde_json::from_slice::<Fields<'_>>(&question).expect("a question for tokens is JSON");
    }
    if let Some(prefix) = asked.prefix() {
        assert!(serde_json::from_str::<String>(&prefix).is_ok(), "a prefix is a JSON text");
    }
    // Blanks between the parts of a body mean nothing.
    let spaced = spaced(text, dice);
    if let Err(refusal) = Asked::parse(dialect, call, &spaced) {
        panic!("blanks make it {}: {}\n{spaced}", refusal.code, refusal.message);
    }
}

/// The same JSON with blanks around some of its marks.
fn spaced(json: &str, dice: &mut Dice) -> String {
    let (mut out, mut in_text, mut escaped) = (String::with_capacity(json.len() * 2), false, false);
    for mark in json.chars() {
        let between = !in_text && matches!(mark, '{' | '}' | '[' | ']' | ',' | ':');
        if between && dice.below(4) == 0 {
            out.push_str(["\n", " ", "\t\r\n"][dice.below(3)]);
        }
        out.push(mark);
        if between && dice.below(4) == 0 {
            out.push(' ');
        }
        in_text = in_text != (mark == '"' && !escaped);
        escaped = in_text && mark == '\\' && !escaped;
    }
    out
}

fn check_refusal(refusal: &Refusal, dialect: Dialect) {
    let status = refusal.status().as_u16();
    assert!((400..500).contains(&status), "{status} for a bad body: {}", refusal.message);
    let length = refusal.message.chars().count();
    assert!((8..REFUSAL_MAX_CHARS).contains(&length), "{length} characters: {}", refusal.message);
    assert!(refusal.param.as_ref().is_none_or(|param| param.len() < REFUSAL_MAX_CHARS), "a name without end");
    let request_id = RequestId::from_uuid(Uuid::nil());
    let body: Value = serde_json::from_slice(&refusal.json(dialect, request_id)).expect("a refusal is JSON");
    assert!(body.to_string().contains(&serde_json::to_string(&refusal.message).expect("text")), "{body}");
}

/// What an engine reports as used: counts within bounds, and what the client sees of it is JSON without our own names.
pub fn usage(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some(counted) = meter::read_usage(text) else { return };
    let most = 1 << 40;
    for count in [Some(counted.prompt), Some(counted.cached), Some(counted.completion), counted.cpu_micros] {
        assert!(count.is_none_or(|count| (0..=most).contains(&count)), "{counted:?}");
    }
    assert!(counted.cached <= counted.prompt, "{counted:?}");
    let shown = meter::shown_usage(Some(text), counted, Operation::Chat, None);
    let fields: Fields<'_> = serde_json::from_str(&shown).expect("what is shown is JSON, each name once");
    assert!(!fields.has("galerne") && !fields.has("energy_joules"), "an engine speaks for us");
    let again = meter::read_usage(&shown).expect("what is shown is a usage");
    assert_eq!((again.prompt, again.completion), (counted.prompt, counted.completion), "shown is what is counted");
}

/// The headers that carry a key: a key that is not known is refused, and no refusal repeats it.
pub fn key_header(input: &[u8]) {
    let (mut dice, bytes) = Dice::of(input);
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    if dice.below(2) == 0 {
        headers.insert(header::AUTHORIZATION, value);
    } else {
        headers.insert("x-api-key", value);
    }
    let found = authenticate::find_key(&headers, &Digester::new(b"pepper"), &Snapshot::default());
    let refusal = found.expect_err("nobody is known");
    assert_eq!(refusal.status().as_u16(), 401);
    for part in bytes.windows(12).filter(|part| part.iter().all(u8::is_ascii_alphanumeric)) {
        let part = String::from_utf8_lossy(part);
        let is_ours = |words: &str| words.contains(part.as_ref());
        assert!(
            !refusal.message.contains(part.as_ref()) || is_ours("authorization"),
            "`{part}` in: {}",
            refusal.message
        );
    }
}
