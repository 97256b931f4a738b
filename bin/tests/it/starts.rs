//! First start, second start, stop.

use std::time::Duration;

use crate::server::{Home, signal};

#[test]
fn a_second_start_continues_with_the_same_state_and_key() {
    let home = Home::new();
    let first = home.up(&[]);
    let key = first.key.clone();
    let tenants = home.json(&["tenant", "list"]);
    assert!(home.galerne(&["project", "create", "risk"]).exit == 0);
    let (status, log) = first.stop();
    assert!(status.success(), "{status}:\n{log}");

    // The profile names the first server's port; the second start takes another and keeps the key only under its own address.
    let second = home.up(&[]);
    assert_eq!(home.json(&["tenant", "list"]), tenants);
    let projects = home.json(&["project", "list"]);
    assert!(projects["items"].as_array().expect("a list").iter().any(|project| project["name"] == "risk"));
    let old = home.galerne(&["whoami", "--url", &second.url, "--key", &key]);
    assert_eq!(old.exit, 0, "the first key goes on working: {}", old.err);
}

#[test]
fn the_same_address_keeps_the_same_key() {
    let home = Home::new();
    let first = home.up(&[]);
    let (address, key) = (first.url.trim_start_matches("http://").to_owned(), first.key.clone());
    first.stop();
    let second = home.up(&["--listen", &address]);
    assert_eq!(second.key, key);
    assert!(second.took < Duration::from_secs(5), "a second start took {:?}", second.took);
}

#[test]
fn a_killed_server_is_continued_by_the_next_start() {
    let home = Home::new();
    let first = home.up(&[]);
    assert_eq!(home.galerne(&["project", "create", "risk"]).exit, 0);
    first.kill();
    let _second = home.up(&[]);
    let shown = home.json(&["project", "show", "risk"]);
    assert_eq!(shown["name"], "risk");
}

#[test]
fn a_given_certificate_is_served_and_trusted_by_the_commands() {
    let home = Home::new();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let (cert, key) = (home.path("cert.pem"), home.path("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("writes");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
    let words = ["--tls-cert", &cert.display().to_string(), "--tls-key", &key.display().to_string()];
    let server = home.up(&words);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    let who = home.galerne(&["whoami"]);
    assert_eq!(who.exit, 0, "{}", who.err);
}

#[test]
fn interrupting_drains_and_says_so() {
    let home = Home::new();
    let server = home.up(&[]);
    signal(server.pid(), "INT");
    let (status, log) = server.finished();
    assert!(status.success(), "{log}");
    assert!(log.contains("✓ Stopped"), "{log}");
}
