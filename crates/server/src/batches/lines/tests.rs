use super::*;

fn rules(surface: Surface) -> Rules {
    let model = (surface == Surface::Mistral).then(|| "m".to_owned());
    Rules { surface, operation: Operation::Chat, model }
}

/// Count and model, or each fault's code and line.
type Judged = Result<(u64, String), Vec<(String, Option<u64>)>>;

fn judged(surface: Surface, lines: &[&str]) -> Judged {
    let mut judge = Judge::new(rules(surface));
    for (number, text) in (1..).zip(lines) {
        judge.look(number, text.as_bytes());
    }
    judge.verdict().map_err(|faults| faults.into_iter().map(|fault| (fault.code, fault.line)).collect())
}

fn good(id: &str) -> String {
    format!(
        r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":{{"model":"m","messages":[]}}}}"#
    )
}

#[test]
fn good_lines_have_a_count_and_a_model() {
    assert_eq!(judged(Surface::OpenAi, &[&good("a"), &good("b")]), Ok((2, "m".to_owned())));
    let mistral =
        [r#"{"body":{"messages":[]}}"#, r#"{"custom_id":null,"body":{}}"#, r#"{"custom_id":"1","body":{"model":"m"}}"#];
    assert_eq!(judged(Surface::Mistral, &mistral), Ok((3, "m".to_owned())));
}

#[test]
fn each_fault_is_told_with_its_code_and_line() {
    let without = |name: &str| good("x").replace(&format!("\"{name}\""), "\"_\"");
    for (bad, code) in [
        ("{".to_owned(), "invalid_json_line"),
        ("[1]".to_owned(), "invalid_json_line"),
        ("nonsense".to_owned(), "invalid_json_line"),
        (good("a"), "duplicate_custom_id"),
        (good(""), "invalid_value"),
        (good("x").replace("POST", "GET"), "invalid_value"),
        (good("x").replace("chat/completions", "embeddings"), "url_mismatch"),
        (good("x").replace("\"m\"", "\"other\""), "model_mismatch"),
        (good("x").replace("\"m\"", "7"), "invalid_value"),
        (good("x").replace("{\"model\":\"m\",\"messages\":[]}", "\"text\""), "invalid_value"),
        (good("x").replace("\"messages\":[]", "\"stream\":true"), "invalid_value"),
        (without("custom_id"), "unknown_parameter"),
        (good("x").replace("\"custom_id\":\"x\",", ""), "missing_required_parameter"),
        (good("x").replace("\"method\":\"POST\",", ""), "missing_required_parameter"),
        (good("x").replace("\"url\":\"/v1/chat/completions\",", ""), "missing_required_parameter"),
        (good("x").replace(",\"body\":{\"model\":\"m\",\"messages\":[]}", ""), "missing_required_parameter"),
        (good("x").replace("\"model\":\"m\",", ""), "missing_required_parameter"),
    ] {
        let found = judged(Surface::OpenAi, &[&good("a"), &bad, &good("c")]);
        assert_eq!(found, Err(vec![(code.to_owned(), Some(2))]), "{bad}");
    }
}

#[test]
fn a_file_without_requests_or_with_too_many_is_told_as_a_whole() {
    assert_eq!(judged(Surface::OpenAi, &[]), Err(vec![("empty_file".to_owned(), None)]));
    let mut judge = Judge::new(rules(Surface::Mistral));
    let mut number = 0;
    while !judge.has_seen_enough() {
        number += 1;
        judge.look(number, br#"{"body":{}}"#);
    }
    assert_eq!(number, limits::BATCH_REQUESTS_MAX + 1, "the rest is not read");
    assert_eq!(judge.verdict().expect_err("too many")[0].code, "too_many_tasks");
    let many: Vec<&str> = vec!["x"; 500];
    assert_eq!(judged(Surface::OpenAi, &many).expect_err("bad").len(), FAULTS_MAX);
}

#[test]
fn a_request_is_its_body_with_the_model_of_the_batch() {
    let made = request(br#"{"custom_id":"a","body":{"max_tokens":1,"model":"x"}}"#, "m").expect("reads");
    assert_eq!(made, Request { custom_id: Some("a".to_owned()), body: br#"{"max_tokens":1,"model":"m"}"#.to_vec() });
    assert_eq!(custom_id(br#"{"custom_id":"a","body":{}}"#), Some("a".to_owned()));
    assert_eq!(custom_id(b"{"), None);
}

#[test]
fn an_answer_is_one_line_of_openais_shape() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    assert_eq!(
        text(told("r", Some("a"), 200, "request_1", b"{\n \"x\": 1\n}")),
        "{\"id\":\"r\",\"custom_id\":\"a\",\"response\":{\"status_code\":200,\"request_id\":\"request_1\",\"body\":{\"x\":1}},\"error\":null}\n"
    );
    assert_eq!(
        text(not_made("r", None, "batch_expired", "over")),
        "{\"id\":\"r\",\"custom_id\":null,\"response\":null,\"error\":{\"code\":\"batch_expired\",\"message\":\"over\"}}\n"
    );
}
