//! `/admin/v1/faults`: GET lists what is on, POST imposes one, DELETE heals all, or one by `/admin/v1/faults/ID`.
//!
//! Invariants: off unless the node was started to allow it; nothing is changed for somebody who neither is on this
//! machine nor shows the token, and nothing for a web page, wherever its browser runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, FORWARDED, HeaderMap, ORIGIN};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Body;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::body::{self, Refusal};
use super::reply::{Answer, answer as reply};
use super::server::Door;
use crate::faults::{Faults, Order, Refused};

const PATH: &str = "/admin/v1/faults";
const JSON: &str = "application/json";
/// An order is shorter.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Bodies of orders in memory at a time, in bytes.
const BODIES_BYTES_MAX: usize = 64 << 10;
const BODY_WAIT: Duration = Duration::from_secs(5);

/// Where faults are imposed.
pub(super) struct Desk {
    faults: Faults,
    /// The token's hash: comparing hashes tells nothing about how much of a guess was right.
    token: Option<[u8; 32]>,
    bodies: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(faults: Faults, token: Option<String>) -> Desk {
        let token = token.map(|token| hash(&token));
        Desk { faults, token, bodies: Arc::new(Semaphore::new(BODIES_BYTES_MAX)) }
    }

    /// Why somebody may not change anything, if so.
    pub(super) fn refusal(
        &self,
        from: IpAddr,
        headers: &HeaderMap,
    ) -> Option<(StatusCode, String)> {
        // Browsers send this with whatever a page makes them send.
        if headers.contains_key(ORIGIN) {
            return Some((StatusCode::FORBIDDEN, "not for web pages".to_owned()));
        }
        if let Some(shown) = headers.get(AUTHORIZATION) {
            let shown = shown.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            return match (shown, self.token) {
                (Some(shown), Some(token)) if hash(shown.trim()) == token => None,
                _ => Some((StatusCode::UNAUTHORIZED, "this is not the fault_token".to_owned())),
            };
        }
        let forwarded = headers.contains_key(FORWARDED) || headers.contains_key("x-forwarded-for");
        if from.to_canonical().is_loopback() && !forwarded {
            return None;
        }
        let how = match self.token {
            Some(_) => "show the token: Authorization: Bearer FAULT_TOKEN",
            None => "set fault_token in this node's settings, or ask from its own machine",
        };
        let why = format!("faults are imposed from the node's own machine or with a token: {how}");
        Some((StatusCode::UNAUTHORIZED, why))
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Whether a path is one of these.
pub(super) fn is_for(path: &str) -> bool {
    path.strip_prefix(PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request for such a path that came `from` there.
pub(super) async fn answer<B>(door: &Door, from: IpAddr, parts: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let Some(desk) = &door.faults else {
        let why = "faults are off on this node: start it with --enable-faults, \
                   or with enable_faults = true in its settings";
        return error(StatusCode::FORBIDDEN, why);
    };
    let rest = parts.uri.path().strip_prefix(PATH).unwrap_or_default();
    if rest.is_empty() && (parts.method == Method::GET || parts.method == Method::HEAD) {
        return told(StatusCode::OK, &json!({ "faults": desk.faults.list() }));
    }
    if let Some((status, why)) = desk.refusal(from, &parts.headers) {
        return error(status, &why);
    }
    match (&parts.method, rest) {
        (&Method::POST, "") => impose(desk, body).await,
        (&Method::DELETE, "") => told(StatusCode::OK, &json!({ "healed": desk.faults.heal(None) })),
        (&Method::DELETE, rest) => heal_one(desk, rest),
        (_, "") => error(StatusCode::METHOD_NOT_ALLOWED, "GET, POST or DELETE"),
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "one fault can only be healed: DELETE"),
    }
}

async fn impose<B>(desk: &Desk, body: B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let taken = match body::take(body, BODY_BYTES_MAX, &desk.bodies, BODY_WAIT).await {
        Ok(taken) => taken,
        Err(Refusal::TooLarge) => return error(StatusCode::PAYLOAD_TOO_LARGE, "too long"),
        Err(Refusal::Busy) => return error(StatusCode::SERVICE_UNAVAILABLE, "come later"),
        Err(Refusal::TooSlow) => return error(StatusCode::REQUEST_TIMEOUT, "no body in time"),
        Err(Refusal::Broken) => return error(StatusCode::BAD_REQUEST, "no whole body"),
    };
    let order: Order = match serde_json::from_slice(&taken.bytes) {
        Ok(order) => order,
        Err(why) => return error(StatusCode::BAD_REQUEST, &why.to_string()),
    };
    match desk.faults.impose(order) {
        Ok(picture) => told(StatusCode::CREATED, &picture),
        Err(Refused::Invalid(why)) => error(StatusCode::BAD_REQUEST, &why),
        Err(full @ Refused::TooMany) => error(StatusCode::TOO_MANY_REQUESTS, &full.to_string()),
    }
}

fn heal_one(desk: &Desk, rest: &str) -> Answer {
    let Some(id) = rest.strip_prefix('/').and_then(|text| text.parse().ok()) else {
        return error(StatusCode::NOT_FOUND, "a fault is named by its number");
    };
    match desk.faults.heal(Some(id)) {
        gone if gone.is_empty() => error(StatusCode::NOT_FOUND, "no such fault is on"),
        gone => told(StatusCode::OK, &json!({ "healed": gone })),
    }
}

fn error(status: StatusCode, why: &str) -> Answer {
    told(status, &json!({ "error": why }))
}

fn told(status: StatusCode, what: &impl Serialize) -> Answer {
    match serde_json::to_vec(what) {
        Ok(body) => reply(status, Some(JSON), body),
        Err(why) => {
            tracing::error!(%why, "cannot write the faults");
            reply(StatusCode::INTERNAL_SERVER_ERROR, None, Bytes::new())
        }
    }
}
