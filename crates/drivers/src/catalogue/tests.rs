use std::collections::BTreeSet;

use super::*;

/// Licences under which anyone may run a service; an entry with another one needs a decision first.
const OPEN_LICENCES: [&str; 3] = ["Apache-2.0", "MIT", "BSD-3-Clause"];

#[test]
fn every_entry_is_whole_unique_open_and_says_where_its_facts_come_from() {
    let mut seen = BTreeSet::new();
    for entry in entries() {
        for name in names(entry) {
            assert!(seen.insert(name.to_lowercase()), "{name} is there twice");
            assert!(name.len() <= 63 && !name.contains("://"), "{name} is no name");
        }
        assert!(OPEN_LICENCES.contains(&entry.licence.as_str()), "{}: {}", entry.name, entry.licence);
        assert!(!entry.sources.is_empty() && !entry.facts_from.is_empty(), "{}", entry.name);
        assert!(entry.sources.iter().all(|source| !source.is_local()), "{}", entry.name);
        assert!(entry.size_bytes.is_none_or(|bytes| bytes > 1_000_000), "{}", entry.name);
        // What was tried is one file, known to the byte; and nothing is tried that says it was not fetched.
        let is_exact = entry.sha256.is_some() && entry.size_is_exact;
        let is_foreign = entry.facts_from.iter().any(|from| from.contains("not fetched by this project"));
        assert!(entry.tried.is_none() || (is_exact && !is_foreign), "{}", entry.name);
        // A digest makes several sources safe: whatever answers, the bytes are these.
        assert!(entry.sources.len() == 1 || entry.sha256.is_some(), "{}", entry.name);
    }
}

#[test]
fn the_default_model_is_found_by_name_alias_and_any_case() {
    let entry = find("SmolLM2-135M-Instruct").expect("the default model");
    assert_eq!(find("smollm2"), Some(entry));
    assert_eq!((entry.size_bytes, entry.size_is_exact), (Some(98_362_432), true));
    assert_eq!(entry.requantise, Some(Quantisation::Q4_0));
    assert!(entry.tried.is_some());
    assert_eq!(entry.memory_bytes(2048, 4), Some(98_362_432 + 4 * 2048 * 23_040));
    assert_eq!(resolve("smollm2").expect("an alias"), Wanted::Listed(entry));
}

#[test]
fn an_unknown_name_says_which_are_near() {
    let error = resolve("smollm2-135m-instrukt").expect_err("a typo");
    assert_eq!(error.code(), "source_invalid");
    assert!(error.to_string().contains("did you mean `smollm2-135m-instruct`"), "{error}");
    assert!(matches!(resolve("hf://a/b/c.gguf"), Ok(Wanted::Place(Source::HuggingFace(_)))));
    assert_eq!(resolve("hf://a/b").expect_err("no file").code(), "source_invalid");
}
