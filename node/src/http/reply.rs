//! Answers: bodies, content types, and the headers that every answer carries (kinesis-contract 1.4
//! to 1.6, 1.13).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::entropy::Entropy;

/// An answer, complete in memory.
pub(super) type Answer = Response<Full<Bytes>>;

pub(super) const JSON: &str = "application/x-amz-json-1.1";
pub(super) const CBOR: &str = "application/x-amz-cbor-1.1";

/// An answer with a body of some type.
pub(super) fn answer(
    status: StatusCode,
    content_type: Option<&'static str>,
    body: impl Into<Bytes>,
) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// The answer to `OPTIONS` with an `Origin`.
pub(super) fn preflight(request: &HeaderMap) -> Answer {
    let mut response = answer(StatusCode::OK, None, Bytes::new());
    let headers = response.headers_mut();
    headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    headers.insert("access-control-max-age", HeaderValue::from_static("172800"));
    for (asked, allowed) in [
        ("access-control-request-headers", "access-control-allow-headers"),
        ("access-control-request-method", "access-control-allow-methods"),
    ] {
        if let Some(value) = request.get(asked) {
            headers.insert(HeaderName::from_static(allowed), value.clone());
        }
    }
    response
}

/// Adds the second id, and what a page of another origin may see.
pub(super) fn finish(response: &mut Answer, request: &HeaderMap, entropy: &dyn Entropy) {
    let mut random = [0; 72];
    entropy.fill(&mut random);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&STANDARD.encode(random)) {
        headers.insert("x-amz-id-2", id);
    }
    if request.contains_key(ORIGIN) {
        headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
        headers.insert(
            "access-control-expose-headers",
            HeaderValue::from_static(
                "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,\
                 x-amzn-ErrorMessage,Date",
            ),
        );
    }
}
