//! Several answers to one prompt, their scores, echoed prompts, and where answers begin and end, on a real model.

use serde_json::{Value, json};

use crate::process::{Worker, model};

fn post(worker: &Worker, path: &str, body: &Value) -> Value {
    let (status, reply) = worker.post(path, body);
    assert_eq!(status, 200, "{reply}");
    reply
}

fn floats(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
}

const POEM: &str = "Roses are red, violets are blue, sugar is sweet, and so are";

#[test]
fn scores_of_an_answer_are_those_of_the_same_text_as_a_prompt() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    let body = json!({"prompt": POEM, "max_tokens": 12, "temperature": 0, "logprobs": 3, "echo": true});
    let answered = post(&worker, "/v1/completions", &body);
    let text = answered["choices"][0]["text"].as_str().expect("a text");
    let scores = &answered["choices"][0]["logprobs"];
    assert!(text.starts_with(POEM) && text.len() > POEM.len(), "{text}");
    let tokens: Vec<&str> =
        scores["tokens"].as_array().expect("a list").iter().map(|t| t.as_str().expect("a text")).collect();
    assert_eq!(tokens.concat(), text);
    assert_eq!(scores["token_logprobs"][0], Value::Null);
    // Its own answer as a prompt that is scored and nothing else.
    let alone = json!({"prompt": text, "max_tokens": 0, "temperature": 0, "logprobs": 3, "echo": true});
    let again = post(&worker, "/v1/completions", &alone);
    assert_eq!((&again["choices"][0]["text"], &again["usage"]["completion_tokens"]), (&json!(text), &json!(0)));
    let again = &again["choices"][0]["logprobs"];
    assert_eq!(again["tokens"], scores["tokens"]);
    assert_eq!(again["text_offset"], scores["text_offset"]);
    let [first, second] = [scores, again].map(|scores| {
        let list = scores["token_logprobs"].as_array().expect("a list");
        floats(&Value::Array(list[1..].to_vec()))
    });
    for (i, (a, b)) in first.iter().zip(&second).enumerate() {
        // Batches of other sizes round differently.
        assert!((a - b).abs() < 0.05, "token {i}: {a} and {b}");
        assert!(*a <= 0.0);
    }
    // At temperature 0 each token of the answer is the likeliest.
    let prompt_tokens = usize::try_from(answered["usage"]["prompt_tokens"].as_u64().expect("a number")).expect("small");
    for (i, logprob) in first.iter().enumerate().skip(prompt_tokens - 1) {
        let top = scores["top_logprobs"][i + 1].as_object().expect("likeliest ones");
        let most = top.values().filter_map(Value::as_f64).fold(f64::NEG_INFINITY, f64::max);
        assert!(top.len() == 3 && (most - logprob).abs() < 1e-6, "token {i}");
    }
}

#[test]
fn several_answers_share_one_prompt_also_when_they_are_more_than_the_sequences() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    let body = json!({"prompt": POEM, "max_tokens": 8, "ignore_eos": true, "seed": 5, "n": 7, "logprobs": 0});
    let reply = post(&worker, "/v1/completions", &body);
    let texts: Vec<&str> =
        reply["choices"].as_array().expect("a list").iter().map(|c| c["text"].as_str().expect("a text")).collect();
    assert_eq!(texts.len(), 7);
    assert!(texts.iter().any(|text| *text != texts[0]), "each has a seed of its own: {texts:?}");
    assert_eq!(reply["usage"]["completion_tokens"], 7 * 8);
    let prompt = reply["usage"]["prompt_tokens"].as_u64().expect("a number");
    let counted = worker.post("/tokenize", &json!({"prompt": POEM})).1["count"].as_u64().expect("a number");
    assert_eq!(prompt, counted, "the prompt is counted once");
    // What was computed: the prompt once, one token for each further choice that found no slot, and the answers.
    let computed = worker.metric("galerne_worker_step_tokens_total");
    #[expect(clippy::cast_precision_loss, reason = "a few dozen")]
    let least = (prompt + 7 * 7) as f64;
    assert!((least..least + 8.0).contains(&computed), "{computed} tokens computed, {least} needed");
    // The same request gives the same answers, and its first one is that of the same seed alone.
    assert_eq!(post(&worker, "/v1/completions", &body)["choices"], reply["choices"]);
    let mut alone = body;
    alone["n"] = json!(1);
    assert_eq!(post(&worker, "/v1/completions", &alone)["choices"][0]["text"], texts[0]);
    assert!(worker.metric("galerne_worker_requests_running") < 0.5);
}

#[test]
fn the_best_of_several_is_the_likeliest() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    let ask = |more: Value| {
        let mut body = json!({"prompt": POEM, "max_tokens": 8, "ignore_eos": true, "seed": 9, "logprobs": 0});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        post(&worker, "/v1/completions", &body)["choices"].as_array().expect("a list").clone()
    };
    let mean = |choice: &Value| floats(&choice["logprobs"]["token_logprobs"]).iter().sum::<f64>();
    ask(json!({"n": 4}));
    let all = ask(json!({"n": 4}));
    let best = ask(json!({"best_of": 4}));
    assert_eq!(best.len(), 1);
    let most = all.iter().map(mean).fold(f64::NEG_INFINITY, f64::max);
    assert!((mean(&best[0]) - most).abs() < 1e-3, "{} instead of {most}", mean(&best[0]));
}

#[test]
fn an_answer_is_as_long_as_was_asked_at_least() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    // The end of the turn is what it would always say.
    let end = worker.post("/tokenize", &json!({"prompt": "<|im_end|>"})).1["tokens"][0].to_string();
    let ask = |min_tokens: u64| {
        let body = json!({"prompt": POEM, "logit_bias": {&end: 100}, "min_tokens": min_tokens, "max_tokens": 60});
        let reply = post(&worker, "/v1/completions", &body);
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
        reply["usage"]["completion_tokens"].as_u64()
    };
    // The token that ends the answer is one as well.
    assert_eq!([0, 1, 10].map(ask), [Some(1), Some(2), Some(11)]);
}

#[test]
fn an_answer_continues_what_the_assistant_began() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    let begun = json!([
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is the city of Par", "prefix": true},
    ]);
    let reply = post(&worker, "/v1/chat/completions", &json!({"messages": begun, "temperature": 0, "max_tokens": 4}));
    let content = reply["choices"][0]["message"]["content"].as_str().expect("a text");
    assert!(content.len() > 40 && content.starts_with("The capital of France is the city of Par"), "{content}");
    let (_, tokens) = worker.post("/tokenize", &json!({"messages": begun, "continue_final_message": true}));
    assert_eq!(reply["usage"]["prompt_tokens"], tokens["count"]);
    let (_, text) = worker.post("/detokenize", &json!({"tokens": tokens["tokens"]}));
    let text = text["prompt"].as_str().expect("a text");
    assert!(text.ends_with("<|im_start|>assistant\nThe capital of France is the city of Par"), "{text}");
}

#[test]
fn a_model_without_tokens_for_gaps_says_so() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    let (status, reply) = worker.post("/v1/completions", &json!({"prompt": "def f():", "suffix": "return x"}));
    assert_eq!((status, &reply["error"]["param"]), (400, &json!("suffix")), "{reply}");
}

#[test]
fn a_client_that_leaves_stops_all_its_choices() {
    let Some(model) = model() else { return };
    let worker = Worker::ready(&model, &[]);
    // Four sequences: some are computed, others wait for a place.
    let body = json!({"prompt": "a", "max_tokens": 400, "ignore_eos": true, "n": 9});
    let socket = worker.send("/v1/completions", &body);
    worker.wait_for("running", |w| w.metric("galerne_worker_step_tokens_total") > 20.0);
    drop(socket);
    worker.wait_for("cancelled", |w| w.metric("galerne_worker_requests_cancelled_total") > 0.0);
    assert!(worker.metric("galerne_worker_requests_running") < 0.5);
    // Its places are free again.
    post(&worker, "/v1/completions", &json!({"prompt": "b", "max_tokens": 2}));
}

#[test]
fn who_leaves_before_the_first_token_ends_the_choices_that_had_not_begun() {
    let Some(model) = model() else { return };
    let worker = Worker::start(&["--model", &model, "--context", "4096", "--sequences", "4", "--threads", "1"]);
    // Several steps for the prompt; were it over before the client leaves, nothing would be cancelled.
    let body = json!({"prompt": "word ".repeat(3_500), "max_tokens": 1, "n": 3});
    let socket = worker.send("/v1/completions", &body);
    worker.wait_for("a first step", |w| w.metric("galerne_worker_step_tokens_total") > 0.0);
    drop(socket);
    worker.wait_for("cancelled", |w| w.metric("galerne_worker_requests_cancelled_total") > 0.0);
    assert!(worker.metric("galerne_worker_requests_running") < 0.5);
}
