//! Every code a driver can report is one that `galerne explain` knows.

use galerne_api::error::Code;

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
