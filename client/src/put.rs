//! One request to one shard: attempts at whoever leads it, until it is stored or there shall be no more.
//!
//! Every record carries its origin, the same in every attempt, so that a shard recognises what it has
//! stored and an attempt of unknown outcome may be repeated. Invariant: once an attempt's outcome is
//! unknown, the request is doubtful until one succeeds. Must not know how records are gathered, or what
//! becomes of them on another map.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tristream_proto::domain::{Effect, MapVersion, Record, SequenceNumber, Shard};
use tristream_proto::wire;

use crate::client::{Client, answer};
use crate::connections::Stub;
use crate::error::{Error, accepted};
use crate::map_cache::StreamDescription;
use crate::retry::{Policy, Retries, Step};

/// How much longer than the deadline it was given a node may take to answer: its "I do not know" tells
/// more than our own giving up.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// A number per record. Some may be of a parent shard, which stored them in an earlier attempt.
    Stored(Vec<SequenceNumber>),
    /// The map is out of date: wait for one of at least this version and route anew.
    Stale(MapVersion),
    /// The time is over; trying on might have been of use.
    Late(Error),
    /// Trying again is of no use, or not allowed.
    Refused(Error),
}

/// What is known of a request after its attempts.
#[derive(Debug)]
pub(crate) struct Put {
    /// How it ended.
    pub(crate) ended: Ended,
    /// It was not stored as far as is known, but an attempt of it may have been, or may yet be.
    pub(crate) doubtful: bool,
}

/// Stores `records`, all of `shard`, in one entry: all or none. Follows the leader until `until`.
pub(crate) async fn store(
    client: &Client,
    stream: &StreamDescription,
    shard: &Shard,
    records: &[Record],
    until: Instant,
) -> Put {
    let options = client.options();
    let policy = if options.retry_unknown { Policy::Always } else { Policy::OnlyWithoutEffect };
    let mut retries = Retries::new(policy, options);
    let (mut attempt, mut doubtful) = (0, false);
    loop {
        let (asked, tried) = match client.target(shard, attempt) {
            Ok((asked, node)) => {
                let rest = until.saturating_duration_since(Instant::now());
                let limits = Limits::new(policy, options.attempt_timeout, rest);
                (asked, put_once(node, stream, shard, records, limits).await)
            }
            Err(error) => (None, Err(error)),
        };
        let error = match tried {
            Ok(numbers) => {
                if let Some(node) = asked {
                    client.maps().set_leader(shard.group, node);
                }
                return Put { ended: Ended::Stored(numbers), doubtful: false };
            }
            Err(error) => error,
        };
        client.heed(shard, asked, &error);
        doubtful |= error.effect() == Effect::Unknown;
        tracing::debug!(%error, shard = %shard.id, attempt, "put refused");
        match error {
            Error::StaleMap(version) => return Put { ended: Ended::Stale(version), doubtful },
            Error::StreamNotFound(_) => client.maps().forget(stream),
            _ => {}
        }
        let ended = match client.pause(&mut retries, &error, until).await {
            Step::Again(_) => {
                attempt += 1;
                continue;
            }
            Step::GiveUp => Ended::Refused(error),
            Step::Late => Ended::Late(error),
        };
        return Put { ended, doubtful };
    }
}

/// How long one attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    /// At the node.
    deadline: Duration,
    /// Until its answer is here.
    patience: Duration,
}

impl Limits {
    /// An attempt that may be repeated whatever becomes of it leaves time for the next: the node may be
    /// paused. One that may not gets all the time there is.
    fn new(policy: Policy, attempt_timeout: Duration, rest: Duration) -> Limits {
        match policy {
            Policy::OnlyWithoutEffect => Limits { deadline: rest, patience: rest + ANSWER_GRACE },
            Policy::Always => {
                let grace = ANSWER_GRACE.min(attempt_timeout / 2);
                let deadline = rest.min(attempt_timeout - grace);
                Limits { deadline, patience: deadline + grace }
            }
        }
    }
}

/// One attempt at one node.
async fn put_once(
    mut node: Stub,
    stream: &StreamDescription,
    shard: &Shard,
    records: &[Record],
    limits: Limits,
) -> Result<Vec<SequenceNumber>, Error> {
    let request = wire::PutRequest {
        stream: stream.name.to_string(),
        incarnation: stream.incarnation.0,
        map_version: stream.map.version().0,
        shard_index: shard.id.index(),
        group: shard.group.0,
        records: records.iter().map(wire::Record::from).collect(),
        deadline_ms: u32::try_from(limits.deadline.as_millis()).unwrap_or(u32::MAX).max(1),
    };
    let response = match timeout(limits.patience, node.put(request)).await {
        Ok(response) => answer(response)?,
        Err(_) => return Err(Error::from_silence(limits.patience)),
    };
    accepted(response.refusal.clone())?;
    numbers(&response, shard, records.len())
}

/// The number of every record.
fn numbers(
    response: &wire::PutResponse,
    shard: &Shard,
    count: usize,
) -> Result<Vec<SequenceNumber>, Error> {
    let parse = |text: &String| {
        text.parse::<SequenceNumber>().map_err(|error| Error::Protocol(error.to_string()))
    };
    let numbers: Vec<SequenceNumber> = match response.sequence_numbers.as_slice() {
        [] => {
            let first = parse(&response.first_sequence_number)?;
            let number = |counter| SequenceNumber { counter, ..first };
            (first.counter..).map(number).take(count).collect()
        }
        each => each.iter().map(parse).collect::<Result<_, _>>()?,
    };
    if numbers.len() != count {
        let what = format!("{count} records were sent, {} have numbers", numbers.len());
        return Err(Error::Protocol(what));
    }
    // A parent's id is always below its child's.
    match numbers.iter().find(|number| number.shard > shard.id) {
        Some(odd) => Err(Error::Protocol(format!("asked {}, stored in {}", shard.id, odd.shard))),
        None => Ok(numbers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{GroupId, HashKeyRange, ShardId};

    fn shard() -> Shard {
        Shard {
            id: ShardId::from(3),
            group: GroupId(9),
            range: HashKeyRange::uniform(1)[0],
            creation_second: 1_790_000_000,
            parents: vec![ShardId::from(1)],
            replicas: vec![],
            closed_second: None,
        }
    }

    fn number(shard: u32, counter: u64) -> SequenceNumber {
        let start = SequenceNumber::start_of(ShardId::from(shard), 1_790_000_000);
        SequenceNumber { counter, ..start }
    }

    fn answered(first: &str, each: &[SequenceNumber]) -> wire::PutResponse {
        wire::PutResponse {
            first_sequence_number: first.to_owned(),
            sequence_numbers: each.iter().map(SequenceNumber::to_string).collect(),
            refusal: None,
        }
    }

    #[test]
    fn every_record_gets_its_number() {
        let first = answered(&number(3, 7).to_string(), &[]);
        let expected = vec![number(3, 7), number(3, 8), number(3, 9)];
        assert_eq!(numbers(&first, &shard(), 3), Ok(expected));
        let mixed = [number(1, 4), number(3, 7)];
        assert_eq!(numbers(&answered("", &mixed), &shard(), 2), Ok(mixed.to_vec()));
    }

    #[test]
    fn an_answer_that_cannot_be_is_not_believed() {
        for (answer, count) in [
            (answered("", &[]), 1),
            (answered("", &[number(3, 7)]), 2),
            (answered("", &[number(3, 7), number(4, 8)]), 2),
            (answered(&number(4, 7).to_string(), &[]), 1),
        ] {
            let numbers = numbers(&answer, &shard(), count);
            assert!(matches!(numbers, Err(Error::Protocol(_))), "{answer:?}");
        }
    }

    #[test]
    fn an_attempt_that_may_be_repeated_leaves_time_for_the_next() {
        let second = Duration::from_secs;
        let bold = Limits::new(Policy::Always, second(3), second(10));
        assert_eq!(bold, Limits { deadline: second(2), patience: second(3) });
        let last = Limits::new(Policy::Always, second(3), second(1));
        assert_eq!(last, Limits { deadline: second(1), patience: second(2) });
        let only = Limits::new(Policy::OnlyWithoutEffect, second(3), second(10));
        assert_eq!(only, Limits { deadline: second(10), patience: second(11) });
    }
}
