//! Files that are no models, and plans that do not fit: one line, one code, exit status 3.

use std::fs;
use std::path::Path;

use crate::process::{Worker, model};

fn refused(arguments: &[&str]) -> (String, String) {
    let mut worker = Worker::start(arguments);
    assert_eq!(worker.wait().code(), Some(3), "{}", worker.line);
    assert_eq!(worker.line["ready"], false);
    let text = |key: &str| worker.line[key].as_str().expect("a text").to_owned();
    assert!(!text("hint").is_empty());
    (text("code"), text("message"))
}

fn refused_file(path: &Path) -> (String, String) {
    refused(&["--model", path.to_str().expect("UTF-8")])
}

#[test]
fn a_missing_file_is_named() {
    let (code, message) = refused(&["--model", "/nowhere/at-all.gguf"]);
    assert_eq!(code, "model_missing");
    assert!(message.contains("/nowhere/at-all.gguf"));
}

#[test]
fn garbage_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("garbage.gguf");
    for bytes in [vec![], vec![0x5a; 1024], b"GGUF".to_vec(), [b"GGUF".as_slice(), &[0xff; 1020]].concat()] {
        fs::write(&path, bytes).expect("written");
        assert_eq!(refused_file(&path).0, "model_invalid");
    }
    assert_eq!(refused_file(directory.path()).0, "model_invalid");
}

#[test]
fn a_truncated_model_is_refused_with_the_tensor_that_is_cut() {
    let Some(model) = model() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cut.gguf");
    let whole = fs::read(model).expect("the model");
    for length in [10, 100_000, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("written");
        let (code, message) = refused_file(&path);
        assert_eq!(code, "model_invalid", "at {length}: {message}");
    }
}

#[test]
fn a_context_beyond_the_model_or_the_memory_is_refused_with_numbers() {
    let Some(model) = model() else { return };
    let (code, message) = refused(&["--model", &model, "--context", "1000000"]);
    assert_eq!(code, "engine_context");
    assert!(message.contains("1000000"), "{message}");
    let (code, message) = refused(&["--model", &model, "--context", "8192", "--sequences", "256"]);
    assert_eq!(code, "engine_memory");
    assert!(message.contains("MiB are available"), "{message}");
}

#[test]
fn a_port_in_use_is_refused() {
    let Some(model) = model() else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, message) = refused(&["--model", &model, "--context", "128", "--sequences", "1", "--listen", &address]);
    assert_eq!(code, "port_in_use");
    assert!(message.contains(&address), "{message}");
}
