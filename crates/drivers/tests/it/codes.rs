//! Every code a driver can report is one that `galerne explain` knows.

use galerne_api::error::Code;
use galerne_drivers::engine::EngineError;

#[test]
fn every_code_in_the_drivers_is_public() {
    // The texts that `code()` returns stand alone on the right of an arrow, or of one in braces.
    let files = [
        include_str!("../../src/catalogue.rs"),
        include_str!("../../src/engine.rs"),
        include_str!("../../src/fetch/error.rs"),
        include_str!("../../src/gguf.rs"),
        include_str!("../../src/grid.rs"),
    ];
    let mut found = 0;
    for text in files {
        let body = text.split("pub fn code(&self)").nth(1).expect("each error has a code");
        let body = body.split("\n    }\n").next().expect("a function ends");
        for code in body.split('"').skip(1).step_by(2) {
            assert!(Code::parse(code).is_some(), "`{code}` has no page");
            found += 1;
        }
    }
    assert!(found >= 15, "only {found} codes found: the pattern no longer fits the source");
}

#[test]
fn every_refusal_of_the_worker_is_mapped_to_a_public_code() {
    let worker = [
        include_str!("../../../worker/src/main.rs"),
        include_str!("../../../worker/src/serve.rs"),
        include_str!("../../../worker/src/memory.rs"),
        include_str!("../../../worker/src/gguf.rs"),
        include_str!("../../../worker/src/quantize.rs"),
        include_str!("../../../worker/src/refusal.rs"),
        include_str!("../../../worker/src/engine/load.rs"),
        include_str!("../../../worker/src/engine/generate.rs"),
        include_str!("../../../worker/src/engine/embed.rs"),
        include_str!("../../../worker/src/engine/native.rs"),
    ];
    let first_text = |rest: &str| rest.split('"').nth(1).map(str::to_owned);
    let made = worker.iter().flat_map(|text| text.split("Refusal::new(").skip(1)).chain(["\"engine_absent\""]);
    let printed = include_str!("../../../worker/src/engine/native.rs").split("\"code\": ").skip(1);
    let codes: std::collections::BTreeSet<String> = made.chain(printed).filter_map(first_text).collect();
    assert!(codes.len() >= 15, "{codes:?}: the pattern no longer fits the source");
    for worker_code in codes {
        let error = EngineError::Refused { code: worker_code.clone(), message: String::new(), hint: None };
        assert!(Code::parse(error.code()).is_some(), "`{}` has no page", error.code());
        let is_general = matches!(worker_code.as_str(), "engine_runtime" | "log_filter");
        assert_eq!(error.code() == "replica_failed", is_general, "`{worker_code}` is mapped to `{}`", error.code());
    }
}
