//! Who asks, and which invocation it is, as AWS's SDKs say it in headers (or a presigned query).
//!
//! Nobody is asked to prove anything here: what is read only tells calls apart. Must not know what is
//! done with it.

use bytes::Bytes;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::api::Call;

/// The same in all attempts that an SDK makes of one call (measured: boto3, JavaScript v3, Rust).
const INVOCATION: &str = "amz-sdk-invocation-id";
/// Longer access key ids than AWS's 128 characters are cut: they tell callers apart as well.
const CALLER_BYTES_MAX: usize = 128;

/// The call that a request is an attempt of.
pub(super) fn of(parts: &Parts, body: Bytes) -> Call {
    let signed = text(&parts.headers, AUTHORIZATION.as_str()).and_then(in_header);
    let presigned = || parts.uri.query().and_then(in_query);
    Call {
        caller: signed.or_else(presigned).unwrap_or_default().to_owned(),
        invocation: text(&parts.headers, INVOCATION).map(str::to_owned),
        body,
    }
}

/// A header's value, when it is UTF-8.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
}

/// `AWS4-HMAC-SHA256 Credential=AKID/20261121/us-east-1/kinesis/aws4_request, SignedHeaders=...`
fn in_header(text: &str) -> Option<&str> {
    let (algorithm, parameters) = text.trim().split_once(' ')?;
    if !algorithm.starts_with("AWS4-") {
        return None;
    }
    let mut parameters = parameters.split(',').map(str::trim_start);
    parameters.find_map(|text| text.strip_prefix("Credential=")).and_then(access_key)
}

/// `...&X-Amz-Credential=AKID%2F20261121%2F...`
fn in_query(query: &str) -> Option<&str> {
    let mut pairs = query.split('&');
    pairs.find_map(|pair| pair.strip_prefix("X-Amz-Credential=")).and_then(access_key)
}

/// What stands before the first slash, which a query may escape. Letters and digits need no escape.
fn access_key(credential: &str) -> Option<&str> {
    let key = credential.split(['/', '%']).next().unwrap_or_default();
    let key = &key[..key.floor_char_boundary(CALLER_BYTES_MAX)];
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn call(uri: &str, headers: &[(&str, &[u8])]) -> Call {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        of(&request.body(()).unwrap().into_parts().0, Bytes::from_static(b"{}"))
    }

    fn caller(header: &str) -> String {
        call("/", &[("authorization", header.as_bytes())]).caller
    }

    #[test]
    fn the_caller_is_the_access_key_of_the_signature() {
        let scope = "20261121/us-east-1/kinesis/aws4_request";
        for header in [
            format!("AWS4-HMAC-SHA256 Credential=AKID/{scope}, SignedHeaders=host, Signature=0"),
            format!("AWS4-HMAC-SHA256 SignedHeaders=host,Credential=AKID/{scope},Signature=0"),
            format!("  AWS4-ECDSA-P256-SHA256   Credential=AKID/{scope}"),
        ] {
            assert_eq!(caller(&header), "AKID", "{header}");
        }
        for none in ["", "Basic QUtJRA==", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=/x"] {
            assert_eq!(caller(none), "", "{none}");
        }
        let long = "K".repeat(1_000);
        let cut = caller(&format!("AWS4-HMAC-SHA256 Credential={long}/x"));
        assert_eq!(cut.len(), CALLER_BYTES_MAX);
    }

    #[test]
    fn a_presigned_request_names_its_caller_in_the_query() {
        let uri =
            "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F2026%2Fus&X-Amz-Date=1";
        assert_eq!(call(uri, &[]).caller, "AKID");
        assert_eq!(call("/?X-Amz-Credential=AKID/2026", &[]).caller, "AKID");
        assert_eq!(call("/?Credential=AKID/2026", &[]).caller, "");
        let header: &[u8] = b"AWS4-HMAC-SHA256 Credential=OTHER/2026";
        assert_eq!(call(uri, &[("authorization", header)]).caller, "OTHER");
    }

    #[test]
    fn an_invocation_is_any_text_and_nothing_else() {
        let invocation = |value: &[u8]| call("/", &[(INVOCATION, value)]).invocation;
        assert_eq!(invocation(b"7f-a b"), Some("7f-a b".to_owned()));
        assert_eq!(invocation("ü".as_bytes()), Some("ü".to_owned()));
        assert_eq!(invocation(b"\xff"), None);
        assert_eq!(call("/", &[]).invocation, None);
    }
}
