//! Starting and stopping: what is refused, what is kept, what the pages say.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use galerne_api::error::Code;
use serde_json::json;

use crate::site::{self, Client, Site};

#[tokio::test]
async fn a_second_start_goes_on_with_the_same_state_and_shows_no_key() {
    let site = Site::new().await;
    site.operator.made("/api/v1/projects", &json!({"name": "kept", "spec": {}})).await;
    let Site { folder, running, operator } = site;
    running.drain().await;
    let running = site::start(folder.path(), &[]).await.expect("it starts again");
    assert_eq!(running.first_key, None);
    let operator = Client { url: running.url.clone(), ..operator };
    assert_eq!(operator.get("/api/v1/projects/kept").await.status, 200);
    let minted = running.mint_key("ready").await.expect("minted");
    let other = Client { key: Some(minted), ..operator.clone() };
    assert_eq!(other.get("/api/v1/whoami").await.status, 200);
    running.drain().await;
}

#[tokio::test]
async fn a_taken_directory_and_a_taken_port_are_told_with_their_codes() {
    let site = Site::new().await;
    let second = site::start(site.folder.path(), &[]).await.err().expect("refused");
    assert_eq!(second.code(), Code::DataDirLocked);
    assert!(second.to_string().contains(&std::process::id().to_string()), "{second}");
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let taken =
        site::start(elsewhere.path(), &[("listen", site.running.address.to_string())]).await.err().expect("refused");
    assert_eq!(taken.code(), Code::AddressInUse);
    assert!(taken.hint().is_some_and(|hint| hint.contains("--listen")));
    assert_eq!(std::fs::read_dir(elsewhere.path()).expect("there").count(), 0, "nothing was touched");
    site.running.drain().await;
}

#[tokio::test]
async fn tls_is_spoken_with_the_given_certificate() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let data = folder.path().join("data");
    let flags = [("tls_cert", cert.display().to_string()), ("tls_key", key.display().to_string())];
    let running = site::start(&data, &flags).await.expect("it starts");
    assert!(running.url.starts_with("https://"));
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).expect("PEM");
    let http = reqwest::Client::builder()
        .tls_certs_only([trusted])
        .resolve("localhost", running.address)
        .build()
        .expect("a client");
    let url = format!("https://localhost:{}/healthz", running.address.port());
    assert_eq!(http.get(url).send().await.expect("answers").status().as_u16(), 200);
    running.drain().await;
    std::fs::write(&key, "nonsense").expect("written");
    let refused = site::start(&data, &flags).await.err().expect("refused");
    assert_eq!(refused.code(), Code::TlsInvalid);
}

#[tokio::test]
async fn pages_are_open_and_metrics_pass_promtool() {
    let site = Site::new().await;
    let nobody = site.client(None);
    for (path, word) in
        [("/", "Galerne"), ("/healthz", "ok"), ("/readyz", "ready"), ("/api/v1/errors/in_use", "# in_use")]
    {
        let reply = nobody.get(path).await;
        assert!(reply.status == 200 && reply.text.contains(word), "{path}: {}", reply.text);
    }
    let document = nobody.get("/api/v1/openapi.json").await;
    assert_eq!(document.text, galerne_server::document());
    let metrics = nobody.get("/metrics").await.text;
    for name in [
        "galerne_api_requests_total",
        "galerne_process_resident_memory_bytes",
        "galerne_ledger_settled_records_total",
        "galerne_build",
    ] {
        assert!(metrics.contains(name), "{name} is missing from\n{metrics}");
    }
    assert!(!metrics.contains("tenant_") && !metrics.contains("key_"), "labels come from closed sets");
    check_with_promtool(&metrics);
    site.running.drain().await;
}

pub(crate) fn check_with_promtool(metrics: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.expect("promtool is installed by the test runner");
    child.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}\n{metrics}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let site = Site::new().await;
    let address = site.running.address;
    // The limit on a head's size answers at once; the limit on its time is the same listener's.
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("it listens");
        let head = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n", "y".repeat(200_000));
        let written = stream.write_all(head.as_bytes());
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        (written.is_ok(), read.is_ok(), text)
    });
    let (_, _, text) = answer.await.expect("it ends");
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431") || text.starts_with("HTTP/1.1 400"), "{text}");
    site.running.drain().await;
}

#[tokio::test]
async fn a_request_that_never_comes_does_not_hold_the_drain() {
    let site = Site::new().await;
    let mut stream = std::net::TcpStream::connect(site.running.address).expect("it listens");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").expect("written");
    assert_eq!(site.operator.get("/healthz").await.status, 200, "the half request has arrived before this one");
    site.running.drain().await;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("set");
    let mut rest = [0; 1];
    let read = stream.read(&mut rest).map_err(|error| error.kind());
    assert!(matches!(read, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "the connection is cut: {read:?}");
}

#[tokio::test]
async fn a_backup_is_made_while_running_and_restores_into_an_empty_directory() {
    let site = Site::new().await;
    site.operator.made("/api/v1/projects", &json!({"name": "kept", "spec": {}})).await;
    let once = [("idempotency-key", "once")];
    let made = site.operator.call("POST", "/api/v1/backups", &once, Some(&json!({}))).await;
    let again = site.operator.call("POST", "/api/v1/backups", &once, Some(&json!({}))).await;
    assert_eq!((made.status, &made.json), (201, &again.json));
    let made = made.json;
    let folders = std::fs::read_dir(site.folder.path().join("backups")).expect("there").count();
    assert_eq!(folders, 1, "the same request twice makes one backup");
    assert_eq!(site.operator.got("/api/v1/backups").await["items"][0]["id"], made["id"]);
    let source = site.folder.path().join(made["folder"].as_str().expect("a folder"));
    let target = tempfile::tempdir().expect("a temporary folder");
    let url = galerne_server::StoreUrl::sqlite(target.path().join("galerne.db"));
    galerne_server::restore(&source, &url).await.expect("it restores");
    // Keys are digests under the pepper: it moves with the state.
    std::fs::create_dir_all(target.path().join("secrets")).expect("made");
    std::fs::copy(site.folder.path().join("secrets/pepper"), target.path().join("secrets/pepper")).expect("copied");
    let operator = site.operator.clone();
    site.running.drain().await;
    let running = site::start(target.path(), &[]).await.expect("it starts on the copy");
    let operator = Client { url: running.url.clone(), ..operator };
    assert_eq!(operator.get("/api/v1/projects/kept").await.status, 200);
    running.drain().await;
}

#[tokio::test]
async fn the_ledger_of_a_new_site_closes_and_exports() {
    let site = Site::new().await;
    let check = site.operator.call("POST", "/api/v1/ledger/check", &[], None).await;
    assert_eq!((check.status, check.json["closes"].as_bool()), (200, Some(true)));
    for of in ["usage", "transfers", "readings"] {
        let csv = site.operator.get(&format!("/api/v1/ledger/export?of={of}&tenant=*")).await;
        assert!(csv.text.lines().next().is_some_and(|line| line.contains(',')), "{of}: {}", csv.text);
    }
    assert_eq!(site.operator.got("/api/v1/costs").await["total"]["charged"]["amount"], "0.000000");
    site.running.drain().await;
}
