//! Splits, merges, scaling, modes and deletions, as native clients ask for them.
//!
//! Invariant: a stream is changed by a view that has everything that was answered before. Must not
//! decide what may be changed: the metadata group does.

use std::sync::Arc;

use tristream_proto::domain::{HashKey, HashKeyRange, ShardId};
use tristream_proto::wire;
use tristream_proto::wire::refusal::Kind;

use super::{ClientService, stream_name};
use crate::metadata::{Stream, StreamMode};
use crate::router::Router;
use crate::rpc::status;

impl ClientService {
    pub(super) async fn split(
        &self,
        request: wire::SplitShardRequest,
    ) -> Result<(), wire::Refusal> {
        let (router, stream) = self.newest(&request.stream).await?;
        let id = ShardId::from(request.shard_index);
        let at = match first_key(&request.new_first_hash_key)? {
            Some(key) => key,
            None => {
                let shard = stream.map.get(id).ok_or_else(|| {
                    status::refusal(Kind::Invalid, format!("stream {} has no {id}", stream.name))
                })?;
                middle(shard.range)
            }
        };
        let split = router.split_shard(&stream, id, at, self.deadline_default).await;
        split.map_err(|e| status::of_router(&e))
    }

    pub(super) async fn merge(
        &self,
        request: wire::MergeShardsRequest,
    ) -> Result<(), wire::Refusal> {
        let (router, stream) = self.newest(&request.stream).await?;
        let [shard, adjacent] = [request.shard_index, request.adjacent_index].map(ShardId::from);
        let merged = router.merge_shards(&stream, shard, adjacent, self.deadline_default).await;
        merged.map_err(|e| status::of_router(&e))
    }

    pub(super) async fn rescale(
        &self,
        request: wire::UpdateShardCountRequest,
    ) -> Result<(), wire::Refusal> {
        if request.target == 0 {
            return Err(status::refusal(Kind::Invalid, "a stream has at least one shard"));
        }
        let (router, stream) = self.newest(&request.stream).await?;
        let target = request.target;
        let scaled = router.update_shard_count(&stream, target, self.deadline_default).await;
        scaled.map_err(|e| status::of_router(&e))
    }

    pub(super) async fn set_mode(
        &self,
        request: wire::UpdateStreamModeRequest,
    ) -> Result<(), wire::Refusal> {
        let (router, stream) = self.newest(&request.stream).await?;
        let mode = match request.on_demand {
            true => StreamMode::OnDemand,
            false => StreamMode::Provisioned,
        };
        if stream.mode == mode {
            return Ok(());
        }
        let changed = router.update_mode(&stream, mode, self.deadline_default).await;
        changed.map_err(|e| status::of_router(&e))
    }

    /// The stream as a change must know it.
    pub(super) async fn newest(&self, name: &str) -> Result<(Router, Arc<Stream>), wire::Refusal> {
        let (router, name) = (self.router()?, stream_name(name)?);
        let view = router.confirmed_view().await;
        let stream = super::found(view.map(|view| view.streams.get(&name).cloned()), &name)?;
        Ok((router, stream))
    }
}

/// The answer to a change.
pub(super) fn answer(
    done: Result<(), wire::Refusal>,
) -> tonic::Response<wire::ChangeStreamResponse> {
    tonic::Response::new(wire::ChangeStreamResponse { refusal: done.err() })
}

/// The key that was sent, if one was.
fn first_key(bytes: &[u8]) -> Result<Option<HashKey>, wire::Refusal> {
    match bytes.len() {
        0 => Ok(None),
        _ => match bytes.try_into() {
            Ok(bytes) => Ok(Some(HashKey(u128::from_be_bytes(bytes)))),
            Err(_) => Err(status::refusal(Kind::Invalid, "a hash key has 16 bytes")),
        },
    }
}

/// Where the upper half of a range begins; of an odd number of keys the lower half gets one more.
fn middle(range: HashKeyRange) -> HashKey {
    let (first, last) = (range.first.0, range.last.0);
    // Of a single key there is no half; the metadata group says so.
    HashKey((first + (last - first) / 2).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u128, last: u128) -> HashKeyRange {
        HashKeyRange { first: HashKey(first), last: HashKey(last) }
    }

    #[test]
    fn a_split_without_a_key_halves_the_range() {
        assert_eq!(middle(range(0, u128::MAX)), HashKey(1 << 127));
        assert_eq!(middle(range(1 << 127, u128::MAX)), HashKey(3 << 126));
        assert_eq!(middle(range(10, 12)), HashKey(12));
        assert_eq!(middle(range(10, 11)), HashKey(11));
        assert_eq!(middle(range(u128::MAX, u128::MAX)), HashKey(u128::MAX));
    }

    #[test]
    fn a_hash_key_has_sixteen_bytes_or_none() {
        assert_eq!(first_key(&[]), Ok(None));
        assert_eq!(first_key(&(7u128 << 99).to_be_bytes()), Ok(Some(HashKey(7 << 99))));
        assert_eq!(first_key(&[1, 2]).expect_err("short").kind(), Kind::Invalid);
        assert_eq!(first_key(&[0; 17]).expect_err("long").kind(), Kind::Invalid);
    }
}
