//! The listening socket: TLS or not, bounded connections, no patience for slow heads.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use galerne_model::limits::{CLIENT_WRITE_TIMEOUT_MS, HEAD_MAX_BYTES};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;

use super::error::StartError;
use crate::config::Config;

/// Connections at once; past it the system's own queue holds new ones. Each costs a few tens of kilobytes.
const CONNECTIONS_MAX: usize = 8_192;
/// Time for the head of a request; a browser takes milliseconds.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time a connection takes nothing of what is written to it. An answer of megabytes would else stay in memory for
/// as long as somebody likes not to read it.
const WRITE_TIMEOUT: Duration = Duration::from_millis(CLIENT_WRITE_TIMEOUT_MS);
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for connections to end by themselves once nothing is in flight; then they are cut.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Streams of one HTTP/2 connection; a client with more opens another connection.
const STREAMS_MAX: u32 = 256;

/// An address that is ours.
pub(super) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<RustlsConfig>,
}

/// A listener that serves.
pub(super) struct Listener {
    handle: Handle<SocketAddr>,
    /// Absent once it has ended and `failed` has told.
    task: Option<JoinHandle<io::Result<()>>>,
}

impl Bound {
    /// Takes the address and reads the certificate.
    pub(super) async fn bind(config: &Config) -> Result<Self, StartError> {
        let address = config.listen;
        let listener = TcpListener::bind(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
            _ => StartError::Bind { address, source },
        })?;
        let bind = |source| StartError::Bind { address, source };
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let tls = match &config.tls {
            Some(files) => {
                let read = RustlsConfig::from_pem_file(&files.cert, &files.key).await;
                Some(read.map_err(|source| StartError::Tls {
                    cert: files.cert.clone(),
                    key: files.key.clone(),
                    source,
                })?)
            }
            None => None,
        };
        Ok(Self { listener, address, tls })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until told to stop.
    pub(super) fn serve(self, router: Router) -> Listener {
        self.serve_with(router, HEAD_TIMEOUT, WRITE_TIMEOUT)
    }

    /// The same with other patience.
    fn serve_with(self, router: Router, head_timeout: Duration, write_timeout: Duration) -> Listener {
        let handle = Handle::new();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let capped = Capped { permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)), write_timeout };
        let (listener, tls, told) = (self.listener, self.tls, handle.clone());
        let serving = async move {
            let mut server = axum_server::from_tcp(listener)?;
            let builder = server.http_builder();
            builder.http1().header_read_timeout(head_timeout).max_buf_size(HEAD_MAX_BYTES.max(MIN_BUFFER));
            builder.http2().max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_LIMIT);
            let server = server.first_request_timeout(head_timeout).handle(told);
            match tls {
                Some(tls) => {
                    let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_TIMEOUT).acceptor(capped);
                    server.acceptor(acceptor).serve(service).await
                }
                None => server.acceptor(capped).serve(service).await,
            }
        };
        // Not on the loops' tracker: it ends first, by its own handle, and `join` waits for it.
        let task = TaskTracker::new().spawn(serving);
        Listener { handle, task: Some(task) }
    }
}

/// hyper refuses buffers below this.
const MIN_BUFFER: usize = 8_192;
const HEAD_LIMIT: u32 = 64 * 1024;

impl Listener {
    /// Ends when serving ends.
    pub(super) async fn failed(&mut self) -> io::Error {
        let Some(task) = &mut self.task else { return io::Error::other("the listener has ended") };
        let ended = task.await;
        self.task = None;
        match ended {
            Ok(Ok(())) => io::Error::other("the listener ended"),
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        }
    }

    /// No new connections; those there are end with their request.
    pub(super) fn stop_accepting(&self) {
        self.handle.graceful_shutdown(None);
    }

    /// Waits for the connections, then cuts them.
    pub(super) async fn join(self) {
        self.stop_accepting();
        let Some(mut task) = self.task else { return };
        let ended = match tokio::time::timeout(CLOSE_GRACE, &mut task).await {
            Ok(ended) => ended,
            Err(_) => {
                // A grace given to the listener itself would not be heard: it has been told to wait without end.
                tracing::debug!(open = self.handle.connection_count(), "connections are cut at the end of the drain");
                self.handle.shutdown();
                task.await
            }
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the listener ended with an error"),
            Err(error) => tracing::error!(%error, "the listener broke"),
        }
    }
}

/// Lets a bounded number of connections in.
#[derive(Debug, Clone)]
struct Capped {
    permits: Arc<Semaphore>,
    write_timeout: Duration,
}

impl<S: Send + 'static> Accept<TcpStream, S> for Capped {
    type Stream = Counted;
    type Service = S;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Counted, S)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // A refused connection costs less than one that waits: the client hears it at once and comes back.
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let write_timeout = self.write_timeout;
        Box::pin(async move {
            let permit = permit.map_err(|_| io::Error::other("too many connections"))?;
            stream.set_nodelay(true)?;
            let counted = Counted { stream, write_timeout, stalled: None, _permit: permit };
            std::future::ready(Ok((counted, service))).await
        })
    }
}

/// A connection that gives its place back when it ends, and ends when nobody reads it.
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    write_timeout: Duration,
    /// Runs while a write waits for the other side.
    stalled: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    /// What a write came to; an error when it has waited too long.
    fn patiently<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side does not read")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.patiently(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);
    /// Longer, because the slow reader may itself be kept waiting by a busy machine.
    const WRITE_PATIENCE: Duration = Duration::from_secs(1);
    /// More than the system's buffers hold.
    const LARGE: usize = 64 * 1024 * 1024;

    fn listener() -> (Listener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("bound");
        let bound = Bound { listener, address, tls: None };
        let large = || async { vec![b'x'; LARGE] };
        let router = Router::new().route("/", get(|| async { "here" })).route("/large", get(large));
        (bound.serve_with(router, PATIENCE, WRITE_PATIENCE), address)
    }

    /// Sends a byte of `head` at a time and says what came back by the time the connection was closed.
    async fn drip(address: SocketAddr, head: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let (mut reader, mut writer) = stream.split();
        let sending = async {
            for byte in head.iter().cycle() {
                tokio::time::sleep(PATIENCE / 10).await;
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        };
        let mut text = Vec::new();
        tokio::select! {
            read = reader.read_to_end(&mut text) => drop(read),
            () = sending => {}
            () = tokio::time::sleep(PATIENCE * 20) => panic!("a head that drips in is waited for without end"),
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn a_head_that_drips_in_is_cut_off_on_a_new_and_on_a_used_connection() {
        let (listener, address) = listener();
        let text = drip(address, b"GET / HTTP/1.1\r\nx-a: b\r\nx-a: b\r\n").await;
        assert!(!text.contains("200"), "{text}");
        let mut used = TcpStream::connect(address).await.expect("it listens");
        used.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HT").await.expect("sent");
        let mut text = Vec::new();
        let closed = tokio::time::timeout(PATIENCE * 20, used.read_to_end(&mut text)).await;
        assert!(closed.is_ok(), "the second head is waited for without end");
        assert!(String::from_utf8_lossy(&text).contains("here"), "the whole request was answered");
        listener.join().await;
    }
    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_given_up_and_a_slow_reader_gets_all_of_it() {
        let (listener, address) = listener();
        let ask = async || {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
            stream
        };
        let mut deaf = ask().await;
        let mut slow = ask().await;
        let mut read = 0;
        let mut part = vec![0; LARGE / 16];
        loop {
            // Longer in all than one write may wait.
            tokio::time::sleep(WRITE_PATIENCE / 10).await;
            match slow.read(&mut part).await.expect("it is not cut") {
                0 => break,
                more => read += more,
            }
        }
        assert!(read > LARGE, "{read}: the body and its head");
        let mut rest = Vec::new();
        let ended = deaf.read_to_end(&mut rest).await;
        assert!(ended.is_err() || rest.len() < LARGE, "what nobody had read was kept: {} bytes", rest.len());
        listener.join().await;
    }
}
