//! A receiver of events, such as the operator's SIEM: one POST per event, signed as Standard Webhooks says.
//!
//! `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `ID.SECONDS.BODY`, so that a receiver knows who sent
//! a body and when, and by `webhook-id` whether it has it already.
//! Deliberately absent: retries and order; they are the caller's.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::Sha256;

/// What a secret begins with; base64 follows.
const SECRET_PREFIX: &str = "whsec_";
/// Bytes a secret may have, as Standard Webhooks says.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer: a receiver stores the event and says so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest pause a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Where events go and what signs them.
#[derive(Clone)]
pub struct Receiver {
    url: Url,
    secret: SecretSlice<u8>,
}

/// An address or a secret that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReceiver {
    /// It is no address.
    #[error("this is not the address of a receiver")]
    Address,
    /// It would send events readable over the network.
    #[error("events cross the network only over `https`; `http` is for a receiver on this machine")]
    NotPrivate,
    /// It holds a password.
    #[error("the address holds a user or a password, which logs would show")]
    Credentials,
    /// The secret is not one.
    #[error("the secret is not `whsec_` and the base64 of 24 to 64 bytes")]
    Secret,
}

/// Why an event was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotTaken {
    /// In words, without the receiver's own text.
    pub why: String,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

/// Sends events to one receiver.
#[derive(Debug, Clone)]
pub struct Webhook {
    client: Client,
    receiver: Receiver,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Receiver").field(&self.origin()).finish()
    }
}

impl Receiver {
    /// Reads an address and a secret as typed.
    pub fn new(url: &str, secret: &str) -> Result<Self, BadReceiver> {
        let url: Url = url.parse().map_err(|_| BadReceiver::Address)?;
        let host = url.host_str().ok_or(BadReceiver::Address)?;
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_loopback = host == "localhost" || literal.is_ok_and(|ip| ip.is_loopback());
        match url.scheme() {
            "https" => {}
            "http" if is_loopback => {}
            "http" => return Err(BadReceiver::NotPrivate),
            _ => return Err(BadReceiver::Address),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadReceiver::Credentials);
        }
        let encoded = secret.trim().strip_prefix(SECRET_PREFIX).ok_or(BadReceiver::Secret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| BadReceiver::Secret)?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(BadReceiver::Secret);
        }
        Ok(Self { url, secret: bytes.into() })
    }

    /// Scheme, host and port, for people: a path or query may hold a token.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// The value of `webhook-signature`.
    pub fn signature(&self, id: &str, seconds: i64, body: &str) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.secret.expose_secret()).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl Webhook {
    /// A sender; builds its connections.
    pub fn new(receiver: Receiver) -> Result<Self, reqwest::Error> {
        crate::tls::install_provider();
        // A receiver that sends elsewhere would send events there too.
        let redirect = reqwest::redirect::Policy::none();
        let builder = Client::builder().redirect(redirect).timeout(ANSWER_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
        // `http` is for a receiver on this machine: a proxy of the environment would carry events away readable.
        let builder = if receiver.url.scheme() == "http" { builder.no_proxy() } else { builder };
        Ok(Self { client: builder.build()?, receiver })
    }

    /// Where events go, for people.
    pub fn origin(&self) -> String {
        self.receiver.origin()
    }

    /// Sends one body; anything but a status of 2xx is not taken.
    pub async fn send(&self, id: &str, now: Timestamp, body: String) -> Result<(), NotTaken> {
        let seconds = now.as_second();
        let signature = self.receiver.signature(id, seconds, &body);
        let request = self
            .client
            .post(self.receiver.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", signature)
            .body(body);
        let answer = request.send().await.map_err(|error| NotTaken { why: words(&error), retry_after: None })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let asks = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        let retry_after = seconds.filter(|_| asks).map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        let note = if status.is_redirection() { ", and redirects are not followed" } else { "" };
        Err(NotTaken { why: format!("the receiver answered HTTP {}{note}", status.as_u16()), retry_after })
    }
}

/// What failed, without the address: it may hold a token.
fn words(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "the receiver did not answer in time"
    } else if error.is_connect() {
        "the receiver cannot be reached"
    } else {
        "the connection to the receiver broke"
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if error.is_timeout() { what.to_owned() } else { format!("{what}: {cause}") }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    // The example of the Standard Webhooks specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_signature_is_the_one_of_the_specification() {
        let receiver = Receiver::new("https://siem.example/hook", SECRET).expect("sound");
        let signed = receiver.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn events_leave_the_machine_only_encrypted_and_signed() {
        let of = |url: &str| Receiver::new(url, SECRET).map(|receiver| receiver.origin());
        assert_eq!(of("https://siem.example:8443/hook?token=x").as_deref(), Ok("https://siem.example:8443"));
        for local in ["http://127.0.0.1:9000/", "http://[::1]:9000/", "http://localhost:9000/"] {
            assert!(of(local).is_ok(), "{local}");
        }
        for open in
            ["http://siem.example/", "http://10.0.0.1/", "http://127.0.0.1.example/", "http://localhost.example/"]
        {
            assert_eq!(of(open), Err(BadReceiver::NotPrivate), "{open}");
        }
        assert_eq!(of("https://me:secret@siem.example/"), Err(BadReceiver::Credentials));
        for bad in ["siem.example", "file:///etc", "https://"] {
            assert_eq!(of(bad), Err(BadReceiver::Address), "{bad}");
        }
        for bad in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_short", "whsec_c2hvcnQ=", "whsec_!"] {
            assert_eq!(Receiver::new("https://x.example/", bad).err(), Some(BadReceiver::Secret), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_receiver_on_this_machine_takes_an_event() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let webhook = Webhook::new(Receiver::new(&url, SECRET).expect("sound")).expect("a client");
        let take = async {
            let (mut connection, _) = listener.accept().await.expect("a sender");
            let mut head = vec![0; 4096];
            let count = connection.read(&mut head).await.expect("a request");
            connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("the sender listens");
            String::from_utf8_lossy(&head[..count]).to_lowercase()
        };
        let send =
            tokio::time::timeout(Duration::from_secs(10), webhook.send("evt_1", Timestamp::UNIX_EPOCH, "{}".into()));
        let (sent, head) = tokio::join!(send, async { tokio::time::timeout(Duration::from_secs(10), take).await });
        assert_eq!(sent.expect("in time"), Ok(()));
        assert!(head.expect("in time").starts_with("post / "), "addressed to the receiver, not to a proxy");
    }

    /// The test above in an environment whose proxy is nobody: an event that went there would not be taken.
    #[test]
    fn an_event_for_this_machine_passes_by_the_proxy() {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this test runs from a file"));
        command.args(["--exact", "webhook::tests::a_receiver_on_this_machine_takes_an_event"]);
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
}
