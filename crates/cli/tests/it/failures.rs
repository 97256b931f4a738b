//! Failures: what failed, why, what to type, and how the process ends.

use galerne_api::error::Code;
use insta::assert_snapshot;
use serde_json::json;

use crate::canned::{Canned, endpoint, problem};
use crate::galerne;

#[tokio::test]
async fn a_refusal_says_what_why_and_what_to_do() {
    let mut refusal = problem("not_found", 404, "there is no endpoint `smal` in project `default`");
    refusal["hint"] = json!("did you mean `smol`? galerne endpoint show smol");
    let url = Canned::default().answer("GET /api/v1/endpoints/smal", 404, &refusal).serve().await;
    assert_snapshot!("not_found", galerne(&url, Some(80), &["endpoint", "show", "smal"]).await.text());
    let outcome = galerne(&url, None, &["endpoint", "show", "smal", "-o", "json"]).await;
    let said: serde_json::Value = serde_json::from_str(&outcome.err).expect("stderr is one JSON document");
    assert_eq!((said["error"]["code"].as_str(), said["error"]["exit_code"].as_u64()), (Some("not_found"), Some(3)));
    assert_eq!(outcome.out, "");
}

#[tokio::test]
async fn every_place_that_must_change_is_named_also_where_the_words_are_the_same() {
    let mut refusal = problem("invalid_body", 422, "`spec.limit_micros` is missing");
    let at = |path: &str| json!({"path": path, "detail": "is missing"});
    refusal["errors"] = json!([at("spec.limit_micros")]);
    let url = Canned::default().answer("GET /api/v1/whoami", 422, &refusal).serve().await;
    let one = galerne(&url, None, &["whoami"]).await.err;
    assert_eq!(one.matches("is missing").count(), 1, "a single one is said once: {one}");
    refusal["errors"] = json!([at("spec.limit_micros"), at("spec.period")]);
    let url = Canned::default().answer("GET /api/v1/whoami", 422, &refusal).serve().await;
    let two = galerne(&url, None, &["whoami"]).await.err;
    for path in ["spec.limit_micros", "spec.period"] {
        assert!(two.contains(&format!("because `{path}` is missing")), "{two}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_chat_surface_reads_like_any_other() {
    let message = "endpoint `smol` is paused; hint: galerne endpoint resume smol";
    let body =
        json!({ "error": { "message": message, "type": "server_error", "param": null, "code": "endpoint_paused" } });
    let url = Canned::default().answer("POST /v1/chat/completions", 503, &body).serve().await;
    assert_snapshot!("chat_refused", galerne(&url, Some(80), &["chat", "smol", "hello"]).await.text());
}

#[tokio::test]
async fn every_code_ends_the_process_as_the_table_says() {
    for code in Code::ALL {
        let refusal = problem(code.as_str(), 418, "so it is");
        let url = Canned::default().answer("GET /api/v1/whoami", 418, &refusal).serve().await;
        let outcome = galerne(&url, None, &["whoami"]).await;
        assert_eq!(outcome.exit, code.exit().number(), "{code}");
        assert!(outcome.err.contains(&format!("[{code}]")), "{}", outcome.err);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_start() {
    let url = Canned::default().serve().await;
    let nobody = "http://127.0.0.1:1";
    assert_ne!(url, nobody);
    let outcome = galerne(nobody, None, &["whoami"]).await;
    assert_eq!(outcome.exit, 7);
    assert!(outcome.err.contains("`http://127.0.0.1:1/` does not answer [server_unreachable]"), "{}", outcome.err);
    assert!(outcome.err.contains("hint: is it running? start it with `galerne up`"), "{}", outcome.err);
}

#[tokio::test]
async fn wrong_words_are_answered_before_anybody_is_asked() {
    for words in [
        &["endpoint", "lst"][..],
        &["budget", "set", "trial", "--limit", "1,50"],
        &["cost", "--since", "yesterday"],
        &["key", "create"],
        &["why", "smol"],
        &["role", "grant", "ada", "member", "--on", "somewhere"],
        &["api", "GET", "api/v1/whoami"],
        &["explain", "budget_exceeded"],
    ] {
        assert_snapshot!(
            words.join("_").replace(['/', ',', '-'], ""),
            galerne("http://127.0.0.1:1", Some(80), words).await.text()
        );
    }
}

#[tokio::test]
async fn nothing_is_destroyed_where_nobody_can_be_asked() {
    let url = Canned::default()
        .answer("GET /api/v1/endpoints/smol", 200, &endpoint("ready", 1, "1 replica passed its last probe"))
        .answer("DELETE /api/v1/endpoints/smol", 200, &endpoint("ready", 1, ""))
        .serve()
        .await;
    assert_snapshot!("delete_unasked", galerne(&url, Some(80), &["endpoint", "delete", "smol"]).await.text());
    assert_snapshot!(
        "delete_dry_run",
        galerne(&url, Some(80), &["endpoint", "delete", "smol", "--dry-run"]).await.text()
    );
    assert_snapshot!("delete_yes", galerne(&url, Some(80), &["endpoint", "delete", "smol", "--yes"]).await.text());
}

#[tokio::test]
async fn a_ledger_that_does_not_close_is_a_failure_with_the_difference() {
    let none = json!({
        "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0, "micros": 0, "picos": 0, "millijoules": 0, "co2e_micrograms": 0,
    });
    let check = json!({
        "closes": false, "usage_records": 3, "transfers": 3, "readings": 0, "projects": 1, "took_ms": 1,
        "usage": none, "metered": none,
        "findings": [{ "code": "usage_unbooked", "text": "usage record 7 of spool 1 has 1,001 micros, its transfer 1,000" }],
    });
    let url = Canned::default().answer("POST /api/v1/ledger/check", 200, &check).serve().await;
    assert_snapshot!("ledger_open", galerne(&url, Some(80), &["ledger", "check"]).await.text());
}

#[tokio::test]
async fn what_is_so_already_is_not_changed_again() {
    let url = Canned::default()
        .answer("GET /api/v1/endpoints/smol", 200, &endpoint("ready", 1, "1 replica passed its last probe"))
        .serve()
        .await;
    // Nothing answers a PUT here: it would end with `route_not_found`.
    let outcome = galerne(&url, Some(80), &["endpoint", "resume", "smol"]).await;
    assert_eq!((outcome.exit, outcome.err.as_str()), (0, "endpoint `smol` is so already\n"));
    let changed = galerne(&url, Some(80), &["endpoint", "pause", "smol"]).await;
    assert_eq!(changed.exit, 3, "{}", changed.err);
}

#[tokio::test]
async fn a_single_problem_of_a_body_is_said_once() {
    let mut refusal = problem("invalid_value", 422, "`spec.replicas_max`: it takes 1 to 16 replicas");
    refusal["errors"] = json!([{ "path": "spec.replicas_max", "detail": "it takes 1 to 16 replicas" }]);
    let url = Canned::default().answer("GET /api/v1/endpoints/smol", 422, &refusal).serve().await;
    let outcome = galerne(&url, Some(80), &["endpoint", "show", "smol"]).await;
    assert_eq!(outcome.err.matches("it takes 1 to 16 replicas").count(), 1, "{}", outcome.err);
}

#[tokio::test]
async fn a_role_that_is_there_already_is_told_in_the_words_that_were_typed() {
    let principal = "principal_01972000000070008000000000000008";
    let ada = crate::canned::resource(principal, "ada", json!({ "kind": "user" }), json!({}));
    let url = Canned::default()
        .answer("GET /api/v1/principals/ada", 200, &ada)
        .answer(
            "POST /api/v1/role-bindings",
            409,
            &problem("already_exists", 409, "a role binding named `x` exists already"),
        )
        .serve()
        .await;
    let outcome = galerne(&url, Some(80), &["role", "grant", "ada", "auditor", "--on", "site"]).await;
    assert_eq!(outcome.exit, 5);
    assert!(outcome.err.contains("`ada` has the role `auditor` on site already [already_exists]"), "{}", outcome.err);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told_from_one_that_is_not_there() {
    let url = Canned::default().serve().await.replace("http://", "https://");
    let outcome = galerne(&url, None, &["whoami"]).await;
    assert_eq!(outcome.exit, 7);
    assert!(outcome.err.contains("hint: this server speaks no TLS"), "{}", outcome.err);
}
