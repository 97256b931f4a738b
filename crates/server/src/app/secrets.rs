//! The site's pepper, and API keys made with it.

use galerne_model::token;
use secrecy::{ExposeSecret, SecretSlice};

/// Bytes of a pepper: as many as SHA-256 puts out.
pub(crate) const PEPPER_BYTES: usize = 32;

/// Secret under which digests of API keys are made; without it a stolen database opens nothing.
#[derive(Clone)]
pub(crate) struct Pepper(SecretSlice<u8>);

/// A key that was just drawn.
pub(crate) struct NewKey {
    /// The whole key, shown once.
    pub(crate) secret: String,
    /// What is kept.
    pub(crate) digest: String,
    /// Its first characters.
    pub(crate) prefix: String,
    /// Its last four characters.
    pub(crate) last_four: String,
}

impl Pepper {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// The digest under which a key is kept.
    pub(crate) fn digest(&self, key: &str) -> String {
        galerne_gateway::digest(self.0.expose_secret(), key)
    }

    /// The bytes, for the gateway, which makes the same digests.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.expose_secret().to_vec()
    }

    /// Draws a key.
    pub(crate) fn draw(&self) -> Result<NewKey, getrandom::Error> {
        let secret = token::key_from_digits(&digits()?);
        let prefix: String = secret.chars().take(token::KEY_PREFIX.len() + 4).collect();
        Ok(NewKey { digest: self.digest(&secret), prefix, last_four: token::last_four(&secret).to_owned(), secret })
    }
}

/// Numbers below 62, each as likely as any other: bytes from 248 on are thrown away.
fn digits() -> Result<[u8; token::KEY_BODY_CHARS], getrandom::Error> {
    let mut out = [0; token::KEY_BODY_CHARS];
    let mut filled = 0;
    while filled < out.len() {
        let mut pool = [0; 64];
        getrandom::fill(&mut pool)?;
        for byte in pool.into_iter().filter(|byte| *byte < 248) {
            if filled < out.len() {
                out[filled] = byte % 62;
                filled += 1;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_pass_their_own_check_and_never_repeat() {
        let pepper = Pepper::new(vec![7; PEPPER_BYTES]);
        let keys: std::collections::BTreeSet<String> =
            (0..200).map(|_| pepper.draw().expect("random bytes").secret).collect();
        assert_eq!(keys.len(), 200);
        assert!(keys.iter().all(|key| token::check_key(key).is_ok()));
    }

    #[test]
    fn another_pepper_makes_another_digest() {
        let key = "galerne_x";
        assert_ne!(Pepper::new(vec![1; 32]).digest(key), Pepper::new(vec![2; 32]).digest(key));
        assert_eq!(Pepper::new(vec![1; 32]).digest(key).len(), 64);
    }
}
