use galerne_api::surface::{Call, Dialect};
use galerne_model::ids::RequestId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::request::Fields;

fn request_id() -> RequestId {
    RequestId::from_uuid(Uuid::from_u128(7))
}

fn voice(operation: Operation) -> Voice {
    let model = "m".to_owned();
    Voice {
        dialect: Dialect::Union,
        operation,
        model,
        renames: true,
        named_tier: None,
        base64: false,
        prefix: None,
        repeated: None,
    }
}

fn whole(voice: &Voice, answer: &Value) -> Value {
    let text = answer.to_string();
    let fields: Fields<'_> = serde_json::from_str(&text).expect("an object");
    let usage = fields.get("usage").map_or("null", |usage| usage.get());
    let told = voice.whole(&fields, usage, request_id());
    serde_json::from_slice(&told).expect("JSON")
}

fn chunk(teller: &mut Teller, chunk: &Value) -> Value {
    serde_json::from_str(&teller.chunk(&chunk.to_string())).expect("JSON")
}

fn head(choices: &Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "/models/weights", "choices": choices})
}

#[test]
fn what_clients_require_is_there_whatever_the_engine_left_out() {
    let bare = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "/models/weights", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "a \"refusal\": b"}, "finish_reason": "stop"},
        {"index": 1, "message": {"role": "assistant", "tool_calls": []}, "finish_reason": "stop"}], "usage": {}});
    let told = whole(&voice(Operation::Chat), &bare);
    assert_eq!(told["model"], "m", "the name the caller knows");
    for choice in told["choices"].as_array().expect("choices") {
        assert_eq!(choice.get("logprobs"), Some(&Value::Null));
        assert_eq!(choice["message"].get("refusal"), Some(&Value::Null));
        assert!(choice["message"].get("content").is_some());
    }
    let text = json!({"id": "c", "object": "text_completion", "created": 1, "model": "w", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}], "usage": {}});
    assert_eq!(whole(&voice(Operation::Completion), &text)["choices"][0].get("logprobs"), Some(&Value::Null));
}

#[test]
fn what_is_right_passes_byte_for_byte() {
    let choices = r#"[ {"index":0,"message":{"role":"assistant","content":"a","refusal":null}, "logprobs":null,"finish_reason":"stop"}]"#;
    let text = format!(r#"{{"id":"c","model":"w","choices":{choices},"x":1e400,"usage":{{}}}}"#);
    let fields: Fields<'_> = serde_json::from_str(&text).expect("an object");
    let told = voice(Operation::Chat).whole(&fields, "{}", request_id());
    let told = String::from_utf8(told).expect("text");
    assert_eq!(told, text.replace(r#""model":"w""#, r#""model":"m""#));
}

#[test]
fn a_text_between_is_told_as_mistral_tells_it() {
    let answer = json!({"id": "c", "object": "text_completion", "created": 1, "model": "w", "choices": [{"index": 0, "text": "b", "logprobs": null, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}});
    let told = whole(&voice(Operation::Fim), &answer);
    assert_eq!((&told["object"], &told["usage"]["prompt_tokens"]), (&json!("chat.completion"), &json!(1)));
    let message = json!({"role": "assistant", "content": "b", "tool_calls": null});
    assert_eq!(told["choices"], json!([{"index": 0, "message": message, "finish_reason": "stop"}]));
    let mut teller = Teller::new(voice(Operation::Fim), true, request_id());
    let piece = |text: &str| json!({"id": "c", "object": "text_completion", "created": 1, "model": "w", "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": null}]});
    let told = [chunk(&mut teller, &piece("b")), chunk(&mut teller, &piece("c"))];
    assert_eq!(told[0]["object"], "chat.completion.chunk");
    let deltas = told.map(|chunk| chunk["choices"][0]["delta"].clone());
    assert_eq!(deltas, [json!({"role": "assistant", "content": "b"}), json!({"content": "c"})]);
}

#[test]
fn every_chunk_has_the_callers_name_for_the_model_and_a_finish_reason() {
    let mut teller = Teller::new(voice(Operation::Chat), false, request_id());
    for n in 0..4 {
        let told = chunk(&mut teller, &head(&json!([{"index": 0, "delta": {"content": format!("t{n}")}}])));
        assert_eq!((&told["model"], &told["choices"][0]["delta"]["content"]), (&json!("m"), &json!(format!("t{n}"))));
        assert_eq!(told["choices"][0].get("finish_reason"), Some(&Value::Null));
    }
    let usage = chunk(&mut teller, &head(&json!([])));
    assert_eq!((&usage["model"], &usage["choices"]), (&json!("m"), &json!([])));
    let error = r#"{"error":{"message":"no"}}"#;
    assert_eq!(teller.chunk(error), error);
}

#[test]
fn a_sound_stream_is_parsed_once() {
    let sound = Voice { renames: false, model: "/models/weights".to_owned(), ..voice(Operation::Chat) };
    let mut teller = Teller::new(sound, false, request_id());
    // As engines write it: no spaces, the name before the choices.
    let data = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"/models/weights","choices":[{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}]}"#;
    assert_eq!(teller.chunk(data), data);
    assert!(matches!(teller.chunk(data), std::borrow::Cow::Borrowed(_)), "the second passes as it came");
    let mut other = Teller::new(voice(Operation::Chat), true, request_id());
    assert_ne!(other.chunk(data), data, "another name, also of our own worker");
    let mut worker = Teller::new(Voice { renames: false, ..voice(Operation::Chat) }, true, request_id());
    assert!(matches!(worker.chunk(data), std::borrow::Cow::Borrowed(_)));
}

#[test]
fn a_tool_call_says_who_it_is_in_its_first_chunk_only() {
    let mut teller = Teller::new(voice(Operation::Chat), false, request_id());
    let calls = |calls: Value| head(&json!([{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": null}]));
    let mut tell = |given: Value| chunk(&mut teller, &calls(given))["choices"][0]["delta"]["tool_calls"].clone();
    let first = tell(json!([{"index": 0, "id": "call_1", "function": {"name": "wind"}}]));
    assert_eq!(
        first,
        json!([{"index": 0, "id": "call_1", "type": "function", "function": {"name": "wind", "arguments": ""}}])
    );
    let more = tell(
        json!([{"index": 0, "id": "call_9", "type": "function", "function": {"name": "wind", "arguments": "{\"at\""}}]),
    );
    assert_eq!(more, json!([{"index": 0, "function": {"arguments": "{\"at\""}}]));
    let second = tell(json!([{"index": 1, "function": {"name": "tide", "arguments": "{}"}}]));
    assert!(second[0]["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{second}");
    assert_eq!((&second[0]["type"], &second[0]["function"]["name"]), (&json!("function"), &json!("tide")));
    let whole = tell(json!([{"id": "call_3", "function": {"name": "sun", "arguments": "{}"}}]));
    assert_eq!((&whole[0]["index"], &whole[0]["id"]), (&json!(2), &json!("call_3")), "a whole call without an index");
}

#[test]
fn an_answer_that_was_begun_is_told_from_its_beginning() {
    let begun = Voice { prefix: Some(r#""Dear \"A\"""#.to_owned()), ..voice(Operation::Chat) };
    let answer = json!({"model": "w", "choices": [{"index": 0, "message": {"role": "assistant", "content": ", hello", "refusal": null}, "logprobs": null, "finish_reason": "stop"}], "usage": {}});
    assert_eq!(whole(&begun, &answer)["choices"][0]["message"]["content"], "Dear \"A\", hello");
    let mut teller = Teller::new(begun, true, request_id());
    let piece = |delta: Value| head(&json!([{"index": 0, "delta": delta, "finish_reason": null}]));
    let told: Vec<Value> =
        [json!({"role": "assistant", "content": ""}), json!({"content": ", he"}), json!({"content": "llo"})]
            .into_iter()
            .map(|delta| chunk(&mut teller, &piece(delta))["choices"][0]["delta"]["content"].clone())
            .collect();
    assert_eq!(told, ["Dear \"A\"", ", he", "llo"]);
}

#[test]
fn the_tier_is_named_to_those_who_asked() {
    let body = r#"{"model":"m","messages":[{}],"service_tier":"auto"}"#;
    let asked = Asked::parse(Dialect::Union, Call::Chat, body).expect("sound");
    assert!(asked.tier_asked);
    let named = Voice { named_tier: Some("flex"), ..voice(Operation::Chat) };
    let answer = json!({"model": "w", "service_tier": null, "choices": [], "usage": {}});
    assert_eq!(whole(&named, &answer)["service_tier"], "flex");
    assert_eq!(whole(&voice(Operation::Chat), &answer)["service_tier"], Value::Null);
    let mut teller = Teller::new(named, true, request_id());
    for _ in 0..2 {
        let choice = json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": null}]);
        assert_eq!(chunk(&mut teller, &head(&choice))["service_tier"], "flex");
    }
}

#[test]
fn vectors_become_base64_where_it_was_asked_for() {
    let answer = json!({"object": "list", "model": "w", "data": [{"object": "embedding", "index": 0, "embedding": [1.0, -0.5]}, {"object": "embedding", "index": 1, "embedding": "AACAPw=="}], "usage": {}});
    let asked = Voice { base64: true, ..voice(Operation::Embedding) };
    let told = whole(&asked, &answer);
    assert_eq!(told["data"][0]["embedding"], "AACAPwAAAL8=");
    assert_eq!(told["data"][1]["embedding"], "AACAPw==", "the engine did it already");
    assert!(told["id"].as_str().is_some_and(|id| id.starts_with("embd-")), "Mistral's clients require an id");
    assert_eq!(whole(&voice(Operation::Embedding), &answer)["data"], answer["data"]);
}
