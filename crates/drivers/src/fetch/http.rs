//! One file over HTTP: resumed by range, retried with a budget, never redirected to a weaker place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::part::{Landed, Origin, Part};
use super::reach::{self, Guard};
use super::source::{check_http, shown};
use super::{Blobs, FetchError, FetchSettings, OnProgress, Phase, Sha256Digest, blocking};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence inside an answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// A source that sends less, over a window of the settings, counts as one that does not answer: a byte now and then must
/// not hold a download for ever. At this rate 4 GB take 36 hours.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 * 1024;
/// Slow windows in a row before the download is given up.
const SLOW_WINDOWS_MAX: u32 = 3;
/// Redirects followed: hub → content network takes one or two.
const REDIRECTS_MAX: usize = 5;
/// Attempts in a row that bring no byte.
const FRUITLESS_MAX: u32 = 5;
/// Attempts in all: a 1 TB file over a link that breaks every few gigabytes.
const ATTEMPTS_MAX: u32 = 200;
/// Longest delay between two attempts, also when the server asks for more.
const DELAY_MAX: Duration = Duration::from_secs(30);
/// Chunks between socket and disk; at 8 to 64 kB each, a few hundred kilobytes.
const CHUNKS_MAX: usize = 16;

/// A client for model sources and package indexes, behind a guard where not everything may be reached.
pub(super) fn client(settings: &FetchSettings, guard: Option<Arc<Guard>>) -> Result<Client, FetchError> {
    crate::tls::install_provider();
    let mut builder = Client::builder()
        .user_agent(concat!("galerne/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE_TIMEOUT)
        .redirect(redirect_policy(guard.clone()))
        // Only the settings' own proxy, which the guard knows.
        .no_proxy();
    if let Some(guard) = guard {
        builder = builder.dns_resolver(guard);
    }
    if let Some(text) = &settings.proxy {
        let bad = |why: String| FetchError::BadSource { text: "HTTPS_PROXY or ALL_PROXY".to_owned(), why };
        let except = settings.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
        let proxy = reqwest::Proxy::https(text).map_err(|error| bad(words(error)))?;
        builder = builder.proxy(proxy.no_proxy(except));
    }
    builder.build().map_err(|error| FetchError::BadAnswer { place: "the TLS set-up".to_owned(), what: words(error) })
}

/// HTTPS stays HTTPS, and a redirect reaches no further than the first address might have.
fn redirect_policy(guard: Option<Arc<Guard>>) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error("too many redirects");
        }
        if from_https && attempt.url().scheme() != "https" {
            return attempt.error("a redirect from `https://` to `http://` is refused");
        }
        if let Some(Err(private)) = guard.as_ref().map(|guard| guard.check(attempt.url())) {
            return attempt.error(private);
        }
        match check_http(attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(why) => attempt.error(why),
        }
    })
}

/// A file to bring.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) guard: Option<&'a Guard>,
    pub(super) url: Url,
    pub(super) bearer: Option<SecretString>,
    pub(super) max_bytes: u64,
    pub(super) retry_delay: Duration,
    pub(super) pace_window: Duration,
}

/// How fast a source is over all attempts of a download. Counts the time that we wait for it, not what our disk takes.
struct Pace {
    window: Duration,
    waited: Duration,
    bytes: u64,
    slow_windows: u32,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, bytes: 0, slow_windows: 0 }
    }

    /// Time until the window ends.
    fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }

    /// Notes a wait and what it brought; the words for a window that ended too slow.
    fn note(&mut self, waited: Duration, bytes: usize) -> Option<String> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.window {
            return None;
        }
        let least = u128::from(SLOWEST_BYTES_PER_SECOND) * self.waited.as_millis() / 1_000;
        let is_slow = u128::from(self.bytes) < least;
        let what = format!("it sent {} bytes in {} seconds", self.bytes, self.waited.as_secs());
        self.slow_windows = if is_slow { self.slow_windows + 1 } else { 0 };
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_slow.then_some(what)
    }

    fn is_hopeless(&self) -> bool {
        self.slow_windows >= SLOW_WINDOWS_MAX
    }
}

/// How an attempt ended that did not end the download.
enum Attempt {
    /// All bytes are there.
    Whole(Part, Option<u64>),
    /// It broke; worth another.
    Broken { part: Part, why: String, wait: Option<Duration> },
}

/// What an answer allows.
enum Answer {
    /// Body from the first byte.
    FromStart,
    /// Body from where the part ends.
    Continues,
    /// The part was whole already.
    NothingLeft,
}

impl Download<'_> {
    /// Brings the whole file, resuming an earlier try where that is safe.
    pub(super) async fn run(
        &self,
        blobs: &Blobs,
        expected: Option<Sha256Digest>,
        on_progress: &OnProgress,
    ) -> Result<Landed, FetchError> {
        match self.run_once(blobs, expected, on_progress).await {
            // The earlier bytes may have been another file's; without them there is no doubt.
            Err(FetchError::DigestMismatch { .. } | FetchError::WrongLength { .. }) if expected.is_some() => {
                self.run_once(blobs, expected, on_progress).await
            }
            result => result,
        }
    }

    async fn run_once(
        &self,
        blobs: &Blobs,
        expected: Option<Sha256Digest>,
        on_progress: &OnProgress,
    ) -> Result<Landed, FetchError> {
        let place = shown(&self.url);
        if let Some(Err(private)) = self.guard.map(|guard| guard.check(&self.url)) {
            return Err(FetchError::Private { place, what: private.to_string() });
        }
        let (blobs, key) = (blobs.clone(), place.clone());
        let mut part = blocking(move || open_part(&blobs, &key, expected.is_some())).await?;
        let mut fruitless = 0;
        let mut last = String::new();
        let mut pace = Pace::new(self.pace_window);
        for attempt in 1..=ATTEMPTS_MAX {
            let before = part.written_bytes();
            match self.attempt(part, &mut pace, on_progress).await? {
                Attempt::Whole(part, total_bytes) => return blocking(move || part.land(total_bytes, expected)).await,
                Attempt::Broken { part: unfinished, why, wait } => {
                    fruitless = if unfinished.written_bytes() > before { 1 } else { fruitless + 1 };
                    if fruitless >= FRUITLESS_MAX || pace.is_hopeless() {
                        let attempts = if pace.is_hopeless() { attempt } else { fruitless };
                        return Err(FetchError::Unreachable { place, attempts, last: why });
                    }
                    tracing::debug!(%place, attempt, why, "download broke off, trying again");
                    let delay = self.retry_delay.saturating_mul(1 << fruitless.min(10));
                    let delay = wait.unwrap_or(delay).min(DELAY_MAX);
                    tokio::time::sleep(delay).await;
                    // Pauses that a source asks for are time it takes: breaking off after each byte gains it nothing.
                    last = pace.note(delay, 0).unwrap_or(why);
                    part = unfinished;
                }
            }
        }
        Err(FetchError::Unreachable { place, attempts: ATTEMPTS_MAX, last })
    }

    async fn attempt(&self, mut part: Part, pace: &mut Pace, on_progress: &OnProgress) -> Result<Attempt, FetchError> {
        let have = part.written_bytes();
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token.expose_secret());
        }
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
            if let Some(validator) = part.origin().and_then(|origin| origin.validator) {
                request = request.header(IF_RANGE, validator);
            }
        }
        let asked_at = Instant::now();
        let answer = request.send().await;
        let slow = pace.note(asked_at.elapsed(), 0);
        let response = match answer {
            Ok(response) => response,
            Err(error) => match reach::refused(&error).map(ToString::to_string) {
                Some(what) => return Err(FetchError::Private { place: shown(&self.url), what }),
                None if error.is_redirect() || error.is_builder() => return Err(self.bad_answer(words(error))),
                None => return Ok(Attempt::Broken { part, why: words(error), wait: None }),
            },
        };
        if let Some(why) = slow {
            return Ok(Attempt::Broken { part, why, wait: None });
        }
        let status = response.status();
        if is_passing(status) {
            let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            return Ok(Attempt::Broken { part, why: format!("status {status}"), wait: wait.map(Duration::from_secs) });
        }
        let total_bytes = total_bytes(&response, have);
        self.check_size(&part, total_bytes)?;
        match self.answer(status, response.headers(), have)? {
            Answer::NothingLeft => return Ok(Attempt::Whole(part, total_bytes)),
            Answer::Continues => {}
            Answer::FromStart => {
                let origin = Origin { validator: validator(response.headers()), total_bytes };
                part = blocking(move || part.restart(&origin).map(|()| part)).await?;
            }
        }
        let (part, broken) = self.receive(part, response, total_bytes, pace, on_progress).await?;
        let is_short = total_bytes.is_some_and(|total| part.written_bytes() < total);
        match broken.or_else(|| is_short.then(|| "the connection closed early".to_owned())) {
            Some(why) => Ok(Attempt::Broken { part, why, wait: None }),
            None => Ok(Attempt::Whole(part, total_bytes)),
        }
    }

    fn answer(&self, status: StatusCode, headers: &HeaderMap, have: u64) -> Result<Answer, FetchError> {
        let place = shown(&self.url);
        match status {
            StatusCode::OK => Ok(Answer::FromStart),
            StatusCode::PARTIAL_CONTENT => match content_range(headers) {
                Some((start, _)) if start == have => Ok(Answer::Continues),
                _ => Err(self.bad_answer("it sent another range than the one asked for".to_owned())),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => match content_range(headers) {
                Some((_, Some(total))) if total == have => Ok(Answer::NothingLeft),
                _ => Err(self.bad_answer("the file became shorter while it was fetched; pull again".to_owned())),
            },
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(FetchError::NotFound { place }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(FetchError::Forbidden { place, status: status.as_u16() })
            }
            other => Err(self.bad_answer(format!("status {other}"))),
        }
    }

    /// Socket to disk: the socket is read here, hashing and writing happen off the async threads.
    async fn receive(
        &self,
        mut part: Part,
        mut response: Response,
        total_bytes: Option<u64>,
        pace: &mut Pace,
        on_progress: &OnProgress,
    ) -> Result<(Part, Option<String>), FetchError> {
        let (chunks, mut arriving) = mpsc::channel::<Bytes>(CHUNKS_MAX);
        let (max_bytes, place, on_progress) = (self.max_bytes, shown(&self.url), OnProgress::clone(on_progress));
        let writer = blocking(move || {
            while let Some(chunk) = arriving.blocking_recv() {
                let bytes = part.written_bytes() + chunk.len() as u64;
                if bytes > max_bytes {
                    return Err(FetchError::TooLarge { place, bytes, max_bytes });
                }
                part.append(&chunk)?;
                part.tell(&on_progress, Phase::Receiving, total_bytes);
            }
            Ok(part)
        });
        let reader = async move {
            loop {
                let asked_at = Instant::now();
                let answer = timeout(pace.left(), response.chunk()).await;
                let bytes = answer.as_ref().ok().and_then(|answer| answer.as_ref().ok()?.as_ref().map(Bytes::len));
                let slow = pace.note(asked_at.elapsed(), bytes.unwrap_or(0));
                let Ok(answer) = answer else {
                    match slow {
                        Some(why) => return Some(why),
                        None => continue,
                    }
                };
                match answer {
                    Ok(Some(chunk)) => {
                        if chunks.send(chunk).await.is_err() {
                            // The writer failed and says why itself.
                            return None;
                        }
                        if slow.is_some() {
                            return slow;
                        }
                    }
                    Ok(None) => return None,
                    Err(error) => return Some(words(error)),
                }
            }
        };
        let (written, broken) = tokio::join!(writer, reader);
        Ok((written?, broken))
    }

    fn check_size(&self, part: &Part, total_bytes: Option<u64>) -> Result<(), FetchError> {
        let total = total_bytes.unwrap_or(0);
        if total > self.max_bytes {
            return Err(FetchError::TooLarge { place: shown(&self.url), bytes: total, max_bytes: self.max_bytes });
        }
        part.check_space(total.saturating_sub(part.written_bytes()))
    }

    fn bad_answer(&self, what: String) -> FetchError {
        FetchError::BadAnswer { place: shown(&self.url), what }
    }
}

/// Opens the part and resumes it where its bytes can be trusted: the server can check them, or the digest will.
fn open_part(blobs: &Blobs, place: &str, has_digest: bool) -> Result<Part, FetchError> {
    let mut part = Part::open(blobs, place)?;
    let origin = part.origin();
    let can_resume = origin.is_some_and(|origin| has_digest || origin.validator.is_some());
    if can_resume && part.bytes_on_disk()? > 0 {
        part.resume()?;
    }
    Ok(part)
}

/// Statuses that pass by themselves.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn total_bytes(response: &Response, have: u64) -> Option<u64> {
    match response.status() {
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            let stated = content_range(response.headers()).and_then(|(_, total)| total);
            stated.or_else(|| response.content_length().map(|rest| have + rest))
        }
        StatusCode::OK => response.content_length(),
        _ => None,
    }
}

/// `bytes 100-199/1000` → (100, 1000); `bytes */1000` → (0, 1000).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = if range == "*" { 0 } else { range.split_once('-')?.0.parse().ok()? };
    Some((start, total.parse().ok()))
}

/// What `If-Range` accepts: a strong tag, else a date.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(LAST_MODIFIED))
}

/// An error and its causes in one line, without the URL, which may hold a signature.
pub(super) fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let next = inner.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_servers_write_them() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().expect("a header value"));
            content_range(&headers)
        };
        assert_eq!(headers("bytes 100-199/1000"), Some((100, Some(1000))));
        assert_eq!(headers("bytes 100-199/*"), Some((100, None)));
        assert_eq!(headers("bytes */1000"), Some((0, Some(1000))));
        assert_eq!(headers("items 1-2/3"), None);
        assert_eq!(headers("bytes x-2/3"), None);
    }

    #[test]
    fn a_source_is_slow_by_what_it_sends_while_we_wait_for_it() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(10 * second);
        assert_eq!((pace.note(9 * second, 327_680), pace.left()), (None, second));
        assert_eq!((pace.note(second, 0), pace.left()), (None, 10 * second), "just fast enough");
        let slow = |pace: &mut Pace| pace.note(10 * second, 327_679).is_some();
        assert!(slow(&mut pace) && slow(&mut pace) && !pace.is_hopeless());
        assert_eq!(pace.note(10 * second, 400_000), None);
        assert!(slow(&mut pace) && slow(&mut pace) && !pace.is_hopeless(), "a good window makes up for two slow ones");
        assert_eq!(pace.note(12 * second, 1).as_deref(), Some("it sent 1 bytes in 12 seconds"));
        assert!(pace.is_hopeless());
    }
}
