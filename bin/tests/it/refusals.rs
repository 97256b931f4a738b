//! Starts that are refused: what stands in the way, and what to type.

use std::net::TcpListener;

use crate::server::{Home, Outcome};

fn up(home: &Home, words: &[&str]) -> Outcome {
    let all: Vec<&str> = ["up", "--no-model"].iter().chain(words).copied().collect();
    home.galerne(&all)
}

fn refused(outcome: &Outcome, code: &str) {
    assert_eq!(outcome.exit, 8, "{outcome:?}");
    assert!(outcome.err.contains(&format!("[{code}]")), "{}", outcome.err);
    assert!(outcome.err.contains("hint:"), "{}", outcome.err);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = taken.local_addr().expect("bound").to_string();
    let outcome = up(&Home::new(), &["--listen", &address]);
    refused(&outcome, "address_in_use");
    assert!(outcome.err.contains(&address), "{}", outcome.err);
}

#[test]
fn a_second_instance_on_the_same_directory_is_refused() {
    let home = Home::new();
    let _running = home.up(&[]);
    refused(&up(&home, &["--listen", "127.0.0.1:0"]), "data_dir_locked");
}

#[test]
fn a_public_address_without_a_certificate_is_refused() {
    let outcome = up(&Home::new(), &["--listen", "0.0.0.0:0"]);
    refused(&outcome, "public_bind_needs_tls");
    assert!(outcome.err.contains("--tls-cert"), "{}", outcome.err);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let home = Home::new();
    let file = home.path("a-file");
    std::fs::write(&file, "").expect("writes");
    let below = file.join("data").display().to_string();
    refused(&up(&home, &["--listen", "127.0.0.1:0", "--data", &below]), "data_dir_unusable");
}

#[test]
fn a_missing_worker_is_told_before_anything_is_fetched() {
    let home = Home::new();
    let outcome = home.galerne(&["up", "--listen", "127.0.0.1:0", "--worker", "/nonexistent/galerne-worker"]);
    refused(&outcome, "worker_missing");
    assert!(!home.path(".local").exists(), "nothing was made");
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once() {
    let home = Home::new();
    let file = home.path("galerne.toml");
    std::fs::write(&file, "zonne = \"FR\"\npue = \"0.5\"\n").expect("writes");
    let file = file.display().to_string();
    let outcome = home.galerne(&["config", "check", "--config", &file]);
    refused(&outcome, "config_invalid");
    assert!(outcome.err.contains("did you mean `zone`"), "{}", outcome.err);
    let outcome = home.galerne(&["config", "check", "--pue", "0.5", "--zone", "france"]);
    assert!(outcome.err.contains("has 2 problems"), "{}", outcome.err);
}

#[test]
fn the_configuration_shows_where_each_value_comes_from() {
    let home = Home::new();
    let outcome =
        home.galerne(&["config", "show", "--zone", "DE", "--database", "postgres://ada:hunter2@localhost/galerne"]);
    assert_eq!(outcome.exit, 0, "{}", outcome.err);
    let zone = outcome.out.lines().find(|line| line.starts_with("zone")).expect("a line");
    assert!(zone.contains("DE") && zone.contains("flag"), "{zone}");
    assert!(!outcome.out.contains("hunter2"), "{}", outcome.out);
}
