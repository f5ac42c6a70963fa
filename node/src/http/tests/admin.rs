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

mod faults {
    //! Who may impose what.

    use std::net::IpAddr;

    use super::*;
    use crate::entropy::OsEntropy;
    use crate::faults::Faults;
    use crate::http::faults::Desk;

    const CUT: &str = r#"{"fault":"partition","az":["az-b"],"for_ms":60000}"#;
    const TOKEN: &str = "0123456789abcdef";

    impl House {
        async fn with_faults(token: Option<&str>) -> House {
            let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new()));
            let peers = ["az-b", "az-c"].map(|zone| (format!("{zone}:1"), zone.to_owned()));
            let faults = Faults::new(peers, Arc::new(OsEntropy), metrics, tasks);
            House::behind(|door| door.with_faults(faults, token.map(str::to_owned))).await
        }

        async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
            let mut request = self.request(method, path, body.to_owned());
            for (name, value) in headers {
                let name: http::HeaderName = name.parse().unwrap();
                request.headers_mut().insert(name, value.parse().unwrap());
            }
            self.send(request).await
        }
    }

    #[tokio::test]
    async fn a_node_that_does_not_allow_faults_says_so() {
        let house = House::new().await;
        for method in ["GET", "POST", "DELETE"] {
            let got = house.ask(method, "/admin/v1/faults", &[], CUT).await;
            assert_eq!(got.status, 403, "{method}");
            assert!(got.json()["error"].as_str().unwrap().contains("--enable-faults"), "{got:?}");
        }
    }

    #[tokio::test]
    async fn a_fault_is_imposed_listed_and_healed() {
        let house = House::with_faults(None).await;
        let got = house.ask("POST", "/admin/v1/faults", &[], CUT).await;
        assert_eq!((got.status, got.json()["id"].as_u64()), (201, Some(1)), "{got:?}");
        let got = house.get("/admin/v1/faults").await;
        assert_eq!(got.json()["faults"][0]["words"], "no message to and from az-b");
        let slow = r#"{"fault":"delay","az":["az-c"],"delay_ms":5}"#;
        assert_eq!(house.ask("POST", "/admin/v1/faults", &[], slow).await.status, 201);
        let got = house.ask("DELETE", "/admin/v1/faults/1", &[], "").await;
        assert_eq!((got.status, got.json()["healed"][0]["id"].as_u64()), (200, Some(1)));
        assert_eq!(house.ask("DELETE", "/admin/v1/faults/1", &[], "").await.status, 404);
        let got = house.ask("DELETE", "/admin/v1/faults", &[], "").await;
        assert_eq!(got.json()["healed"][0]["id"], 2);
        assert_eq!(house.get("/admin/v1/faults").await.json(), json!({"faults": []}));
    }

    #[tokio::test]
    async fn nonsense_is_refused_in_words() {
        let house = House::with_faults(None).await;
        for (method, path, body, status) in [
            ("POST", "/admin/v1/faults", "{", 400),
            ("POST", "/admin/v1/faults", r#"{"fault":"partition","az":["az-a"]}"#, 400),
            ("POST", "/admin/v1/faults", &"x".repeat(5_000), 413),
            ("POST", "/admin/v1/faults/1", CUT, 405),
            ("DELETE", "/admin/v1/faults/one", "", 404),
            ("PUT", "/admin/v1/faults", CUT, 405),
        ] {
            let got = house.ask(method, path, &[], body).await;
            assert_eq!(got.status, status, "{method} {path} {body}: {got:?}");
            assert!(got.json()["error"].is_string(), "{got:?}");
        }
        assert_eq!(house.get("/admin/v1/faults").await.json(), json!({"faults": []}));
        assert_eq!(house.get("/admin/v1/faultsx").await.status, 404);
    }

    #[tokio::test]
    async fn web_pages_and_wrong_tokens_change_nothing() {
        let house = House::with_faults(Some(TOKEN)).await;
        let path = "/admin/v1/faults";
        for (headers, status) in [
            (&[("origin", "http://evil.example")][..], 403),
            (&[("origin", "null"), ("authorization", "Bearer 0123456789abcdef")], 403),
            (&[("authorization", "Bearer 0123456789abcdeX")], 401),
            (&[("authorization", "Basic 0123456789abcdef")], 401),
            (&[("x-forwarded-for", "203.0.113.9")], 401),
            (&[("forwarded", "for=203.0.113.9")], 401),
        ] {
            for method in ["POST", "DELETE"] {
                let got = house.ask(method, path, headers, CUT).await;
                assert_eq!(got.status, status, "{method} {headers:?}");
            }
        }
        assert_eq!(house.get(path).await.json(), json!({"faults": []}));
        let shown = [("authorization", "Bearer 0123456789abcdef")];
        assert_eq!(house.ask("POST", path, &shown, CUT).await.status, 201);
    }

    #[tokio::test]
    async fn another_machine_needs_the_token() {
        let faults =
            || Faults::new([], Arc::new(OsEntropy), Arc::new(Metrics::new()), Tasks::new());
        let refused = |desk: &Desk, from: &str, authorization: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = authorization {
                headers.insert("authorization", http::HeaderValue::from_static(value));
            }
            desk.refusal(from.parse::<IpAddr>().unwrap(), &headers)
                .map(|(status, _)| status.as_u16())
        };
        let (shut, open) = (Desk::new(faults(), None), Desk::new(faults(), Some(TOKEN.to_owned())));
        for desk in [&shut, &open] {
            for near in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
                assert_eq!(refused(desk, near, None), None);
            }
            for far in ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::1"] {
                assert_eq!(refused(desk, far, None), Some(401));
            }
        }
        assert_eq!(refused(&open, "10.0.0.7", Some("Bearer 0123456789abcdef")), None);
        assert_eq!(refused(&shut, "10.0.0.7", Some("Bearer 0123456789abcdef")), Some(401));
        assert_eq!(refused(&shut, "10.0.0.7", Some("Bearer ")), Some(401));
    }
}
