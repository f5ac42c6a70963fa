//! Names the peer behind a connection by its first request, and holds that request while the peer is cut off.
//!
//! There only where faults are allowed. The connection itself holds everything that comes later (`faults`). Must not
//! look into a call.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Request;
use http::header::USER_AGENT;
use tower::{Layer, Service};

use crate::faults::{Faults, Flow};
use crate::net::{Caller, zone_of_agent};

/// Puts the gate before a service.
#[derive(Clone)]
pub(super) struct Gate {
    faults: Faults,
}

impl Gate {
    pub(super) fn new(faults: Faults) -> Gate {
        Gate { faults }
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, faults: self.faults.clone() }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub(super) struct Gated<S> {
    inner: S,
    faults: Faults,
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        let Some(zone) = agent.and_then(zone_of_agent) else {
            return Box::pin(self.inner.call(request));
        };
        if let Some(caller) = request.extensions().get::<Caller>() {
            caller.is(zone);
        }
        let (faults, zone) = (self.faults.clone(), zone.to_owned());
        // The one that is ready answers; its clone is asked next.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            faults.wait_open(&zone, Flow::From).await;
            inner.call(request).await
        })
    }
}
