//! Protocols, headers, the order of checks, limits, shutdown.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const DENIED: &str = "<AccessDeniedException>\n  <Message>Unable to determine service/operation \
                      name to be authorized</Message>\n</AccessDeniedException>\n";

fn request(content_type: &str, target: &str, body: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method("POST")
        .uri("http://localhost/any/path")
        .header("content-type", content_type)
        .header("x-amz-target", target)
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

const JSON: &str = "application/x-amz-json-1.1";
const LIST: &str = "Kinesis_20131202.ListStreams";

#[tokio::test]
async fn both_protocols_answer_on_one_port() {
    let house = House::with_stream("s", 1).await;
    for got in [
        house.send(post("ListStreams", "{}")).await,
        house.send_h2(post("ListStreams", "{}")).await,
    ] {
        assert_eq!(got.ok()["StreamNames"], json!(["s"]));
        assert_eq!(got.header("content-type"), Some("application/x-amz-json-1.1"));
        assert_eq!(got.header("x-amzn-requestid").map(str::len), Some(36));
        assert_eq!(got.header("x-amz-id-2").map(str::len), Some(96));
    }
    let record = json!({"StreamName": "s", "PartitionKey": "k", "Data": "AAEC"}).to_string();
    assert_eq!(house.send_h2(post("PutRecord", record)).await.status, 200);
    assert_eq!(house.fake.stored(), 1);
}

#[tokio::test]
async fn an_operation_without_output_answers_with_an_empty_body() {
    let house = House::new().await;
    let got = house.call("CreateStream", json!({"StreamName": "s", "ShardCount": 1})).await;
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert_eq!(got.header("content-length"), Some("0"));
    assert_eq!(got.header("content-type"), Some(JSON));
}

#[tokio::test]
async fn checks_come_in_awss_order() {
    let house = House::new().await;
    let cbor =
        |name: &str| [b"\xa1\x66__type", &[0x60 | name.len() as u8][..], name.as_bytes()].concat();
    let plain = |name: &str| {
        let name = format!("com.amazon.coral.service#{name}");
        json!({"Output": {"__type": name}, "Version": "1.0"}).to_string()
    };
    let bare = |name: &str| json!({"__type": name}).to_string();
    let cases: [(Request<_>, u16, Option<&str>, Vec<u8>); 13] = [
        // Step 2: not a POST.
        (house.request("GET", "/", ""), 403, None, DENIED.into()),
        (house.request("PUT", "/x", "{}"), 403, None, DENIED.into()),
        (house.request("OPTIONS", "/", ""), 403, None, DENIED.into()),
        // Step 3: an empty body.
        (request(JSON, LIST, ""), 400, Some(JSON), bare("SerializationException").into()),
        (request(JSON, "x", ""), 400, Some(JSON), bare("UnknownOperationException").into()),
        (
            request("text/html", LIST, ""),
            400,
            Some("application/x-amz-cbor-1.1"),
            cbor("SerializationException"),
        ),
        // Step 4: an unknown content type.
        (request("text/html", "x", "{}"), 403, None, DENIED.into()),
        (request("text/html", "a.b", "{}"), 404, None, b"<UnknownOperationException/>\n".into()),
        // Step 5: a bad body, before the target.
        (request(JSON, "a.b", "nil"), 400, Some(JSON), bare("SerializationException").into()),
        (request(JSON, LIST, "true"), 400, Some(JSON), bare("SerializationException").into()),
        (
            request("application/json", LIST, "true"),
            400,
            Some("application/json"),
            plain("SerializationException").into(),
        ),
        // Step 6: plain JSON.
        (
            request("application/json", LIST, "{}"),
            404,
            Some("application/json"),
            plain("UnknownOperationException").into(),
        ),
        // Step 7: an unknown target.
        (
            request(JSON, "Kinesis_20131202.Nope", "{}"),
            400,
            Some(JSON),
            bare("UnknownOperationException").into(),
        ),
    ];
    for (request, status, content_type, body) in cases {
        let asked = format!("{request:?}");
        let got = house.send(request).await;
        assert_eq!(got.status, status, "{asked}");
        assert_eq!(got.header("content-type"), content_type, "{asked}");
        assert_eq!(got.body, body, "{asked}");
        assert!(got.header("x-amzn-requestid").is_some() && got.header("x-amz-id-2").is_some());
    }
    let lenient = request("   application/x-amz-json-1.1   ;whatever", LIST, "{}");
    assert_eq!(house.send(lenient).await.status, 200);
}

#[tokio::test]
async fn an_operation_of_a_later_version_is_known_but_refused() {
    let house = House::with_stream("s", 1).await;
    house.call("SubscribeToShard", json!({"StreamName": "s"})).await.is_error(
        400,
        "UnknownOperationException",
        "Tristream does not have the operation SubscribeToShard yet.",
    );
}

#[tokio::test]
async fn pages_of_other_origins_may_ask() {
    let house = House::new().await;
    let mut asks = house.request("OPTIONS", "/", "");
    for (name, value) in [
        ("origin", "https://example.com"),
        ("access-control-request-headers", "x-amz-target"),
        ("access-control-request-method", "POST"),
    ] {
        asks.headers_mut().insert(name, value.parse().unwrap());
    }
    let got = house.send(asks).await;
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert_eq!(got.header("access-control-allow-origin"), Some("*"));
    assert_eq!(got.header("access-control-max-age"), Some("172800"));
    assert_eq!(got.header("access-control-allow-headers"), Some("x-amz-target"));
    assert_eq!(got.header("access-control-allow-methods"), Some("POST"));
    assert!(got.header("x-amz-id-2").is_none() && got.header("content-type").is_none());
    assert!(got.header("x-amzn-requestid").is_some());

    let mut lists = post("ListStreams", "{}");
    lists.headers_mut().insert("origin", "https://example.com".parse().unwrap());
    let got = house.send(lists).await;
    assert_eq!(got.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        got.header("access-control-expose-headers"),
        Some(
            "x-amzn-RequestId,x-amzn-ErrorType,x-amz-request-id,x-amz-id-2,x-amzn-ErrorMessage,Date"
        )
    );
}

#[tokio::test]
async fn a_body_too_large_is_refused_before_anything_else() {
    let limits = Limits { body_bytes_max: 1_000, ..Limits::default() };
    let house = House::with(limits).await;
    for method in ["POST", "PUT"] {
        let got = house.send(house.request(method, "/", vec![b'x'; 1_001])).await;
        assert_eq!((got.status, got.body.len()), (413, 0), "{method}");
    }
    assert_eq!(house.send(house.request("POST", "/", vec![b'x'; 1_000])).await.status, 403);
}

#[tokio::test]
async fn a_node_full_of_bodies_says_come_later() {
    let house = House::with(Limits { bodies_bytes_max: 10, ..Limits::default() }).await;
    let got = house.call("ListStreams", json!({"Limit": 10_000})).await;
    assert_eq!(got.status, 503);
    assert_eq!(got.json()["__type"], "ServiceUnavailableException");
    assert_eq!(house.call("ListStreams", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_for() {
    let house = House::new().await;
    house.fake.panic();
    let got = house.call("ListStreams", json!({})).await;
    assert_eq!((got.status, got.json()), (500, json!({"__type": "InternalFailure"})));
    assert!(got.header("x-amzn-requestid").is_some() && got.header("x-amz-id-2").is_some());
}

#[tokio::test]
async fn before_the_node_is_ready_requests_are_told_to_come_again() {
    let house = House::new().await;
    house.api.send_replace(None);
    let got = house.call("ListStreams", json!({})).await;
    assert_eq!(got.status, 503);
    assert_eq!(got.json()["__type"], "ServiceUnavailableException");
    house.call("Nope", json!({})).await;
    house.api.send_replace(Some(house.fake.api()));
    assert_eq!(house.call("ListStreams", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let limits = Limits { head_wait: Duration::from_millis(50), ..Limits::default() };
    let house = House::with(limits).await;
    for sent in [&b""[..], b"PRI * HT", b"POST / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(&house.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut rest = Vec::new();
        // Ends when the door closes the connection; the test's own limit is the runner's.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
    }
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_a_place() {
    let house = House::with(Limits { connections_max: 1, ..Limits::default() }).await;
    let first = TcpStream::connect(&house.address).await.unwrap();
    let mut second = Box::pin(house.call("ListStreams", json!({})));
    let waited = tokio::time::timeout(Duration::from_millis(200), &mut second).await;
    assert!(waited.is_err(), "answered beside an open connection");
    drop(first);
    assert_eq!(second.await.status, 200);
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_waits_for_none() {
    let house = House::new().await;
    let mut idle = TcpStream::connect(&house.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut begin = [0; 12];
    idle.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    house.tasks.shutdown().await;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(&house.address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_request_at_work_is_answered_before_the_node_stops() {
    let house = House::with_stream("s", 1).await;
    let gate = house.fake.hold_puts();
    let put = |protocol: fn(&House, Request<Full<Bytes>>) -> BoxFuture<'_, Got>| {
        let body = json!({"StreamName": "s", "PartitionKey": "k", "Data": ""}).to_string();
        protocol(&house, post("PutRecord", body))
    };
    let h1 = put(|house, request| Box::pin(house.send(request)));
    let h2 = put(|house, request| Box::pin(house.send_h2(request)));
    let stop = async {
        while house.fake.waiting_puts() < 2 {
            tokio::task::yield_now().await;
        }
        let stopping = house.tasks.shutdown();
        let release = async {
            house.tasks.stopping().cancelled().await;
            gate.add_permits(2);
        };
        tokio::join!(stopping, release)
    };
    let (h1, h2, _) = tokio::join!(h1, h2, stop);
    h1.ok();
    h2.ok();
    assert_eq!(house.fake.stored(), 2);
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_is_given_up() {
    let limits = Limits { drain_wait: Duration::from_millis(50), ..Limits::default() };
    let house = House::with(limits).await;
    house.create("s", 1).await;
    let _gate = house.fake.hold_puts();
    let mut stuck = TcpStream::connect(&house.address).await.unwrap();
    let body = r#"{"StreamName":"s","PartitionKey":"k","Data":""}"#;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\n\
         x-amz-target: Kinesis_20131202.PutRecord\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stuck.write_all(head.as_bytes()).await.unwrap();
    while house.fake.waiting_puts() < 1 {
        tokio::task::yield_now().await;
    }
    // Hangs here if the door waits for ever.
    house.tasks.shutdown().await;
    let mut rest = Vec::new();
    let _ = stuck.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn a_node_at_work_on_enough_requests_says_come_later() {
    let house = House::with(Limits { requests_max: 1, ..Limits::default() }).await;
    house.create("s", 1).await;
    let gate = house.fake.hold_puts();
    let input = json!({"StreamName": "s", "PartitionKey": "k", "Data": ""});
    let second = async {
        while house.fake.waiting_puts() < 1 {
            tokio::task::yield_now().await;
        }
        let got = house.call("ListStreams", json!({})).await;
        gate.add_permits(1);
        got
    };
    let (first, second) = tokio::join!(house.call("PutRecord", input), second);
    first.ok();
    assert_eq!(
        (second.status, &second.json()["__type"]),
        (503, &json!("ServiceUnavailableException"))
    );
    house.call("ListStreams", json!({})).await.ok();
}

#[tokio::test]
async fn requests_are_counted_by_operation_and_answer() {
    let house = House::new().await;
    house.call("ListStreams", json!({})).await;
    house.call("DescribeStream", json!({"StreamName": "none"})).await;
    house.call("Nope", json!({})).await;
    let text = house.metrics.encode();
    for labels in [
        r#"{operation="ListStreams",code="ok"} 1"#,
        r#"{operation="DescribeStream",code="ResourceNotFoundException"} 1"#,
        r#"{operation="unknown",code="UnknownOperationException"} 1"#,
    ] {
        assert!(text.contains(labels), "{text}");
    }
}
