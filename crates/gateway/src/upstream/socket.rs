//! A connection to a replica: plain TCP, or TLS with the roots that the system trusts.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::Address;

/// Longest connect, a TLS handshake included; replicas are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How connections are made.
#[derive(Default)]
pub(super) struct Dialer {
    /// Made for the first replica with TLS: reading the system's roots takes milliseconds and a megabyte.
    tls: OnceCell<Arc<ClientConfig>>,
}

/// A connection.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    #[cfg(feature = "fuzz")]
    Played(super::fuzz::Played),
}

impl Dialer {
    #[cfg(test)]
    pub(super) fn with_tls(config: Arc<ClientConfig>) -> Self {
        Self { tls: OnceCell::new_with(Some(config)) }
    }

    pub(super) async fn connect(&self, address: &Address) -> io::Result<Socket> {
        timeout(CONNECT_TIMEOUT, Box::pin(self.connect_patiently(address)))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it did not accept a connection in time"))?
    }

    async fn connect_patiently(&self, address: &Address) -> io::Result<Socket> {
        // An address needs no resolver, which would be asked on another thread.
        let stream = match address.host.parse::<IpAddr>() {
            Ok(ip) => TcpStream::connect((ip, address.port)).await?,
            Err(_) => TcpStream::connect((address.host.as_str(), address.port)).await?,
        };
        // Small writes would else wait for the acknowledgement of those before, 40 ms.
        stream.set_nodelay(true)?;
        let Some(name) = &address.tls else { return Ok(Socket::Plain(stream)) };
        let config = self.tls.get_or_try_init(system_roots).await?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// Trusts whom the system trusts.
async fn system_roots() -> io::Result<Arc<ClientConfig>> {
    let read = tokio::task::spawn_blocking(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(Arc::clone(&provider)).map_err(io::Error::other)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Arc::new(speaking_http1(config)))
    });
    read.await.map_err(io::Error::other)?
}

/// Says in the handshake that HTTP/2 is not spoken here.
pub(super) fn speaking_http1(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

impl Socket {
    /// Whether nothing came and nobody closed while it lay idle. Over TLS nobody looks: a server may send tickets.
    pub(super) fn is_quiet(&self) -> bool {
        match self {
            // Without news from the system this asks nobody.
            Self::Plain(stream) => {
                stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(_) => true,
            #[cfg(feature = "fuzz")]
            Self::Played(played) => played.is_over(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
            #[cfg(feature = "fuzz")]
            Self::Played(played) => Pin::new(played).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(feature = "fuzz")]
            Self::Played(played) => Pin::new(played).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            #[cfg(feature = "fuzz")]
            Self::Played(played) => Pin::new(played).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "fuzz")]
            Self::Played(played) => Pin::new(played).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "fuzz")]
            Self::Played(played) => Pin::new(played).poll_shutdown(cx),
        }
    }
}
