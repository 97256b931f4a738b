use super::fields::FIELDS_MAX;
use super::*;

fn chat(body: &str) -> Asked<'_> {
    Asked::parse(Dialect::Union, Call::Chat, body).expect("a sound request")
}

fn refused(call: Call, body: &str) -> Refusal {
    Asked::parse(Dialect::Union, call, body).expect_err("not a sound request")
}

fn sent(call: Call, body: &str) -> String {
    let source = Bytes::copy_from_slice(body.as_bytes());
    let asked =
        Asked::parse(Dialect::Union, call, std::str::from_utf8(&source).expect("text")).expect("a sound request");
    String::from_utf8(asked.upstream_body(&source, "weights").parts().concat()).expect("JSON is text")
}

#[test]
fn the_engine_gets_its_own_model_name_and_everything_else_byte_for_byte() {
    let body = r#"{"messages":[{"role":"user","content":"\u00e9 1e400"}],"model":"m","temperature": 1.50,"seed":7}"#;
    assert_eq!(
        sent(Call::Chat, body),
        r#"{"model":"weights","messages":[{"role":"user","content":"\u00e9 1e400"}],"temperature":1.50,"seed":7}"#
    );
}

#[test]
fn usage_is_always_asked_for_in_streams() {
    let body = r#"{"model":"m","messages":[{}],"stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false}}"#;
    assert_eq!(chat(body).delivery, Delivery::Stream(UsageShown::Never));
    assert_eq!(
        sent(Call::Chat, body),
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
    assert_eq!(sent(Call::Chat, body), r#"{"model":"weights","messages":[{}],"seed":4,"tool_choice":"required"}"#);
    let refusal = refused(Call::Chat, r#"{"model":"m","messages":[{}],"safe_prompt":true}"#);
    assert_eq!(refusal.param.as_deref(), Some("safe_prompt"));
    let refusal = refused(Call::Chat, r#"{"model":"m","messages":[{}],"random_seed":4,"seed":5}"#);
    assert_eq!(refusal.param.as_deref(), Some("random_seed"));
}

#[test]
fn malformed_json_is_refused_with_its_place() {
    let refusal = refused(Call::Chat, "{\"model\":\"m\",\n \"messages\":[}");
    assert_eq!(refusal.code, Code::MalformedJson);
    assert_eq!(refusal.message, "the body is not a JSON object: expected value at line 2, column 14");
    let refusal = refused(Call::Chat, "[1]");
    assert!(refusal.message.contains("expected a JSON object"), "{}", refusal.message);
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let refusal = refused(Call::Chat, r#"{"model":"a","messages":[{}],"mod\u0065l":"b"}"#);
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
        let refusal = refused(Call::Chat, body);
        assert_eq!(refusal.param.as_deref(), Some(param), "{body}");
        assert_eq!(refusal.status().as_u16(), 400, "{body}");
    }
    assert_eq!(refused(Call::Embedding, r#"{"model":"m","input":[]}"#).param.as_deref(), Some("input"));
    assert_eq!(refused(Call::Embedding, r#"{"model":"m","input":"a","stream":true}"#).param.as_deref(), Some("stream"));
    assert_eq!(refused(Call::Completion, r#"{"model":"m","prompt":{}}"#).param.as_deref(), Some("prompt"));
}

#[test]
fn thousands_of_fields_are_refused_and_not_compared() {
    let fields: Vec<String> = (0..FIELDS_MAX + 1).map(|n| format!("\"f{n}\":0")).collect();
    let refusal = refused(Call::Chat, &format!("{{{}}}", fields.join(",")));
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
    let prompts = Asked::parse(Dialect::Union, Call::Completion, r#"{"model":"m","prompt":["a","b"],"max_tokens":5}"#)
        .expect("sound");
    assert_eq!(prompts.bound(64).completion_max.0, 10);
    let tokens = Asked::parse(Dialect::Union, Call::Completion, r#"{"model":"m","prompt":[1,2,3],"max_tokens":5}"#)
        .expect("sound");
    assert_eq!(tokens.bound(64).completion_max.0, 5);
    let inputs = Asked::parse(Dialect::Union, Call::Embedding, r#"{"model":"m","input":["a","b"]}"#).expect("sound");
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

#[test]
fn many_prompts_are_estimated_as_many() {
    let prompts = vec!["a"; 100];
    let body = serde_json::json!({"model": "m", "prompt": prompts, "max_tokens": 1000}).to_string();
    let asked = Asked::parse(Dialect::Union, Call::Completion, &body).expect("sound");
    assert!(asked.estimate(2048) >= 100_000, "{}", asked.estimate(2048));
}

#[test]
fn only_chats_are_cut_at_a_budgets_end() {
    assert!(chat(r#"{"model":"m","messages":[{}],"stream":true}"#).is_open_ended());
    let text = Asked::parse(Dialect::Union, Call::Completion, r#"{"model":"m","prompt":"a","stream":true}"#);
    assert!(!text.expect("sound").is_open_ended(), "engines end it after 16 tokens");
}

#[test]
fn a_list_of_empty_messages_is_bounded() {
    let list = |n: usize| format!(r#"{{"model":"m","messages":[{}{{"prefix":false}}]}}"#, "{},".repeat(n - 1));
    assert!(Asked::parse(Dialect::Union, Call::Chat, &list(LIST_MAX)).is_ok());
    let refusal = refused(Call::Chat, &list(LIST_MAX + 1));
    assert!(refusal.message.contains("`messages` has 32769 entries; at most 32768 are taken"), "{}", refusal.message);
}

#[test]
fn the_tokens_of_a_prompt_are_asked_with_its_tools() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let asked = chat(body);
    let segments = asked.tokenize_body(&Bytes::copy_from_slice(body.as_bytes()), "up").expect("a chat");
    let text: Vec<u8> = segments.parts().iter().flat_map(|part| part.to_vec()).collect();
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains(r#""tools":[{"type":"function""#), "{text}");
}

fn on(dialect: Dialect, body: &str) -> Result<Asked<'_>, Refusal> {
    Asked::parse(dialect, Call::Chat, body)
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest_name() {
    let refusal = refused(Call::Chat, r#"{"model":"m","messages":[{}],"temprature":1}"#);
    assert_eq!((refusal.code, refusal.param.as_deref()), (Code::UnknownParameter, Some("temprature")));
    assert_eq!(refusal.message, "unknown parameter `temprature`; did you mean `temperature`?");
    let refusal = refused(Call::Fim, r#"{"model":"m","prompt":"a","echo":true}"#);
    assert_eq!(refusal.message, "unknown parameter `echo`");
}

#[test]
fn an_exact_surface_refuses_the_others_words_and_says_its_own() {
    let body = r#"{"model":"m","messages":[{}],"random_seed":4}"#;
    assert!(on(Dialect::Mistral, body).is_ok());
    let refusal = on(Dialect::OpenAi, body).expect_err("Mistral's word");
    assert_eq!(refusal.message, "`random_seed` is Mistral's and not taken under /openai/v1; hint: send `seed`");
    let refusal = on(Dialect::Mistral, r#"{"model":"m","messages":[{}],"max_completion_tokens":4}"#);
    let message = refusal.expect_err("OpenAI's word").message;
    assert_eq!(message, "`max_completion_tokens` is OpenAI's and not taken under /mistral/v1; hint: send `max_tokens`");
    let refusal = on(Dialect::OpenAi, r#"{"model":"m","messages":[{}],"top_k":4}"#);
    let message = refusal.expect_err("Mistral's word").message;
    assert_eq!(message, "`top_k` is Mistral's and not taken under /openai/v1; hint: send it to /v1");
    let refusal = on(Dialect::OpenAi, r#"{"model":"m","messages":[{}],"tool_choice":"any"}"#);
    assert_eq!(refusal.expect_err("Mistral's word").param.as_deref(), Some("tool_choice"));
}

#[test]
fn fields_without_effect_do_not_reach_the_engine_and_values_that_ask_for_more_are_refused() {
    let body = r#"{"model":"m","messages":[{}],"user":"u","metadata":{"a":"b"},"store":false,"modalities":[ "text" ],"service_tier":"auto","seed":null}"#;
    assert_eq!(sent(Call::Chat, body), r#"{"model":"weights","messages":[{}]}"#);
    assert!(chat(body).tier_asked);
    for (more, code, param) in [
        (r#""store":true"#, Code::UnsupportedValue, "store"),
        (r#""modalities":["text","audio"]"#, Code::UnsupportedValue, "modalities"),
        (r#""service_tier":"scale""#, Code::UnsupportedValue, "service_tier"),
        (r#""web_search_options":{}"#, Code::UnsupportedParameter, "web_search_options"),
        (r#""functions":[]"#, Code::UnsupportedParameter, "functions"),
        (r#""user":7"#, Code::InvalidBody, "user"),
    ] {
        let refusal = refused(Call::Chat, &format!(r#"{{"model":"m","messages":[{{}}],{more}}}"#));
        assert_eq!((refusal.code, refusal.param.as_deref()), (code, Some(param)), "{more}: {}", refusal.message);
    }
}

#[test]
fn two_words_for_one_thing_are_sent_once_or_refused() {
    let body = r#"{"model":"m","messages":[{}],"max_tokens":4,"max_completion_tokens":4}"#;
    assert_eq!(sent(Call::Chat, body), r#"{"model":"weights","messages":[{}],"max_tokens":4}"#);
    let refusal = refused(Call::Chat, r#"{"model":"m","messages":[{}],"max_tokens":4,"max_completion_tokens":5}"#);
    assert_eq!(refusal.param.as_deref(), Some("max_completion_tokens"));
    let body = r#"{"model":"m","inputs":"a","output_dimension":64,"output_dtype":"float"}"#;
    assert_eq!(sent(Call::Embedding, body), r#"{"model":"weights","input":"a","dimensions":64}"#);
}

#[test]
fn a_prefix_makes_the_engine_go_on_with_the_last_message() {
    let body =
        r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","prefix":true}]}"#;
    assert_eq!(
        sent(Call::Chat, body),
        r#"{"model":"weights","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"continue_final_message":true,"add_generation_prompt":false}"#
    );
    let quoted = r#"{"model":"m","messages":[{"role":"user","content":"\"prefix\": true"}]}"#;
    assert_eq!(sent(Call::Chat, quoted), quoted.replace(r#""m""#, r#""weights""#), "words about it are none");
    for messages in [
        r#"[{"role":"assistant","content":"b","prefix":true},{"role":"user","content":"a"}]"#,
        r#"[{"role":"user","content":"b","prefix":true}]"#,
        r#"[{"role":"assistant","content":"b","prefix":1}]"#,
    ] {
        let refusal = refused(Call::Chat, &format!(r#"{{"model":"m","messages":{messages}}}"#));
        assert_eq!(refusal.param.as_deref(), Some("messages[0].prefix"), "{messages}");
    }
    let refusal = on(Dialect::OpenAi, body).expect_err("Mistral's word");
    assert_eq!(refusal.code, Code::UnknownParameter);
}

#[test]
fn what_computes_nothing_is_bounded_by_nothing() {
    let asked = Asked::parse(Dialect::Union, Call::Tokenise, r#"{"model":"m","prompt":"abc"}"#).expect("sound");
    assert_eq!((asked.bound(64).prompt_max.0, asked.bound(64).total_max.0, asked.estimate(64)), (0, 0, 0));
    assert!(Asked::parse(Dialect::Union, Call::Tokenise, r#"{"model":"m"}"#).is_err());
}

#[test]
fn openais_streams_tell_usage_to_those_who_ask() {
    let body = r#"{"model":"m","messages":[{}],"stream":true}"#;
    let shown = |dialect| on(dialect, body).expect("sound").delivery;
    assert_eq!(shown(Dialect::OpenAi), Delivery::Stream(UsageShown::Never));
    assert_eq!(shown(Dialect::Mistral), Delivery::Stream(UsageShown::WithLast));
}
