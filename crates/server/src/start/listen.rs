//! The listening socket: TLS or not, bounded connections, no patience for slow heads.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::{Router, middleware};
use axum_server::tls_rustls::RustlsConfig;
use galerne_gateway::Door;
use galerne_model::limits::{CLIENT_WRITE_TIMEOUT_MS, HEAD_MAX_BYTES};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::ServiceExt as _;

use super::certificate::{self, Certificate};
use super::descriptors;
use super::error::StartError;
use super::lanes::Lanes;
use super::unread::{self, Watch};
use crate::config::Config;

/// Connections at once; further ones are closed. An idle one costs some ten kilobytes (tests/campaign/faults.py measures it).
const CONNECTIONS_MAX: usize = 12_288;
/// Connections that the system keeps until they are taken; past it, a client's first packet is lost and sent again a second
/// later. The standard library has 128, which a burst fills.
const BACKLOG: u32 = 4_096;
/// Time for the head of a request; a browser takes milliseconds.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time a connection takes nothing of what is written to it. An answer of megabytes would else stay in memory for
/// as long as somebody likes not to read it.
const WRITE_TIMEOUT: Duration = Duration::from_millis(CLIENT_WRITE_TIMEOUT_MS);
/// Longest time a stream of HTTP/2 has no room for more. Longer than a write over HTTP/1: clients grant room by halves of
/// what they keep, a megabyte or more, as their program takes it.
const ROOM_TIMEOUT: Duration = Duration::from_millis(4 * CLIENT_WRITE_TIMEOUT_MS);
/// When the other side of an HTTP/2 connection that says nothing is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Time to say so: on a slow line the question waits behind what is on its way.
const PING_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time for connections to end by themselves once nothing is in flight; then they are cut.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Streams of one HTTP/2 connection; a client with more opens another connection.
const STREAMS_MAX: u32 = 256;

/// An address that is ours, and who will serve there.
pub(crate) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Certificate>,
    lanes: Lanes,
}

/// A listener that serves.
pub(crate) struct Listener {
    /// Absent once it has ended and `failed` has told.
    task: Option<JoinHandle<io::Result<()>>>,
    connections: TaskTracker,
    lanes: Arc<Lanes>,
    /// No new connections; those there are end with their request.
    stop: CancellationToken,
    /// Connections are cut.
    cut: CancellationToken,
    /// What looks after bodies of HTTP/2, and after the certificate.
    watches: TaskTracker,
    stop_watching: DropGuard,
}

/// How long the other side may take.
#[derive(Debug, Clone, Copy)]
struct Patience {
    head: Duration,
    write: Duration,
    room: Duration,
}

impl Bound {
    /// Takes the address and reads the certificate.
    pub(crate) async fn bind(config: &Config) -> Result<Self, StartError> {
        let address = config.listen;
        let listener = listen(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
            _ => StartError::Bind { address, source },
        })?;
        let bind = |source| StartError::Bind { address, source };
        let address = listener.local_addr().map_err(bind)?;
        let lanes = Lanes::start().map_err(StartError::Threads)?;
        let tls = match &config.tls {
            Some(files) => {
                let read = Certificate::read(files).await;
                Some(read.map_err(|source| StartError::Tls {
                    cert: files.cert.clone(),
                    key: files.key.clone(),
                    source,
                })?)
            }
            None => None,
        };
        Ok(Self { listener, address, tls, lanes })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until told to stop: inference by its door, where that takes a request, everything else by the router.
    pub(crate) fn serve(self, router: Router, door: Door) -> Listener {
        let patience = Patience { head: HEAD_TIMEOUT, write: WRITE_TIMEOUT, room: ROOM_TIMEOUT };
        self.serve_with(router, Some(door), patience)
    }

    /// The same with other patience.
    fn serve_with(self, router: Router, door: Option<Door>, patience: Patience) -> Listener {
        let Self { listener, tls, lanes, .. } = self;
        let (watches, stop_watching) = (TaskTracker::new(), CancellationToken::new());
        let watch = Watch { patience: patience.room, tasks: watches.clone() };
        let router = router.layer(middleware::from_fn_with_state(watch, unread::watch));
        let tls = tls.map(|certificate| {
            let config = certificate.config.clone();
            watches.spawn(certificate.keep_fresh(certificate::LOOK_INTERVAL, stop_watching.clone()));
            config
        });
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (connections, lanes) = (TaskTracker::new(), Arc::new(lanes));
        let host = Host {
            reception: Reception { router, door, home: Handle::current(), tasks: connections.clone() },
            protocols: protocols(patience),
            tls,
            patience,
            permits: Arc::new(Semaphore::new(descriptors::make_room(CONNECTIONS_MAX))),
            stop: stop.clone(),
            cut: cut.clone(),
        };
        // Not on the loops' tracker: it ends first, when told to, and `join` waits for it.
        let task = TaskTracker::new().spawn(accept(listener, Arc::new(host), connections.clone(), Arc::clone(&lanes)));
        let stop_watching = stop_watching.drop_guard();
        Listener { task: Some(task), connections, lanes, stop, cut, watches, stop_watching }
    }
}

/// How HTTP is spoken.
fn protocols(patience: Patience) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http1().header_read_timeout(patience.head).max_buf_size(HEAD_MAX_BYTES.max(MIN_BUFFER));
    builder.http2().timer(TokioTimer::new());
    builder.http2().max_concurrent_streams(STREAMS_MAX).max_header_list_size(HEAD_LIMIT);
    builder.http2().keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Gives each new connection to a lane, until told to stop.
async fn accept(listener: TcpListener, host: Arc<Host>, connections: TaskTracker, lanes: Arc<Lanes>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let accepted = tokio::select! {
            biased;
            () = host.stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        // Away from this runtime, which would else hear of its bytes.
        let accepted = accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer)));
        match accepted {
            Ok((stream, peer)) => {
                // A refused connection costs less than one that waits: the client hears it at once and comes back.
                if let Ok(permit) = Arc::clone(&host.permits).try_acquire_owned() {
                    lanes.run(&connections, Arc::clone(&host).connection(stream, peer, permit));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                // Without files left, each try would fail at once.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library's own: a restart need not wait for the last connections of the process before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// hyper refuses buffers below this.
const MIN_BUFFER: usize = 8_192;
const HEAD_LIMIT: u32 = 64 * 1024;

impl Listener {
    /// Ends when serving ends.
    pub(crate) async fn failed(&mut self) -> io::Error {
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
    pub(crate) fn stop_accepting(&self) {
        self.stop.cancel();
    }

    /// Waits for the connections, then cuts them.
    pub(crate) async fn join(self) {
        self.stop_accepting();
        if let Some(task) = self.task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the listener broke");
        }
        self.connections.close();
        if tokio::time::timeout(CLOSE_GRACE, self.connections.wait()).await.is_err() {
            tracing::debug!(open = self.connections.len(), "connections are cut at the end of the drain");
            self.cut.cancel();
            self.connections.wait().await;
        }
        drop(self.stop_watching);
        self.watches.close();
        // Each body goes with its connection; the system may take a moment.
        if tokio::time::timeout(CLOSE_GRACE, self.watches.wait()).await.is_err() {
            tracing::warn!("answers were still looked after when all connections were cut");
        }
        self.lanes.stop();
    }
}

/// What every connection shares.
struct Host {
    reception: Reception,
    protocols: Builder<TokioExecutor>,
    tls: Option<RustlsConfig>,
    patience: Patience,
    permits: Arc<Semaphore>,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Host {
    async fn connection(self: Arc<Self>, stream: std::net::TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let ready = TcpStream::from_std(stream).and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let stream = match ready {
            Ok(stream) => Counted { stream, write_timeout: self.patience.write, stalled: None, _permit: permit },
            Err(error) => return tracing::debug!(%error, "a connection could not be served"),
        };
        let Some(tls) = &self.tls else { return Box::pin(self.serve(stream, peer)).await };
        let handshake = TlsAcceptor::from(tls.get_inner()).accept(stream);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => match shaken {
                Ok(Ok(stream)) => Box::pin(self.serve(stream, peer)).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, peer: SocketAddr) {
        let heard = Arc::<AtomicBool>::default();
        let caller = Caller { reception: self.reception.clone(), peer, heard: Arc::clone(&heard) };
        let mut serving = pin!(self.protocols.serve_connection(TokioIo::new(stream), caller));
        // Of later heads hyper says when they are late; of the first one it waits for the first bytes without end.
        let mut late = pin!(tokio::time::sleep(self.patience.head));
        let (mut waiting, mut stopping) = (true, false);
        loop {
            tokio::select! {
                biased;
                ended = serving.as_mut() => {
                    if let Err(error) = ended {
                        tracing::trace!(%error, "a connection broke");
                    }
                    return;
                }
                () = late.as_mut(), if waiting => {
                    if !heard.load(Ordering::Relaxed) {
                        return;
                    }
                    waiting = false;
                }
                () = self.stop.cancelled(), if !stopping => {
                    serving.as_mut().graceful_shutdown();
                    stopping = true;
                }
                () = self.cut.cancelled(), if stopping => return,
            }
        }
    }
}

/// Who answers requests.
#[derive(Clone)]
struct Reception {
    router: Router,
    door: Option<Door>,
    /// Where the router's handlers run.
    home: Handle,
    tasks: TaskTracker,
}

/// One connection's way to answers.
struct Caller {
    reception: Reception,
    peer: SocketAddr,
    /// A request came.
    heard: Arc<AtomicBool>,
}

impl Service<Request<Incoming>> for Caller {
    type Response = Response<Body>;
    type Error = JoinError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.heard.store(true, Ordering::Relaxed);
        let Reception { router, door, home, tasks } = &self.reception;
        // Over HTTP/2 each answer is looked after, which the router does.
        if request.version() != Version::HTTP_2
            && let Some(door) = door
            && let Some(asking) = Door::asks(request.method(), request.uri().path())
        {
            let answer = door.answer(asking, request, self.peer.ip());
            return Box::pin(async move { Ok(answer.await) });
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let answer = AbortOnDropHandle::new(tasks.spawn_on(router.clone().oneshot(request), home));
        Box::pin(async move { answer.await.map(|answer| answer.unwrap_or_else(|never| match never {})) })
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
    use tokio::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);
    /// Longer, because the slow reader may itself be kept waiting by a busy machine.
    const WRITE_PATIENCE: Duration = Duration::from_secs(1);
    /// More than the system's buffers hold.
    const LARGE: usize = 64 * 1024 * 1024;

    fn listener(more: Router) -> (Listener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("bound");
        let bound = Bound { listener, address, tls: None, lanes: Lanes::start().expect("threads") };
        let large = || async { vec![b'x'; LARGE] };
        let router = Router::new().route("/", get(|| async { "here" })).route("/large", get(large)).merge(more);
        let patience = Patience { head: PATIENCE, write: WRITE_PATIENCE, room: WRITE_PATIENCE };
        (bound.serve_with(router, None, patience), address)
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
        let (listener, address) = listener(Router::new());
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
        let (listener, address) = listener(Router::new());
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

    /// A frame of HTTP/2.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// A whole request: indexed `GET` and `http`, the path and authority as they are.
    fn get_of(stream: u32, path: &str) -> Vec<u8> {
        let length = u8::try_from(path.len()).expect("short");
        let head = [&[0x82, 0x86, 0x04, length], path.as_bytes(), &[0x01, 1, b'x']].concat();
        frame(0x1, 0x5, stream, &head)
    }

    /// Reads frames until the head of an answer on `stream` is there.
    async fn head_of(connection: &mut TcpStream, stream: u32) {
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.expect("the connection is open");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("small")];
            connection.read_exact(&mut payload).await.expect("the connection is open");
            if head[3] == 0x1 && head[5..] == stream.to_be_bytes() {
                return;
            }
        }
    }

    /// Tells when it is dropped.
    struct Source(mpsc::Sender<()>);

    impl Drop for Source {
        fn drop(&mut self) {
            self.0.try_send(()).expect("once per answer");
        }
    }

    #[tokio::test]
    async fn over_http_2_a_stream_without_room_is_given_up_and_the_connection_goes_on() {
        let (tell, mut told) = mpsc::channel(1);
        let endless = move || {
            let source = Source(tell.clone());
            let parts = futures_util::stream::repeat_with(move || {
                let _at_work = &source;
                Ok::<_, io::Error>(vec![b'x'; 1_000])
            });
            std::future::ready(Body::from_stream(parts))
        };
        let (listener, address) = listener(Router::new().route("/endless", get(endless)));
        let mut connection = TcpStream::connect(address).await.expect("it listens");
        let no_room = [0, 4, 0, 0, 0, 0];
        let hello =
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(0x4, 0, 0, &no_room), &get_of(1, "/endless")].concat();
        connection.write_all(&hello).await.expect("sent");
        head_of(&mut connection, 1).await;
        let began = tokio::time::Instant::now();
        let given_up = tokio::time::timeout(WRITE_PATIENCE * 20, told.recv()).await;
        assert_eq!(given_up, Ok(Some(())), "the source of an answer that nobody takes was kept at work");
        assert!(began.elapsed() > WRITE_PATIENCE / 2, "it was given up at once");
        connection.write_all(&get_of(3, "/")).await.expect("sent");
        head_of(&mut connection, 3).await;
        drop(connection);
        listener.join().await;
    }

    #[tokio::test]
    async fn over_http_2_a_slow_reader_gets_all_of_an_answer() {
        // Another test of this process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let (listener, address) = listener(Router::new());
        let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
        let client = client.http2_initial_stream_window_size(65_535).build().expect("a client");
        let mut answer = client.get(format!("http://{address}/large")).send().await.expect("it answers");
        assert_eq!((answer.version(), answer.content_length()), (http::Version::HTTP_2, Some(LARGE as u64)));
        let (mut read, mut parts) = (0, 0);
        while let Some(part) = answer.chunk().await.expect("it is not cut") {
            (read, parts) = (read + part.len(), parts + 1);
            if parts < 20 {
                // Longer in all than there may be no room.
                tokio::time::sleep(WRITE_PATIENCE / 10).await;
            }
        }
        assert_eq!(read, LARGE);
        drop((answer, client));
        listener.join().await;
    }
}
