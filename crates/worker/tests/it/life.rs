//! How a worker ends.

use std::io::Read as _;

use serde_json::json;

use crate::process::{Worker, model};

#[test]
fn it_ends_with_its_parent() {
    let Some(model) = model() else { return };
    let mut worker = Worker::ready(&model, &[]);
    let running = worker.send("/v1/completions", &json!({"prompt": "a", "max_tokens": 500, "ignore_eos": true}));
    worker.wait_for("running", |w| w.metric("galerne_worker_requests_running") > 0.0);
    worker.close_stdin();
    assert_eq!(worker.wait().code(), Some(0));
    drop(running);
}

#[test]
fn it_answers_what_it_has_begun_before_it_ends() {
    let Some(model) = model() else { return };
    let mut worker = Worker::ready(&model, &[]);
    let mut running = worker.send("/v1/completions", &json!({"prompt": "a", "max_tokens": 60, "ignore_eos": true}));
    worker.wait_for("running", |w| w.metric("galerne_worker_requests_running") > 0.0);
    worker.terminate();
    let mut reply = String::new();
    running.read_to_string(&mut reply).expect("a reply");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.contains(r#""completion_tokens":60"#), "{reply}");
    assert_eq!(worker.wait().code(), Some(0));
}
