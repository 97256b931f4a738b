//! Why the server cannot start, each with its code and what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use galerne_api::error::Code;
use galerne_control::ControlError;
use galerne_drivers::grid::GridError;
use galerne_gateway::{GatewayError, SpoolError};
use galerne_store::StoreError;

use crate::data_dir::DataDirError;

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// The address is taken.
    #[error("another program listens on {address}")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no threads.
    #[error("the system gives no threads to serve with")]
    Threads(#[source] std::io::Error),
    /// The certificate or its key.
    #[error("the certificate `{}` and the key `{}` cannot be used", cert.display(), key.display())]
    Tls {
        /// The certificate.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// The listener ended without being asked to.
    #[error("the server stopped listening")]
    Stopped(#[source] std::io::Error),
    /// The database.
    #[error("the state cannot be opened")]
    Store(#[from] StoreError),
    /// The file of carbon intensities.
    #[error("the carbon intensities in `{}` cannot be used", path.display())]
    Grid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: GridError,
    },
    /// The place of files.
    #[error("files cannot be kept where the configuration says")]
    Objects(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The spool.
    #[error("the spool of usage records cannot be opened")]
    Spool(#[source] SpoolError),
    /// The client that sends events.
    #[error("events cannot be sent")]
    Webhook(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The loops.
    #[error("the loops cannot start")]
    Control(#[source] ControlError),
    /// The gateway.
    #[error("the gateway cannot start")]
    Gateway(#[source] GatewayError),
    /// The control plane of a gateway in a process of its own.
    #[error(transparent)]
    Link(std::sync::Arc<galerne_gateway::LinkError>),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// Nobody can act as operator.
    #[error("no principal has the operator's role")]
    NoOperator,
}

impl StartError {
    /// The stable code.
    pub fn code(&self) -> Code {
        if disk_is_full(self) {
            return Code::NotEnoughDisk;
        }
        match self {
            Self::Data(DataDirError::Locked { .. }) => Code::DataDirLocked,
            Self::Data(DataDirError::Unusable { .. } | DataDirError::Exposed { .. } | DataDirError::Damaged { .. }) => {
                Code::DataDirUnusable
            }
            Self::AddressInUse { .. } => Code::AddressInUse,
            Self::Bind { .. } | Self::Grid { .. } | Self::Objects(_) => Code::ConfigInvalid,
            Self::Tls { .. } => Code::TlsInvalid,
            Self::Store(StoreError::NewerSchema { .. }) => Code::DataDirNewer,
            Self::Store(StoreError::Served { .. }) => Code::DatabaseInUse,
            Self::Store(StoreError::Corrupt(_)) => Code::DataDirUnusable,
            Self::Store(StoreError::DiskFull(_)) => Code::NotEnoughDisk,
            Self::Store(_) => Code::StoreUnavailable,
            Self::Spool(_) => Code::DataDirUnusable,
            Self::Link(error) => error.code(),
            Self::Stopped(_)
            | Self::Webhook(_)
            | Self::Control(_)
            | Self::Gateway(_)
            | Self::Threads(_)
            | Self::Random(_)
            | Self::NoOperator => Code::Internal,
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        if self.code() == Code::NotEnoughDisk {
            return Some("free space on the disk of the data directory, or choose another: `--data DIR`".to_owned());
        }
        match self {
            Self::Data(DataDirError::Locked { holder, .. }) => {
                Some(format!("stop process {holder}, or give this one a directory of its own: `--data DIR`"))
            }
            Self::Data(DataDirError::Exposed { path, .. }) => {
                Some(format!("`chmod 600 {}`, and make new keys if others may have read it", path.display()))
            }
            Self::Data(DataDirError::Damaged { .. }) => {
                Some("restore it from a backup: without it no API key is known".to_owned())
            }
            Self::Data(DataDirError::Unusable { .. }) => {
                Some("check its owner and permissions, or choose another: `--data DIR`".to_owned())
            }
            Self::AddressInUse { address } => Some(format!(
                "choose another port, such as `--listen {}:{}`; `ss -ltnp` shows who has it",
                address.ip(),
                address.port().saturating_add(1)
            )),
            Self::Objects(_) => Some(
                "an S3 server needs `objects_credentials_file`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
                    .to_owned(),
            ),
            Self::Bind { .. } => Some("choose an address of this machine: `--listen 127.0.0.1:8080`".to_owned()),
            Self::Tls { .. } => Some("both are PEM files, and the key has no password".to_owned()),
            Self::Store(StoreError::NewerSchema { .. }) => {
                Some("start the newer version again, or restore a backup made by this one".to_owned())
            }
            Self::Store(StoreError::OldSchema { .. }) => {
                Some("bring it up to date first: `galerne migrate`".to_owned())
            }
            Self::Store(StoreError::Corrupt(_)) => {
                Some("start the build that wrote it, or restore the newest backup into a new place: `galerne restore`".to_owned())
            }
            Self::Store(StoreError::Served { .. }) => Some(
                "one server serves a database: stop that one first, or give this one a database of its own: `--database URL`"
                    .to_owned(),
            ),
            Self::Link(error) => error.hint(),
            Self::Grid { .. }
            | Self::Stopped(_)
            | Self::Webhook(_)
            | Self::Store(_)
            | Self::Spool(_)
            | Self::Control(_)
            | Self::Gateway(_)
            | Self::Threads(_)
            | Self::Random(_)
            | Self::NoOperator => None,
        }
    }
}

/// Whether the system said, in whatever layer, that a disk is full.
fn disk_is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut layer = Some(error);
    while let Some(error) = layer {
        let said = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(said, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        layer = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_that_whatever_met_it() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let data = StartError::Data(DataDirError::Unusable { path: "data".into(), source: full() });
        assert_eq!(data.code(), Code::NotEnoughDisk);
        assert!(data.hint().is_some_and(|hint| hint.contains("free space")));
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let data = StartError::Data(DataDirError::Unusable { path: "data".into(), source: denied });
        assert_eq!(data.code(), Code::DataDirUnusable);
    }
}
