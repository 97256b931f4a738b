//! The committed document: that it is fresh, and that answers keep what it promises.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use serde_json::{Value, json};

/// The document as it is committed.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&galerne_server::document()).expect("the document is JSON"));

static VALIDATORS: LazyLock<Mutex<HashMap<String, std::sync::Arc<jsonschema::Validator>>>> =
    LazyLock::new(Mutex::default);

/// One operation of the document.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) id: String,
    pub(crate) is_open: bool,
}

/// Every operation.
pub(crate) fn operations() -> Vec<Operation> {
    let paths = DOCUMENT["paths"].as_object().expect("there are paths");
    let mut all = Vec::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("a path is an object") {
            let id = operation["operationId"].as_str().expect("every operation has an id").to_owned();
            all.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                id,
                is_open: operation["security"].is_null(),
            });
        }
    }
    all
}

fn committed() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/openapi.json")
}

/// The template a path belongs to.
fn template(path: &str) -> Option<&'static str> {
    let segments: Vec<&str> = path.split('/').collect();
    let paths = DOCUMENT["paths"].as_object()?;
    let fits = |template: &&String| {
        let parts: Vec<&str> = template.split('/').collect();
        parts.len() == segments.len()
            && parts.iter().zip(&segments).all(|(part, segment)| part.starts_with('{') || part == segment)
    };
    // A fixed path comes before one with a parameter.
    paths.keys().filter(fits).min_by_key(|template| template.matches('{').count()).map(String::as_str)
}

/// Panics when an answer is not what the document says. Unknown paths and methods must be problems.
pub(crate) fn check(method: &str, path: &str, status: u16, content_type: &str, body: &[u8]) {
    let operation = template(path).map(|template| (template, &DOCUMENT["paths"][template][method.to_lowercase()]));
    let Some((template, operation)) = operation.filter(|(_, operation)| !operation.is_null()) else {
        assert!(matches!(status, 404 | 405), "{method} {path} is not in the document and answers {status}");
        return check_schema(
            "problem",
            &json!({"$ref": "#/components/schemas/Problem"}),
            body,
            &format!("{method} {path}"),
        );
    };
    let place = format!("{method} {template} → {status}");
    let response = &operation["responses"][status.to_string()];
    assert!(!response.is_null(), "{place} is not in the document: {}", String::from_utf8_lossy(body));
    let media = content_type.split(';').next().unwrap_or("").trim();
    let content = &response["content"][media];
    assert!(!content.is_null(), "{place} answers `{media}`, which is not in the document");
    if media.ends_with("json") {
        check_schema(&place, &content["schema"], body, &place);
    }
}

fn check_schema(key: &str, schema: &Value, body: &[u8], place: &str) {
    let instance: Value = serde_json::from_slice(body)
        .unwrap_or_else(|error| panic!("{place}: not JSON ({error}): {}", String::from_utf8_lossy(body)));
    let cached = VALIDATORS.lock().expect("no test panicked with it").get(key).cloned();
    let validator = cached.unwrap_or_else(|| {
        let mut whole = schema.clone();
        whole["components"] = DOCUMENT["components"].clone();
        whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
        let made = std::sync::Arc::new(
            jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{place}: bad schema: {error}")),
        );
        VALIDATORS.lock().expect("no test panicked with it").insert(key.to_owned(), std::sync::Arc::clone(&made));
        made
    });
    let errors: Vec<String> =
        validator.iter_errors(&instance).map(|error| format!("{} at `{}`", error, error.instance_path())).collect();
    assert!(errors.is_empty(), "{place}: {errors:?}\n{instance:#}");
}

#[test]
fn the_committed_document_is_the_one_this_code_makes() {
    let path = committed();
    let made = galerne_server::document();
    // Under UPDATE the difference is written instead of told; the reviewer reads the diff.
    #[allow(clippy::disallowed_methods, reason = "a test is asked to write by its environment")]
    if std::env::var_os("GALERNE_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
        std::fs::write(&path, &made).expect("written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/reference/openapi.json is stale: run `GALERNE_UPDATE=1 cargo test -p galerne-server --test it document`"
    );
}

#[test]
fn the_document_is_openapi_3_1_and_every_reference_leads_somewhere() {
    assert!(DOCUMENT["openapi"].as_str().expect("a version").starts_with("3.1"));
    let text = galerne_server::document();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a reference ends");
        assert!(!DOCUMENT["components"]["schemas"][name].is_null(), "nothing is called `{name}`");
    }
    let ids: Vec<String> = operations().into_iter().map(|operation| operation.id).collect();
    let unique: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), unique.len());
}

#[test]
fn an_answer_that_is_not_described_is_noticed() {
    let caught = |body: &'static str, status: u16| {
        std::panic::catch_unwind(move || check("GET", "/api/v1/tenants", status, "application/json", body.as_bytes()))
            .is_err()
    };
    assert!(!caught(r#"{"items":[]}"#, 200));
    assert!(caught(r#"{"items":[{"id":"tenant_1"}]}"#, 200));
    assert!(caught(r#"{}"#, 200));
    assert!(caught(r#"{"items":[]}"#, 418));
}
