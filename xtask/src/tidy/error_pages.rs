//! Each public error code has a page in `docs/errors`, and each page has a code.

use super::Finding;
use super::tree::Tree;

const FOLDER: &str = "docs/errors/";
const CRATE: &str = "crates/api/src/";
const ENUM: &str = "Code";

/// A code as the enum states it.
struct Code {
    path: String,
    line: usize,
    text: String,
}

/// Codes without page, pages without code.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let codes = codes(tree);
    let page_of = |code: &str| format!("{FOLDER}{code}.md");
    let mut findings: Vec<Finding> = Vec::new();
    for code in codes.iter().filter(|code| tree.text(&page_of(&code.text)).is_none()) {
        findings.push(Finding {
            path: code.path.clone(),
            line: code.line,
            rule: "error-page",
            what: format!("error code `{}` has no page", code.text),
            why: "`galerne explain CODE` shows the page to somebody who is stuck",
            hint: format!("write {}: what it means, why it happens, what to type", page_of(&code.text)),
        });
    }
    for file in tree.texts.iter().filter(|file| file.path.starts_with(FOLDER)) {
        let name = file.path.trim_start_matches(FOLDER).trim_end_matches(".md");
        let is_known = codes.iter().any(|code| code.text == name);
        if !is_known && name != "README" {
            findings.push(Finding {
                path: file.path.clone(),
                line: 1,
                rule: "error-page",
                what: format!("no error code is called `{name}`"),
                why: "documents state what is",
                hint: format!("delete the page, or add the code to `{ENUM}` in {CRATE}"),
            });
        }
    }
    findings
}

fn codes(tree: &Tree) -> Vec<Code> {
    let mut codes = Vec::new();
    for file in tree.rust.iter().filter(|file| file.path.starts_with(CRATE)) {
        for item in &file.shipped.items {
            let syn::Item::Enum(item) = item else { continue };
            if item.ident == ENUM {
                codes.extend(item.variants.iter().map(|variant| Code {
                    path: file.path.clone(),
                    line: variant.ident.span().start().line,
                    text: snake(&variant.ident.to_string()),
                }));
            }
        }
    }
    codes
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(character.to_lowercase());
    }
    text
}
