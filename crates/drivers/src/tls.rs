//! The one crypto provider of the process.

/// Sets `ring` as the provider unless the program has chosen one already.
pub(crate) fn install_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Losing the race to another caller means there is one now, which is all that is wanted.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}
