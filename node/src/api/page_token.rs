//! Pagination tokens: stateless, sealed, good for 300 seconds (kinesis-contract 7.11).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tristream_proto::domain::Timestamp;

use super::{Api, Error};

/// How long a token is good for.
const LIFE: Duration = Duration::from_secs(300);
const CODE_BYTES: usize = 32;

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    issued: Timestamp,
    place: T,
}

/// `place` as a token that only `operation` can open.
pub(super) fn seal(api: &Api, operation: &str, place: &impl Serialize) -> Result<String, Error> {
    let sealed = Sealed { issued: api.clock.now(), place };
    let mut bytes =
        serde_json::to_vec(&sealed).map_err(|error| Error::Internal(error.to_string()))?;
    let code = api.token_key.sign(operation, &bytes);
    bytes.extend_from_slice(&code);
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// What [`seal`] sealed, not longer ago than a token lives.
pub(super) fn open<T: DeserializeOwned>(
    api: &Api,
    operation: &str,
    token: &str,
) -> Result<T, Error> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Error::InvalidPageToken)?;
    let at = bytes.len().checked_sub(CODE_BYTES).ok_or(Error::InvalidPageToken)?;
    let (body, code) = bytes.split_at(at);
    if !api.token_key.verify(operation, body, code) {
        return Err(Error::InvalidPageToken);
    }
    let sealed: Sealed<T> = serde_json::from_slice(body).map_err(|_| Error::InvalidPageToken)?;
    if api.clock.now().since(sealed.issued) > LIFE {
        return Err(Error::PageTokenExpired { issued: sealed.issued });
    }
    Ok(sealed.place)
}
