//! Request bodies: read whole, within the bounds of one request and of the node.
//!
//! Invariant: the bytes of all bodies in memory never exceed the budget; who comes when it is used
//! up is told to come later, and does not wait with half a body in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A body, and its share of the budget until it is dropped.
pub(super) struct Taken {
    /// All of it.
    pub(super) bytes: Bytes,
    /// Held while the request is worked on.
    pub(super) share: Option<OwnedSemaphorePermit>,
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// More than one request may send.
    TooLarge,
    /// The node holds too much already.
    Busy,
    /// It did not come within the time.
    TooSlow,
    /// The client went away or broke the protocol.
    Broken,
}

/// Whether the headers announce more than `max` bytes.
pub(super) fn announces_more(headers: &HeaderMap, max: usize) -> bool {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length > max as u64)
}

/// Reads all of `body`: at most `max` bytes, from `budget`, within `wait`.
pub(super) async fn take<B>(
    body: B,
    max: usize,
    budget: &Arc<Semaphore>,
    wait: Duration,
) -> Result<Taken, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    match timeout(wait, collect(body, max, budget)).await {
        Ok(taken) => taken,
        Err(_) => Err(Refusal::TooSlow),
    }
}

async fn collect<B>(mut body: B, max: usize, budget: &Arc<Semaphore>) -> Result<Taken, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut bytes = BytesMut::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(Refusal::TooLarge);
        }
        let more = u32::try_from(data.len()).map_err(|_| Refusal::TooLarge)?;
        let more = budget.clone().try_acquire_many_owned(more).map_err(|_| Refusal::Busy)?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Taken { bytes: bytes.freeze(), share })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use std::convert::Infallible;

    const WAIT: Duration = Duration::from_secs(60);

    fn chunks(sizes: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frames: Vec<_> =
            sizes.iter().map(|&n| Ok(Frame::data(Bytes::from(vec![b'x'; n])))).collect();
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_takes_its_share_of_the_budget_and_gives_it_back() {
        let budget = Arc::new(Semaphore::new(100));
        let taken = take(chunks(&[30, 0, 30]), 60, &budget, WAIT).await.ok().unwrap();
        assert_eq!((taken.bytes.len(), budget.available_permits()), (60, 40));
        drop(taken);
        assert_eq!(budget.available_permits(), 100);
    }

    #[tokio::test]
    async fn too_large_and_too_much_are_told_apart() {
        let budget = Arc::new(Semaphore::new(100));
        let refusal = |result: Result<Taken, Refusal>| result.err();
        let large = take(chunks(&[30, 31]), 60, &budget, WAIT).await;
        assert_eq!(refusal(large), Some(Refusal::TooLarge));
        let busy = take(chunks(&[60, 60]), 200, &budget, WAIT).await;
        assert_eq!(refusal(busy), Some(Refusal::Busy));
        assert_eq!(budget.available_permits(), 100, "refused bodies hold nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let budget = Arc::new(Semaphore::new(100));
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        assert_eq!(take(never, 60, &budget, WAIT).await.err(), Some(Refusal::TooSlow));
    }
}
