//! The door over real sockets, with streams in memory behind it.

mod admin;
mod calls;
mod reading;
mod resharding;
mod streams;
mod transport;
mod writing;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Door, Limits};
use crate::api::Api;
use crate::api::fake::Fake;
use crate::entropy::OsEntropy;
use crate::metadata::StreamStatus;
use crate::metrics::Metrics;
use crate::net::{Net, TcpNet};
use crate::tasks::Tasks;

/// An open door.
struct House {
    fake: Arc<Fake>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    address: String,
    api: watch::Sender<Option<Arc<Api>>>,
    ready: watch::Sender<Result<(), String>>,
}

/// What came back.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Checks status, exception and text.
    #[track_caller]
    fn is_error(&self, status: u16, name: &str, message: &str) {
        let member = if name == "SerializationException" { "Message" } else { "message" };
        let expected = json!({"__type": name, member: message});
        assert_eq!((self.status, self.json()), (status, expected));
    }

    /// Checks for a 200 and gives its body.
    #[track_caller]
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

impl House {
    async fn new() -> House {
        House::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> House {
        House::made(limits, |door| door).await
    }

    /// A door that is changed before it opens.
    async fn behind(change: impl FnOnce(Door) -> Door) -> House {
        House::made(Limits::default(), change).await
    }

    async fn made(limits: Limits, change: impl FnOnce(Door) -> Door) -> House {
        let (fake, tasks, metrics) = (Fake::new(), Tasks::new(), Arc::new(Metrics::new()));
        let (api, ready) = (watch::Sender::new(Some(fake.api())), watch::Sender::new(Ok(())));
        let listener = TcpNet.bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (api_seen, ready_seen) = (api.subscribe(), ready.subscribe());
        let door = Door::new(api_seen, ready_seen, metrics.clone(), Arc::new(OsEntropy), limits);
        change(door).open(listener, &tasks);
        House { fake, tasks, metrics, address, api, ready }
    }

    /// A stream that takes records.
    async fn with_stream(name: &str, shards: u32) -> House {
        let house = House::new().await;
        house.create(name, shards).await;
        house
    }

    async fn create(&self, name: &str, shards: u32) {
        let got = self.call("CreateStream", json!({"StreamName": name, "ShardCount": shards}));
        assert_eq!(got.await.status, 200);
        self.fake.set_status(name, StreamStatus::Active);
    }

    /// An operation as an AWS client asks for it.
    async fn call(&self, operation: &str, input: Value) -> Got {
        self.send(post(operation, input.to_string())).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        let io = TokioIo::new(TcpStream::connect(&self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        drive(async { connection.await.is_ok() });
        got(sender.send_request(request).await.unwrap()).await
    }

    /// Over HTTP/2, without asking first.
    async fn send_h2(&self, request: Request<Full<Bytes>>) -> Got {
        let io = TokioIo::new(TcpStream::connect(&self.address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        drive(async { connection.await.is_ok() });
        got(sender.send_request(request).await.unwrap()).await
    }

    async fn get(&self, path: &str) -> Got {
        self.send(self.request("GET", path, Bytes::new())).await
    }

    fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let uri = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(uri).body(Full::new(body.into())).unwrap()
    }
}

/// A request of an AWS client, with whatever body.
fn post(operation: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method("POST")
        .uri("http://localhost/")
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amz-target", format!("Kinesis_20131202.{operation}"))
        .body(Full::new(body.into()))
        .unwrap()
}

#[allow(clippy::disallowed_methods)]
fn drive(connection: impl Future<Output = bool> + Send + 'static) {
    tokio::spawn(connection);
}

async fn got(response: Response<hyper::body::Incoming>) -> Got {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Got { status: parts.status.as_u16(), headers: parts.headers, body }
}
