//! Why an operation was refused, in domain words. The text of each error (`Display`) is AWS's.
//!
//! Must not know exception names or HTTP codes: `http::aws_error` has the one table of those.

use std::time::Duration;

use tristream_proto::domain::{Effect, Retry, ShardId, StreamName, Timestamp};

use super::java_date::java_date;
use crate::router;

/// Why an operation was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A member cannot be converted to its type.
    #[error("{0}")]
    Serialization(String),
    /// Members break constraints of the model.
    #[error("{0}")]
    Validation(String),
    /// Arguments break a rule of the operation.
    #[error("{0}")]
    InvalidArgument(String),
    /// The operation is known, but not to this version.
    #[error("Tristream does not have the operation {0} yet.")]
    NotYet(&'static str),
    /// All checks passed, and the caller wanted no more than that.
    #[error("Request would have succeeded, but DryRun flag is set.")]
    DryRun,
    /// No such stream.
    #[error("Stream {stream} under account {account} not found.")]
    StreamNotFound {
        /// Its name, as far as it is one.
        stream: String,
        /// The account it was looked for in.
        account: String,
    },
    /// No such stream, or it has no such shard.
    #[error("Shard {shard} in stream {stream} under account {account} does not exist")]
    ShardNotFound {
        /// The shard.
        shard: ShardId,
        /// The stream.
        stream: StreamName,
        /// The account.
        account: String,
    },
    /// What should name a shard does not.
    #[error("Could not find shard {shard} in stream {stream} under account {account}.")]
    NoShardId {
        /// As it was sent.
        shard: String,
        /// The stream.
        stream: StreamName,
        /// The account.
        account: String,
    },
    /// The name is taken.
    #[error("Stream {stream} under account {account} already exists.")]
    StreamExists {
        /// The name.
        stream: StreamName,
        /// The account.
        account: String,
    },
    /// The stream is in no state for this.
    #[error("Stream {stream} under account {account} not ACTIVE, instead in state {state}")]
    StreamNotActive {
        /// The stream.
        stream: StreamName,
        /// The account.
        account: String,
        /// Its state.
        state: &'static str,
    },
    /// Too many shards.
    #[error(
        "This request would exceed the shard limit for the account {account} in {region}. Current \
         shard count for the account: {open}. Limit: {limit}. Number of additional shards that \
         would have resulted from this request: {more}. Refer to the AWS Service Limits page \
         (http://docs.aws.amazon.com/general/latest/gr/aws_service_limits.html) for current limits \
         and how to request higher limits."
    )]
    ShardLimit {
        /// The account.
        account: String,
        /// The region.
        region: String,
        /// Open shards now.
        open: usize,
        /// The limit.
        limit: usize,
        /// Shards asked for.
        more: u32,
    },
    /// A limit on changes, in AWS's words.
    #[error("{0}")]
    LimitExceeded(String),
    /// What should be a shard iterator is none.
    #[error("Invalid ShardIterator.")]
    InvalidIterator,
    /// The shard iterator is too old.
    #[error(
        "Iterator expired. The iterator was created at time {} while right now it is {} which is \
         further in the future than the tolerated delay of {} milliseconds.",
        java_date(*.issued), java_date(*.now), .life.as_millis()
    )]
    IteratorExpired {
        /// When it was made.
        issued: Timestamp,
        /// When it was used.
        now: Timestamp,
        /// How long it was good for.
        life: Duration,
    },
    /// What should be a pagination token is none.
    #[error("Invalid NextToken.")]
    InvalidPageToken,
    /// The pagination token is too old.
    #[error(
        "NextToken expired. It was created at time {} and is valid for 300 seconds.",
        java_date(*.issued)
    )]
    PageTokenExpired {
        /// When it was made.
        issued: Timestamp,
    },
    /// The shard cannot take more now. Did not happen.
    #[error("Rate exceeded for shard {shard} in stream {stream} under account {account}.")]
    Throttled {
        /// The shard.
        shard: ShardId,
        /// The stream.
        stream: StreamName,
        /// The account.
        account: String,
    },
    /// The shard cannot be read any faster.
    #[error("Rate exceeded for Shard - {account}/{stream}/{shard}")]
    ReadThrottled {
        /// The shard.
        shard: ShardId,
        /// The stream.
        stream: StreamName,
        /// The account.
        account: String,
    },
    /// No leader or no quorum within the deadline, or no room. Did not happen.
    #[error("{0}")]
    Unavailable(String),
    /// It may have happened, or may yet.
    #[error("{0}")]
    Unknown(String),
    /// Our own failure; the text is for the log.
    #[error("{0}")]
    Internal(String),
}

/// Longest text of a request that an error repeats, in bytes. AWS repeats everything; the longest
/// that its own suite looks at is a list of 501 records, 33 kB.
const ECHO_BYTES_MAX: usize = 64 << 10;

/// As much of a request's text as an error may repeat.
pub(super) fn echo(text: &str) -> &str {
    &text[..text.floor_char_boundary(ECHO_BYTES_MAX)]
}

impl Error {
    /// A member that cannot be converted.
    pub fn serialization(text: &str) -> Error {
        Error::Serialization(text.to_owned())
    }

    /// May the caller send it again?
    pub fn retry(&self) -> Retry {
        match self {
            Error::Throttled { .. }
            | Error::ReadThrottled { .. }
            | Error::Unavailable(_)
            | Error::Unknown(_)
            | Error::Internal(_) => Retry::Later,
            _ => Retry::Never,
        }
    }

    /// Did it happen?
    pub fn effect(&self) -> Effect {
        match self {
            Error::Unknown(_) | Error::Internal(_) => Effect::Unknown,
            _ => Effect::None,
        }
    }
}

/// What the router says, where no operation has a better word for it.
impl From<router::Error> for Error {
    fn from(error: router::Error) -> Error {
        match error {
            router::Error::Unavailable(why)
            | router::Error::Throttled(why)
            | router::Error::StorageFull(why) => Error::Unavailable(why),
            router::Error::Unknown(why) => Error::Unknown(why),
            router::Error::Invalid(why) => Error::InvalidArgument(why),
            other => Error::Internal(other.to_string()),
        }
    }
}
