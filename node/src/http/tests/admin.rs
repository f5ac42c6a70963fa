//! The node's own pages.

use super::*;

#[tokio::test]
async fn health_and_readiness_are_two_questions() {
    let house = House::new().await;
    let _ = house.ready.send_replace(Err("no leader for the metadata group".to_owned()));
    house.api.send_replace(None);
    assert_eq!(house.get("/healthz").await.status, 200);
    let got = house.get("/readyz").await;
    assert_eq!((got.status, got.body), (503, "no leader for the metadata group\n".into()));
    assert_eq!(house.get("/admin/v1/cluster").await.status, 503);
    let _ = house.ready.send_replace(Ok(()));
    assert_eq!(house.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_are_open_metrics() {
    let house = House::new().await;
    let got = house.get("/metrics").await;
    assert_eq!(
        got.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let text = String::from_utf8(got.body.to_vec()).unwrap();
    assert!(text.contains("tristream_fsyncs_total 0") && text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn the_cluster_view_keeps_its_form() {
    let house = House::new().await;
    let got = house.get("/admin/v1/cluster").await;
    assert_eq!(got.header("content-type"), Some("application/json"));
    let expected = concat!(
        r#"{"cluster":"otter","nodes":[{"id":1,"az":"az-a","kinesis":"127.0.0.1:4567","#,
        r#""peer":"127.0.0.1:5567","alive":true,"version":"0.1.0","storage":{"free_bytes":40,"#,
        r#""total_bytes":100,"reserve_bytes":5,"low":false}}],"groups":["#,
        r#"{"group":"meta","stream":null,"shard":null,"leader":3,"term":4,"members":[1,2,3],"#,
        r#""committed":17,"replicas":[{"node":2,"matched":16,"lag":1}]},"#,
        r#"{"group":9,"stream":"orders","shard":"shardId-000000000002","leader":null,"term":4,"#,
        r#""members":[1,2,3],"committed":17,"replicas":[{"node":2,"matched":16,"lag":1}]}]}"#,
    );
    assert_eq!(String::from_utf8(got.body.to_vec()).unwrap(), expected);
}

#[tokio::test]
async fn admin_pages_that_are_not_there_say_so() {
    let house = House::new().await;
    assert_eq!(house.get("/admin/v1/nope").await.status, 404);
    let post = house.request("POST", "/admin/v1/cluster", "{}");
    assert_eq!(house.send(post).await.status, 405);
}
