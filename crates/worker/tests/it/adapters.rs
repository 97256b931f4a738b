//! Adapters attached to a running worker, answered by name, and detached.

use std::io::Read as _;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Worker, model};

const LAYERS: usize = 30;
const EMBEDDING: usize = 576;
const FEED_FORWARD: usize = 1536;

/// The file of an adapter.
struct Lora {
    architecture: &'static str,
    /// Of the matrices that it is made for; the model's, or not.
    width: usize,
    name: &'static str,
}

impl Lora {
    const FIT: Self = Self { architecture: "llama", width: FEED_FORWARD, name: "ffn_down" };

    /// Rank 1 on one matrix of every layer, with small numbers that are the same every time.
    fn write(&self, path: &Path) {
        let mut head = b"GGUF".to_vec();
        head.extend(3_u32.to_le_bytes());
        head.extend((2 * LAYERS as u64).to_le_bytes());
        head.extend(3_u64.to_le_bytes());
        for (key, value) in
            [("general.type", "adapter"), ("general.architecture", self.architecture), ("adapter.type", "lora")]
        {
            text(&mut head, key);
            head.extend(8_u32.to_le_bytes());
            text(&mut head, value);
        }
        let (mut data, mut state) = (Vec::new(), 0x2545_f491_4f6c_dd1d_u64);
        for layer in 0..LAYERS {
            for (half, sizes) in [("a", [self.width, 1]), ("b", [1, EMBEDDING])] {
                text(&mut head, &format!("blk.{layer}.{}.weight.lora_{half}", self.name));
                head.extend(2_u32.to_le_bytes());
                sizes.iter().for_each(|size| head.extend((*size as u64).to_le_bytes()));
                head.extend(0_u32.to_le_bytes());
                head.extend((data.len() as u64).to_le_bytes());
                for _ in 0..sizes[0] * sizes[1] {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let unit = f32::from(u16::try_from(state >> 48).expect("16 bits")) / 32_768.0 - 1.0;
                    data.extend((unit * 0.3).to_le_bytes());
                }
                data.resize(data.len().next_multiple_of(32), 0);
            }
        }
        head.resize(head.len().next_multiple_of(32), 0);
        std::fs::write(path, [head, data].concat()).expect("written");
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A worker that takes adapters of a folder, with one that fits in it.
fn ready(model: &str) -> (Worker, TempDir) {
    let folder = tempfile::tempdir().expect("a directory");
    Lora::FIT.write(&folder.path().join("wind.gguf"));
    let worker = Worker::ready(model, &["--adapters", folder.path().to_str().expect("UTF-8")]);
    (worker, folder)
}

fn load(worker: &Worker, body: &Value) -> (u16, String) {
    worker.post_text("/v1/load_lora_adapter", body)
}

fn question(name: &str) -> Value {
    json!({
        "model": name, "temperature": 0, "max_tokens": 20,
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    })
}

/// The answer under a name, computed from nothing: `scope` is nobody else's.
fn ask(worker: &Worker, name: &str, scope: &str) -> (String, String) {
    let head = format!("x-galerne-cache-scope: {scope}\r\n");
    let (status, reply) = worker.post_with("/v1/chat/completions", &head, &question(name));
    assert_eq!((status, &reply["model"]), (200, &json!(name)), "{reply}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&reply["choices"][0]["message"]["content"]), text(&reply["system_fingerprint"]))
}

fn names(worker: &Worker) -> Vec<(String, Value)> {
    let list = worker.get("/v1/models");
    let cards = list["data"].as_array().expect("a list");
    cards.iter().map(|card| (card["id"].as_str().expect("a name").to_owned(), card["parent"].clone())).collect()
}

#[test]
fn an_adapter_answers_those_who_name_it_and_changes_nothing_for_others() {
    let Some(model) = model() else { return };
    let (worker, _folder) = ready(&model);
    let alone = ask(&worker, "small", "a");
    assert!(alone.0.contains("Paris"), "{}", alone.0);
    // Twice as much of it as it says: enough to be heard, little enough to stay language.
    let added = load(&worker, &json!({"lora_name": "wind", "lora_path": "wind.gguf", "scale": 2.0}));
    assert_eq!(added, (200, "Success: LoRA adapter 'wind' added successfully.".into()));
    assert_eq!(load(&worker, &json!({"lora_name": "calm", "lora_path": "wind.gguf", "scale": 0.0})).0, 200);
    let small = || json!("small");
    let listed = [("small", Value::Null), ("calm", small()), ("wind", small())];
    assert_eq!(names(&worker), listed.map(|(name, parent)| (name.to_owned(), parent)));
    let [wind, calm, beside] = ["wind", "calm", "small"].map(|name| ask(&worker, name, "b"));
    assert_ne!(wind.0, alone.0, "it says something else");
    assert_eq!((&calm.0, &beside), (&alone.0, &alone), "nothing of it is nothing, and beside it all is as it was");
    assert!(wind.1 != alone.1 && calm.1 != alone.1 && wind.1 != calm.1, "each has a fingerprint of its own");
    // In turns they say what they say alone.
    let together = std::thread::scope(|scope| {
        let worker = &worker;
        let ask = |name: &'static str| scope.spawn(move || ask(worker, name, "c"));
        ["wind", "small", "calm"].map(ask).map(|thread| thread.join().expect("no panic"))
    });
    assert_eq!(together, [wind, alone, calm]);
}

#[test]
fn what_was_computed_of_a_prompt_stays_with_its_adapter() {
    let Some(model) = model() else { return };
    let (worker, _folder) = ready(&model);
    let body = json!({"lora_name": "wind", "lora_path": "wind.gguf"});
    let cached = |name: &str| {
        let (status, reply) = worker.post("/v1/chat/completions", &question(name));
        assert_eq!(status, 200, "{reply}");
        let usage = &reply["usage"];
        (usage["prompt_tokens_details"]["cached_tokens"].as_u64() == Some(0), usage["prompt_tokens"].clone())
    };
    let attach = || assert_eq!(load(&worker, &body).0, 200);
    attach();
    let from_nothing = ["small", "wind", "small", "wind"].map(|name| cached(name).0);
    assert_eq!(from_nothing, [true, true, false, false]);
    // The same file attached again is another adapter.
    assert_eq!(worker.post_text("/v1/unload_lora_adapter", &json!({"lora_name": "wind"})).0, 200);
    attach();
    assert_eq!(["wind", "small"].map(|name| cached(name).0), [true, false]);
}

#[test]
fn an_adapter_at_work_leaves_when_its_answers_are_done_and_takes_no_more() {
    let Some(model) = model() else { return };
    let (worker, _folder) = ready(&model);
    assert_eq!(load(&worker, &json!({"lora_name": "wind", "lora_path": "wind.gguf"})).0, 200);
    let mut asked = question("wind");
    asked["stream"] = json!(true);
    asked["ignore_eos"] = json!(true);
    asked["max_tokens"] = json!(200);
    let mut stream = worker.send("/v1/chat/completions", &asked);
    let mut begun = [0; 64];
    stream.read_exact(&mut begun).expect("it has begun");
    let left = json!({"lora_name": "wind"});
    std::thread::scope(|scope| {
        let leaving = scope.spawn(|| {
            let reply = worker.post_text("/v1/unload_lora_adapter", &left);
            (reply, worker.metric("galerne_worker_requests_running"))
        });
        worker.wait_for("gone from the list", |worker| names(worker).len() == 1);
        let (status, refused) = worker.post("/v1/chat/completions", &question("wind"));
        assert_eq!((status, &refused["error"]["code"]), (404, &json!("model_not_found")));
        assert_eq!(worker.metric("galerne_worker_requests_running"), 1.0, "the stream goes on");
        let (reply, running) = leaving.join().expect("no panic");
        assert_eq!(reply, (200, "Success: LoRA adapter 'wind' removed successfully.".into()));
        assert_eq!(running, 0.0, "it was gone when its answer was");
    });
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the rest");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert_eq!(worker.post_text("/v1/unload_lora_adapter", &left).0, 404);
    assert_eq!(load(&worker, &json!({"lora_name": "wind", "lora_path": "wind.gguf"})).0, 200);
}

#[test]
fn files_that_are_no_adapters_of_the_model_are_refused_and_the_worker_lives() {
    let Some(model) = model() else { return };
    let (worker, folder) = ready(&model);
    let at = |name: &str| folder.path().join(name);
    Lora { architecture: "qwen2", ..Lora::FIT }.write(&at("qwen.gguf"));
    Lora { width: 99, ..Lora::FIT }.write(&at("shape.gguf"));
    Lora { name: "nothing_like_it", ..Lora::FIT }.write(&at("name.gguf"));
    std::fs::write(at("text.gguf"), "a text").expect("written");
    let whole = std::fs::read(at("wind.gguf")).expect("there");
    std::fs::write(at("cut.gguf"), &whole[..whole.len() / 2]).expect("written");
    let refused = |name: &str, path: &str, status: u16, code: &str, reason: &str| {
        let (found, reply) = worker.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path}));
        assert_eq!((found, &reply["error"]["code"]), (status, &json!(code)), "{path}: {reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|text| text.contains(reason)), "{path}: {reply}");
    };
    refused("a", "qwen.gguf", 400, "adapter_invalid", "architecture `qwen2`, this model's is `llama`");
    refused("a", "shape.gguf", 400, "adapter_invalid", "incorrect shape");
    refused("a", "name.gguf", 400, "adapter_invalid", "does not exist in base model");
    refused("a", "text.gguf", 400, "adapter_invalid", "instead of `GGUF`");
    refused("a", "cut.gguf", 400, "adapter_invalid", "truncated");
    refused("a", &model, 404, "adapter_missing", "in the folder of adapters");
    refused("a", "none.gguf", 404, "adapter_missing", "hint:");
    refused("small", "wind.gguf", 400, "invalid_value", "the model itself");
    assert_eq!(load(&worker, &json!({"lora_name": "a", "lora_path": "wind.gguf"})).0, 200);
    refused("a", "wind.gguf", 400, "invalid_value", "already been loaded");
    ask(&worker, "small", "a");
    let closed = Worker::ready(&model, &[]);
    let (status, reply) = closed.post("/v1/load_lora_adapter", &json!({"lora_name": "a", "lora_path": "wind.gguf"}));
    assert_eq!((status, &reply["error"]["code"]), (403, &json!("adapters_closed")), "{reply}");
}
