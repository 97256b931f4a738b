//! File and function sizes, tests not counted. A file that grows usually mixes deciding with doing.

use syn::spanned::Spanned as _;
use syn::visit::Visit;

use super::tree::{RustFile, Tree};
use super::{Finding, Report};

/// Lines a file aims to stay under.
const FILE_AIM: usize = 300;
/// Lines at which a file fails.
const FILE_LIMIT: usize = 800;
/// Code lines of one function, as clippy's `too_many_lines` counts them.
const FUNCTION_LIMIT: usize = 70;

/// Files over the limits and functions over theirs.
pub(crate) fn check(tree: &Tree) -> Report {
    let mut report = Report::default();
    for file in tree.rust.iter().filter(|file| !file.is_test()) {
        let lines = file.text.lines().count().saturating_sub(file.test_lines);
        if lines > FILE_LIMIT {
            report.failures.push(large_file(file, lines, FILE_LIMIT));
        } else if lines > FILE_AIM {
            report.warnings.push(large_file(file, lines, FILE_AIM));
        }
        let mut functions = Functions { file, findings: Vec::new() };
        functions.visit_file(&file.shipped);
        report.failures.extend(functions.findings);
    }
    report
}

fn large_file(file: &RustFile, lines: usize, limit: usize) -> Finding {
    Finding {
        path: file.path.clone(),
        line: 1,
        rule: "file-size",
        what: format!("{lines} lines without tests, over {limit}"),
        why: "a long file usually mixes deciding with doing",
        hint: "split it by decision or by state; tests go to `foo/tests.rs`".to_owned(),
    }
}

struct Functions<'a> {
    file: &'a RustFile,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let (start, end) = (body.span().start().line, body.span().end().line);
        let inside = self.file.text.lines().skip(start).take(end.saturating_sub(start + 1));
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        let lines = inside.filter(is_code).count();
        if lines > FUNCTION_LIMIT {
            self.findings.push(Finding {
                path: self.file.path.clone(),
                line: signature.span().start().line,
                rule: "function-size",
                what: format!("`{}` has {lines} lines of code, over {FUNCTION_LIMIT}", signature.ident),
                why: "a function that does not fit a screen is not read",
                hint: "name its parts".to_owned(),
            });
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.measure(&function.sig, body);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}
