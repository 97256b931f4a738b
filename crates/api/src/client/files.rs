//! Uploads: a form whose file is read as it is sent, so that its size does not matter.

use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;

use super::{Answer, Call, Client, Failure};

/// What is read of the file at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// A file on its way to `/v1/files`.
#[derive(Debug)]
pub struct Upload {
    /// Its name there.
    pub filename: String,
    /// The other fields of the form.
    pub fields: Vec<(String, String)>,
    /// Where its bytes are.
    pub file: tokio::fs::File,
    /// How many there are.
    pub size: u64,
}

impl Client {
    /// Sends a file. It is not sent again when that fails: the file would have to be read from its start.
    pub async fn upload<T: DeserializeOwned>(&self, upload: Upload) -> Result<T, Failure> {
        let Upload { filename, fields, mut file, size } = upload;
        let boundary = format!("galerne-{}", uuid::Uuid::now_v7().simple());
        let mut head = String::new();
        for (name, value) in fields {
            head.push_str(&format!(
                "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            ));
        }
        let named: String = filename.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
        head.push_str(&format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{named}\"\r\ncontent-type: application/octet-stream\r\n\r\n"
        ));
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + size + tail.len() as u64;
        let (mut sender, receiver) = tokio::io::duplex(PIECE_BYTES);
        let write = async move {
            use tokio::io::AsyncWriteExt as _;
            sender.write_all(head.as_bytes()).await?;
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                match file.read(&mut piece).await? {
                    0 => break,
                    read => sender.write_all(&piece[..read]).await?,
                }
            }
            sender.write_all(tail.as_bytes()).await?;
            sender.shutdown().await
        };
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(receiver));
        let request = self
            .request(&Call::new(Method::POST, "/v1/files"))?
            .header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
            .header(CONTENT_LENGTH, length)
            .body(body);
        let failed = |source| Failure::Http { url: self.base.to_string(), source };
        // What the server says goes first: it may refuse before it has read everything, which ends the writing.
        let (sent, written) = tokio::join!(request.send(), write);
        let response = match (sent, written) {
            (Ok(response), _) => response,
            (Err(_), Err(source)) if source.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(Failure::Write { source });
            }
            (Err(source), _) => return Err(failed(source)),
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.map_err(failed)?.to_vec();
        let answer = Answer { status, headers, body };
        if answer.status < 400 { answer.json() } else { Err(answer.failure()) }
    }
}
