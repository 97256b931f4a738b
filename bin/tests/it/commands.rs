//! Commands against a real server: what was made is listed, what was refused is an event, and pipes may close.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::server::{Home, first_line};

#[test]
fn a_tenant_gets_a_project_a_person_a_role_a_key_and_a_budget() {
    let home = Home::new();
    let server = home.up(&[]);
    for words in [
        &["tenant", "create", "bank"][..],
        &["project", "create", "risk", "--tenant", "bank", "--requests-per-minute", "60"],
        &["principal", "create", "ada", "--tenant", "bank"],
    ] {
        let outcome = home.galerne(words);
        assert_eq!(outcome.exit, 0, "{words:?}: {}", outcome.err);
    }
    let tenants = home.galerne(&["tenant", "list"]);
    assert!(tenants.out.lines().any(|line| line.starts_with("bank")), "{}", tenants.out);
    // In the key's own project: a key for oneself, and a budget on it.
    let made = home.galerne(&["key", "create", "laptop", "--expires", "30d"]);
    assert_eq!(made.exit, 0, "{}", made.err);
    let secret = made.out.trim();
    assert!(secret.starts_with("galerne_"), "{}", made.out);
    let who = home.galerne(&["whoami", "--key", secret, "--url", &server.url]);
    assert!(who.out.contains("laptop"), "{}", who.out);
    let budget = home.galerne(&["budget", "set", "trial", "--on", "key/laptop", "--limit", "1.50"]);
    assert_eq!(budget.exit, 0, "{}", budget.err);
    assert!(home.galerne(&["budget", "list"]).out.contains("key/laptop"));
    let revoked = home.galerne(&["key", "revoke", "laptop", "--yes"]);
    assert_eq!(revoked.exit, 0, "{}", revoked.err);
    let refused = home.galerne(&["whoami", "--key", secret, "--url", &server.url]);
    assert_eq!(refused.exit, 4, "{}", refused.err);
}

#[test]
fn a_login_keeps_a_key_that_works_and_refuses_one_that_does_not() {
    let home = Home::new();
    let server = home.up(&[]);
    let made = home.galerne(&["key", "create", "laptop"]);
    let other = Home::new();
    let wrong =
        other.galerne(&["login", "--url", &server.url, "--key", "galerne_0000000000000000000000000000002C8GjS"]);
    assert_eq!(wrong.exit, 4, "{}", wrong.err);
    assert_eq!(other.galerne(&["whoami"]).exit, 4, "nothing was kept");
    let right = other.galerne(&["login", "--url", &server.url, "--key", made.out.trim()]);
    assert_eq!(right.exit, 0, "{}", right.err);
    assert!(other.galerne(&["whoami"]).out.contains("laptop"));
}

#[test]
fn what_is_not_there_is_refused_with_the_exit_code_for_it() {
    let home = Home::new();
    let _server = home.up(&[]);
    assert_eq!(home.galerne(&["endpoint", "show", "nothing"]).exit, 3);
    assert_eq!(home.galerne(&["project", "create", "twice"]).exit, 0);
    assert_eq!(home.galerne(&["project", "create", "twice"]).exit, 5);
    assert_eq!(home.galerne(&["project", "create", "not a name"]).exit, 6);
    assert_eq!(home.galerne(&["chat", "nothing", "hello"]).exit, 3);
}

#[test]
fn a_dry_run_changes_nothing() {
    let home = Home::new();
    let _server = home.up(&[]);
    let dry = home.galerne(&["project", "create", "ghost", "--dry-run"]);
    assert_eq!(dry.exit, 0, "{}", dry.err);
    assert!(dry.err.contains("would be created"), "{}", dry.err);
    assert_eq!(home.galerne(&["project", "show", "ghost"]).exit, 3);
}

#[test]
fn every_list_answers_on_an_empty_site() {
    let home = Home::new();
    let _server = home.up(&[]);
    for words in [
        &["whoami"][..],
        &["model", "list"],
        &["model", "catalogue"],
        &["pull", "list"],
        &["endpoint", "list"],
        &["replica", "list"],
        &["node", "list"],
        &["key", "list"],
        &["project", "list"],
        &["tenant", "list"],
        &["principal", "list"],
        &["role", "list"],
        &["budget", "list"],
        &["price", "show"],
        &["price", "history"],
        &["cost"],
        &["cost", "--by", "day", "--since", "7d"],
        &["cost", "--by", "model"],
        &["usage"],
        &["events"],
        &["events", "--decision", "denied"],
        &["ledger", "check"],
        &["ledger", "balances"],
        &["ledger", "transfers"],
        &["ledger", "export"],
        &["ledger", "export", "--of", "readings", "--format", "json"],
        &["backup", "list"],
        &["version"],
        &["env", "--openai"],
        &["api", "GET", "/api/v1/whoami"],
    ] {
        let outcome = home.galerne(words);
        assert_eq!(outcome.exit, 0, "{words:?}: {}", outcome.err);
    }
}

#[test]
fn this_host_is_enrolled_with_its_facts() {
    let home = Home::new();
    let _server = home.up(&[]);
    let nodes = home.json(&["node", "list"]);
    let facts = &nodes["items"][0]["status"]["facts"];
    assert!(facts["cpu"]["threads"].as_u64().is_some_and(|threads| threads > 0), "{facts}");
    assert!(facts["memory"].as_u64().is_some_and(|memory| memory > 0), "{facts}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = Home::new();
    let server = home.up(&[]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_galerne"));
    command.args(["explain"]).env("GALERNE_URL", &server.url).env("GALERNE_API_KEY", &server.key);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let line = first_line(child.stdout.take().expect("piped"));
    assert!(line.starts_with("code"), "{line}");
    let output = child.wait_with_output().expect("it is our child");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn events_are_followed_as_they_happen() {
    let home = Home::new();
    let _server = home.up(&[]);
    let mut following = home.spawn(&["events", "--follow", "--action", "project.create", "-o", "json"]);
    let mut lines = BufReader::new(following.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line follows").expect("it is text");
    assert!(next().contains("first start"), "what was there before comes first");
    assert_eq!(home.galerne(&["project", "create", "risk"]).exit, 0);
    let line = next();
    assert!(line.contains("`risk`"), "{line}");
    following.kill().expect("it still runs");
    following.wait().expect("it is our child");
}

#[test]
fn a_backup_is_brought_back_into_a_new_directory() {
    let home = Home::new();
    let server = home.up(&[]);
    assert_eq!(home.galerne(&["project", "create", "kept"]).exit, 0);
    let made = home.json(&["backup", "create"]);
    server.stop();
    let folder =
        home.path(".local/share/galerne").join(made["folder"].as_str().expect("a folder")).display().to_string();
    let data = home.path("restored").display().to_string();
    let restored = home.galerne(&["restore", &folder, "--data", &data, "--yes"]);
    assert_eq!(restored.exit, 0, "{}", restored.err);
    let _again = home.up(&["--data", &data]);
    assert_eq!(home.json(&["project", "show", "kept"])["name"], "kept");
}
