//! Which attempts count as one call, from the headers down to the records.

use tristream_proto::domain::{CallId, Origin};

use super::*;

const INVOCATION: &str = "amz-sdk-invocation-id";
const ID: &str = "6a4a5ec3-3a51-4b6a-9b5e-0d7c1f1e2a3b";

fn one(data: &str) -> String {
    json!({"StreamName": "s", "PartitionKey": "a", "Data": data}).to_string()
}

fn many(count: usize) -> String {
    let entry = |at: usize| json!({"PartitionKey": at.to_string(), "Data": ""});
    json!({"StreamName": "s", "Records": (0..count).map(entry).collect::<Vec<_>>()}).to_string()
}

fn signed(caller: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={caller}/20261121/us-east-1/kinesis/aws4_request, S=0")
}

/// A request with these headers, as an SDK sends it.
fn attempt(operation: &str, body: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = post(operation, body.to_owned());
    for (name, value) in headers {
        let name = http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

impl House {
    /// The origins of the records that a request brings to the streams.
    async fn origins(&self, request: Request<Full<Bytes>>) -> Vec<Origin> {
        self.send(request).await.ok();
        let origins = self.fake.take_origins();
        origins.into_iter().map(|origin| origin.expect("every record has an origin")).collect()
    }

    /// The call that a PutRecord is taken for.
    async fn call_of(&self, body: &str, headers: &[(&str, &str)]) -> CallId {
        let origins = self.origins(attempt("PutRecord", body, headers)).await;
        assert_eq!(origins.iter().map(|origin| origin.ordinal).collect::<Vec<_>>(), [0]);
        origins[0].call
    }
}

#[tokio::test]
async fn attempts_of_one_call_are_recognised_on_every_node() {
    let (house, other) = (House::with_stream("s", 3).await, House::with_stream("s", 3).await);
    let caller = signed("AKID");
    let headers = [(INVOCATION, ID), ("authorization", caller.as_str())];
    // What differs between attempts: their number, and when they were signed.
    let later = caller.replace("20261121", "20261122");
    let again = [
        (INVOCATION, ID),
        ("authorization", later.as_str()),
        ("amz-sdk-request", "attempt=2; max=3"),
    ];
    for (operation, body, count) in [("PutRecord", one(""), 1), ("PutRecords", many(7), 7)] {
        let first = house.origins(attempt(operation, &body, &headers)).await;
        let ordinals: Vec<u16> = first.iter().map(|origin| origin.ordinal).collect();
        assert_eq!(ordinals, (0..count).collect::<Vec<u16>>());
        assert!(first.iter().all(|origin| origin.call == first[0].call), "{first:?}");
        assert_eq!(house.origins(attempt(operation, &body, &again)).await, first);
        assert_eq!(other.origins(attempt(operation, &body, &again)).await, first);
    }
}

#[tokio::test]
async fn whatever_makes_it_another_call_gives_it_another_id() {
    let house = House::with_stream("s", 1).await;
    let (caller, another) = (signed("AKID"), signed("BKID"));
    let headers = [(INVOCATION, ID), ("authorization", caller.as_str())];
    let mut ids = vec![
        house.call_of(&one(""), &headers).await,
        house.call_of(&one("AAEC"), &headers).await,
        house.call_of(&format!("{} ", one("")), &headers).await,
        house.call_of(&one(""), &[(INVOCATION, ID), ("authorization", &another)]).await,
        house.call_of(&one(""), &[(INVOCATION, ID)]).await,
        house.call_of(&one(""), &[(INVOCATION, "another"), ("authorization", &caller)]).await,
    ];
    // A body that both operations understand.
    let mut both: Value = serde_json::from_str(&many(1)).unwrap();
    both["PartitionKey"] = json!("a");
    both["Data"] = json!("");
    for operation in ["PutRecord", "PutRecords"] {
        let origins = house.origins(attempt(operation, &both.to_string(), &headers)).await;
        ids.push(origins[0].call);
    }
    house.fake.forget("s");
    house.create("s", 1).await;
    ids.push(house.call_of(&one(""), &headers).await);
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert_eq!(count, 9);
}

#[tokio::test]
async fn the_caller_of_a_presigned_request_counts_too() {
    let house = House::with_stream("s", 1).await;
    let mut ids = vec![];
    for query in ["AKID%2F20261121", "AKID%2F20261122", "BKID%2F20261121"] {
        let mut request = attempt("PutRecord", &one(""), &[(INVOCATION, ID)]);
        let uri = format!("http://localhost/?X-Amz-Credential={query}");
        *request.uri_mut() = uri.parse().unwrap();
        ids.push(house.origins(request).await[0].call);
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
    assert_eq!(
        ids[0],
        house.call_of(&one(""), &[(INVOCATION, ID), ("authorization", &signed("AKID")),]).await
    );
}

#[tokio::test]
async fn calls_that_cannot_be_told_apart_are_never_taken_for_one() {
    let house = House::with_stream("s", 1).await;
    let (longest, too_long) = ("x".repeat(256), "x".repeat(257));
    let signature = signed("AKID");
    let with = |id: &'static str| [(INVOCATION, id), ("authorization", signature.as_str())];
    for headers in [&[][..], &with("")[..], &[(INVOCATION, too_long.as_str())][..]] {
        let first = house.call_of(&one(""), headers).await;
        assert_ne!(house.call_of(&one(""), headers).await, first, "{headers:?}");
    }
    let headers = [(INVOCATION, longest.as_str())];
    let first = house.call_of(&one(""), &headers).await;
    assert_eq!(house.call_of(&one(""), &headers).await, first);
}

#[tokio::test]
async fn a_large_body_is_told_from_another_by_its_last_byte() {
    let house = House::with_stream("s", 1).await;
    // Larger than what is hashed on the spot, smaller than what a record may be.
    let body = |last: &str| one(&format!("{}{last}", "A".repeat((1 << 20) + 4)));
    let headers = [(INVOCATION, ID)];
    let first = house.call_of(&body("AAAA"), &headers).await;
    assert_eq!(house.call_of(&body("AAAA"), &headers).await, first);
    assert_ne!(house.call_of(&body("AAAB"), &headers).await, first);
}

#[tokio::test]
async fn nothing_is_recognised_when_the_settings_say_so() {
    let house = House::with_stream("s", 1).await;
    let mut api = Arc::into_inner(house.fake.api()).unwrap();
    api.deduplicate = false;
    house.api.send_replace(Some(Arc::new(api)));
    let headers = [(INVOCATION, ID)];
    let first = house.call_of(&one(""), &headers).await;
    assert_ne!(house.call_of(&one(""), &headers).await, first);
    let many = house.origins(attempt("PutRecords", &many(3), &headers)).await;
    assert!(
        many.iter().all(|origin| origin.call == many[0].call),
        "our own retries are still told"
    );
}

#[tokio::test]
async fn a_stream_takes_records_while_it_is_being_resharded() {
    let house = House::with_stream("s", 1).await;
    house.fake.set_status("s", StreamStatus::Updating);
    house.call_of(&one(""), &[]).await;
    house.origins(attempt("PutRecords", &many(2), &[])).await;
    assert_eq!(house.fake.stored(), 3);
}
