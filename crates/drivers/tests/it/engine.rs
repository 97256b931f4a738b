//! Supervision of a worker process, with shell scripts in the worker's place: what is tested is the process, not the engine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use galerne_drivers::engine::{
    EngineError, Health, ProbeTarget, Prober, RunningReplica, WorkerSpec, WorkerTask, quantise,
};
use galerne_drivers::gguf;
use galerne_model::inference::Quantisation;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const READY: &str = r#"echo '{"ready":true,"addr":"127.0.0.1:4242","backend":"cpu","context":2048,"sequences":4,"model_bytes":1,"memory_bytes":2,"load_ms":3}'"#;

struct Bench {
    directory: tempfile::TempDir,
    tasks: TaskTracker,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory"), tasks: TaskTracker::new() }
    }

    fn script(&self, text: &str) -> PathBuf {
        let path = self.directory.path().join("worker");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
        path
    }

    fn spec(&self, text: &str) -> WorkerSpec {
        WorkerSpec {
            program: self.script(text),
            model: "/models/tiny.gguf".into(),
            name: "tiny".to_owned(),
            context_tokens: Some(2048),
            sequences: None,
            threads: Some(1),
            queue: None,
            task: WorkerTask::Generate,
            log: self.directory.path().join("logs/replica-1.log"),
            start_deadline: Duration::from_secs(20),
        }
    }

    async fn start(&self, text: &str) -> Result<RunningReplica, EngineError> {
        RunningReplica::start(&self.spec(text), &self.tasks).await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("logs/replica-1.log")).expect("a log")
    }

    /// All supervision has ended; nothing is left running.
    async fn settled(self) {
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(20), self.tasks.wait()).await.expect("every task ends");
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_when_it_says_so_and_stops_when_told() {
    let bench = Bench::new();
    // Standard input stays open as long as we hold it; `cat` ends when we let go or when it is terminated.
    let replica =
        bench.start(&format!("echo \"args: $*\" >&2\n{READY}\nexec cat >/dev/null")).await.expect("it is ready");
    assert_eq!(replica.url(), "http://127.0.0.1:4242");
    assert_eq!((replica.ready().context, replica.ready().sequences), (2048, 4));
    assert!(replica.exited().borrow().is_none());
    let exit = replica.stop(Duration::from_secs(10)).await;
    assert_eq!((exit.signal, exit.was_asked), (Some(15), true));
    assert!(!is_alive(replica.pid()));
    assert!(bench.log().contains("args: serve --model /models/tiny.gguf --name tiny --context 2048 --threads 1"));
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pipe_that_keeps_a_worker_alive_stays_open_while_it_runs() {
    let bench = Bench::new();
    // `timeout` reports 124 when `cat` was still waiting for the end of its input.
    let look = "timeout 0.2 cat >/dev/null; echo \"pipe: $?\" >&2";
    let replica = bench.start(&format!("{look}\n{READY}\n{look}\nexec cat >/dev/null")).await.expect("it is ready");
    let mut exited = replica.exited();
    let seen = async {
        while bench.log().matches("pipe: ").count() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = seen => {}
        exit = exited.wait_for(Option::is_some) => panic!("{exit:?}"),
    }
    assert_eq!(bench.log(), "pipe: 124\npipe: 124\n");
    replica.stop(Duration::from_secs(10)).await;
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_will_not_stop_is_killed_after_its_grace() {
    let bench = Bench::new();
    let replica =
        bench.start(&format!("trap '' TERM\n{READY}\nwhile :; do sleep 0.05; done")).await.expect("it is ready");
    let exit = replica.stop(Duration::from_millis(50)).await;
    assert_eq!((exit.signal, exit.was_asked), (Some(9), true));
    assert!(!is_alive(replica.pid()));
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_ends_with_the_handle_that_held_it() {
    let bench = Bench::new();
    let replica = bench.start(&format!("{READY}\nexec cat >/dev/null")).await.expect("it is ready");
    let (pid, mut exited) = (replica.pid(), replica.exited());
    drop(replica);
    let exit = exited.wait_for(Option::is_some).await.expect("its end is told").clone();
    assert!(exit.is_some_and(|exit| exit.was_asked) && !is_alive(pid));
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_told_with_the_signal_and_the_last_words() {
    let bench = Bench::new();
    let script = format!("{READY}\necho 'GGML_ASSERT failed' >&2\nkill -ABRT $$");
    let replica = bench.start(&script).await.expect("it is ready");
    let mut exited = replica.exited();
    let exit = exited.wait_for(Option::is_some).await.expect("its end is told").clone().expect("just waited for");
    assert_eq!((exit.signal, exit.was_asked), (Some(6), false));
    assert!(exit.to_string().ends_with("ended it; its last words: GGML_ASSERT failed"), "{exit}");
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_the_workers_code_words_and_hint() {
    let bench = Bench::new();
    let script = r#"echo '{"ready":false,"code":"engine_memory","message":"needs 9 GB, 4 GB are free","hint":"lower the context"}'; exit 3"#;
    let error = bench.start(script).await.expect_err("it refuses");
    assert_eq!((error.code(), error.to_string().as_str()), ("not_enough_memory", "needs 9 GB, 4 GB are free"));
    assert_eq!((error.hint(), error.is_retryable()), (Some("lower the context"), false));
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_start_that_fails_says_how() {
    for (script, code, words) in [
        ("echo 'illegal model' >&2; exit 7", "replica_failed", "exit code 7; its last words: illegal model"),
        ("echo 'hello'; exec cat", "replica_failed", "`hello`"),
        (r#"echo '{"ready":true,"addr":"nowhere"}'; exec cat"#, "replica_failed", "nowhere"),
        ("head -c 1000000 /dev/zero; exec cat", "replica_failed", "first line"),
    ] {
        let bench = Bench::new();
        let error = bench.start(script).await.expect_err(script);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{script}: {error}");
        bench.settled().await;
    }
    let bench = Bench::new();
    let missing = WorkerSpec { program: "/nowhere/galerne-worker".into(), ..bench.spec("") };
    let error = RunningReplica::start(&missing, &bench.tasks).await.expect_err("no such program");
    assert_eq!((error.code(), error.is_retryable()), ("worker_missing", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_gets_ready_is_ended_at_its_deadline() {
    let bench = Bench::new();
    let pid_file = bench.directory.path().join("pid");
    let script = format!("echo $$ > {}\necho 'loading' >&2\nexec sleep 600", pid_file.display());
    let spec = WorkerSpec { start_deadline: Duration::from_millis(500), ..bench.spec(&script) };
    let error = RunningReplica::start(&spec, &bench.tasks).await.expect_err("too slow");
    assert_eq!((error.code(), error.is_retryable()), ("replica_failed", true));
    if let Ok(pid) = fs::read_to_string(&pid_file) {
        assert!(!is_alive(pid.trim().parse().expect("a process id")));
    }
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requantising_is_the_workers_command_and_its_failure_is_told() {
    let bench = Bench::new();
    let (input, output) = (bench.directory.path().join("in.gguf"), bench.directory.path().join("out.gguf"));
    let log = bench.directory.path().join("logs/quantise.log");
    let run = |script: &str| {
        let program = bench.script(script);
        let (input, output, log) = (input.clone(), output.clone(), log.clone());
        async move {
            let cancel = CancellationToken::new();
            quantise(&program, &input, &output, Quantisation::Q4_0, &log, Duration::from_secs(20), &cancel).await
        }
    };
    let error = run("echo 'not a model' >&2; exit 1").await.expect_err("it fails");
    assert_eq!(error.to_string(), "requantising failed: it ended with exit code 1; its last words: not a model");
    let refused =
        r#"echo '{"ready":false,"code":"quantize_failed","message":"the disk is full","hint":"free some"}'; exit 3"#;
    let error = run(refused).await.expect_err("it refuses");
    assert_eq!((error.code(), error.to_string().as_str()), ("requantise_failed", "the disk is full"));
    run(r#"[ "$1 $4 $5" = "quantize --type q4_0" ] && echo new > "$3""#).await.expect("it writes the file");
    assert_eq!(fs::read_to_string(&output).expect("the new file"), "new\n");
    let chatty = r#"echo '{"wrote":1}'; head -c 300000 /dev/zero && echo newer > "$3""#;
    run(chatty).await.expect("whatever it says after its line does not hold it up");
    assert_eq!(fs::read_to_string(&output).expect("the new file"), "newer\n");
}

/// Where the built engine and a model lie, for machines that have them.
#[expect(clippy::disallowed_methods, reason = "tests are told by their runner where the engine is")]
fn real_engine() -> Option<(PathBuf, PathBuf)> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    Some((path("GALERNE_TEST_WORKER")?, path("GALERNE_TEST_MODEL")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_worker_serves_is_probed_and_stops() {
    let Some((program, model)) = real_engine() else {
        eprintln!("skipped: GALERNE_TEST_WORKER and GALERNE_TEST_MODEL are not set");
        return;
    };
    let bench = Bench::new();
    let spec = WorkerSpec {
        program: program.clone(),
        model: model.clone(),
        sequences: Some(2),
        start_deadline: Duration::from_secs(120),
        ..bench.spec("")
    };
    let replica = RunningReplica::start(&spec, &bench.tasks).await.expect("it is ready");
    let prober = Prober::new(Duration::from_secs(5)).expect("a client");
    let health = prober.probe(&replica.url(), ProbeTarget::Worker).await;
    assert!(matches!(health, Health::Ready { .. }), "{health:?}");
    let known = prober.probe(&replica.url(), ProbeTarget::External { model: "tiny", key: None }).await;
    assert!(matches!(known, Health::Ready { .. }), "{known:?}");
    let other = prober.probe(&replica.url(), ProbeTarget::External { model: "large", key: None }).await;
    assert_eq!(other, Health::Unready { why: "it does not know the model `large`; it knows `tiny`".to_owned() });
    let exit = replica.stop(Duration::from_secs(20)).await;
    assert_eq!((exit.code, exit.was_asked), (Some(0), true), "{exit}: {:?}", exit.last_lines);
    assert!(matches!(prober.probe(&replica.url(), ProbeTarget::Worker).await, Health::Unready { .. }));

    let output = bench.directory.path().join("q4_0.gguf");
    let log = bench.directory.path().join("logs/quantise.log");
    let cancel = CancellationToken::new();
    quantise(&program, &model, &output, Quantisation::Q4_0, &log, Duration::from_secs(120), &cancel)
        .await
        .expect("it is written");
    let facts = gguf::read_file(&output).expect("a sound model");
    assert_eq!((facts.quantisation.as_str(), facts.parameter_count), ("Q4_0", 134_515_008));
    bench.settled().await;
}

/// The model with one of its parts changed, or cut.
fn damaged(bench: &Bench, name: &str, damage: impl FnOnce(Vec<u8>) -> Vec<u8>) -> PathBuf {
    let (_, model) = real_engine().expect("asked before");
    let path = bench.directory.path().join(name);
    fs::write(&path, damage(fs::read(model).expect("the model"))).expect("a file");
    path
}

/// The text in the head of the file replaced by one as long.
fn renamed(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let head_end = bytes.windows(21).position(|part| part == b"tokenizer.ggml.tokens").expect("its vocabulary");
    for at in 0..head_end - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_real_worker_refuses_has_a_public_code_the_numbers_and_a_next_step() {
    let Some((program, model)) = real_engine() else {
        eprintln!("skipped: GALERNE_TEST_WORKER and GALERNE_TEST_MODEL are not set");
        return;
    };
    let bench = Bench::new();
    let spec = WorkerSpec { program, start_deadline: Duration::from_secs(120), sequences: Some(1), ..bench.spec("") };
    let with = |model: PathBuf| WorkerSpec { model, ..spec.clone() };
    let cut = damaged(&bench, "cut.gguf", |bytes| bytes[..1_000_000].to_vec());
    let other = damaged(&bench, "other.gguf", |bytes| renamed(bytes, "llama", "alien"));
    // Two tokens with one text: llama.cpp aborts on its own assertion.
    let twice = damaged(&bench, "twice.gguf", |mut bytes| {
        let and = [&5_u64.to_le_bytes()[..], "Ġand".as_bytes()].concat();
        let at = bytes.windows(and.len()).position(|part| part == and).expect("a token") + 8;
        bytes[at..at + 5].copy_from_slice("Ġthe".as_bytes());
        bytes
    });
    let hostile = damaged(&bench, "hostile.gguf", |mut bytes| {
        bytes[8..16].fill(0xff);
        bytes
    });
    let huge = WorkerSpec { context_tokens: Some(8_192), sequences: Some(256), ..with(model.clone()) };
    let long = WorkerSpec { context_tokens: Some(100_000), ..with(model.clone()) };
    for (spec, code, words) in [
        (with(cut), "gguf_invalid", "1000000"),
        (with(hostile), "gguf_invalid", "tensors"),
        (with(other), "model_unsupported", "model: unknown model architecture: 'alien'"),
        (with(twice), "model_unsupported", "llama.cpp gave up on the model: llama-vocab.cpp"),
        (with("/nowhere/m.gguf".into()), "weights_unreadable", "/nowhere/m.gguf"),
        (huge, "not_enough_memory", "MiB are available"),
        (long, "invalid_value", "the model was trained for 8192"),
    ] {
        let error = RunningReplica::start(&spec, &bench.tasks).await.expect_err(code);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(words), "{code}: {error}");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()) && !error.is_retryable(), "{code}");
    }
    let output = bench.directory.path().join("q8_0.gguf");
    let (log, cancel) = (bench.directory.path().join("logs/quantise.log"), CancellationToken::new());
    let cut = damaged(&bench, "cut.gguf", |bytes| bytes[..1_000_000].to_vec());
    let error = quantise(&spec.program, &cut, &output, Quantisation::Q8_0, &log, Duration::from_secs(60), &cancel)
        .await
        .expect_err("cut off");
    assert_eq!(error.code(), "gguf_invalid", "{error}");
    bench.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_of_the_real_worker_is_told_as_one() {
    let Some((program, model)) = real_engine() else {
        eprintln!("skipped: GALERNE_TEST_WORKER and GALERNE_TEST_MODEL are not set");
        return;
    };
    let bench = Bench::new();
    let spec =
        WorkerSpec { program, model, sequences: Some(1), start_deadline: Duration::from_secs(120), ..bench.spec("") };
    let replica = RunningReplica::start(&spec, &bench.tasks).await.expect("it is ready");
    let pid = i32::try_from(replica.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).expect("our own child");
    let mut exited = replica.exited();
    let exit = exited.wait_for(Option::is_some).await.expect("its end is told").clone().expect("just waited for");
    assert_eq!((exit.signal, exit.was_asked), (Some(6), false));
    assert!(exit.to_string().starts_with("signal 6 (abort: the engine found an error of its own) ended it"), "{exit}");
    bench.settled().await;
}
