//! What an endpoint charges: its own price, else that of its model in the newest price book, else the book's default.
//!
//! INVARIANT: an entry of the book applies by what only operators and the bytes themselves decide: the digest of the
//! weights, the catalogue entry whose bytes they are, the name that an external server knows its model by. What a tenant
//! calls its model counts for nothing, so nobody gets a price by choosing a name.
//! INVARIANT: nothing is free unless somebody wrote a zero: without any book the standard price applies.

use galerne_drivers::catalogue::{self, Entry};
use galerne_model::ids::PriceBookId;
use galerne_model::inference::{Backend, Endpoint, Model, ModelSpec};
use galerne_model::money::{DIGEST_PREFIX, PriceBook, TokenPrice};

/// The price of an endpoint and the book it came from. `model` is what its workers serve.
pub(crate) fn of(
    endpoint: &Endpoint,
    model: Option<&Model>,
    book: Option<&PriceBook>,
) -> (TokenPrice, Option<PriceBookId>) {
    if let Some(price) = endpoint.spec.price {
        return (price, None);
    }
    let Some(book) = book else { return (TokenPrice::STANDARD, None) };
    let names = match &endpoint.spec.backend {
        Backend::Worker { .. } => model.map(|model| names_of(&model.spec)).unwrap_or_default(),
        Backend::External { upstream_model, .. } => vec![upstream_model.clone()],
    };
    let entry = |name: &String| book.spec.models.iter().find(|entry| entry.model == *name);
    (names.iter().find_map(entry).map_or(book.spec.default, |entry| entry.price), Some(book.id))
}

/// What a book may know these weights by, the most exact first.
fn names_of(spec: &ModelSpec) -> Vec<String> {
    let digests = std::iter::once(&spec.sha256).chain(&spec.source_sha256);
    let mut names: Vec<String> = digests.map(|digest| format!("{DIGEST_PREFIX}{digest}")).collect();
    for entry in catalogue::entries().iter().filter(|entry| is_of(entry, spec)) {
        names.push(entry.name.clone());
        names.extend(entry.aliases.iter().cloned());
    }
    names
}

/// Whether weights are those of a catalogue entry: by digest where the catalogue knows it, else by where they came from.
fn is_of(entry: &Entry, spec: &ModelSpec) -> bool {
    match &entry.sha256 {
        Some(digest) => {
            let digest = digest.to_string();
            spec.sha256 == digest || spec.source_sha256.as_ref() == Some(&digest)
        }
        None => entry.sources.iter().any(|source| source.to_string() == spec.source),
    }
}

#[cfg(test)]
mod tests {
    use galerne_model::inference::ModelFacts;
    use galerne_model::units::Bytes;

    use super::*;

    fn weights(source: &str, sha256: &str, source_sha256: Option<&str>) -> ModelSpec {
        ModelSpec {
            source: source.to_owned(),
            sha256: sha256.to_owned(),
            source_sha256: source_sha256.map(str::to_owned),
            licence: "Apache-2.0".to_owned(),
            size: Bytes(1),
            facts: ModelFacts::default(),
            notes: Vec::new(),
        }
    }

    fn pinned() -> (&'static Entry, String) {
        let mut entries = catalogue::entries().iter();
        let found = entries.find_map(|entry| Some((entry, entry.sha256.as_ref()?.to_string())));
        found.expect("some entries are pinned")
    }

    #[test]
    fn weights_are_a_catalogue_entrys_by_their_bytes_wherever_they_came_from() {
        let (entry, digest) = pinned();
        let own = weights("https://example.org/cheap.gguf", &digest, None);
        assert!(names_of(&own).contains(&entry.name));
        let requantised = weights("https://example.org/cheap.gguf", &"1".repeat(64), Some(&digest));
        assert!(names_of(&requantised).contains(&entry.name), "requantised at import, it is still that model");
    }

    #[test]
    fn other_bytes_from_the_same_place_are_not_the_entrys() {
        let (entry, _) = pinned();
        let source = entry.sources[0].to_string();
        assert_eq!(names_of(&weights(&source, &"1".repeat(64), None)), [format!("sha256:{}", "1".repeat(64))]);
    }

    #[test]
    fn an_entry_without_a_digest_is_known_by_its_source() {
        let entry = catalogue::entries().iter().find(|entry| entry.sha256.is_none()).expect("some are not pinned");
        let found = names_of(&weights(&entry.sources[0].to_string(), &"1".repeat(64), None));
        assert!(found.contains(&entry.name), "{found:?}");
        assert_eq!(names_of(&weights("https://example.org/x.gguf", &"1".repeat(64), None)).len(), 1);
    }
}
