use super::*;

fn chat(body: &str) -> Asked<'_> {
    Asked::parse(Operation::Chat, body).expect("a sound request")
}

fn refused(operation: Operation, body: &str) -> Refusal {
    Asked::parse(operation, body).expect_err("not a sound request")
}

fn sent(operation: Operation, body: &str) -> String {
    let asked = Asked::parse(operation, body).expect("a sound request");
    String::from_utf8(asked.upstream_body("weights")).expect("JSON is text")
}

#[test]
fn the_engine_gets_its_own_model_name_and_everything_else_byte_for_byte() {
    let body = r#"{"messages":[{"role":"user","content":"\u00e9 1e400"}],"model":"m","temprature": 1.50,"seed":7}"#;
    assert_eq!(
        sent(Operation::Chat, body),
        r#"{"model":"weights","messages":[{"role":"user","content":"\u00e9 1e400"}],"temprature":1.50,"seed":7}"#
    );
}

#[test]
fn usage_is_always_asked_for_in_streams() {
    let body = r#"{"model":"m","messages":[{}],"stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false}}"#;
    assert_eq!(chat(body).delivery, Delivery::Stream(UsageShown::Never));
    assert_eq!(
        sent(Operation::Chat, body),
        r#"{"model":"weights","messages":[{}],"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}"#
    );
    for (more, delivery) in [
        (r#","stream":true,"stream_options":{"include_usage":true}"#, Delivery::Stream(UsageShown::Apart)),
        (r#","stream":true,"stream_options":{}"#, Delivery::Stream(UsageShown::WithLast)),
        (r#","stream":true"#, Delivery::Stream(UsageShown::WithLast)),
        ("", Delivery::Whole),
    ] {
        assert_eq!(chat(&format!(r#"{{"model":"m","messages":[{{}}]{more}}}"#)).delivery, delivery, "{more}");
    }
}

#[test]
fn mistrals_words_are_translated_or_refused_by_name() {
    let body = r#"{"model":"m","messages":[{}],"random_seed":4,"safe_prompt":false,"tool_choice":"any"}"#;
    assert_eq!(sent(Operation::Chat, body), r#"{"model":"weights","messages":[{}],"seed":4,"tool_choice":"required"}"#);
    let refusal = refused(Operation::Chat, r#"{"model":"m","messages":[{}],"safe_prompt":true}"#);
    assert_eq!(refusal.param.as_deref(), Some("safe_prompt"));
    let refusal = refused(Operation::Chat, r#"{"model":"m","messages":[{}],"random_seed":4,"seed":5}"#);
    assert_eq!(refusal.param.as_deref(), Some("random_seed"));
}

#[test]
fn malformed_json_is_refused_with_its_place() {
    let refusal = refused(Operation::Chat, "{\"model\":\"m\",\n \"messages\":[}");
    assert_eq!(refusal.code, Code::MalformedJson);
    assert_eq!(refusal.message, "the body is not a JSON object: expected value at line 2, column 14");
    let refusal = refused(Operation::Chat, "[1]");
    assert!(refusal.message.contains("expected a JSON object"), "{}", refusal.message);
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let refusal = refused(Operation::Chat, r#"{"model":"a","messages":[{}],"mod\u0065l":"b"}"#);
    assert!(refusal.message.contains("`model` occurs twice"), "{}", refusal.message);
}

#[test]
fn wrong_types_are_refused_with_their_name_and_value() {
    for (body, param) in [
        (r#"{"messages":[{}]}"#, "model"),
        (r#"{"model":7,"messages":[{}]}"#, "model"),
        (r#"{"model":"m"}"#, "messages"),
        (r#"{"model":"m","messages":[]}"#, "messages"),
        (r#"{"model":"m","messages":"hi"}"#, "messages"),
        (r#"{"model":"m","messages":[{}],"max_tokens":-1}"#, "max_tokens"),
        (r#"{"model":"m","messages":[{}],"max_tokens":1.5}"#, "max_tokens"),
        (r#"{"model":"m","messages":[{}],"stream":"yes"}"#, "stream"),
        (r#"{"model":"m","messages":[{}],"n":0}"#, "n"),
        (r#"{"model":"m","messages":[{}],"n":129}"#, "n"),
        (r#"{"model":"m","messages":[{}],"stream_options":[]}"#, "stream_options"),
    ] {
        let refusal = refused(Operation::Chat, body);
        assert_eq!(refusal.param.as_deref(), Some(param), "{body}");
        assert_eq!(refusal.status().as_u16(), 400, "{body}");
    }
    assert_eq!(refused(Operation::Embedding, r#"{"model":"m","input":[]}"#).param.as_deref(), Some("input"));
    assert_eq!(
        refused(Operation::Embedding, r#"{"model":"m","input":"a","stream":true}"#).param.as_deref(),
        Some("stream")
    );
    assert_eq!(refused(Operation::Completion, r#"{"model":"m","prompt":{}}"#).param.as_deref(), Some("prompt"));
}

#[test]
fn thousands_of_fields_are_refused_and_not_compared() {
    let fields: Vec<String> = (0..FIELDS_MAX + 1).map(|n| format!("\"f{n}\":0")).collect();
    let refusal = refused(Operation::Chat, &format!("{{{}}}", fields.join(",")));
    assert!(refusal.message.contains("more than 256 fields"), "{}", refusal.message);
}

#[test]
fn the_bound_counts_choices_prompts_and_the_context() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":10,"n":3}"#;
    let bytes = i64::try_from(body.len()).expect("short");
    let bound = chat(body).bound(4096);
    assert_eq!((bound.prompt_max.0, bound.completion_max.0, bound.total_max.0), (bytes + 512, 30, 3 * 4096));
    let bound = chat(body).bound(100);
    assert_eq!((bound.prompt_max.0, bound.completion_max.0), (100, 30), "no prompt is longer than the context");
    let open = chat(r#"{"model":"m","messages":[{}],"max_tokens":null}"#).bound(2048);
    assert_eq!(open.completion_max.0, 2048, "without a maximum, the rest of the context");
    let prompts =
        Asked::parse(Operation::Completion, r#"{"model":"m","prompt":["a","b"],"max_tokens":5}"#).expect("sound");
    assert_eq!(prompts.bound(64).completion_max.0, 10);
    let tokens =
        Asked::parse(Operation::Completion, r#"{"model":"m","prompt":[1,2,3],"max_tokens":5}"#).expect("sound");
    assert_eq!(tokens.bound(64).completion_max.0, 5);
    let inputs = Asked::parse(Operation::Embedding, r#"{"model":"m","input":["a","b"]}"#).expect("sound");
    assert_eq!((inputs.bound(512).completion_max.0, inputs.bound(8).prompt_max.0), (0, 16));
}

#[test]
fn the_estimate_is_never_more_than_the_context_can_hold() {
    let asked = chat(r#"{"model":"m","messages":[{}],"max_tokens":100000}"#);
    assert_eq!(asked.estimate(2048), 2048);
    let two = chat(r#"{"model":"m","messages":[{}],"max_tokens":100000,"n":2}"#);
    assert_eq!(two.estimate(2048), 4096);
    let little = chat(r#"{"model":"m","messages":[{}],"max_tokens":10}"#);
    assert!((10..100).contains(&little.estimate(2048)), "{}", little.estimate(2048));
}
