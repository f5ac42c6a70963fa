//! Which call a request is an attempt of: what makes a put that a client sends again recognisable.
//!
//! An AWS SDK gives each call an invocation id and sends it with every attempt. Invariant: two
//! requests have the same id exactly when caller, stream incarnation, invocation id, operation and
//! body are the same; a request that cannot be told from others gets an id of its own. Must not know
//! HTTP.

use bytes::Bytes;
use tristream_proto::domain::{CallId, Incarnation, Origin, Record};

use super::Api;

/// A longer invocation id counts as none. SDKs send a UUID: 36 characters.
const INVOCATION_BYTES_MAX: usize = 256;
/// A larger body is hashed off the runtime's threads: SHA-256 takes 0.6 ms per MiB with the
/// processor's own instructions and 3 ms without (measured), up to 8 or 40 ms for a full PutRecords.
const HASH_HERE_BYTES_MAX: usize = 1 << 20;

/// A request, as far as it tells calls apart.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Access key id that the request is signed with; empty when it is not.
    pub caller: String,
    /// What the client calls the invocation, if it does.
    pub invocation: Option<String>,
    /// The body as it came: attempts of one call repeat it byte by byte.
    pub body: Bytes,
}

impl Call {
    /// The call's id: on every node, and in every attempt, the same. Random where attempts cannot
    /// be recognised, or shall not be.
    async fn id(self, api: &Api, operation: &str, stream: Incarnation) -> CallId {
        let Call { caller, invocation, body } = self;
        let mint = || CallId::minted(api.entropy.u64(), api.entropy.u64());
        let is_legal = |id: &String| (1..=INVOCATION_BYTES_MAX).contains(&id.len());
        let Some(invocation) = invocation.filter(is_legal).filter(|_| api.deduplicate) else {
            return mint();
        };
        // No operation's name has a slash, so the two cannot run together into another pair.
        let invocation = format!("{operation}/{invocation}");
        let is_small = body.len() <= HASH_HERE_BYTES_MAX;
        let hash = move || CallId::of_invocation(&caller, stream, &invocation, &body);
        if is_small {
            return hash();
        }
        tokio::task::spawn_blocking(hash).await.unwrap_or_else(|_| mint())
    }

    /// Gives each of a call's records its place.
    pub(super) async fn mark(
        self,
        api: &Api,
        operation: &str,
        stream: Incarnation,
        records: &mut [Record],
    ) {
        let call = self.id(api, operation, stream).await;
        for (ordinal, record) in (0..).zip(records) {
            record.origin = Some(Origin { call, ordinal });
        }
    }
}
