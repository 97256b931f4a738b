//! Each rule is shown a violation planted in a small workspace of its own, and must name it.

use std::process::Command;

use serde_json::json;

use super::tree::Tree;
use super::{Finding, allowed, check, check_files, dependencies, graph, metadata};

/// A git worktree with `files` in it.
fn workspace(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("make the folder");
        std::fs::write(path, text).expect("write the file");
    }
    let git = Command::new("git").args(["init", "--quiet"]).current_dir(folder.path()).status().expect("run git");
    assert!(git.success());
    folder
}

fn findings(files: &[(&str, &str)]) -> Vec<Finding> {
    let folder = workspace(files);
    let tree = Tree::load(folder.path()).expect("the tree can be read");
    check_files(&tree).expect("the rules can be checked").failures
}

fn rules(files: &[(&str, &str)]) -> Vec<(&'static str, usize)> {
    findings(files).iter().map(|finding| (finding.rule, finding.line)).collect()
}

fn one_file(text: &str) -> Vec<(&'static str, usize)> {
    rules(&[("crates/core/src/rating.rs", text), ("crates/core/clippy.toml", "")])
}

fn graph_of(packages: &serde_json::Value) -> Vec<Finding> {
    let document = json!({ "workspace_root": "root", "packages": packages });
    let packages = metadata::parse(&document).expect("the metadata can be read");
    let folder = workspace(&[]);
    graph::check(&packages, &Tree::load(folder.path()).expect("the tree can be read"))
}

fn package(name: &str, dependencies: &serde_json::Value) -> serde_json::Value {
    json!({
        "name": name, "version": "0.1.0", "license": "Apache-2.0", "source": null,
        "manifest_path": format!("root/crates/{name}/Cargo.toml"), "dependencies": dependencies,
    })
}

#[test]
fn a_forbidden_edge_between_crates_is_named_with_what_is_allowed() {
    let edge = json!([{ "name": "galerne-store", "kind": null }]);
    let found = graph_of(&json!([package("galerne-gateway", &edge), package("galerne-store", &json!([]))]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, "crates/galerne-gateway/Cargo.toml");
    assert_eq!(found[0].what, "`gateway` depends on `store`");
    assert_eq!(found[0].hint, "it may depend on model, core, api: pass the value in, or move the code");
}

#[test]
fn an_edge_in_the_table_and_an_edge_for_tests_pass() {
    let edges = json!([{ "name": "galerne-model", "kind": null }, { "name": "galerne-store", "kind": "dev" }]);
    let all = [
        package("galerne-gateway", &edges),
        package("galerne-store", &json!([])),
        package("galerne-model", &json!([])),
    ];
    assert_eq!(graph_of(&json!(all)), []);
}

#[test]
fn a_pure_crate_may_not_take_the_world_from_outside() {
    let edges = json!([{ "name": "tokio", "kind": null }, { "name": "thiserror", "kind": null }]);
    let found = graph_of(&json!([package("galerne-core", &edges)]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].what, "pure crate `core` depends on `tokio`");
}

#[test]
fn a_crate_that_the_table_does_not_know_is_named() {
    let found = graph_of(&json!([package("galerne-everything", &json!([]))]));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].what, "crate `galerne-everything` is not in the table of borders");
}

#[test]
fn a_forbidden_edge_in_a_real_workspace_is_found_through_cargo() {
    let manifest = |name: &str, dependencies: &str| {
        format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\
             [lints]\nworkspace = true\n"
        )
    };
    let core = manifest("galerne-core", "galerne-store = { path = \"../store\" }\n");
    let store = manifest("galerne-store", "");
    let folder = workspace(&[
        ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n\n[workspace.lints]\n"),
        ("crates/core/Cargo.toml", &core),
        ("crates/core/src/lib.rs", "//! Decisions.\n"),
        ("crates/core/clippy.toml", ""),
        ("crates/store/Cargo.toml", &store),
        ("crates/store/src/lib.rs", "//! State.\n"),
    ]);
    let report = check(folder.path()).expect("the rules can be checked");
    let found: Vec<String> = report.failures.iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.what)).collect();
    assert_eq!(
        found,
        [
            "crates/core/Cargo.toml:7: `core` depends on `store`",
            "crates/core/Cargo.toml:7: `galerne-store` is not named in any file of the crate",
        ]
    );
}

fn dependency_findings(deny: &str, name: &str, license: &str, source: &str) -> Vec<&'static str> {
    let from_outside = |name: &str, license: &str, source: &str| {
        json!({ "name": name, "version": "1.0.0", "license": license, "source": source,
                "manifest_path": "elsewhere/Cargo.toml", "dependencies": [] })
    };
    let usual = |name: &str| from_outside(name, "MIT", "registry+usual");
    let all = json!([usual("a"), usual("b"), from_outside(name, license, source)]);
    let document = json!({ "workspace_root": "root", "packages": all });
    let packages = metadata::parse(&document).expect("the metadata can be read");
    let lock = "[[package]]\nname = \"a\"\ndependencies = [\"b\", \"second-clock 1.0.0\"]\n";
    let folder = workspace(&[("deny.toml", deny), ("Cargo.lock", lock)]);
    let tree = Tree::load(folder.path()).expect("the tree can be read");
    let findings = dependencies::check(&packages, &tree).expect("deny.toml can be read");
    findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn licences_sources_and_forbidden_crates_follow_deny_toml() {
    let deny = "[licenses]\nallow = [\"MIT\"]\nexceptions = [{ crate = \"roots\", allow = [\"Odd-1.0\"] }]\n\
                [bans]\ndeny = [{ crate = \"second-clock\", reason = \"one clock\" }]\n";
    assert_eq!(dependency_findings(deny, "c", "MIT OR GPL-3.0", "registry+usual"), [] as [&str; 0]);
    assert_eq!(dependency_findings(deny, "c", "GPL-3.0", "registry+usual"), ["licence"]);
    assert_eq!(dependency_findings(deny, "roots", "Odd-1.0", "registry+usual"), [] as [&str; 0]);
    assert_eq!(dependency_findings(deny, "c", "Odd-1.0", "registry+usual"), ["licence"]);
    assert_eq!(dependency_findings(deny, "second-clock", "MIT", "registry+usual"), ["denied"]);
    let but_for = |wrapper: &str| deny.replace("reason =", &format!("wrappers = [\"{wrapper}\"], reason ="));
    assert_eq!(dependency_findings(&but_for("a"), "second-clock", "MIT", "registry+usual"), [] as [&str; 0]);
    assert_eq!(dependency_findings(&but_for("b"), "second-clock", "MIT", "registry+usual"), ["denied"]);
    assert_eq!(dependency_findings(deny, "c", "MIT", "git+elsewhere"), ["source"]);
    assert_eq!(dependency_findings(deny, "c", "MIT", "registry+other"), ["source"]);
}

#[test]
fn a_long_file_warns_then_fails_and_tests_do_not_count() {
    let lines = |count: usize| format!("//! Words.\n{}", "const A: u8 = 1;\n".repeat(count));
    let warnings = |text: &str| {
        let folder = workspace(&[("crates/store/src/rows.rs", text)]);
        let tree = Tree::load(folder.path()).expect("the tree can be read");
        check_files(&tree).expect("the rules can be checked").warnings.len()
    };
    assert_eq!(warnings(&lines(299)), 0);
    assert_eq!(warnings(&lines(300)), 1);
    assert_eq!(one_file(&lines(799)), []);
    assert_eq!(one_file(&lines(800)), [("file-size", 1)]);
    let mostly_tests = format!("//! Words.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "const A: u8 = 1;\n".repeat(900));
    assert_eq!(one_file(&mostly_tests), []);
    assert_eq!(rules(&[("crates/store/tests/it/main.rs", &lines(900))]), []);
}

#[test]
fn a_function_over_seventy_lines_of_code_fails_wherever_it_stands() {
    let body = |lines: usize| "        let _a = 1;\n        // Why.\n\n".repeat(lines);
    let method = |lines: usize| format!("//! X.\nstruct A;\nimpl A {{\n    fn f() {{\n{}    }}\n}}\n", body(lines));
    assert_eq!(one_file(&method(70)), []);
    assert_eq!(one_file(&method(71)), [("function-size", 4)]);
    let default = format!("//! X.\ntrait A {{\n    fn f() {{\n{}    }}\n}}\n", body(71));
    assert_eq!(one_file(&default), [("function-size", 3)]);
    let test = format!("//! X.\n#[test]\nfn f() {{\n{}}}\n", body(71));
    assert_eq!(one_file(&test), []);
}

#[test]
fn empty_names_are_refused_for_files_modules_and_types() {
    assert_eq!(one_file("//! X.\nstruct LeaseManager;\n"), [("name", 2)]);
    assert_eq!(one_file("//! X.\nenum GpuInfo { A }\n"), [("name", 2)]);
    assert_eq!(one_file("//! X.\nmod string_utils { }\n"), [("name", 2)]);
    assert_eq!(one_file("//! X.\ntrait Service { }\n"), [("name", 2)]);
    assert_eq!(one_file("//! X.\nstruct DataDirectory;\nstruct Informant;\n"), []);
    assert_eq!(rules(&[("crates/store/src/helpers.rs", "//! X.\n")]), [("name", 1)]);
    assert_eq!(rules(&[("crates/store/src/rows/mod.rs", "//! X.\n")]), [("name", 1)]);
}

#[test]
fn banned_calls_are_seen_as_paths_and_as_imports() {
    for line in [
        "fn f() { tokio::spawn(async {}); }",
        "use tokio::spawn;",
        "use tokio::{select, sync::mpsc::unbounded_channel};",
        "fn f() { let _ = mpsc::unbounded_channel::<u8>(); }",
        "fn f() { uuid::Uuid::new_v4(); }",
        "fn f() { let _ = std::env::var(\"A\"); }",
        "fn f() { std::process::Command::new(\"sh\").arg(\"-c\"); }",
        "pub use inner::*;",
        "#[test] #[ignore] fn f() {}",
    ] {
        assert_eq!(one_file(&format!("//! X.\n{line}\n")), [("ban", 2)], "{line}");
    }
    assert_eq!(one_file("//! X.\nfn f() { std::env::args(); Command::new(\"git\"); tracker.spawn(g); }\n"), []);
    assert_eq!(one_file("//! X.\n#[cfg(test)]\nmod tests { fn f() { tokio::spawn(g); } }\n"), []);
    assert_eq!(rules(&[("crates/worker/build.rs", "//! X.\nfn main() { let _ = std::env::var(\"A\"); }\n")]), []);
}

#[test]
fn an_exception_holds_where_it_is_listed_and_a_stale_one_is_named() {
    let code = ("crates/cli/src/settings.rs", "//! X.\nfn f() { let _ = std::env::var(\"A\"); }\n");
    let with_list = |list: &str| {
        let folder = workspace(&[code, ("xtask/allowed.toml", list)]);
        let tree = Tree::load(folder.path()).expect("the tree can be read");
        let failures = check_files(&tree).expect("the rules can be checked").failures;
        let kept = allowed::read(&tree).expect("the list can be read").filter(failures);
        kept.iter().map(|finding| finding.rule).collect::<Vec<_>>()
    };
    let entry = |path: &str| format!("[[allow]]\npath = \"{path}\"\nwhat = \"`env::var`\"\nwhy = \"configuration\"\n");
    let listed = entry("crates/cli/src/settings.rs");
    assert_eq!(with_list(&listed), [] as [&str; 0]);
    assert_eq!(with_list(&entry("crates/cli/src/chat.rs")), ["ban", "allowed"]);
    let many = listed + &entry("crates/cli/src/chat.rs").repeat(allowed::CEILING);
    assert_eq!(with_list(&many).len(), allowed::CEILING + 1, "each stale entry, and the length of the list");
}

#[test]
fn a_nearer_clippy_file_must_repeat_the_root_and_a_pure_crate_must_ban_the_clock() {
    let clock =
        "\"std::time::SystemTime::now\", \"std::time::Instant::now\", \"jiff::Timestamp::now\", \"uuid::Uuid::now_v7\"";
    let root = "too-many-lines-threshold = 70\ndisallowed-methods = [{ path = \"tokio::spawn\", reason = \"r\" }]\n";
    let core = ("crates/core/src/lib.rs", "//! X.\n");
    let with = |text: &str| rules(&[("clippy.toml", root), core, ("crates/core/clippy.toml", text)]).len();
    let complete = format!("too-many-lines-threshold = 70\ndisallowed-methods = [\"tokio::spawn\", {clock}]\n");
    assert_eq!(with(&complete), 0);
    assert_eq!(with(&complete.replace("\"tokio::spawn\", ", "")), 1);
    assert_eq!(with(&complete.replace("= 70", "= 90")), 1);
    assert_eq!(with(&complete.replace("\"uuid::Uuid::now_v7\"", "\"x::y\"")), 1);
    assert_eq!(rules(&[("clippy.toml", root), core]), [("clippy-file", 1)]);
}

#[test]
fn a_file_without_header_an_allow_without_reason_and_a_crate_without_lints_are_named() {
    assert_eq!(one_file("struct A;\n"), [("header", 1)]);
    assert_eq!(one_file("//! X.\n#[allow(dead_code)]\nstruct A;\n"), [("allow", 2)]);
    assert_eq!(one_file("//! X.\n#[expect(dead_code, reason = \"kept for the wire\")]\nstruct A;\n"), []);
    let bare = "[package]\nname = \"a\"\n";
    assert_eq!(rules(&[("crates/a/Cargo.toml", bare)]), [("lints", 1)]);
    assert_eq!(rules(&[("crates/a/Cargo.toml", &format!("{bare}\n[lints]\nworkspace = true\n"))]), []);
}

#[test]
fn a_crate_with_lints_of_its_own_must_repeat_the_workspace_but_may_deny_instead_of_forbid() {
    let root =
        ("Cargo.toml", "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n[workspace.lints.clippy]\ntodo = \"warn\"\n");
    let own = |lints: &str| rules(&[root, ("crates/a/Cargo.toml", &format!("[package]\nname = \"a\"\n{lints}"))]);
    assert_eq!(own("[lints.rust]\nunsafe_code = \"deny\"\n[lints.clippy]\ntodo = \"warn\"\n"), []);
    assert_eq!(own("[lints.rust]\nunsafe_code = \"allow\"\n[lints.clippy]\ntodo = \"warn\"\n"), [("lints", 1)]);
    assert_eq!(own("[lints.rust]\nunsafe_code = \"deny\"\n[lints.clippy]\n"), [("lints", 1)]);
}

#[test]
fn an_error_code_needs_a_page_and_a_page_needs_a_code() {
    let table = "//! X.\ncodes! {\n    NotFound = \"not_found\", 404;\n    Budget = \"budget_exhausted\", 402;\n}\n";
    let codes = ("crates/api/src/error/codes.rs", table);
    let page = |name: &str| (format!("docs/errors/{name}.md"), "why\n");
    let (first, text) = page("not_found");
    let (second, _) = page("budget_exhausted");
    let (third, _) = page("long_gone");
    assert_eq!(rules(&[codes, (&first, text), (&second, text)]), []);
    assert_eq!(rules(&[codes, (&first, text)]), [("error-page", 4)]);
    assert_eq!(rules(&[codes, (&first, text), (&second, text), (&third, text)]), [("error-page", 1)]);
}

#[test]
fn paths_of_one_machine_registry_hosts_and_secrets_are_found_in_any_text_file() {
    let secret = ["galer", "ne_", "aB3dE5gH7jK9mN1pQ3sT5vW7yZ", "9bC1dE3fG5"].concat();
    for line in [
        ["see /ho", "me/anna/notes"].concat(),
        ["out = \"/t", "mp/x\""].concat(),
        ["index = https://py", "pi", ".org/simple"].concat(),
        ["key = ", &secret].concat(),
        ["-----BEG", "IN EC PRIVATE", " KEY-----"].concat(),
    ] {
        assert_eq!(rules(&[("docs/a.md", &format!("first\n{line}\n"))]), [("leak", 2)], "{line}");
    }
    let fine = format!("/proc/meminfo, ~/work/x, $HOME/work/, galerne_{}\n", "x".repeat(36));
    assert_eq!(rules(&[("docs/a.md", &fine)]), []);
}

#[test]
fn documents_point_only_at_what_exists() {
    let lib = ("crates/core/src/lib.rs", "//! X.\n");
    let pure = ("crates/core/clippy.toml", "");
    let page = |text: &str| rules(&[lib, pure, ("docs/a.md", text)]);
    assert_eq!(page("[code](../crates/core/src/lib.rs#L1) and `crates/core/` and `crates/*/src`\n"), []);
    assert_eq!(page("[code](../crates/core/src/gone.rs)\n"), [("document", 1)]);
    assert_eq!(page("\n`crates/core/src/gone.rs`\n"), [("document", 2)]);
    let long = "a\n".repeat(401);
    assert_eq!(rules(&[("docs/ARCHITECTURE.md", &long)]), [("document", 1)]);
}

#[test]
fn what_others_wrote_carries_its_licence() {
    let table = ("crates/agent/vendor/intensity/table.csv", "FR,56\n");
    assert_eq!(rules(&[table]), [("document", 1)]);
    assert_eq!(rules(&[table, ("crates/agent/vendor/intensity/LICENSE", "CC-BY-4.0\n")]), []);
}

#[test]
fn a_file_that_is_not_rust_is_named() {
    assert_eq!(one_file("//! X.\nfn f( {\n"), [("parse", 2)]);
}
