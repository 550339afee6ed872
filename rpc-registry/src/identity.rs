//! Who may do what: an owner's [`Secret`], and the [`Token`] of a registry.

use std::fmt;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// How many octets a secret may have.
const SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 16..=64;

/// What only the owner of an instance knows.
///
/// The id of the instance is made of it, so that a registry needs no memory to tell the owner from
/// others: neither a restart nor a lost state file opens an instance to a stranger.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Bytes);

impl Secret {
    /// A new one, and the id that is made of it, which is not 0; nothing where the system has no
    /// random numbers.
    pub(crate) fn random() -> Option<(Self, u64)> {
        let random = SystemRandom::new();
        loop {
            let mut octets = [0; 32];
            random.fill(&mut octets).ok()?;
            let id = id_of(&octets);
            if id != 0 {
                return Some((Self(Bytes::copy_from_slice(&octets)), id));
            }
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether a secret is that of an instance.
pub(crate) fn owns(secret: &[u8], instance: u64) -> bool {
    SECRET_LENGTHS.contains(&secret.len()) && id_of(secret) == instance
}

fn id_of(secret: &[u8]) -> u64 {
    let digest = digest(&SHA256, secret);
    let first = digest.as_ref().first_chunk::<8>();
    first.map_or(0, |octets| u64::from_be_bytes(*octets))
}

/// What callers of a registry have to show; only its digest is kept, so that comparing takes the
/// same time however much of it is right.
#[derive(Clone)]
pub(crate) struct Token(ring::digest::Digest);

impl Token {
    pub(crate) fn new(token: &str) -> Self {
        Self(digest(&SHA256, token.as_bytes()))
    }

    /// Whether a call's `authorization` shows this token.
    pub(crate) fn admits(&self, authorization: &str) -> bool {
        let Some((scheme, token)) = authorization.split_once(' ') else {
            return false;
        };
        let shown = digest(&SHA256, token.trim().as_bytes());
        let different = self
            .0
            .as_ref()
            .iter()
            .zip(shown.as_ref())
            .fold(0, |different, (a, b)| different | (a ^ b));
        different == 0 && scheme.eq_ignore_ascii_case("bearer")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_known_by_its_secret_alone() {
        let (secret, id) = Secret::random().unwrap();
        assert!(owns(&secret.to_vec(), id));
        let (other, other_id) = Secret::random().unwrap();
        assert!(!owns(&other.to_vec(), id) && id != other_id);
        assert!(!owns(b"", id) && !owns(&[0; 65], id_of(&[0; 65])));
    }

    #[test]
    fn an_id_is_the_beginning_of_the_digest() {
        // The SHA-256 of "abc" (FIPS 180-2, appendix B.1).
        assert_eq!(id_of(b"abc"), 0xba78_16bf_8f01_cfea);
    }

    #[test]
    fn only_the_token_is_admitted() {
        let token = Token::new("right");
        assert!(token.admits("Bearer right") && token.admits("bearer right"));
        for wrong in [
            "",
            "right",
            "Bearer",
            "Bearer ",
            "Bearer righ",
            "Bearer right!",
            "Basic right",
        ] {
            assert!(!token.admits(wrong), "{wrong:?}");
        }
        assert_eq!(format!("{token:?}"), "Token", "it is not printed");
    }
}
