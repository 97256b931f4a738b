use super::*;
use serde_json::json;

fn parameters(value: Value) -> Parameters {
    serde_json::from_value(value).expect("well-formed")
}

fn refused(value: Value) -> (String, &'static str) {
    let refused = wish(&parameters(value), 0).expect_err("refused");
    (refused.param.expect("a parameter is named"), refused.code)
}

#[test]
fn an_empty_request_gets_openai_s_defaults() {
    let wish = wish(&parameters(json!({})), 42).expect("fine");
    assert_eq!(wish.sampling, Sampling { temperature: 1.0, seed: 42, ..Sampling::greedy() });
    assert_eq!((wish.max_tokens, wish.stream, wish.include_usage), (None, false, false));
}

#[test]
fn a_misspelt_parameter_is_refused_with_the_nearest_name() {
    let refused = wish(&parameters(json!({"temprature": 1})), 0).expect_err("refused");
    assert_eq!(refused.param.as_deref(), Some("temprature"));
    assert_eq!(refused.message, "unknown parameter `temprature`; did you mean `temperature`?");
}

#[test]
fn what_is_not_done_is_refused_and_what_asks_for_nothing_is_not() {
    assert_eq!(refused(json!({"n": 2})), ("n".into(), "unsupported_parameter"));
    assert_eq!(refused(json!({"logprobs": true})), ("logprobs".into(), "unsupported_parameter"));
    assert_eq!(refused(json!({"tools": [{}]})), ("tools".into(), "unsupported_parameter"));
    assert_eq!(refused(json!({"response_format": {"type": "json_object"}})).1, "unsupported_parameter");
    let fine = json!({"n": 1, "logprobs": false, "tools": [], "tool_choice": null, "user": "u", "safe_prompt": false,
        "response_format": {"type": "text"}, "reasoning_effort": null});
    assert!(wish(&parameters(fine), 0).is_ok());
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    for (name, value) in [
        ("temperature", json!(2.1)),
        ("top_p", json!(-0.1)),
        ("top_k", json!(-2)),
        ("min_p", json!(1.5)),
        ("frequency_penalty", json!(3)),
        ("presence_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("max_tokens", json!(0)),
        ("stop", json!("")),
        ("stop", json!([""])),
    ] {
        assert_eq!(refused(json!({name: value})), (name.to_owned(), "invalid_value"));
    }
    assert_eq!(refused(json!({"logit_bias": {"x": 1}})).0, "logit_bias.x");
    assert_eq!(refused(json!({"stream_options": {"include_usage": true}})).0, "stream_options");
}

#[test]
fn mistral_s_seed_is_a_seed() {
    assert_eq!(wish(&parameters(json!({"random_seed": 9})), 0).expect("fine").sampling.seed, 9);
    assert_eq!(refused(json!({"random_seed": 9, "seed": 8})).0, "random_seed");
}

#[test]
fn a_context_overflow_shows_its_numbers() {
    assert_eq!(fit(10, None, 100, "messages"), Ok(90));
    assert_eq!(fit(10, Some(90), 100, "messages"), Ok(90));
    let refused = fit(80, Some(30), 100, "messages").expect_err("too long");
    assert_eq!(refused.code, "context_length_exceeded");
    assert!(refused.message.contains("100 tokens") && refused.message.contains("110 (80 in the prompt, 30"));
    assert!(fit(100, None, 100, "messages").is_err());
}

#[test]
fn a_text_that_cannot_fit_is_refused_unread() {
    assert_eq!(fit_bytes(1000, 10, 100, "prompt"), Ok(()));
    let refused = fit_bytes(2000, 10, 100, "prompt").expect_err("too long");
    assert_eq!((refused.code, refused.param.as_deref()), ("context_length_exceeded", Some("prompt")));
    assert!(refused.message.contains("at least 200 for its 2000 bytes"), "{refused}");
}

#[test]
fn messages_become_text_and_images_are_refused() {
    let messages: Vec<ChatMessage> = serde_json::from_value(json!([
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null},
    ]))
    .expect("well-formed");
    assert_eq!(
        template_messages(&messages).expect("fine"),
        [json!({"role": "system", "content": "a\nb"}), json!({"role": "assistant", "content": ""})]
    );
    let image: Vec<ChatMessage> =
        serde_json::from_value(json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]))
            .expect("ok");
    assert_eq!(template_messages(&image).expect_err("refused").param.as_deref(), Some("messages[0].content[0]"));
    let role: Vec<ChatMessage> = serde_json::from_value(json!([{"role": "usr", "content": "x"}])).expect("ok");
    assert_eq!(template_messages(&role).expect_err("refused").param.as_deref(), Some("messages[0].role"));
}
