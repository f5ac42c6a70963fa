//! One request: limits, routing, the common headers, the span, and an answer whatever happens.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::header::ORIGIN;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Body;
use tokio::time::Instant;
use tracing::Instrument;

use super::aws_error::Exception;
use super::body::{self, Refusal};
use super::kinesis::{self, Done};
use super::reply::{Answer, answer, finish, preflight};
use super::{admin, faults, server::Door};

/// The operation of a request that came to none, in the metrics.
const NOBODY: &str = "unknown";

/// Answers a request that came `from` there.
pub(super) async fn serve<B>(door: &Door, from: IpAddr, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let id = door.entropy.uuid();
    let (parts, body) = request.into_parts();
    let span = tracing::info_span!("request", request_id = %id, operation = tracing::field::Empty);
    let work =
        AssertUnwindSafe(route(door, from, &parts, body)).catch_unwind().instrument(span.clone());
    let mut response = match work.await {
        Ok(response) => response,
        Err(panic) => {
            span.in_scope(|| tracing::error!(reason = panic_text(&*panic), "a handler panicked"));
            let failure = Exception::internal();
            door.metrics.observe_request(NOBODY, failure.name, Duration::ZERO);
            let mut response = kinesis::refused(&failure);
            finish(&mut response, &parts.headers, door.entropy.as_ref());
            response
        }
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

async fn route<B>(door: &Door, from: IpAddr, parts: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let headers = &parts.headers;
    let mut response = if body::announces_more(headers, door.limits.body_bytes_max) {
        answer(StatusCode::PAYLOAD_TOO_LARGE, None, Bytes::new())
    } else if parts.method == Method::OPTIONS && headers.contains_key(ORIGIN) {
        return preflight(headers);
    } else if faults::is_for(parts.uri.path()) {
        return faults::answer(door, from, parts, body).await;
    } else if let Some(page) = admin::get(door, &parts.method, parts.uri.path()).await {
        return page;
    } else if parts.method != Method::POST {
        kinesis::denied()
    } else {
        post(door, parts, body).await
    };
    finish(&mut response, headers, door.entropy.as_ref());
    response
}

async fn post<B>(door: &Door, parts: &Parts, body: B) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let limits = &door.limits;
    let taken = body::take(body, limits.body_bytes_max, &door.bodies, limits.body_wait).await;
    let taken = match taken {
        Ok(taken) => taken,
        Err(refusal) => return no_body(door, refusal),
    };
    // Only now: a slow body takes no place from those that are here.
    let Ok(_place) = door.requests.try_acquire() else { return no_body(door, Refusal::Busy) };
    let begin = Instant::now();
    let api = door.api.borrow().clone();
    let Done { answer, operation, code } = kinesis::post(parts, taken.bytes, api).await;
    door.metrics.observe_request(operation, code, begin.elapsed());
    tracing::Span::current().record("operation", operation);
    tracing::debug!(code, "answered");
    drop(taken.share);
    answer
}

fn no_body(door: &Door, refusal: Refusal) -> Answer {
    match refusal {
        Refusal::TooLarge => answer(StatusCode::PAYLOAD_TOO_LARGE, None, Bytes::new()),
        Refusal::TooSlow => answer(StatusCode::REQUEST_TIMEOUT, None, Bytes::new()),
        Refusal::Broken => answer(StatusCode::BAD_REQUEST, None, Bytes::new()),
        Refusal::Busy => {
            let why = "The node holds as many requests as it can. Try again later.";
            let busy = Exception::unavailable(why);
            door.metrics.observe_request(NOBODY, busy.name, Duration::ZERO);
            kinesis::refused(&busy)
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
