//! The border between "never sent" and "may have happened", over sockets in memory.

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::AsyncReadExt;

use super::*;
use crate::net::{Listener, Net, Stream};
use crate::roster::{Member, Roster};

/// What a connection to the peer meets.
#[derive(Clone, Copy)]
enum Peer {
    /// No connection.
    Refuses,
    /// A connection that never opens.
    Silent,
    /// A connection that is closed once the peer has read something of the request.
    HangsUp,
    /// A connection that takes everything and answers nothing.
    Swallows,
}

impl Net for Peer {
    fn bind<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    #[allow(clippy::disallowed_methods)]
    fn connect<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        let peer = *self;
        Box::pin(async move {
            match peer {
                Peer::Refuses => return Err(io::ErrorKind::ConnectionRefused.into()),
                Peer::Silent => std::future::pending::<()>().await,
                Peer::HangsUp | Peer::Swallows => {}
            }
            let (ours, mut theirs) = tokio::io::duplex(1 << 20);
            tokio::spawn(async move {
                let mut seen = [0; 1 << 10];
                while let Ok(1..) = theirs.read(&mut seen).await {
                    if matches!(peer, Peer::HangsUp) {
                        return;
                    }
                }
            });
            Ok(Stream::new(ours))
        })
    }
}

fn forward(peer: Peer) -> Forward {
    let member = |id: u64| Member {
        node: NodeId(id),
        az: format!("az-{id}"),
        peer: format!("node-{id}:1"),
        kinesis: format!("node-{id}:2"),
    };
    let roster =
        Roster { cluster: "test".to_owned(), me: NodeId(1), members: vec![member(1), member(2)] };
    let net: Arc<dyn Net> = Arc::new(peer);
    Forward::new(Peers::new(&net, &roster).expect("addresses are legal"))
}

async fn put(peer: Peer, left: Duration) -> Result<Landed, Miss> {
    forward(peer).put(NodeId(2), wire::PutRequest::default(), left).await
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn without_a_connection_nothing_happened() {
    let miss = put(Peer::Refuses, LONG).await;
    assert!(matches!(miss, Err(Miss::Elsewhere { .. })), "{miss:?}");
    let miss = put(Peer::Silent, LONG).await;
    assert!(matches!(miss, Err(Miss::Elsewhere { .. })), "the connect timeout: {miss:?}");
    let miss = forward(Peer::Swallows).put(NodeId(9), wire::PutRequest::default(), LONG).await;
    assert!(matches!(miss, Err(Miss::Elsewhere { .. })), "no such node: {miss:?}");
}

#[tokio::test]
async fn once_a_byte_may_have_been_sent_the_outcome_is_unknown() {
    for (peer, left) in [(Peer::HangsUp, LONG), (Peer::Swallows, SHORT)] {
        let miss = put(peer, left).await;
        assert!(matches!(miss, Err(Miss::Final(Error::Unknown(_)))), "{miss:?}");
    }
}

#[tokio::test]
async fn what_changes_nothing_may_always_be_asked_again() {
    for (peer, left) in [(Peer::Refuses, LONG), (Peer::HangsUp, LONG), (Peer::Swallows, SHORT)] {
        let miss = forward(peer).read_barrier(NodeId(2), GroupId(1), left).await;
        assert!(matches!(miss, Err(Miss::Elsewhere { .. })), "{miss:?}");
    }
}

#[test]
fn only_an_unimplemented_method_proves_that_an_answering_peer_did_nothing() {
    assert!(never_handled(&Status::unimplemented("no such service")));
    for status in [Status::unavailable("?"), Status::cancelled("?"), Status::deadline_exceeded("?")]
    {
        assert!(!never_handled(&status), "{status:?}");
    }
    let reset = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
    assert!(!never_handled(&reset));
}

#[test]
fn refusals_are_followed_told_or_unknown() {
    let miss = |kind: i32| {
        let refusal = wire::Refusal { kind, leader: 3, ..Default::default() };
        refused(Some(refusal)).expect_err("a refusal")
    };
    let not_leader = miss(Kind::NotLeader as i32);
    assert!(matches!(not_leader, Miss::Elsewhere { leader: Some(NodeId(3)), .. }));
    for kind in [Kind::Unavailable, Kind::StaleMap, Kind::StreamNotFound] {
        assert!(matches!(miss(kind as i32), Miss::Elsewhere { leader: None, .. }), "{kind:?}");
    }
    assert!(matches!(miss(Kind::Throttled as i32), Miss::Final(Error::Throttled(_))));
    assert!(matches!(miss(Kind::Invalid as i32), Miss::Final(Error::Invalid(_))));
    for kind in [Kind::Unknown as i32, Kind::Unspecified as i32, 77] {
        assert!(matches!(miss(kind), Miss::Final(Error::Unknown(_))), "{kind}");
    }
}

#[test]
fn a_put_that_another_map_refused_waits_for_a_newer_one() {
    let moved_to = |map_version| {
        let kind = Kind::StaleMap as i32;
        moved(&wire::Refusal { kind, map_version, ..Default::default() }, MapVersion(7))
    };
    assert_eq!(moved_to(9), Landed::Moved(MapVersion(9)));
    for no_newer in [0, 6, 7] {
        assert_eq!(moved_to(no_newer), Landed::Moved(MapVersion(8)), "not in circles");
    }
}

#[test]
fn the_leader_gets_a_little_less_time_than_we_have() {
    assert_eq!(leaders_share_ms(Duration::from_secs(5)), 4_950);
    assert_eq!(leaders_share_ms(Duration::from_millis(40)), 30);
    assert_eq!(leaders_share_ms(Duration::ZERO), 1);
}
