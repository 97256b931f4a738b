use galerne_api::openai::ChatMessage;

use super::*;
use serde_json::json;

fn parameters(value: Value) -> Parameters {
    serde_json::from_value(value).expect("well-formed")
}

fn chat_wish(value: Value) -> Result<Wish, Refused> {
    wish(&parameters(value), Route::Chat, Echo::Nothing, 0)
}

fn refused(value: Value) -> (String, &'static str) {
    let refused = chat_wish(value).expect_err("refused");
    (refused.param.expect("a parameter is named"), refused.code)
}

#[test]
fn an_empty_request_gets_openai_s_defaults() {
    let wish = wish(&parameters(json!({})), Route::Chat, Echo::Nothing, 42).expect("fine");
    assert_eq!(wish.sampling, Sampling { temperature: 1.0, seed: 42, ..Sampling::greedy() });
    assert_eq!((wish.max_tokens, wish.stream, wish.include_usage), (None, false, false));
}

#[test]
fn a_misspelt_parameter_is_refused_with_the_nearest_name() {
    let refused = chat_wish(json!({"temprature": 1})).expect_err("refused");
    assert_eq!(refused.param.as_deref(), Some("temprature"));
    assert_eq!(refused.message, "unknown parameter `temprature`; did you mean `temperature`?");
}

#[test]
fn what_is_not_done_is_refused_and_what_asks_for_nothing_is_not() {
    assert_eq!(refused(json!({"functions": [{}]})), ("functions".into(), "unsupported_parameter"));
    let of_text = |value: Value| wish(&parameters(value), Route::Text, Echo::Nothing, 0).expect_err("refused").code;
    assert_eq!(of_text(json!({"tools": [{}]})), "unsupported_parameter");
    assert_eq!(of_text(json!({"response_format": {"type": "json_object"}})), "unsupported_parameter");
    let fine = json!({"n": 1, "logprobs": false, "tools": [], "tool_choice": null, "user": "u", "safe_prompt": false,
        "response_format": {"type": "text"}, "reasoning_effort": null});
    assert!(chat_wish(fine).is_ok());
}

#[test]
fn both_forms_of_logprobs_are_read_and_not_each_other_s() {
    let text_wish = |value: Value| wish(&parameters(value), Route::Text, Echo::Nothing, 0);
    assert_eq!(chat_wish(json!({"logprobs": true, "top_logprobs": 3})).expect("fine").logprobs, Some(3));
    assert_eq!(chat_wish(json!({"logprobs": true})).expect("fine").logprobs, Some(0));
    assert_eq!(chat_wish(json!({"logprobs": false, "top_logprobs": null})).expect("fine").logprobs, None);
    assert_eq!(text_wish(json!({"logprobs": 5})).expect("fine").logprobs, Some(5));
    assert_eq!(text_wish(json!({"logprobs": null})).expect("fine").logprobs, None);
    assert_eq!(refused(json!({"top_logprobs": 3})), ("top_logprobs".into(), "invalid_value"));
    assert_eq!(refused(json!({"logprobs": true, "top_logprobs": 21})), ("top_logprobs".into(), "invalid_value"));
    assert_eq!(refused(json!({"logprobs": 3})), ("logprobs".into(), "invalid_type"));
    assert_eq!(text_wish(json!({"logprobs": true})).expect_err("refused").code, "invalid_type");
    assert_eq!(text_wish(json!({"top_logprobs": 1})).expect_err("refused").code, "unsupported_parameter");
}

#[test]
fn a_number_of_answers_and_a_least_length_are_bounded() {
    assert_eq!(chat_wish(json!({"n": 3, "min_tokens": 4})).map(|w| (w.choices, w.min_tokens)), Ok((3, 4)));
    assert_eq!(refused(json!({"n": 0})), ("n".into(), "invalid_value"));
    assert_eq!(refused(json!({"n": 33})), ("n".into(), "invalid_value"));
    assert_eq!(refused(json!({"min_tokens": 5, "max_tokens": 4})), ("min_tokens".into(), "invalid_value"));
    assert_eq!(refused(json!({"min_tokens": -1})), ("min_tokens".into(), "invalid_type"));
    let echoed = parameters(json!({"max_tokens": 0}));
    assert_eq!(wish(&echoed, Route::Text, Echo::Prompt, 0).expect("fine").max_tokens, Some(0));
    assert_eq!(wish(&echoed, Route::Text, Echo::Nothing, 0).expect_err("refused").code, "invalid_value");
}

#[test]
fn a_chat_ends_where_its_parameters_say() {
    let rendering_of = |more: Value, last: Value| {
        let messages: Vec<ChatMessage> =
            serde_json::from_value(json!([{"role": "user", "content": "a"}, last])).expect("well-formed");
        rendering(&parameters(more), &messages)
    };
    let said = json!({"role": "assistant", "content": "b"});
    let prefix = json!({"role": "assistant", "content": "b", "prefix": true});
    let ending = |more: Value, last: &Value| rendering_of(more, last.clone()).map(|r| (r.ending, r.prefix));
    assert_eq!(ending(json!({}), &said), Ok((Ending::Turn, None)));
    assert_eq!(ending(json!({"add_generation_prompt": false}), &said), Ok((Ending::Nothing, None)));
    assert_eq!(ending(json!({"continue_final_message": true}), &said), Ok((Ending::Message, None)));
    assert_eq!(ending(json!({}), &prefix), Ok((Ending::Message, Some("b".into()))));
    let both = json!({"continue_final_message": true, "add_generation_prompt": true});
    assert_eq!(ending(both, &said).expect_err("refused").param.as_deref(), Some("add_generation_prompt"));
    let users = json!({"role": "user", "content": "b", "prefix": true});
    assert_eq!(ending(json!({}), &users).expect_err("refused").param.as_deref(), Some("messages[1].prefix"));
    let own = rendering_of(json!({"chat_template_kwargs": {"messages": []}}), said).expect_err("refused");
    assert_eq!(own.param.as_deref(), Some("chat_template_kwargs.messages"));
}

#[test]
fn tools_and_formats_are_read_or_refused_by_their_place() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
    let used = |more: Value| {
        let mut value = json!({"tools": [tool("a"), tool("b")]});
        value.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        tool_use(&parameters(value))
    };
    assert_eq!(used(json!({})).expect("fine").map(|t| (t.called, t.is_parallel)), Some((Called::Maybe, true)));
    assert_eq!(used(json!({"tool_choice": "none"})), Ok(None));
    let any = used(json!({"tool_choice": "any", "parallel_tool_calls": false})).expect("fine");
    assert_eq!(any.map(|t| (t.called, t.is_parallel)), Some((Called::Some, false)));
    let named = |name: &str| json!({"tool_choice": {"type": "function", "function": {"name": name}}});
    let once = used(named("b")).expect("fine");
    assert_eq!(once.map(|t| (t.called, t.is_parallel)), Some((Called::One(1), false)), "a named tool is called once");
    let at = |result: Result<Option<ToolUse>, Refused>| result.expect_err("refused").param.expect("a place");
    assert_eq!(at(used(named("c"))), "tool_choice.function.name");
    assert_eq!(at(used(json!({"tool_choice": "sometimes"}))), "tool_choice");
    assert_eq!(at(tool_use(&parameters(json!({"tool_choice": "required"})))), "tool_choice");
    for (tools, place) in [
        (json!([tool("a"), tool("a")]), "tools[1].function.name"),
        (json!([tool("a b")]), "tools[0].function.name"),
        (json!([{"type": "web_search"}]), "tools[0].type"),
        (json!([{"type": "function", "function": {"name": "a", "parameters": 3}}]), "tools[0].function.parameters"),
    ] {
        assert_eq!(at(tool_use(&parameters(json!({"tools": tools})))), place);
    }
    let format = |value: Value| response_format(&parameters(json!({"response_format": value})));
    assert_eq!(format(json!({"type": "text"})), Ok(None));
    assert_eq!(format(json!({"type": "json_object"})), Ok(Some(json!({"type": "object"}))));
    let schema =
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}, "strict": true}});
    assert_eq!(format(schema), Ok(Some(json!({"type": "array"}))));
    for (value, place) in [
        (json!({"type": "xml"}), "response_format.type"),
        (json!({}), "response_format.type"),
        (json!({"type": "json_schema"}), "response_format.json_schema.schema"),
        (
            json!({"type": "json_schema", "json_schema": {"schema": {}, "scheme": 1}}),
            "response_format.json_schema.scheme",
        ),
    ] {
        assert_eq!(format(value).expect_err("refused").param.as_deref(), Some(place));
    }
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
    assert_eq!(chat_wish(json!({"random_seed": 9})).expect("fine").sampling.seed, 9);
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
