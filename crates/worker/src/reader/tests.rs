use super::*;
use crate::manner::Tools;
use proptest::prelude::*;
use serde_json::{Value, json};

fn manner(calls: Calls) -> Manner {
    Manner { thoughts: Some(("<think>", "</think>")), tools: Tools::Template(calls) }
}

fn tools() -> Vec<String> {
    ["get_weather", "get_time", "f"].map(str::to_owned).to_vec()
}

/// What was said, joined.
#[derive(Debug, Default, Clone, PartialEq)]
struct Said {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

fn read(manner: &Manner, pieces: &[&str], thinks: bool) -> Said {
    let mut reader = Reader::new(manner, tools(), thinks);
    let mut said = Said::default();
    let mut take = |parts: Vec<Part>| {
        for part in parts {
            match part {
                Part::Reasoning(text) => said.reasoning.push_str(&text),
                Part::Content(text) => said.content.push_str(&text),
                Part::Call { index, name } => {
                    assert_eq!(index, said.calls.len(), "calls are numbered in order");
                    said.calls.push((name, String::new()));
                }
                Part::Arguments { index, text } => said.calls[index].1.push_str(&text),
            }
        }
    };
    for piece in pieces {
        take(reader.push(piece));
    }
    take(reader.finish());
    assert_eq!(reader.calls(), said.calls.len());
    said
}

fn whole(calls: Calls, text: &str) -> Said {
    read(&manner(calls), &[text], false)
}

fn call(name: &str, arguments: &str) -> (String, String) {
    (name.into(), arguments.into())
}

const PARIS: &str = r#"{"city": "Paris", "unit": "°C"}"#;
const BRACES: &str = r#"{"a": "}\"]", "b": [{}, [1]]}"#;

/// Answers as the makers of the families document them.
fn recorded() -> Vec<(Calls, String, Said)> {
    let two = vec![call("get_weather", PARIS), call("f", BRACES)];
    let said = |content: &str, calls: &[(String, String)]| Said {
        content: content.into(),
        calls: calls.to_vec(),
        ..Said::default()
    };
    let fenced = Calls::DeepSeek { is_fenced: true };
    let bare = Calls::DeepSeek { is_fenced: false };
    vec![
        (
            Calls::Hermes,
            format!(
                "<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {PARIS}}}\n</tool_call>\n<tool_call>\n{{\"arguments\": {BRACES}, \"name\": \"f\"}}\n</tool_call>"
            ),
            said("", &two),
        ),
        (
            Calls::Hermes,
            format!(
                "<think>\nI look it up.\n\n</think>\n\nOne moment.\n<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {PARIS}}}\n</tool_call>"
            ),
            Said { reasoning: "I look it up.".into(), ..said("One moment.\n", &two[..1]) },
        ),
        (
            Calls::MistralList,
            format!(
                "[TOOL_CALLS] [{{\"name\": \"get_weather\", \"arguments\": {PARIS}}}, {{\"name\": \"f\", \"arguments\": {BRACES}}}]"
            ),
            said("", &two),
        ),
        (
            Calls::MistralNamed,
            format!("[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{BRACES}"),
            said("", &two),
        ),
        (Calls::Llama, format!("{{\"name\": \"get_weather\", \"parameters\": {PARIS}}}"), said("", &two[..1])),
        (
            Calls::Llama,
            format!(
                "<|python_tag|>{{\"type\": \"function\", \"name\": \"get_weather\", \"parameters\": {PARIS}}}; {{\"name\": \"f\", \"parameters\": {BRACES}}}"
            ),
            said("", &two),
        ),
        (
            fenced,
            format!(
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{BRACES}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            ),
            said("", &two),
        ),
        (
            bare,
            format!(
                "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{PARIS}<｜tool▁call▁end｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{BRACES}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
            ),
            said("I look.", &two),
        ),
    ]
}

#[test]
fn calls_are_read_as_each_family_writes_them() {
    for (calls, text, expected) in recorded() {
        assert_eq!(whole(calls, &text), expected, "{text}");
        for (_, arguments) in &expected.calls {
            assert!(serde_json::from_str::<Value>(arguments).is_ok(), "{arguments}");
        }
    }
}

#[test]
fn arguments_may_be_missing_or_quoted() {
    assert_eq!(whole(Calls::Hermes, r#"<tool_call>{"name": "f"}</tool_call>"#).calls, [call("f", "{}")]);
    let quoted = json!({"name": "f", "arguments": BRACES}).to_string();
    assert_eq!(whole(Calls::Hermes, &format!("<tool_call>{quoted}</tool_call>")).calls, [call("f", BRACES)]);
}

#[test]
fn what_is_no_call_is_content() {
    for (calls, text) in [
        (Calls::Llama, r#"{"name": "Alice", "parameters": {"age": 3}}"#),
        (Calls::Llama, r#"{"name": "f", "age": 3}"#),
        (Calls::Llama, r#"{"city": "Paris"}"#),
        (Calls::Llama, " {x}"),
        (Calls::Hermes, "a <tool_call x> b"),
        (Calls::Hermes, "  <tool_calls"),
        (Calls::Hermes, r#"{"name": "f", "arguments": {}}"#),
        (Calls::Hermes, "I <think> so </think>."),
        (Calls::Hermes, "  \n"),
    ] {
        let said = whole(calls, text);
        assert_eq!((said.content.trim_start(), said.calls.len()), (text.trim_start(), 0), "{text}");
    }
    // A mark that nothing follows.
    assert_eq!(whole(Calls::Hermes, "<tool_call>no JSON</tool_call>").content, "<tool_call>no JSON</tool_call>");
    assert_eq!(whole(Calls::MistralNamed, "[TOOL_CALLS]what, me?").content, "[TOOL_CALLS]what, me?");
}

#[test]
fn an_answer_that_was_cut_off_shows_what_there_was() {
    assert_eq!(whole(Calls::Hermes, r#"<tool_call>{"name": "f", "arguments": {"a": "#).calls, [call("f", r#"{"a": "#)]);
    let said = whole(Calls::Hermes, r#"<tool_call>{"name": "f"#);
    assert_eq!((said.content.as_str(), said.calls.len()), (r#"<tool_call>{"name": "f"#, 0));
    assert_eq!(read(&manner(Calls::Hermes), &["I think", " that"], true).reasoning, "I think that");
}

#[test]
fn thoughts_that_the_prompt_began_end_where_they_end() {
    let said = read(&manner(Calls::Hermes), &["\nFirst, ", "I\n</th", "ink>\n\nParis"], true);
    assert_eq!(said, Said { reasoning: "First, I".into(), content: "Paris".into(), calls: vec![] });
}

#[test]
fn without_tools_and_thoughts_text_passes_at_once() {
    let plain = Manner { thoughts: None, tools: Tools::Message };
    let mut reader = Reader::new(&plain, vec![], false);
    assert_eq!(reader.push(" <tool_call>"), [Part::Content(" <tool_call>".into())]);
    assert_eq!(reader.finish(), []);
}

#[test]
fn arguments_arrive_in_pieces() {
    let mut reader = Reader::new(&manner(Calls::Hermes), tools(), false);
    assert_eq!(reader.push(r#"<tool_call>{"name": "f", "arguments": {"#).len(), 2);
    assert_eq!(reader.push(r#""a""#), [Part::Arguments { index: 0, text: r#""a""#.into() }]);
}

fn cut(text: &str, cuts: &[usize]) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let mut pieces = vec![];
    let mut rest = characters.as_slice();
    for at in cuts {
        let (piece, tail) = rest.split_at((*at).min(rest.len()));
        pieces.push(piece.iter().collect());
        rest = tail;
    }
    pieces.push(rest.iter().collect());
    pieces
}

proptest! {
    #[test]
    fn any_cut_of_a_recorded_answer_reads_the_same(which in 0_usize..8, cuts in prop::collection::vec(0_usize..9, 0..200)) {
        let (calls, text, expected) = recorded().swap_remove(which);
        let pieces = cut(&text, &cuts);
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        prop_assert_eq!(read(&manner(calls), &pieces, false), expected);
    }

    /// Also of answers that are nothing in particular, made of what has a meaning somewhere.
    #[test]
    fn any_cut_of_any_answer_reads_the_same(
        family in 0_usize..6,
        parts in prop::collection::vec(prop_oneof![
            Just("<tool_call>"), Just("</tool_call>"), Just("{"), Just("}"), Just("\"name\""), Just(": "), Just("\"f\""),
            Just("\"arguments\""), Just(", "), Just("[TOOL_CALLS]"), Just("["), Just("]"), Just("[ARGS]"), Just("f"), Just(" "),
            Just("\n"), Just("<think>"), Just("</think>"), Just("<｜tool▁calls▁begin｜>"), Just("<｜tool▁call▁begin｜>"),
            Just("<｜tool▁sep｜>"), Just("<｜tool▁call▁end｜>"), Just("<"), Just("\\"), Just("é"), Just("```"), Just(";"), Just("1"),
        ], 0..24),
        cuts in prop::collection::vec(0_usize..7, 0..60),
        thinks in any::<bool>(),
    ) {
        let families = [
            Calls::Hermes, Calls::MistralList, Calls::MistralNamed, Calls::Llama,
            Calls::DeepSeek { is_fenced: true }, Calls::DeepSeek { is_fenced: false },
        ];
        let text = parts.concat();
        let pieces = cut(&text, &cuts);
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let manner = manner(families[family]);
        prop_assert_eq!(read(&manner, &pieces, thinks), read(&manner, &[&text], thinks));
    }
}
