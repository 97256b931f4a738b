//! Single calls of an API, one connection each: what is set up before a measurement, and read after it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::wire::{self, Chunked, Framing};

/// Longest call.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) status: u16,
    pub(crate) text: String,
    what: String,
}

impl Call {
    /// The body, of a call that succeeded.
    pub(crate) fn json(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "{} was answered {}: {}", self.what, self.status, self.text);
        serde_json::from_str(&self.text)
            .with_context(|| format!("{} was not answered with JSON: {}", self.what, self.text))
    }
}

/// Makes a call and reads the whole answer.
pub(crate) fn call(address: &str, method: &str, path: &str, key: &str, body: Option<&Value>) -> Result<Call> {
    let what = format!("{method} {path} at {address}");
    let asked = || -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        read_answer(&mut stream)
    };
    let bytes = asked().with_context(|| what.clone())?;
    let (head, length) = wire::head(&bytes)?.with_context(|| format!("{what}: the answer broke off"))?;
    let body = &bytes[length..];
    let mut whole = Vec::new();
    if head.framing == Framing::Chunked {
        Chunked::default().feed(body, |part| whole.extend_from_slice(part))?;
    } else {
        whole.extend_from_slice(body);
    }
    Ok(Call { status: head.status, text: String::from_utf8_lossy(&whole).into_owned(), what })
}

/// Until the body is whole or the server closes: the mock keeps its connections.
fn read_answer(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let (mut bytes, mut part) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some((head, length)) = wire::head(&bytes)?
            && let Framing::Length(body) = head.framing
            && bytes.len() >= length + body
        {
            return Ok(bytes);
        }
        match stream.read(&mut part)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
}

/// The sum of a metric over its labels; nothing when it is not there.
pub(crate) fn metric(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        rest.strip_prefix(' ')?.split(' ').next()?.parse::<f64>().ok()
    };
    let values: Vec<f64> = text.lines().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::{call, metric};

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_longer_name_is_mistaken_for_it() {
        let text = "# HELP a_total x\na_total{b=\"1 }\"} 2\na_total{b=\"2\"} 3.5\na_total_more 9\nsingle 4\n";
        assert_eq!(metric(text, "a_total"), Some(5.5));
        assert_eq!(metric(text, "single"), Some(4.0));
        assert_eq!(metric(text, "a"), None);
    }

    #[test]
    fn an_answer_is_read_whole_though_the_server_keeps_the_connection() {
        let mock = crate::mock::tests::in_thread();
        let answer = call(&mock, "GET", "/v1/models", "key", None).unwrap().json().unwrap();
        assert_eq!(answer["data"][0]["id"], "mock");
        let missing = call(&mock, "GET", "/nothing", "key", None).unwrap();
        assert_eq!(missing.status, 404);
        assert!(missing.json().unwrap_err().to_string().contains("GET /nothing"));
    }
}
