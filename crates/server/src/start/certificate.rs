//! The listener's certificate: read at the start, and again when its files change, so that a renewed one needs no restart.
//!
//! Looked at every few seconds instead of on a signal: who renews certificates need not know who uses them. Connections that
//! are open keep what they began with. INVARIANT: files that do not fit together, as when one is written and the other is not
//! yet, change nothing; they are tried again with the next look.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use axum_server::tls_rustls::RustlsConfig;
use tokio_util::sync::CancellationToken;

use crate::config::TlsFiles;

/// How often the files are looked at.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A certificate in use.
pub(super) struct Certificate {
    pub(super) config: RustlsConfig,
    files: TlsFiles,
    seen: Seen,
}

/// What tells a file from the one that takes its place.
type Seen = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    pub(super) async fn read(files: &TlsFiles) -> io::Result<Self> {
        // Before the files: one that changes in between is read again.
        let seen = look(files);
        let config = RustlsConfig::from_pem_file(&files.cert, &files.key).await?;
        Ok(Self { config, files: files.clone(), seen })
    }

    /// Reads the files again whenever they have changed, until `stop`.
    pub(super) async fn keep_fresh(mut self, every: Duration, stop: CancellationToken) {
        let mut failed = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let seen = look(&self.files);
            if seen == self.seen {
                continue;
            }
            match self.config.reload_from_pem_file(&self.files.cert, &self.files.key).await {
                Ok(()) => {
                    self.seen = seen;
                    tracing::info!(cert = %self.files.cert.display(), "certificate read again");
                }
                Err(error) if failed != Some(seen) => {
                    failed = Some(seen);
                    tracing::warn!(%error, cert = %self.files.cert.display(), key = %self.files.key.display(), "changed certificate cannot be used: the last one stays in use, and these files are tried again");
                }
                Err(_) => {}
            }
        }
    }
}

fn look(files: &TlsFiles) -> Seen {
    [&files.cert, &files.key].map(|path| {
        let data = fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &TlsFiles, name: &str) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
        fs::write(&files.cert, made.cert.pem()).expect("written");
        fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
        made.cert.der().to_vec()
    }

    /// The certificate that a new connection gets.
    fn served(config: &RustlsConfig) -> bool {
        config.get_inner().alpn_protocols.iter().any(|protocol| protocol == b"h2")
    }

    #[tokio::test]
    async fn files_that_change_are_read_again_and_broken_ones_leave_the_last_in_use() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = tempfile::tempdir().expect("a folder");
        let files = TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        write(&files, "a.example");
        let certificate = Certificate::read(&files).await.expect("read");
        let (config, stop) = (certificate.config.clone(), CancellationToken::new());
        let first = config.get_inner();
        assert!(served(&config), "HTTP/2 is offered");
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(certificate.keep_fresh(Duration::from_millis(5), stop.clone()));
        fs::write(&files.key, "half of a").expect("written");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(std::sync::Arc::ptr_eq(&first, &config.get_inner()), "a broken key changes nothing");
        write(&files, "b.example");
        let renewed = async {
            while std::sync::Arc::ptr_eq(&first, &config.get_inner()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), renewed).await.expect("the renewed one is in use");
        assert!(served(&config), "and HTTP/2 is still offered");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
