use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

fn told(refusal: &Refusal, dialect: Dialect) -> (u16, Value) {
    let request_id = RequestId::from_uuid(Uuid::from_u128(7));
    let body = serde_json::from_slice(&refusal.json(dialect, request_id)).expect("JSON");
    (refusal.clone().response(dialect, request_id).status().as_u16(), body)
}

/// As vLLM says it: a number for a code.
fn overflow() -> Refusal {
    let text = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens";
    let relayed = Relayed { status: StatusCode::BAD_REQUEST, kind: Some("BadRequestError".to_owned()), code: None };
    Refusal { relayed: Some(Box::new(relayed)), ..Refusal::new(Code::InvalidBody, text) }
}

#[test]
fn a_prompt_that_is_too_long_is_an_overflow_whatever_engine_says_so() {
    let (status, body) = told(&overflow(), Dialect::Union);
    assert_eq!((status, &body["code"]), (400, &json!("context_length_exceeded")));
    let (status, body) = told(&overflow(), Dialect::OpenAi);
    let error = &body["error"];
    assert_eq!(
        (status, &error["code"], &error["type"]),
        (400, &json!("context_length_exceeded"), &json!("invalid_request_error"))
    );
    let (status, body) = told(&overflow(), Dialect::Mistral);
    assert_eq!((status, &body["object"], &body["code"]), (400, &json!("error"), &json!("context_length_exceeded")));
    let other = Refusal { message: "`n` is too large".to_owned(), ..overflow() };
    assert_eq!(told(&other, Dialect::Union).1["code"], Value::Null);
}

#[test]
fn openais_surface_has_openais_words_alone() {
    let spent = Refusal::new(Code::BudgetExhausted, "spent").param("max_tokens");
    let (status, body) = told(&spent, Dialect::OpenAi);
    let error =
        json!({"message": "spent", "type": "insufficient_quota", "param": "max_tokens", "code": "insufficient_quota"});
    assert_eq!((status, body), (429, json!({"error": error})));
    assert_eq!(told(&spent, Dialect::Union).0, 402);
    let slow = Refusal::new(Code::RateLimited, "slow");
    assert_eq!(told(&slow, Dialect::OpenAi).1["error"]["code"], "rate_limit_exceeded");
    let full = Refusal::new(Code::Overloaded, "full");
    assert_eq!(told(&full, Dialect::OpenAi).1["error"]["type"], "server_error");
}

#[test]
fn mistrals_surface_tells_of_fields_in_a_list() {
    let wrong = Refusal::new(Code::InvalidBody, "`n` is 0").param("n");
    let detail = json!({"type": "value_error", "loc": ["body", "n"], "msg": "`n` is 0"});
    assert_eq!(told(&wrong, Dialect::Mistral), (422, json!({"detail": [detail]})));
    let (status, body) = told(&Refusal::new(Code::InvalidKey, "no"), Dialect::Mistral);
    assert_eq!((status, &body["object"], &body["message"]), (401, &json!("error"), &json!("no")));
}
