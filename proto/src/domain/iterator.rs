//! Shard-iterator tokens: where a reader stands, as text that it carries itself.
//!
//! Owns the token's layout, seal and expiry. Stateless: every node that has the cluster's key opens
//! every other node's tokens, also after a restart. Invariant: a token opens to exactly what was
//! sealed, or not at all. Must not know: clocks, randomness (the caller passes both), or who reads.
//!
//! Layout (big endian), shaped as AWS's (kinesis-contract 7.10) and then base64 with padding:
//! `00..01 (8) | nonce (12) | format 1 (1) | issued ms (8) | incarnation (8) | shard index (4) |
//! log index (8) | position (4) | name length (1) | name | zeros up to 152 + 16k - 32 | HMAC-SHA256
//! (32)`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::{Incarnation, RecordPosition, ShardId, StreamName, Timestamp};

const HEADER: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 1];
const FORMAT: u8 = 1;
const MAC_BYTES: usize = 32;
const BYTES_MIN: usize = 152;
const BYTES_STEP: usize = 16;
/// AWS's bound on the text.
const TEXT_CHARS_MAX: usize = 512;
const PURPOSE: &str = "shard iterator";

/// The key that seals tokens of one cluster.
#[derive(Clone)]
pub struct TokenKey([u8; MAC_BYTES]);

impl TokenKey {
    /// The key of the cluster of this name: the same on every node and after every restart.
    ///
    /// Whoever knows the name can make tokens. That is enough while requests are not authenticated
    /// (such a client may read everything anyway): the seal then guards against damage and mix-ups
    /// between clusters, not against an attacker.
    pub fn derived_from(cluster: &str) -> TokenKey {
        let name = TokenKey(mac_of(cluster.as_bytes(), &[b"name"]));
        TokenKey(mac_of(&name.0, &[b"tristream token key, version 1"]))
    }

    /// A code over `bytes`, of no use for any other purpose.
    pub fn sign(&self, purpose: &str, bytes: &[u8]) -> [u8; 32] {
        mac_of(&self.0, &[purpose.as_bytes(), b"\0", bytes])
    }

    /// Whether `code` is [`TokenKey::sign`]'s for these bytes. Takes the same time whatever
    /// differs.
    pub fn verify(&self, purpose: &str, bytes: &[u8], code: &[u8]) -> bool {
        let mut mac = keyed(&self.0);
        for part in [purpose.as_bytes(), b"\0", bytes] {
            mac.update(part);
        }
        mac.verify_slice(code).is_ok()
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

fn mac_of(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_BYTES] {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Where a reader stands in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIterator {
    /// The stream.
    pub stream: StreamName,
    /// Which stream of that name.
    pub incarnation: Incarnation,
    /// The shard.
    pub shard: ShardId,
    /// Where the next read begins.
    pub position: RecordPosition,
    /// When the token was made.
    pub issued: Timestamp,
}

/// Why a text opens to no iterator. Never retry; nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IteratorError {
    /// Not sealed with this key, or damaged.
    #[error("not a shard iterator of this cluster")]
    Invalid,
    /// Too old.
    #[error("a shard iterator issued at {issued} is too old at {now}")]
    Expired {
        /// When it was made.
        issued: Timestamp,
        /// When it was used.
        now: Timestamp,
    },
}

impl ShardIterator {
    /// The iterator as text. Another `nonce` gives another text.
    pub fn seal(&self, key: &TokenKey, nonce: [u8; 12]) -> String {
        let name = self.stream.as_str().as_bytes();
        let mut out = Vec::with_capacity(BYTES_MIN + 5 * BYTES_STEP);
        out.put_slice(&HEADER);
        out.put_slice(&nonce);
        out.put_u8(FORMAT);
        out.put_u64(self.issued.0);
        out.put_u64(self.incarnation.0);
        out.put_u32(self.shard.index());
        out.put_u64(self.position.index);
        out.put_u32(self.position.position);
        // A stream name has at most 128 bytes.
        out.put_u8(name.len() as u8);
        out.put_slice(name);
        let beyond = (out.len() + MAC_BYTES).saturating_sub(BYTES_MIN);
        out.resize(BYTES_MIN + beyond.next_multiple_of(BYTES_STEP) - MAC_BYTES, 0);
        let code = key.sign(PURPOSE, &out);
        out.put_slice(&code);
        STANDARD.encode(out)
    }

    /// Opens a text that [`ShardIterator::seal`] made, at most `life` ago. Accepts it in double
    /// quotes too.
    pub fn open(
        text: &str,
        key: &TokenKey,
        now: Timestamp,
        life: Duration,
    ) -> Result<ShardIterator, IteratorError> {
        let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        let iterator = Self::unseal(bare, key).ok_or(IteratorError::Invalid)?;
        if now.since(iterator.issued) > life {
            return Err(IteratorError::Expired { issued: iterator.issued, now });
        }
        Ok(iterator)
    }

    fn unseal(text: &str, key: &TokenKey) -> Option<ShardIterator> {
        if text.len() > TEXT_CHARS_MAX {
            return None;
        }
        let bytes = STANDARD.decode(text).ok()?;
        let shaped = bytes.len() >= BYTES_MIN
            && (bytes.len() - BYTES_MIN).is_multiple_of(BYTES_STEP)
            && bytes.starts_with(&HEADER);
        if !shaped {
            return None;
        }
        let (sealed, code) = bytes.split_at(bytes.len() - MAC_BYTES);
        if !key.verify(PURPOSE, sealed, code) {
            return None;
        }
        let mut fields = &sealed[HEADER.len() + 12..];
        if fields.get_u8() != FORMAT {
            return None;
        }
        let issued = Timestamp(fields.get_u64());
        let incarnation = Incarnation(fields.get_u64());
        let shard = ShardId::from(fields.get_u32());
        let position = RecordPosition { index: fields.get_u64(), position: fields.get_u32() };
        let length = usize::from(fields.get_u8());
        let name = std::str::from_utf8(fields.get(..length)?).ok()?;
        Some(ShardIterator { stream: name.parse().ok()?, incarnation, shard, position, issued })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIFE: Duration = Duration::from_secs(300);

    fn iterator(name: &str) -> ShardIterator {
        ShardIterator {
            stream: name.parse().expect("a stream name"),
            incarnation: Incarnation(7),
            shard: ShardId::from(3),
            position: RecordPosition { index: 12, position: 5 },
            issued: Timestamp(1_790_000_000_000),
        }
    }

    fn key() -> TokenKey {
        TokenKey::derived_from("otter")
    }

    #[test]
    fn tokens_have_the_shape_that_aws_gives_them() {
        for length in [1, 66, 67, 82, 83, 128] {
            let text = iterator(&"n".repeat(length)).seal(&key(), [9; 12]);
            assert!(text.len() <= 512, "{length}: {}", text.len());
            let bytes = STANDARD.decode(&text).expect("standard base64 with padding");
            assert_eq!(bytes[..8], [0, 0, 0, 0, 0, 0, 0, 1]);
            assert_eq!((bytes.len() - 152) % 16, 0);
        }
    }

    #[test]
    fn every_issue_differs_and_quotes_are_accepted() {
        let (a, b) = (iterator("s").seal(&key(), [1; 12]), iterator("s").seal(&key(), [2; 12]));
        assert_ne!(a, b);
        for text in [a, format!("\"{b}\"")] {
            let opened = ShardIterator::open(&text, &key(), Timestamp(1_790_000_000_001), LIFE);
            assert_eq!(opened, Ok(iterator("s")));
        }
    }

    #[test]
    fn it_lives_for_its_life_and_not_a_millisecond_longer() {
        let (it, text) = (iterator("s"), iterator("s").seal(&key(), [0; 12]));
        let at = |ms| ShardIterator::open(&text, &key(), Timestamp(it.issued.0 + ms), LIFE);
        assert!(at(300_000).is_ok());
        let now = Timestamp(it.issued.0 + 300_001);
        assert_eq!(at(300_001), Err(IteratorError::Expired { issued: it.issued, now }));
    }

    #[test]
    fn another_clusters_token_and_garbage_are_refused() {
        let foreign = iterator("s").seal(&TokenKey::derived_from("badger"), [0; 12]);
        for text in [foreign.as_str(), "", "\"", "bogusmonkeys", "AAAA", &"A".repeat(204)] {
            let opened = ShardIterator::open(text, &key(), Timestamp(0), LIFE);
            assert_eq!(opened, Err(IteratorError::Invalid), "{text}");
        }
    }

    #[test]
    fn a_code_serves_one_purpose_only() {
        let code = key().sign("a", b"bytes");
        assert!(key().verify("a", b"bytes", &code));
        assert!(!key().verify("b", b"bytes", &code));
        assert!(!key().verify("a", b"byte", &code));
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_what_opens(
            name in "[a-zA-Z0-9_.-]{1,128}", incarnation: u64, shard in 0..=i32::MAX as u32,
            index: u64, position: u32, issued: u64, nonce: [u8; 12],
        ) {
            let it = ShardIterator {
                stream: name.parse().expect("a stream name"),
                incarnation: Incarnation(incarnation),
                shard: ShardId::from(shard),
                position: RecordPosition { index, position },
                issued: Timestamp(issued),
            };
            let text = it.seal(&key(), nonce);
            prop_assert_eq!(ShardIterator::open(&text, &key(), Timestamp(issued), LIFE), Ok(it));
        }

        #[test]
        fn one_changed_bit_is_noticed(byte in 0usize..152, bit in 0u8..8) {
            let text = iterator("s").seal(&key(), [3; 12]);
            let mut bytes = STANDARD.decode(text).expect("base64");
            bytes[byte] ^= 1 << bit;
            let opened = ShardIterator::open(&STANDARD.encode(bytes), &key(), Timestamp(0), LIFE);
            prop_assert_eq!(opened, Err(IteratorError::Invalid));
        }
    }
}
