//! The one table from our errors to AWS's exceptions: name, text and HTTP status (kinesis-contract
//! 6).
//!
//! The only file that names exceptions. What the SDKs do with an answer was part of each choice:
//! they send a request again after any 500 or 503 and after the two throttling exceptions, and
//! after nothing else.

use http::StatusCode;

use crate::api::{Error, Members};

/// An exception as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    /// `__type`.
    pub(super) name: &'static str,
    /// The text, and the member that carries it: AWS writes `Message` in one case.
    pub(super) message: Option<(&'static str, String)>,
    /// The HTTP status.
    pub(super) status: StatusCode,
}

pub(super) const SERIALIZATION: &str = "SerializationException";
pub(super) const UNKNOWN_OPERATION: &str = "UnknownOperationException";
const INTERNAL_FAILURE: &str = "InternalFailure";
const UNAVAILABLE: &str = "ServiceUnavailableException";
const THROTTLED: &str = "ProvisionedThroughputExceededException";

/// The table.
fn row(error: &Error) -> (&'static str, StatusCode) {
    match error {
        Error::Serialization(_) => (SERIALIZATION, StatusCode::BAD_REQUEST),
        Error::Validation(_) => ("ValidationException", StatusCode::BAD_REQUEST),
        Error::InvalidArgument(_) | Error::InvalidIterator | Error::InvalidPageToken => {
            ("InvalidArgumentException", StatusCode::BAD_REQUEST)
        }
        Error::NotYet(_) => (UNKNOWN_OPERATION, StatusCode::BAD_REQUEST),
        Error::DryRun => ("DryRunOperationException", StatusCode::BAD_REQUEST),
        Error::StreamNotFound { .. } | Error::ShardNotFound { .. } | Error::NoShardId { .. } => {
            ("ResourceNotFoundException", StatusCode::BAD_REQUEST)
        }
        Error::StreamExists { .. } | Error::StreamNotActive { .. } => {
            ("ResourceInUseException", StatusCode::BAD_REQUEST)
        }
        Error::ShardLimit { .. } | Error::LimitExceeded(_) => {
            ("LimitExceededException", StatusCode::BAD_REQUEST)
        }
        Error::IteratorExpired { .. } => ("ExpiredIteratorException", StatusCode::BAD_REQUEST),
        Error::PageTokenExpired { .. } => ("ExpiredNextTokenException", StatusCode::BAD_REQUEST),
        Error::Throttled { .. } | Error::ReadThrottled { .. } => {
            (THROTTLED, StatusCode::BAD_REQUEST)
        }
        Error::Unavailable(_) => (UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE),
        Error::Unknown(_) | Error::Internal(_) => {
            (INTERNAL_FAILURE, StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// An operation's error as an exception.
pub(super) fn exception(error: &Error) -> Exception {
    let (name, status) = row(error);
    let message = match error {
        Error::Serialization(_) => Some(("Message", error.to_string())),
        // AWS's has none: the reason is for our log.
        Error::Unknown(_) | Error::Internal(_) => None,
        _ => Some(("message", error.to_string())),
    };
    Exception { name, message, status }
}

/// One failed record of PutRecords. There AWS has two codes only: throttled, and everything else.
pub(super) fn entry(error: &Error) -> Members {
    let (code, message) = match error {
        Error::Throttled { .. } => (THROTTLED, error.to_string()),
        // The texts of these two begin with what the caller wants to know: why.
        Error::Unavailable(why) | Error::Unknown(why) => {
            (INTERNAL_FAILURE, format!("Internal service failure. {why}"))
        }
        _ => (INTERNAL_FAILURE, "Internal service failure.".to_owned()),
    };
    Members::new().with("ErrorCode", code).with("ErrorMessage", message)
}

impl Exception {
    /// One without a text: what the door itself refuses.
    pub(super) fn bare(name: &'static str) -> Exception {
        Exception { name, message: None, status: StatusCode::BAD_REQUEST }
    }

    /// Our own failure.
    pub(super) fn internal() -> Exception {
        exception(&Error::Internal(String::new()))
    }

    /// Not now, but soon.
    pub(super) fn unavailable(why: &str) -> Exception {
        exception(&Error::Unavailable(why.to_owned()))
    }

    /// As the body's members.
    pub(super) fn members(&self) -> Members {
        let members = Members::new().with("__type", self.name);
        match &self.message {
            Some((name, text)) => members.with(name, text.as_str()),
            None => members,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tristream_proto::domain::{Retry, ShardId};

    #[test]
    fn the_sdks_retry_exactly_what_may_be_retried() {
        let throttled = Error::Throttled {
            shard: ShardId::from(1),
            stream: "s".parse().unwrap(),
            account: "000000000000".to_owned(),
        };
        for error in [
            throttled,
            Error::Unavailable("x".into()),
            Error::Unknown("x".into()),
            Error::Internal("x".into()),
            Error::InvalidIterator,
            Error::DryRun,
            Error::NotYet("SubscribeToShard"),
            Error::Validation("x".into()),
            Error::StreamNotFound { stream: "s".into(), account: "1".into() },
        ] {
            let exception = exception(&error);
            let retried = exception.status.is_server_error() || exception.name == THROTTLED;
            assert_eq!(retried, error.retry() != Retry::Never, "{error:?}");
        }
    }

    #[test]
    fn an_internal_failure_tells_nothing_of_the_inside() {
        let exception = exception(&Error::Internal("sled broke".into()));
        assert_eq!((exception.name, &exception.message), ("InternalFailure", &None));
        let entry = entry(&Error::Internal("sled broke".into()));
        let texts = format!("{entry:?}");
        assert!(!texts.contains("sled"), "{texts}");
    }

    #[test]
    fn serialization_errors_alone_write_message_with_a_capital() {
        let name = |error: Error| exception(&error).message.map(|(name, _)| name);
        assert_eq!(name(Error::serialization("x")), Some("Message"));
        assert_eq!(name(Error::Validation("x".into())), Some("message"));
    }
}
