//! One Kinesis request in AWS's order of checks (kinesis-contract 2). Authentication, step 8, is
//! off in this version: nobody is asked who they are.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::aws_error::{self, Exception};
use super::call;
use super::json;
use super::reply::{Answer, CBOR, JSON, answer};
use super::target::Target;
use crate::api::{Api, Operation};

const DENIED: &str = "<AccessDeniedException>\n  <Message>Unable to determine service/operation \
                      name to be authorized</Message>\n</AccessDeniedException>\n";
const UNKNOWN_XML: &str = "<UnknownOperationException/>\n";
/// Plain JSON is no encoding of Kinesis; AWS answers it in the style of its predecessor.
const PLAIN_JSON: &str = "application/json";

/// What a request came to: the answer, and what to call it in the metrics.
pub(super) struct Done {
    /// The answer.
    pub(super) answer: Answer,
    /// The operation, or `unknown`.
    pub(super) operation: &'static str,
    /// `ok`, or the exception's name.
    pub(super) code: &'static str,
}

/// Steps 3 to 11. `api` is there once the node is ready.
pub(super) async fn post(parts: &Parts, body: Bytes, api: Option<Arc<Api>>) -> Done {
    let headers = &parts.headers;
    let target = Target::of(headers);
    let operation = match parse(headers, target, &body) {
        Ok(parsed) => parsed,
        Err(refused) => return refused.done(target),
    };
    let (operation, input) = operation;
    let Some(api) = api else {
        let why = "The node is not ready: it has not yet joined its cluster.";
        return Refused::Exception(Exception::unavailable(why), JSON).done(target);
    };
    match operation.run(&api, input, call::of(parts, body)).await {
        Ok(reply) => {
            let body = reply.output.as_ref().map(json::encode).unwrap_or_default();
            let mut answer = answer(StatusCode::OK, Some(JSON), body);
            if reply.stale {
                answer.headers_mut().insert("x-tristream-stale", HeaderValue::from_static("true"));
            }
            Done { answer, operation: operation.name(), code: "ok" }
        }
        Err(error) => {
            let exception = aws_error::exception(&error);
            if exception.status.is_server_error() {
                tracing::info!(operation = operation.name(), %error, "request failed");
            }
            Refused::Exception(exception, JSON).done(target)
        }
    }
}

/// The answer to a method that no operation has.
pub(super) fn denied() -> Answer {
    answer(StatusCode::FORBIDDEN, None, DENIED)
}

/// A node that holds too many bodies, or a handler that failed.
pub(super) fn refused(exception: &Exception) -> Answer {
    answer(exception.status, Some(JSON), json::encode(&exception.members()))
}

/// Refused before an operation saw it.
enum Refused {
    /// In the encoding of this content type.
    Exception(Exception, &'static str),
    /// In the envelope for plain JSON.
    Plain(&'static str, StatusCode),
    /// 403, in XML.
    Denied,
    /// 404, in XML.
    UnknownType,
}

/// Steps 3 to 7.
fn parse(
    headers: &HeaderMap,
    target: Target,
    body: &[u8],
) -> Result<(Operation, crate::api::Members), Refused> {
    let known = match target {
        Target::Known(operation) => Some(operation),
        Target::None | Target::Unknown => None,
    };
    let content_type = content_type(headers);
    if body.is_empty() {
        let name =
            if known.is_some() { aws_error::SERIALIZATION } else { aws_error::UNKNOWN_OPERATION };
        let encoding = if content_type == JSON { JSON } else { CBOR };
        return Err(Refused::Exception(Exception::bare(name), encoding));
    }
    if content_type != JSON && content_type != PLAIN_JSON {
        return Err(match target {
            Target::None => Refused::Denied,
            Target::Unknown | Target::Known(_) => Refused::UnknownType,
        });
    }
    let Some(input) = json::decode(body) else {
        let bare = Exception::bare(aws_error::SERIALIZATION);
        return Err(match content_type {
            PLAIN_JSON => Refused::Plain(aws_error::SERIALIZATION, bare.status),
            _ => Refused::Exception(bare, JSON),
        });
    };
    if content_type == PLAIN_JSON {
        return Err(Refused::Plain(aws_error::UNKNOWN_OPERATION, StatusCode::NOT_FOUND));
    }
    let unknown = || Refused::Exception(Exception::bare(aws_error::UNKNOWN_OPERATION), JSON);
    Ok((known.ok_or_else(unknown)?, input))
}

/// The content type up to `;`, without blanks around it.
fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

impl Refused {
    fn done(self, target: Target) -> Done {
        let operation = match target {
            Target::Known(operation) => operation.name(),
            Target::None | Target::Unknown => "unknown",
        };
        let (answer, code) = match self {
            Refused::Exception(exception, encoding) => {
                let body = match encoding {
                    CBOR => cbor_type(exception.name),
                    _ => json::encode(&exception.members()),
                };
                (answer(exception.status, Some(encoding), body), exception.name)
            }
            Refused::Plain(name, status) => {
                let body = format!(
                    "{{\"Output\":{{\"__type\":\"com.amazon.coral.service#{name}\"}},\
                     \"Version\":\"1.0\"}}"
                );
                (answer(status, Some(PLAIN_JSON), body), name)
            }
            Refused::Denied => (denied(), "AccessDenied"),
            Refused::UnknownType => {
                (answer(StatusCode::NOT_FOUND, None, UNKNOWN_XML), aws_error::UNKNOWN_OPERATION)
            }
        };
        Done { answer, operation, code }
    }
}

/// `{"__type": name}` in CBOR: the one answer in CBOR that a request without a known encoding gets.
fn cbor_type(name: &str) -> Vec<u8> {
    const MAP_OF_ONE: u8 = 0xa1;
    const TEXT: u8 = 0x60;
    const TEXT_OF_LENGTH_U8: u8 = 0x78;
    let mut out = vec![MAP_OF_ONE, TEXT | 6];
    out.extend_from_slice(b"__type");
    if name.len() > 23 {
        // Names of exceptions are far below 256 characters.
        out.extend_from_slice(&[TEXT_OF_LENGTH_U8, name.len() as u8]);
    } else {
        out.push(TEXT | name.len() as u8);
    }
    out.extend_from_slice(name.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cbor_names_are_well_formed() {
        assert_eq!(cbor_type("AB"), b"\xa1\x66__type\x62AB");
        let long = "UnknownOperationException";
        let mut expected = b"\xa1\x66__type\x78\x19".to_vec();
        expected.extend_from_slice(long.as_bytes());
        assert_eq!(cbor_type(long), expected);
    }
}
