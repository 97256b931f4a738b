//! How keys are looked up without being kept.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Makes digests under one pepper, which is worked in once.
#[derive(Clone)]
pub(crate) struct Digester(Hmac<Sha256>);

impl Digester {
    pub(crate) fn new(pepper: &[u8]) -> Self {
        Self(Hmac::new_from_slice(pepper).expect("HMAC takes keys of any length"))
    }

    /// HMAC-SHA256 of a whole API key, in lower-case hex.
    pub(crate) fn digest(&self, key: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(key.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }
}

/// HMAC-SHA256 of a whole API key under the site's pepper, in lower-case hex: what the store keeps and snapshots carry.
pub fn digest(pepper: &[u8], key: &str) -> String {
    Digester::new(pepper).digest(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_of_rfc_4231() {
        // Test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(digest(b"Jefe", "what do ya want for nothing?"), expected);
    }
}
