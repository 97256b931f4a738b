//! Each public error code has a page in `docs/errors`, and each page has a code.

use super::Finding;
use super::tree::Tree;

const FOLDER: &str = "docs/errors/";
const CRATE: &str = "crates/api/src/";
const TABLE: &str = "codes";

/// A code as the table states it.
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
                hint: format!("delete the page, or add the code to the table in {CRATE}"),
            });
        }
    }
    findings
}

/// The rows `Name = "code", …;` of the table `codes! { … }`.
fn codes(tree: &Tree) -> Vec<Code> {
    let mut codes = Vec::new();
    for file in tree.rust.iter().filter(|file| file.path.starts_with(CRATE)) {
        for item in &file.shipped.items {
            let syn::Item::Macro(item) = item else { continue };
            if item.mac.path.is_ident(TABLE) {
                codes.extend(rows(&file.path, item.mac.tokens.clone()));
            }
        }
    }
    codes
}

fn rows(path: &str, tokens: proc_macro2::TokenStream) -> Vec<Code> {
    let tokens: Vec<proc_macro2::TokenTree> = tokens.into_iter().collect();
    let row = |row: &[proc_macro2::TokenTree]| {
        let [
            proc_macro2::TokenTree::Ident(_),
            proc_macro2::TokenTree::Punct(_),
            proc_macro2::TokenTree::Literal(text),
            ..,
        ] = row
        else {
            return None;
        };
        let line = text.span().start().line;
        Some(Code { path: path.to_owned(), line, text: text.to_string().trim_matches('"').to_owned() })
    };
    let ends =
        |token: &proc_macro2::TokenTree| matches!(token, proc_macro2::TokenTree::Punct(mark) if mark.as_char() == ';');
    tokens.split(ends).filter_map(row).collect()
}
