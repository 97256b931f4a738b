use galerne_api::surface::Dialect;
use galerne_model::ids::RequestId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

fn chat(asked: &Value) -> Value {
    let (body, _) = as_chat(Dialect::Union, &asked.to_string()).expect("a sound request");
    serde_json::from_str(&body).expect("JSON")
}

fn refused(asked: &Value) -> Refusal {
    as_chat(Dialect::Union, &asked.to_string()).expect_err("cannot be told to a chat")
}

fn events() -> Events {
    let (_, repeated) = as_chat(Dialect::Union, r#"{"model":"m","input":"a","metadata":{"k":"v"}}"#).expect("sound");
    Events::new(RequestId::from_uuid(Uuid::from_u128(7)), "m", repeated)
}

fn chunk(choice: &Value, usage: &Value) -> String {
    let choices = if choice.is_null() { json!([]) } else { json!([choice]) };
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": choices, "usage": usage});
    format!("data: {chunk}\n\n")
}

/// Names and bodies of the events that a stream of deltas is told as.
fn told(deltas: &[Value], finish: &str) -> Vec<(String, Value)> {
    let mut stream: Vec<String> = deltas
        .iter()
        .map(|delta| chunk(&json!({"index": 0, "delta": delta, "finish_reason": null}), &Value::Null))
        .collect();
    stream.push(chunk(&json!({"index": 0, "delta": {}, "finish_reason": finish}), &Value::Null));
    stream.push(chunk(
        &Value::Null,
        &json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "energy_joules": 0.5}),
    ));
    stream.push("data: [DONE]\n\n".to_owned());
    let mut events = events();
    // Cut in odd places.
    let text: Vec<u8> = stream.concat().into_bytes().chunks(41).flat_map(|part| events.told(part)).collect();
    let text = String::from_utf8(text).expect("text");
    let (events, end) = text.rsplit_once("data: [DONE]").expect("the end");
    assert_eq!(end, "\n\n");
    let parse = |event: &str| {
        let (name, data) = event.split_once("\ndata: ").expect("a name and data");
        let data: Value = serde_json::from_str(data).expect("JSON");
        let name = name.trim_start_matches("event: ").to_owned();
        assert_eq!(data["type"], json!(name));
        (name, data)
    };
    let events: Vec<(String, Value)> = events.split("\n\n").filter(|event| !event.is_empty()).map(parse).collect();
    let numbers: Vec<u64> = events.iter().filter_map(|(_, event)| event["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<u64>>());
    events
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.trim_start_matches("response.")).collect()
}

#[test]
fn a_text_and_instructions_become_messages() {
    let asked = json!({"model": "m", "input": "hi", "instructions": "be kind", "max_output_tokens": 9, "temperature": 0.5, "store": false, "stream": true});
    let system = json!({"role": "system", "content": "be kind"});
    assert_eq!(
        chat(&asked),
        json!({"model": "m", "messages": [system, {"role": "user", "content": "hi"}], "max_tokens": 9, "temperature": 0.5, "stream": true, "stream_options": {"include_usage": true}})
    );
}

#[test]
fn calls_and_their_outputs_become_the_turns_of_a_chat() {
    let call = |n: u8| json!({"type": "function_call", "id": "fc", "call_id": format!("call_{n}"), "name": "wind", "arguments": "{}"});
    let asked = json!({"model": "m", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": []},
        call(1), call(2),
        {"type": "function_call_output", "call_id": "call_1", "output": "north"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so", "annotations": []}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}],
        "tools": [{"type": "function", "name": "wind", "parameters": {"type": "object"}, "strict": true}],
        "tool_choice": {"type": "function", "name": "wind"}, "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": true}}});
    let told = chat(&asked);
    let roles: Vec<&str> =
        told["messages"].as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
    assert_eq!(told["messages"][0]["content"], "ab");
    assert_eq!(
        told["messages"][1]["tool_calls"].as_array().map(Vec::len),
        Some(2),
        "calls of one turn are one message"
    );
    assert_eq!(
        (&told["messages"][2]["tool_call_id"], &told["messages"][2]["content"]),
        (&json!("call_1"), &json!("north"))
    );
    assert_eq!(told["messages"][4]["content"][0]["image_url"]["url"], "data:x");
    assert_eq!(told["tools"][0]["function"], json!({"name": "wind", "parameters": {"type": "object"}, "strict": true}));
    assert_eq!(told["tool_choice"], json!({"type": "function", "function": {"name": "wind"}}));
    assert_eq!(told["reasoning_effort"], "low");
    assert_eq!(
        told["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": true}})
    );
}

#[test]
fn what_a_chat_cannot_say_is_refused_by_name() {
    for (more, code, param) in [
        (json!({"previous_response_id": "resp_1"}), Code::UnsupportedParameter, "previous_response_id"),
        (json!({"store": true}), Code::UnsupportedValue, "store"),
        (json!({"background": true}), Code::UnsupportedValue, "background"),
        (json!({"tools": [{"type": "web_search"}]}), Code::UnsupportedValue, "tools[0].type"),
        (json!({"input": [{"type": "item_reference", "id": "a"}]}), Code::UnsupportedValue, "input[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
            Code::UnsupportedValue,
            "input[0].content[0]",
        ),
        (json!({"input": [{"role": "robot", "content": "a"}]}), Code::InvalidBody, "input[0].role"),
        (json!({"text": {"verbosity": "low"}}), Code::UnsupportedValue, "text.verbosity"),
        (json!({"max_tokens": 4}), Code::UnknownParameter, "max_tokens"),
        (json!({"input": null}), Code::InvalidBody, "input"),
    ] {
        let mut asked = json!({"model": "m", "input": "a"});
        for (name, value) in more.as_object().expect("an object") {
            asked[name] = value.clone();
        }
        let refusal = refused(&asked);
        assert_eq!((refusal.code, refusal.param.as_deref()), (code, Some(param)), "{more}: {}", refusal.message);
    }
}

#[test]
fn a_stream_of_text_has_every_event_in_its_order() {
    let events = told(
        &[json!({"role": "assistant", "content": ""}), json!({"content": "so "}), json!({"content": "it is"})],
        "stop",
    );
    assert_eq!(
        names(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed"
        ]
    );
    let (created, completed) = (&events[0].1["response"], &events[9].1["response"]);
    assert_eq!(
        (&created["status"], &created["output"], &created["usage"]),
        (&json!("in_progress"), &json!([]), &Value::Null)
    );
    assert_eq!(
        (&completed["status"], &completed["created_at"], &completed["metadata"]),
        (&json!("completed"), &json!(5), &json!({"k": "v"}))
    );
    assert_eq!(completed["output"][0]["content"][0]["text"], "so it is");
    assert_eq!(
        completed["usage"],
        json!({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5, "energy_joules": 0.5})
    );
    let id = &completed["output"][0]["id"];
    assert!(events[2..8].iter().all(|(_, event)| event["item_id"] == *id || event["item"]["id"] == *id), "one item");
}

#[test]
fn thoughts_texts_and_calls_are_items_of_their_own() {
    let call = |index: u8, id: &str| json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": {"name": "wind", "arguments": ""}}]});
    let arguments = |index: u8, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
    let events = told(
        &[
            json!({"reasoning_content": "hm"}),
            json!({"content": "so"}),
            call(0, "call_1"),
            arguments(0, "{\"a\""),
            arguments(0, ":1}"),
            call(1, "call_2"),
        ],
        "tool_calls",
    );
    let completed = &events.last().expect("events").1["response"];
    let kinds: Vec<&str> =
        completed["output"].as_array().expect("items").iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(
        (&completed["output"][2]["arguments"], &completed["output"][3]["call_id"]),
        (&json!("{\"a\":1}"), &json!("call_2"))
    );
    assert_eq!(names(&events).iter().filter(|name| **name == "function_call_arguments.delta").count(), 2);
}

#[test]
fn a_limit_and_a_failure_end_a_stream_as_what_they_are() {
    let events = told(&[json!({"content": "so"})], "length");
    let (name, last) = events.last().expect("events");
    assert_eq!(
        (name.as_str(), &last["response"]["incomplete_details"]),
        ("response.incomplete", &json!({"reason": "max_output_tokens"}))
    );
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
    let mut events = self::events();
    let begun = chunk(&json!({"index": 0, "delta": {"content": "so"}, "finish_reason": null}), &Value::Null);
    drop(events.told(begun.as_bytes()));
    let text = String::from_utf8(events.told(b"data: {\"error\":{\"message\":\"it broke\"}}\n\n")).expect("text");
    assert!(text.contains("event: response.failed\n") && text.contains("\"message\":\"it broke\""), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    // vLLM says it behind every stream.
    assert_eq!(String::from_utf8(events.told(b"data: [DONE]\n\n")).expect("text"), "");
}

#[test]
fn a_response_names_the_tier_that_served_it() {
    let chat = json!({"id": "c", "object": "chat.completion", "created": 9, "model": "m", "service_tier": "flex",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "so"}, "finish_reason": "stop"}]});
    let told: Value = serde_json::from_slice(&events().whole(chat.to_string().as_bytes())).expect("JSON");
    assert_eq!(told["service_tier"], "flex");
}

#[test]
fn a_whole_chat_is_told_as_a_response() {
    let chat = json!({"id": "c", "object": "chat.completion", "created": 9, "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "so", "refusal": null}, "logprobs": null, "finish_reason": "stop"}]});
    let told: Value = serde_json::from_slice(&events().whole(chat.to_string().as_bytes())).expect("JSON");
    assert_eq!(
        (&told["object"], &told["status"], &told["created_at"]),
        (&json!("response"), &json!("completed"), &json!(9))
    );
    assert!(told["id"].as_str().is_some_and(|id| id.starts_with("resp_")));
    assert_eq!(
        told["output"][0]["content"][0],
        json!({"type": "output_text", "text": "so", "annotations": [], "logprobs": []})
    );
    for required in [
        "error",
        "incomplete_details",
        "instructions",
        "metadata",
        "tools",
        "tool_choice",
        "temperature",
        "top_p",
        "parallel_tool_calls",
        "text",
        "truncation",
        "store",
        "previous_response_id",
    ] {
        assert!(told.get(required).is_some(), "`{required}` is missing");
    }
}
