//! Answers that keep to a schema and calls of tools, on a real model that is too small to do either by itself.

use serde_json::{Value, json};

use crate::process::{Worker, model};

fn chat(question: &str, more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": question}], "temperature": 1, "max_tokens": 160});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
            "parent": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/short"}]},
        },
        "required": ["name", "age", "tags", "parent"],
        "additionalProperties": false,
        "$defs": {"short": {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[A-Z]{3}[0-9]{2}$"}},
            "required": ["id"], "additionalProperties": false}},
    })
}

#[test]
fn whatever_the_seed_a_finished_answer_keeps_to_its_schema() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    let schema = person();
    let mut finished = 0;
    for seed in 0..6 {
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": true}});
        let (status, reply) = worker.post(
            "/v1/chat/completions",
            &chat("Describe Ada.", &json!({"seed": seed, "n": 2, "response_format": format})),
        );
        assert_eq!(status, 200, "{reply}");
        for choice in reply["choices"].as_array().expect("a list") {
            if choice["finish_reason"] == "stop" {
                let content = choice["message"]["content"].as_str().expect("a text");
                let value: Value = serde_json::from_str(content).unwrap_or_else(|e| panic!("{e}: {content}"));
                assert!(jsonschema::is_valid(&schema, &value), "{content}");
                finished += 1;
            }
        }
    }
    assert!(finished >= 8, "{finished} of 12 came to an end");
    let (_, reply) = worker.post(
        "/v1/chat/completions",
        &chat("Say JSON.", &json!({"temperature": 0, "response_format": {"type": "json_object"}})),
    );
    assert!(reply["choices"][0]["message"]["content"].as_str().is_some_and(|text| text.starts_with('{')), "{reply}");
}

#[test]
fn a_forced_call_is_one_and_comes_the_same_in_a_stream() {
    let Some(model) = model() else { return };
    let worker = Worker::start(&["--model", &model, "--context", "2048", "--sequences", "4", "--threads", "1"]);
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": false});
    let tool = json!({"type": "function", "function": {"name": "get_weather", "description": "The weather of some days.", "parameters": parameters}});
    let more =
        json!({"tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "seed": 4, "logprobs": true});
    let body = chat("What is the weather in Paris for three days?", &more);
    // The first one computes the prompt, later ones reuse it: only those see the very same batches.
    worker.post("/v1/chat/completions", &body);
    let (status, reply) = worker.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{reply}");
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{reply}");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!((calls.len(), &calls[0]["function"]["name"]), (1, &json!("get_weather")));
    let arguments = calls[0]["function"]["arguments"].as_str().expect("a text").to_owned();
    let value: Value = serde_json::from_str(&arguments).unwrap_or_else(|e| panic!("{e}: {arguments}"));
    assert!(jsonschema::is_valid(&parameters, &value), "{arguments}");
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let (_, text) = worker.post_text("/v1/chat/completions", &streamed);
    let chunks = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let chunks: Vec<Value> = chunks.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    let pieces: Vec<&Value> =
        chunks.iter().map(|c| &c["choices"][0]["delta"]["tool_calls"][0]).filter(|d| d.is_object()).collect();
    let joined: String = pieces.iter().filter_map(|piece| piece["function"]["arguments"].as_str()).collect();
    assert_eq!(joined, arguments);
    assert!(pieces.len() > 3 && pieces[0]["id"].is_string() && pieces[1..].iter().all(|piece| piece["id"].is_null()));
    // No score is lost, whatever the text was held back for.
    let scores = |list: &Value| list["content"].as_array().map_or(0, Vec::len);
    let told: usize = chunks.iter().map(|chunk| scores(&chunk["choices"][0]["logprobs"])).sum();
    assert_eq!(told, scores(&choice["logprobs"]));
    // The result goes back as a message of its own.
    let turns = json!([
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": null, "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "Sunny, 21 degrees."},
    ]);
    let (status, reply) =
        worker.post("/v1/chat/completions", &json!({"messages": turns, "tools": [tool], "max_tokens": 5}));
    assert_eq!(status, 200, "{reply}");
}
