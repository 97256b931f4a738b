//! Reading a request's body: bounded in bytes and in time, valid UTF-8.

use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use galerne_api::error::Code;
use galerne_model::limits;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use crate::refusal::Refusal;

/// Bytes of a too large body that are read and thrown away, so that the client gets to read the refusal instead of a reset.
const DISCARD_MAX_BYTES: usize = 128 * 1024 * 1024;
/// Longest time spent on throwing away.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// Slowest body: below that of any line people work on. One that drips in would keep a place in this process for minutes.
const RATE_MIN_BYTES_PER_SECOND: u64 = 16 * 1024;

/// The whole body as text; `pause` is the longest between two parts of it, and the longest that all of it may lag behind
/// [`RATE_MIN_BYTES_PER_SECOND`].
pub(crate) async fn read<B>(headers: &HeaderMap, body: B, pause: Duration) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let announced: Option<usize> =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let mut body = body;
    if announced.is_some_and(|length| length > limits::INFERENCE_BODY_MAX_BYTES) {
        return Err(too_large(&mut body, announced).await);
    }
    let mut whole = Whole::Nothing;
    let begun = Instant::now();
    loop {
        let due = Duration::from_millis(whole.len() as u64 * 1000 / RATE_MIN_BYTES_PER_SECOND);
        let until = (begun + due + pause).min(Instant::now() + pause);
        let Some(frame) = timeout_at(until, body.frame()).await.map_err(|_| too_slow(pause))? else { break };
        let Ok(part) = frame.map_err(|_| broken())?.into_data() else { continue };
        if whole.len() + part.len() > limits::INFERENCE_BODY_MAX_BYTES {
            drop(whole);
            return Err(too_large(&mut body, announced).await);
        }
        whole.add(part, announced);
    }
    let whole = whole.finish();
    match std::str::from_utf8(&whole) {
        Ok(_) => Ok(whole),
        Err(error) => {
            let at = error.valid_up_to();
            Err(Refusal::new(Code::MalformedJson, format!("the body is not UTF-8: byte {at} cannot be read")))
        }
    }
}

/// What of a body has arrived. One that came in one part, as most do, is not copied.
enum Whole {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Whole {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(part) => part.len(),
            Self::Many(parts) => parts.len(),
        }
    }

    fn add(&mut self, part: Bytes, announced: Option<usize>) {
        let mut parts = match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => {
                *self = Self::One(part);
                return;
            }
            Self::One(first) => {
                let mut parts = BytesMut::with_capacity(announced.unwrap_or(0).max(first.len() + part.len()));
                parts.extend_from_slice(&first);
                parts
            }
            Self::Many(parts) => parts,
        };
        parts.extend_from_slice(&part);
        *self = Self::Many(parts);
    }

    fn finish(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(part) => part,
            Self::Many(parts) => parts.freeze(),
        }
    }
}

async fn too_large<B>(body: &mut B, announced: Option<usize>) -> Refusal
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let discard = async {
        let mut seen = 0;
        while seen < DISCARD_MAX_BYTES
            && let Some(Ok(frame)) = body.frame().await
        {
            seen += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Running out of time here only means that the client may not read why it was refused.
    let in_time = timeout(DISCARD_TIMEOUT, discard).await.is_ok();
    tracing::debug!(in_time, "body above the limit thrown away");
    let most = limits::INFERENCE_BODY_MAX_BYTES;
    let size = announced.map_or_else(String::new, |length| format!(" and this one has {length}"));
    Refusal::new(Code::BodyTooLarge, format!("a request body may have {most} bytes{size}"))
}

fn too_slow(pause: Duration) -> Refusal {
    let (seconds, rate) = (pause.as_secs_f32(), RATE_MIN_BYTES_PER_SECOND / 1024);
    let text = format!("the body did not go on for {seconds} seconds, or came at less than {rate} KiB a second");
    Refusal::new(Code::RequestTimeout, text).retry_after(Duration::from_secs(1))
}

fn broken() -> Refusal {
    Refusal::new(Code::RequestTimeout, "the body ended before its announced length")
}
