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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::timeout;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::entropy::OsEntropy;
    use crate::metrics::Metrics;
    use crate::tasks::Tasks;

    fn request(agent: &str, caller: &Caller) -> Request<()> {
        let mut request = Request::new(());
        request.headers_mut().insert(USER_AGENT, agent.parse().expect("a value"));
        request.extensions_mut().insert(caller.clone());
        request
    }

    #[tokio::test]
    async fn a_peer_is_named_and_its_first_request_waits_for_the_heal() {
        let peers = ["az-b", "az-c"].map(|zone| (format!("{zone}:1"), zone.to_owned()));
        let (metrics, tasks) = (Arc::new(Metrics::new()), Tasks::new());
        let faults = Faults::new(peers, Arc::new(OsEntropy), metrics, tasks);
        let cut = r#"{"fault":"partition","az":["az-b"],"direction":"from"}"#;
        faults.impose(serde_json::from_str(cut).expect("an order")).expect("imposed");
        let service = service_fn(|_: Request<()>| async { Ok::<_, Infallible>("answer") });
        let gated = Gate::new(faults.clone()).layer(service);

        let client = Caller::unknown();
        let answer = gated.clone().oneshot(request("tonic/0.14.9", &client)).await;
        assert_eq!((answer, client.zone()), (Ok("answer"), None), "clients pass, unnamed");
        let other = Caller::unknown();
        let answer = gated.clone().oneshot(request("tristream-node/az-c tonic", &other)).await;
        assert_eq!((answer, other.zone()), (Ok("answer"), Some("az-c")));
        let peer = Caller::unknown();
        let mut held = Box::pin(gated.oneshot(request("tristream-node/az-b tonic", &peer)));
        assert!(timeout(Duration::from_millis(150), &mut held).await.is_err(), "it is cut off");
        assert_eq!(peer.zone(), Some("az-b"));
        faults.heal(None);
        assert_eq!(timeout(Duration::from_secs(20), held).await, Ok(Ok("answer")));
    }
}
