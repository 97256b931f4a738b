//! Answers: what the client reads and what the ledger gets.

use std::sync::Arc;

use galerne_model::inference::Abilities;
use galerne_model::ledger::{EnergyMethod, Operation, Outcome};
use galerne_model::snapshot::ReplicaEnergy;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules, Milliwatts, Picos, Tokens};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::site::{Site, receive, snapshot};

async fn site() -> (Site, Engine) {
    let engine = Engine::start(&TaskTracker::new()).await;
    (Site::start(snapshot(&[&engine.url])).await, engine)
}

fn events(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

#[tokio::test]
async fn a_plain_answer_carries_its_energy_and_is_settled_with_it() {
    let (site, engine) = site().await;
    let reply = site.chat(json!({"max_tokens": 8})).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let usage = &reply.json()["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(10), &json!(8)));
    // 8 tokens × 2 ms × 5 W = 80 mJ; × 50 g/kWh = 1.1 µg.
    assert_eq!((&usage["energy_joules"], &usage["co2e_grams"]), (&json!(0.08), &json!(0.000001)));
    assert_eq!(usage["energy_method"], "estimated");
    assert_eq!(usage["galerne"], Value::Null, "the worker's own numbers stay inside");
    assert_eq!(reply.header("x-galerne-energy-joules"), "0.080");
    assert_eq!(reply.header("x-galerne-cost-eur"), "0.000021500000");
    let record = &site.settled(1).await[0];
    let q = record.quantities;
    assert_eq!((q.prompt_tokens, q.cached_tokens, q.completion_tokens), (Tokens(5), Tokens(5), Tokens(8)));
    assert_eq!((q.micros, q.picos), (Micros(21), Picos(500_000)));
    assert_eq!((q.millijoules, q.co2e_micrograms), (Millijoules(80), MicrogramsCo2e(1)));
    assert_eq!((record.outcome, record.operation, record.http_status), (Outcome::Completed, Operation::Chat, 200));
    assert_eq!(record.energy_method, EnergyMethod::Estimated);
    // Cached prompts are shared inside the tenant only: what is told of them must not depend on another's.
    assert_eq!(engine.cache_scope(), record.tenant_id.to_string());
    assert_eq!(record.request_id.to_string(), reply.header("x-request-id"));
    assert!(record.replica_id.is_some() && record.held_micros >= q.micros);
}

#[tokio::test]
async fn a_stream_carries_its_usage_on_its_last_chunk_and_energy_in_a_comment() {
    let (site, _engine) = site().await;
    let reply = site.chat(json!({"stream": true, "max_tokens": 5})).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "text/event-stream"));
    let events = events(&reply.text);
    assert!(events.iter().all(|event| event["choices"][0].is_object()), "no chunk is without a choice: {}", reply.text);
    let (last, before) = events.split_last().expect("chunks");
    assert!(before.iter().all(|event| event.get("usage").is_none()), "{}", reply.text);
    assert_eq!(
        (&last["choices"][0]["finish_reason"], &last["usage"]["completion_tokens"]),
        (&json!("stop"), &json!(5))
    );
    assert_eq!((&last["usage"]["energy_joules"], &last["usage"]["galerne"]), (&json!(0.05), &Value::Null));
    let texts: Vec<&str> = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(texts.concat(), "t0t1t2t3t4");
    let end = ": energy {\"joules\":0.050,\"co2e_grams\":0.000000,\"method\":\"estimated\",\"cost_eur\":\"0.000015500000\"}\n\ndata: [DONE]\n\n";
    assert!(reply.text.ends_with(end), "{}", reply.text);
    let record = &site.settled(1).await[0];
    assert_eq!((record.outcome, record.quantities.completion_tokens), (Outcome::Completed, Tokens(5)));
    assert!(record.first_token_micros.is_some());
}

#[tokio::test]
async fn a_stream_with_include_usage_ends_with_one_usage_chunk_and_its_energy() {
    let (site, _engine) = site().await;
    let reply = site.chat(json!({"stream": true, "max_tokens": 5, "stream_options": {"include_usage": true}})).await;
    let events = events(&reply.text);
    let (last, before) = events.split_last().expect("chunks");
    assert!(before.iter().all(|event| event.get("usage") == Some(&Value::Null)), "as OpenAI says: {}", reply.text);
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(5)));
    assert_eq!((&last["usage"]["energy_joules"], &last["usage"]["galerne"]), (&json!(0.05), &Value::Null));
}

#[tokio::test]
async fn a_stream_that_wants_no_usage_shows_none() {
    let (site, _engine) = site().await;
    let reply = site.chat(json!({"stream": true, "max_tokens": 5, "stream_options": {"include_usage": false}})).await;
    let events = events(&reply.text);
    assert!(events.iter().all(|event| event.get("usage").is_none() && event["choices"][0].is_object()));
    assert_eq!(site.settled(1).await[0].quantities.completion_tokens, Tokens(5));
}

#[tokio::test]
async fn an_engine_that_tells_of_its_own_error_is_not_talked_over() {
    let (site, _engine) = site().await;
    let reply = site.chat(json!({"stream": true, "max_tokens": 2, "x_do": "error"})).await;
    assert_eq!(reply.text.matches("\"error\"").count(), 1, "{}", reply.text);
    assert_eq!(site.settled(1).await[0].outcome, Outcome::Failed);
}

#[tokio::test]
async fn an_engine_without_usage_is_counted_by_chunks_and_by_asking_for_the_prompt() {
    let (site, _engine) = site().await;
    let reply = site.chat(json!({"stream": true, "max_tokens": 4, "x_do": "no usage"})).await;
    assert!(reply.text.ends_with("data: [DONE]\n\n"));
    let record = &site.settled(1).await[0];
    assert_eq!((record.quantities.prompt_tokens, record.quantities.completion_tokens), (Tokens(77), Tokens(4)));
    assert_eq!(record.energy_method, EnergyMethod::Unknown);
}

/// A gateway in front of a server that somebody else runs.
async fn foreign_site() -> Site {
    let engine = Engine::start(&TaskTracker::new()).await;
    let mut snapshot = snapshot(&[&engine.url]);
    for entry in snapshot.endpoints.values_mut() {
        for replica in &mut Arc::make_mut(entry).replicas {
            replica.energy = ReplicaEnergy::StatedPower(Milliwatts(1_000));
        }
    }
    Site::start(snapshot).await
}

/// Prompt and completion tokens of the record with that number.
async fn recorded(site: &Site, number: usize) -> (i64, i64) {
    let quantities = site.settled(number).await[number - 1].quantities;
    (quantities.prompt_tokens.0 + quantities.cached_tokens.0, quantities.completion_tokens.0)
}

/// Counts of a usage, after checking that they add up.
fn counts(usage: &Value) -> (i64, i64) {
    let count = |name: &str| usage[name].as_i64().unwrap_or_else(|| panic!("`{name}` in {usage}"));
    let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
    assert_eq!(count("total_tokens"), prompt + completion, "{usage}");
    (prompt, completion)
}

#[tokio::test]
async fn usage_that_no_engine_reported_is_told_in_streams_as_it_was_counted() {
    let site = foreign_site().await;
    let mut number = 0;
    for wants in ["no usage", "null usage", "half a usage", "no finish"] {
        for options in [json!({}), json!({"stream_options": {"include_usage": true}})] {
            let apart = options != json!({});
            let mut body = json!({"stream": true, "max_tokens": 4, "x_do": wants});
            body.as_object_mut().expect("an object").extend(options.as_object().expect("an object").clone());
            let reply = site.chat(body).await;
            assert!(reply.text.ends_with("data: [DONE]\n\n"), "{wants}: {}", reply.text);
            number += 1;
            let recorded = recorded(&site, number).await;
            // What it reports counts: half a usage has its prompt.
            assert_eq!(recorded, (if wants == "half a usage" { 10 } else { 77 }, 4), "{wants}");
            let events = events(&reply.text);
            let told: Vec<&Value> = events.iter().filter(|event| event["usage"].is_object()).collect();
            if wants == "no finish" && !apart {
                // There is no chunk it could be in: one without choices is for those who asked for it.
                assert!(told.is_empty(), "{}", reply.text);
                continue;
            }
            let [told] = told[..] else { panic!("{wants}, apart {apart}: one usage in {}", reply.text) };
            assert_eq!(told, events.last().expect("chunks"), "{}", reply.text);
            assert_eq!(counts(&told["usage"]), recorded, "{wants}");
            assert_eq!(told["usage"]["energy_method"], "estimated", "{}", reply.text);
            assert_eq!(told["choices"] == json!([]), apart, "{}", reply.text);
            assert_eq!((&told["id"], &told["model"]), (&json!("c"), &json!("m")), "{}", reply.text);
        }
    }
}

#[tokio::test]
async fn usage_that_no_engine_reported_is_told_on_every_surface_that_has_it() {
    let site = foreign_site().await;
    let messages = json!([{"role": "user", "content": "tell no usage"}]);
    let streamed = json!({"model": "m", "messages": messages, "stream": true, "max_tokens": 4});
    let reply = receive(site.post("/mistral/v1/chat/completions", &streamed)).await;
    let last = events(&reply.text).pop().expect("chunks");
    assert_eq!((counts(&last["usage"]), &last["usage"]["energy_joules"]), ((77, 4), &Value::Null), "{}", reply.text);
    let reply = receive(site.post("/openai/v1/chat/completions", &streamed)).await;
    assert!(!reply.text.contains("\"usage\""), "OpenAI tells those who ask: {}", reply.text);
    let mut asking = streamed.clone();
    asking["stream_options"] = json!({"include_usage": true});
    let reply = receive(site.post("/openai/v1/chat/completions", &asking)).await;
    let last = events(&reply.text).pop().expect("chunks");
    assert_eq!((counts(&last["usage"]), &last["choices"]), ((77, 4), &json!([])), "{}", reply.text);
    assert_eq!(recorded(&site, 3).await, (77, 4));
    let response = json!({"model": "m", "input": "tell no usage", "max_output_tokens": 4, "stream": true});
    let reply = receive(site.post("/v1/responses", &response)).await;
    let last = events(&reply.text).pop().expect("events");
    let usage = &last["response"]["usage"];
    assert_eq!((&last["type"], &usage["input_tokens"]), (&json!("response.completed"), &json!(77)), "{}", reply.text);
    assert_eq!((&usage["output_tokens"], &usage["total_tokens"]), (&json!(4), &json!(81)), "{}", reply.text);
}

#[tokio::test]
async fn a_plain_answer_without_usage_is_counted_by_asking_and_told_so() {
    let site = foreign_site().await;
    for (number, wants) in ["no usage", "null usage"].into_iter().enumerate() {
        let reply = site.chat(json!({"max_tokens": 4, "x_do": wants})).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let usage = &reply.json()["usage"];
        assert_eq!((counts(usage), &usage["energy_method"]), ((77, 5), &json!("estimated")), "{}", reply.text);
        assert_eq!(recorded(&site, number + 1).await, (77, 5));
    }
    // One that cannot say either: each choice with content has at least one token.
    let messages = json!([{"role": "user", "content": "do not count"}]);
    let reply = site.chat(json!({"messages": messages, "x_do": "no usage", "x_says": "do not count"})).await;
    assert_eq!((reply.status, counts(&reply.json()["usage"])), (200, (0, 1)), "{}", reply.text);
    let reply = receive(site.post("/v1/embeddings", &json!({"model": "m", "input": "not counted"}))).await;
    let usage = reply.json()["usage"].clone();
    let told = (&usage["prompt_tokens"], &usage["total_tokens"], usage.get("completion_tokens"));
    assert_eq!(told, (&json!(77), &json!(77), None), "{}", reply.text);
    assert_eq!(recorded(&site, 4).await, (77, 0));
}

#[tokio::test]
async fn embeddings_and_completions_are_served_and_told_apart_in_the_ledger() {
    let (site, _engine) = site().await;
    let reply = receive(site.post("/v1/embeddings", &json!({"model": "m", "input": ["a", "b"]}))).await;
    assert_eq!(reply.status, 200);
    assert!(reply.text.contains("[0.1,1e-7]"), "numbers are passed on byte for byte: {}", reply.text);
    let reply = receive(site.post("/v1/completions", &json!({"model": "m", "prompt": "a", "max_tokens": 2}))).await;
    assert_eq!(reply.status, 200);
    let records = site.settled(2).await;
    let operations: Vec<Operation> = records.iter().map(|record| record.operation).collect();
    assert_eq!(operations, [Operation::Embedding, Operation::Completion]);
}

#[tokio::test]
async fn models_have_the_fields_of_both_clients() {
    let (site, _engine) = site().await;
    let list = site.get("/v1/models").await.json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("m")));
    let one = site.get("/v1/models/m").await.json();
    assert_eq!(one, list["data"][0]);
    for field in ["created", "owned_by", "capabilities", "max_context_length", "aliases", "deprecation"] {
        assert!(one.get(field).is_some(), "`{field}` is missing");
    }
    let able = |one: &Value| ["completion_fim", "function_calling"].map(|name| one["capabilities"][name].clone());
    assert_eq!(able(&one), [false, false], "nobody has said more");
    site.change(|snapshot| {
        let entry = snapshot.endpoints.values_mut().next().expect("there is one");
        Arc::make_mut(entry).abilities = Abilities { fills_gaps: true, calls_functions: false };
    });
    assert_eq!(able(&site.get("/v1/models/m").await.json()), [true, false]);
    assert_eq!(
        (site.get("/v1/models/n").await.status, site.get("/v1/models/n").await.code().as_str()),
        (404, "model_not_found")
    );
}

#[tokio::test]
async fn a_response_is_a_chat_told_as_items_and_metered_once() {
    let (site, _engine) = site().await;
    let ask = |stream: bool| json!({"model": "m", "input": "hi", "max_output_tokens": 4, "stream": stream});
    let reply = receive(site.post("/openai/v1/responses", &ask(false))).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.json();
    assert_eq!(
        (&body["object"], &body["status"], &body["model"]),
        (&json!("response"), &json!("completed"), &json!("m"))
    );
    assert_eq!(body["output"][0]["content"][0]["text"], "xxx");
    assert_eq!((&body["usage"]["input_tokens"], &body["usage"]["output_tokens"]), (&json!(10), &json!(4)));
    assert_eq!(body["usage"]["input_tokens_details"]["cached_tokens"], 5);
    assert_eq!(body["usage"].get("energy_joules"), None, "an exact surface has only the original's fields");
    let reply = receive(site.post("/v1/responses", &ask(false))).await;
    assert_eq!(reply.json()["usage"]["energy_joules"], json!(0.04));
    let reply = receive(site.post("/v1/responses", &ask(true))).await;
    let kinds: Vec<&str> = reply.text.lines().filter_map(|line| line.strip_prefix("event: response.")).collect();
    let begin = ["created", "in_progress", "output_item.added", "content_part.added"];
    let end = ["output_text.done", "content_part.done", "output_item.done", "completed"];
    let expected: Vec<&str> = begin.into_iter().chain(["output_text.delta"; 4]).chain(end).collect();
    assert_eq!(kinds, expected, "{}", reply.text);
    assert!(reply.text.ends_with("data: [DONE]\n\n"), "{}", reply.text);
    let records = site.settled(3).await;
    assert!(
        records
            .iter()
            .all(|record| (record.operation, record.quantities.completion_tokens) == (Operation::Chat, Tokens(4)))
    );
}

#[tokio::test]
async fn tokens_cost_nothing_and_leave_a_record() {
    let (site, _engine) = site().await;
    for path in ["/v1/tokenize", "/tokenize"] {
        let reply = receive(site.post(path, &json!({"model": "m", "prompt": "a"}))).await;
        assert_eq!((reply.status, &reply.json()["count"]), (200, &json!(77)), "{path}");
    }
    let records = site.settled(2).await;
    let nothing = galerne_model::ledger::Quantities::default();
    assert!(records.iter().all(|record| record.operation == Operation::Tokenise && record.quantities == nothing));
}

#[tokio::test]
async fn a_text_between_is_asked_as_a_completion_and_told_as_mistral_tells_it() {
    let (site, _engine) = site().await;
    let ask = json!({"model": "m", "prompt": "a", "suffix": "b", "max_tokens": 2});
    let reply = receive(site.post("/mistral/v1/fim/completions", &ask)).await;
    assert_eq!((reply.status, &reply.json()["object"]), (200, &json!("chat.completion")), "{}", reply.text);
    assert_eq!(site.settled(1).await[0].operation, Operation::Fim);
}

#[tokio::test]
async fn an_exact_surface_has_its_own_fields_of_a_model() {
    let (site, _engine) = site().await;
    let names = |model: Value| {
        let mut names: Vec<String> = model.as_object().expect("an object").keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(site.get("/openai/v1/models/m").await.json()), ["created", "id", "object", "owned_by"]);
    let list = site.get("/mistral/v1/models").await.json();
    let mistral = names(list["data"][0].clone());
    assert!(mistral.contains(&"max_context_length".to_owned()) && !mistral.contains(&"max_model_len".to_owned()));
}
