use super::*;
use crate::constraint::Grammars;
use crate::manner::Tools;
use crate::reader::{Part, Reader};
use crate::request::tool_use;
use crate::sample::{Sampler, Sampling};
use crate::vocabulary::Bytes;
use galerne_api::openai::Parameters;

#[expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]
fn tools(more: Value) -> ToolUse {
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let weather = json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"], "additionalProperties": false});
    let time = json!({"type": "object", "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}}, "required": ["zone"], "additionalProperties": false});
    let mut other = json!({"tools": [tool("get_weather", weather), tool("get_time", time)]});
    other.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let other = other.as_object().expect("an object").clone();
    tool_use(&Parameters { other, ..Parameters::default() }).expect("well-formed").expect("tools")
}

const FAMILIES: [Calls; 6] = [
    Calls::Hermes,
    Calls::MistralList,
    Calls::MistralNamed,
    Calls::Llama,
    Calls::DeepSeek { is_fenced: true },
    Calls::DeepSeek { is_fenced: false },
];

/// What a model without any idea says under the grammar, read as its family's answers are.
fn say(grammar: &str, manner: &Manner, names: Vec<String>, thinks: bool, seed: u64) -> (String, Vec<Part>) {
    let grammars = Grammars::new(&Bytes::new()).expect("a vocabulary of bytes");
    let mut constraint = grammars.compile(grammar).unwrap_or_else(|e| panic!("{e}: {grammar}"));
    let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::greedy() }, &[]);
    let mut logits = vec![0.0_f32; 256];
    // Ends come often: what may be repeated is, a few times.
    for (token, weight) in [(Bytes::END, 4.0), (i32::from(b'<'), 3.0), (i32::from(b'/'), 3.0), (i32::from(b'}'), 3.0)] {
        logits[usize::try_from(token).expect("small")] = weight;
    }
    let mut text = vec![];
    for _ in 0..4000 {
        if constraint.is_done() {
            break;
        }
        match constraint.choose(&mut sampler, &logits, None).expect("a token") {
            Bytes::END => break,
            token => text.push(u8::try_from(token).expect("a byte")),
        }
    }
    // What was cut off may end within a character.
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut reader = Reader::new(manner, names, thinks);
    let mut parts = reader.push(&text);
    parts.extend(reader.finish());
    (text, parts)
}

#[test]
fn forced_calls_are_read_back_and_keep_to_their_schemas() {
    for family in FAMILIES {
        for (choice, names) in [
            (json!({"tool_choice": "required"}), vec!["get_weather", "get_time"]),
            (json!({"tool_choice": {"type": "function", "function": {"name": "get_time"}}}), vec!["get_time"]),
            (json!({"tool_choice": "any", "parallel_tool_calls": false}), vec!["get_weather", "get_time"]),
        ] {
            let tools = tools(choice.clone());
            let manner = Manner { thoughts: None, tools: Tools::Template(family) };
            let wanted = Wanted { content: None, tools: Some(&tools), manner: &manner, thinks: false };
            let grammar = grammar(&wanted, &Bytes::new()).expect("a grammar");
            for seed in 0..4 {
                let (text, parts) = say(&grammar, &manner, tools.names(), false, seed);
                let mut calls: Vec<(String, String)> = vec![];
                for part in parts {
                    match part {
                        Part::Call { name, .. } => calls.push((name, String::new())),
                        Part::Arguments { index, text } => calls[index].1.push_str(&text),
                        Part::Content(said) => assert_eq!(said.trim(), "", "{text}"),
                        Part::Reasoning(said) => panic!("a thought: {said}"),
                    }
                }
                assert!(!calls.is_empty(), "{family:?}: {text}");
                assert!(calls.len() == 1 || choice["parallel_tool_calls"] != false, "{family:?}: {text}");
                for (name, arguments) in calls {
                    assert!(names.contains(&name.as_str()), "{text}");
                    let tool = tools.tools.iter().find(|tool| tool.name == name).expect("one of them");
                    let arguments: Value = serde_json::from_str(&arguments).unwrap_or_else(|e| panic!("{e}: {text}"));
                    assert!(jsonschema::is_valid(&tool.parameters, &arguments), "{text}");
                }
            }
        }
    }
}

#[test]
fn free_answers_have_no_grammar_and_strict_ones_may_still_be_text() {
    let manner = Manner { thoughts: None, tools: Tools::Template(Calls::Hermes) };
    let wanted = |tools| Wanted { content: None, tools: Some(tools), manner: &manner, thinks: false };
    let free = tools(json!({}));
    assert_eq!(grammar(&wanted(&free), &Bytes::new()), None);
    let single = tools(json!({"parallel_tool_calls": false}));
    let grammar = grammar(&wanted(&single), &Bytes::new()).expect("a grammar");
    let grammars = Grammars::new(&Bytes::new()).expect("a vocabulary");
    let accepts = |text: &str| {
        let mut constraint = grammars.compile(&grammar).unwrap_or_else(|e| panic!("{e}: {grammar}"));
        let mut forced = |byte: i32| {
            let mut logits = vec![-1000.0_f32; 256];
            logits[usize::try_from(byte).expect("small")] = 0.0;
            let mut sampler = Sampler::new(Sampling::greedy(), &[]);
            constraint.choose(&mut sampler, &logits, None).expect("a token") == byte
        };
        text.bytes().all(|byte| forced(i32::from(byte))) && forced(Bytes::END)
    };
    let call = |city: &str| {
        format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {{\"city\": \"{city}\"}}}}\n</tool_call>")
    };
    assert!(accepts("Good morning <tool_kit>."));
    assert!(accepts(&call("Paris")));
    assert!(accepts(&format!("I look.\n{}", call("Rome"))));
    assert!(!accepts(&call("Mars")));
    assert!(!accepts(&format!("{}\n{}", call("Paris"), call("Rome"))));
}

#[test]
fn a_schema_holds_behind_the_thoughts() {
    let manner = Manner { thoughts: Some(("<think>", "</think>")), tools: Tools::Message };
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false});
    for thinks in [true, false] {
        let wanted = Wanted { content: Some(&schema), tools: None, manner: &manner, thinks };
        let grammar = grammar(&wanted, &Bytes::new()).expect("a grammar");
        for seed in 0..5 {
            let (text, parts) = say(&grammar, &manner, vec![], thinks, seed);
            let content: String = parts
                .iter()
                .filter_map(|part| match part {
                    Part::Content(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect();
            // Thoughts of somebody who has no idea rarely end.
            if !content.is_empty() {
                let value: Value = serde_json::from_str(&content).unwrap_or_else(|e| panic!("{e}: {text}"));
                assert!(jsonschema::is_valid(&schema, &value), "{text}");
            }
            assert!(thinks || !content.is_empty() || text.starts_with("<think>"), "{text}");
        }
    }
}

#[test]
fn properties_that_a_schema_leaves_open_are_not_added() {
    let inner = json!({"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]});
    let open = json!({"type": "object", "properties": {"a": {"type": "array", "items": inner, "minItems": 1, "maxItems": 1}}, "required": ["a"]});
    for seed in 0..40 {
        let grammars = Grammars::new(&Bytes::new()).expect("a vocabulary of bytes");
        let mut constraint = grammars.compile(&of_schema(&open)).expect("compiles");
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::greedy() }, &[]);
        let mut logits = vec![0.0_f32; 256];
        // A model that would rather go on.
        logits[usize::from(b',')] = 6.0;
        let mut text = vec![];
        while !constraint.is_done() && text.len() < 2_000 {
            match constraint.choose(&mut sampler, &logits, None).expect("a token") {
                Bytes::END => break,
                token => text.push(u8::try_from(token).expect("a byte")),
            }
        }
        let told: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        assert_eq!(told.as_object().map(serde_json::Map::len), Some(1), "{told}");
        assert_eq!(told["a"][0].as_object().map(serde_json::Map::len), Some(1), "{told}");
    }
}

#[test]
fn what_closing_would_change_stays_open() {
    for schema in [
        json!({"type": "object"}),
        json!({"properties": {"a": {}}, "required": ["b"]}),
        json!({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}}),
        json!({"properties": {"a": {}}, "minProperties": 2}),
        json!({"properties": {"a": {}}, "patternProperties": {"^x": {}}}),
    ] {
        assert_eq!(closed(&schema), schema);
    }
    let mixed = [
        json!({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
        json!({"$defs": {"d": {"properties": {"a": {}}}}, "properties": {"c": {"$ref": "#/$defs/d", "properties": {"b": {}}}}}),
    ];
    assert!(mixed.iter().all(composes));
    let named = json!({"properties": {"properties": {"type": "string"}}});
    assert_eq!(
        closed(&named),
        json!({"properties": {"properties": {"type": "string"}}, "additionalProperties": false})
    );
}
