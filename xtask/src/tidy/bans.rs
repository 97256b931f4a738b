//! Calls that are wrong everywhere but in the few places of `xtask/allowed.toml`.
//!
//! clippy checks the same calls with types resolved; this check also sees an `allow` and makes it answer to the list.

use syn::spanned::Spanned as _;
use syn::visit::Visit;

use super::Finding;
use super::tree::Tree;

/// End of a path, why it is banned, what to do.
const BANS: &[(&[&str], &str, &str)] = &[
    (&["tokio", "spawn"], "a task nobody joins outlives shutdown", "use the task tracker"),
    (&["task", "spawn"], "a task nobody joins outlives shutdown", "use the task tracker"),
    (&["mpsc", "unbounded_channel"], "every queue has a limit", "use a bounded channel"),
    (&["mpsc", "unbounded"], "every queue has a limit", "use a bounded channel"),
    (&["Uuid", "new_v4"], "ids sort by time", "use a typed id over `Uuid::now_v7`"),
    (&["env", "var"], "the environment is read once, by configuration", "take the value as an argument"),
    (&["env", "var_os"], "the environment is read once, by configuration", "take the value as an argument"),
    (&["env", "vars"], "the environment is read once, by configuration", "take the value as an argument"),
    (&["env", "set_var"], "changing the environment of a threaded process is a race", "pass it to the child"),
];

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh"];

/// Every banned path, shell command and glob re-export outside tests; every ignored test.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.rust {
        // The environment is how cargo speaks to a build script.
        let is_build_script = file.path.ends_with("/build.rs");
        let mut calls = Calls { path: &file.path, findings: Vec::new() };
        calls.visit_file(&file.shipped);
        calls.findings.retain(|finding| !(is_build_script && finding.what.starts_with("`env::var")));
        findings.extend(calls.findings);
        let mut ignored = Ignored { path: &file.path, findings: Vec::new() };
        ignored.visit_file(&file.whole);
        findings.extend(ignored.findings);
    }
    findings
}

struct Calls<'a> {
    path: &'a str,
    findings: Vec<Finding>,
}

impl Calls<'_> {
    fn look(&mut self, line: usize, segments: &[String]) {
        for (end, why, hint) in BANS {
            let is_banned = segments.len() >= end.len()
                && segments[segments.len() - end.len()..].iter().zip(*end).all(|(have, banned)| have == banned);
            if is_banned {
                self.push(line, format!("`{}`", end.join("::")), why, hint);
            }
        }
    }

    fn push(&mut self, line: usize, what: String, why: &'static str, hint: &str) {
        let hint = hint.to_owned();
        self.findings.push(Finding { path: self.path.to_owned(), line, rule: "ban", what, why, hint });
    }

    fn look_at_use(&mut self, tree: &syn::UseTree, before: &mut Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.look_at_use(&path.tree, before);
                before.pop();
            }
            syn::UseTree::Name(name) => self.look_at_end(&name.ident, before),
            syn::UseTree::Rename(rename) => self.look_at_end(&rename.ident, before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.look_at_use(tree, before)),
            syn::UseTree::Glob(_) => {}
        }
    }

    fn look_at_end(&mut self, name: &syn::Ident, before: &[String]) {
        let segments: Vec<String> = before.iter().cloned().chain([name.to_string()]).collect();
        self.look(name.span().start().line, &segments);
    }
}

impl<'ast> Visit<'ast> for Calls<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.look(path.span().start().line, &segments);
        syn::visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.look_at_use(&item.tree, &mut Vec::new());
        let is_public = matches!(item.vis, syn::Visibility::Public(_));
        if is_public && is_glob(&item.tree) {
            let line = item.span().start().line;
            self.push(line, "glob re-export".to_owned(), "nobody sees what a crate promises", "name what is exported");
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let (syn::Expr::Path(function), Some(syn::Expr::Lit(literal))) = (&*call.func, call.args.first())
            && let syn::Lit::Str(program) = &literal.lit
            && function.path.segments.iter().any(|segment| segment.ident == "Command")
            && SHELLS.contains(&program.value().rsplit('/').next().unwrap_or_default())
        {
            let line = call.span().start().line;
            self.push(
                line,
                "shell command".to_owned(),
                "a shell splits, expands and hides errors",
                "run the program itself",
            );
        }
        syn::visit::visit_expr_call(self, call);
    }
}

fn is_glob(tree: &syn::UseTree) -> bool {
    match tree {
        syn::UseTree::Glob(_) => true,
        syn::UseTree::Path(path) => is_glob(&path.tree),
        syn::UseTree::Group(group) => group.items.iter().any(is_glob),
        syn::UseTree::Name(_) | syn::UseTree::Rename(_) => false,
    }
}

struct Ignored<'a> {
    path: &'a str,
    findings: Vec<Finding>,
}

impl<'ast> Visit<'ast> for Ignored<'_> {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.findings.push(Finding {
                path: self.path.to_owned(),
                line: attribute.span().start().line,
                rule: "ban",
                what: "`#[ignore]`".to_owned(),
                why: "a test nobody runs guards nothing",
                hint: "make it run, or delete it".to_owned(),
            });
        }
    }
}
