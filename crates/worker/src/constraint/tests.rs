use super::*;
use crate::grammar;
use crate::sample::Sampling;
use crate::vocabulary::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(&Bytes::new()).expect("a vocabulary of bytes"));

/// An answer of a model that has no idea, at temperature 1; `None` when it does not come to an end.
fn answer(constraint: &mut Constraint, seed: u64, tokens: usize) -> Option<String> {
    let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed, ..Sampling::greedy() }, &[]);
    // It closes somewhat more often than it opens: answers of a few dozen bytes.
    let mut logits = vec![0.0_f32; 256];
    for byte in *b"\"}],:0" {
        logits[usize::from(byte)] = 3.0;
    }
    let mut bytes = vec![];
    for _ in 0..tokens {
        if constraint.is_done() {
            break;
        }
        let token = constraint.choose(&mut sampler, &logits, None).expect("there is always a next token");
        if token == Bytes::END {
            return Some(String::from_utf8(bytes).expect("UTF-8"));
        }
        bytes.push(u8::try_from(token).expect("a byte"));
    }
    constraint.is_done().then(|| String::from_utf8(bytes).expect("UTF-8"))
}

fn compiled(schema: &Value) -> Result<Constraint, String> {
    GRAMMARS.compile(&grammar::of_schema(schema))
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        Just(json!({"type": "number"})),
        (-50_i32..50, 0_i32..100)
            .prop_map(|(low, span)| json!({"type": "integer", "minimum": low, "maximum": low + span})),
        (0_u8..5, 0_u8..9)
            .prop_map(|(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})),
        Just(json!({"type": "string", "pattern": "^[a-z]{2,4}-[0-9]+$"})),
        Just(json!({"type": "string", "format": "date"})),
        Just(json!({"enum": ["red", 3, null, {"a": [true]}]})),
        Just(json!({"const": "x\"y"})),
        Just(json!({"$ref": "#/$defs/tree"})),
        Just(json!({"type": ["string", "null"], "maxLength": 3})),
    ]
}

fn schema() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            (inner.clone(), 0_u8..3, 0_u8..3)
                .prop_map(|(items, least, more)| json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|options| json!({"anyOf": options})),
            prop::collection::vec((inner.clone(), any::<bool>()), 0..4).prop_map(|entries| object(entries, &json!(false))),
            (prop::collection::vec((inner.clone(), any::<bool>()), 0..2), inner)
                .prop_map(|(entries, rest)| object(entries, &rest)),
        ]
    })
}

fn object(entries: Vec<(Value, bool)>, rest: &Value) -> Value {
    let names = ["name", "größe", "a b", "q\"z"];
    let required: Vec<&str> = names.iter().zip(&entries).filter(|(_, (_, is))| *is).map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        names.iter().zip(entries).map(|(name, (schema, _))| ((*name).to_owned(), schema)).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": rest})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever the schema and the seed: an answer that has ended is valid by another implementation of JSON Schema.
    #[test]
    fn every_finished_answer_is_valid(schema in schema(), seed in any::<u64>()) {
        let tree = json!({"type": "object", "properties": {"leaf": {"type": "boolean"}, "next": {"$ref": "#/$defs/tree"}},
            "required": ["leaf"], "additionalProperties": false});
        let root = json!({"type": "object", "properties": {"it": schema}, "required": ["it"], "additionalProperties": false,
            "$defs": {"tree": tree}});
        let mut constraint = compiled(&root).map_err(TestCaseError::fail)?;
        if let Some(text) = answer(&mut constraint, seed, 3000) {
            let value: Value = match serde_json::from_str(&text) {
                Ok(value) => value,
                // JSON bounds no exponent: 1E999 is valid, and no number that this parser knows.
                Err(e) if e.to_string().starts_with("number out of range") => return Ok(()),
                Err(e) => return Err(TestCaseError::fail(format!("{e}: {text}"))),
            };
            let validator = jsonschema::validator_for(&root).expect("a schema");
            prop_assert!(validator.is_valid(&value), "{} does not keep to {}", text, root);
        }
    }
}

#[test]
fn most_answers_come_to_an_end() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "integer"}}},
        "required": ["a", "b"], "additionalProperties": false});
    let constraint = compiled(&schema).expect("a schema");
    let ended = (0..50).filter(|seed| answer(&mut constraint.fork(), *seed, 3000).is_some()).count();
    assert!(ended > 40, "{ended} of 50");
    assert!(
        (0..50).filter_map(|seed| answer(&mut constraint.fork(), seed, 3000)).all(|text| text.starts_with("{\"a\":"))
    );
}

#[test]
fn any_object_is_json() {
    let constraint = compiled(&json!({"type": "object"})).expect("a schema");
    for text in (0..100).filter_map(|seed| answer(&mut constraint.fork(), seed, 2000)) {
        assert!(serde_json::from_str::<Map<String, Value>>(&text).is_ok(), "{text}");
    }
}

#[test]
fn a_choice_by_rejection_has_the_probabilities_of_the_allowed() {
    // Of the allowed `a` has two thirds and `b` one; `c`, which is likelier than both, is none.
    let mut logits = vec![f32::NEG_INFINITY; 256];
    for (byte, weight) in [(b'a', 2.0_f32), (b'b', 1.0), (b'c', 5.0)] {
        logits[usize::from(byte)] = weight.ln();
    }
    let constraint = GRAMMARS.compile("start: \"a\" | \"b\"\n").expect("a grammar");
    let mut sampler = Sampler::new(Sampling { temperature: 1.0, seed: 11, ..Sampling::greedy() }, &[]);
    let mut first = || constraint.fork().choose(&mut sampler, &logits, None).expect("a token");
    let count = (0..6000).filter(|_| first() == i32::from(b'a')).count();
    assert!((3850..4150).contains(&count), "{count} of 6000 instead of 4000");
}

#[test]
fn a_schema_at_fault_is_named_by_its_place() {
    let compiles = |schema: &Value| compiled(schema).is_err();
    for (schema, place) in [
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"not": {"type": "string"}}}}}),
            "s.properties.a.items",
        ),
        (
            json!({"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "("}]}}}),
            "s.properties.a.anyOf[1]",
        ),
        (
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "array", "uniqueItems": true}}}),
            "s.properties.a",
        ),
        (json!({"type": "strnig"}), "s"),
    ] {
        assert!(compiles(&schema), "{schema}");
        assert_eq!(grammar::culprit(&schema, "s", &mut |part| compiles(part)), place, "{schema}");
    }
}
