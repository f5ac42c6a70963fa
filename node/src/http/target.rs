//! `X-Amz-Target` -> operation (kinesis-contract 1.2).

use http::HeaderMap;

use crate::api::Operation;

const SERVICE: &str = "Kinesis_20131202";

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// No target, or one without both a service and an operation.
    None,
    /// A service or operation that Kinesis does not have.
    Unknown,
    /// An operation of the model.
    Known(Operation),
}

impl Target {
    /// Reads the header.
    pub(super) fn of(headers: &HeaderMap) -> Target {
        let text = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or("");
        let Some((service, operation)) = text.split_once('.') else { return Target::None };
        if service.is_empty() || operation.is_empty() {
            return Target::None;
        }
        let known = (service == SERVICE).then(|| Operation::named(operation)).flatten();
        known.map_or(Target::Unknown, Target::Known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &'static str) -> Target {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-target", http::HeaderValue::from_static(text));
        Target::of(&headers)
    }

    #[test]
    fn targets_are_told_apart() {
        assert!(
            matches!(target("Kinesis_20131202.PutRecord"), Target::Known(op) if op.name() == "PutRecord")
        );
        assert!(matches!(target("Kinesis_20131202.SplitShard"), Target::Known(_)));
        for unknown in ["Kinesis_20131202.putRecord", "Kinesis_20131201.PutRecord", "a.b"] {
            assert!(matches!(target(unknown), Target::Unknown), "{unknown}");
        }
        for none in ["", "Kinesis_20131202", "Kinesis_20131202.", ".PutRecord"] {
            assert!(matches!(target(none), Target::None), "{none}");
        }
        assert!(matches!(Target::of(&HeaderMap::new()), Target::None));
    }
}
