//! Faults on real sockets: what passes, what waits, and that it ends.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::entropy::OsEntropy;
use crate::net::{Net, Stream, TcpNet};

/// For what shall happen.
const LIMIT: Duration = Duration::from_secs(20);
/// For what shall not: as long as a message would take many times over.
const NEVER: Duration = Duration::from_millis(150);

fn faults_of(peer: &str) -> (Faults, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let peers =
        [(peer.to_owned(), "az-b".to_owned()), ("127.0.0.1:1".to_owned(), "az-c".to_owned())];
    (Faults::new(peers, Arc::new(OsEntropy), metrics.clone(), Tasks::new()), metrics)
}

fn order(json: &str) -> Order {
    serde_json::from_str(json).expect("an order")
}

/// A connection from us to az-b: our end through the faults, and az-b's end.
async fn connected() -> (Faults, Stream, TcpStream) {
    let peer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = peer.local_addr().expect("bound").to_string();
    let (faults, _) = faults_of(&address);
    let net = FaultyNet::new(Arc::new(TcpNet), faults.clone());
    let (ours, theirs) = tokio::join!(net.connect(&address), peer.accept());
    (faults, ours.expect("connected"), theirs.expect("accepted").0)
}

async fn says(stream: &mut (impl tokio::io::AsyncWrite + Unpin), word: &[u8; 4]) {
    stream.write_all(word).await.expect("written");
    stream.flush().await.expect("written");
}

async fn hears(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<[u8; 4]> {
    let mut word = [0; 4];
    match timeout(LIMIT, stream.read_exact(&mut word)).await {
        Ok(read) => read.map(|_| word),
        Err(_) => panic!("nothing came within {LIMIT:?}"),
    }
}

async fn hears_nothing(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut byte = [0];
    let heard = timeout(NEVER, stream.read(&mut byte)).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn what_a_cut_held_comes_late_and_in_order() {
    let (faults, mut ours, mut theirs) = connected().await;
    says(&mut ours, b"one ").await;
    assert_eq!(hears(&mut theirs).await.expect("whole"), *b"one ");
    faults.impose(order(r#"{"fault":"partition","az":["az-b"]}"#)).expect("imposed");
    says(&mut ours, b"two ").await;
    says(&mut ours, b"thre").await;
    says(&mut theirs, b"four").await;
    tokio::join!(hears_nothing(&mut theirs), hears_nothing(&mut ours));
    let healed = faults.heal(None);
    assert!(healed[0].hits >= 2, "both ways met it: {healed:?}");
    assert_eq!(hears(&mut theirs).await.expect("whole"), *b"two ");
    assert_eq!(hears(&mut theirs).await.expect("whole"), *b"thre");
    assert_eq!(hears(&mut ours).await.expect("whole"), *b"four");
}

#[tokio::test]
async fn one_way_is_one_way() {
    let (faults, mut ours, mut theirs) = connected().await;
    let cut = r#"{"fault":"partition","az":["az-b"],"direction":"from"}"#;
    faults.impose(order(cut)).expect("imposed");
    says(&mut ours, b"out ").await;
    assert_eq!(hears(&mut theirs).await.expect("whole"), *b"out ");
    says(&mut theirs, b"in  ").await;
    hears_nothing(&mut ours).await;
}

#[tokio::test]
async fn a_cut_from_one_zone_is_none_from_another() {
    let (faults, mut ours, mut theirs) = connected().await;
    faults.impose(order(r#"{"fault":"partition","az":["az-c"]}"#)).expect("imposed");
    says(&mut ours, b"out ").await;
    assert_eq!(hears(&mut theirs).await.expect("whole"), *b"out ");
}

#[tokio::test]
async fn a_fault_heals_by_itself() {
    let (faults, mut ours, mut theirs) = connected().await;
    let cut = r#"{"fault":"partition","az":["az-b"],"for_ms":300}"#;
    let picture = faults.impose(order(cut)).expect("imposed");
    assert!(picture.heals_in_ms <= 300);
    says(&mut ours, b"late").await;
    assert_eq!(hears(&mut theirs).await.expect("whole"), *b"late");
    assert!(faults.list().is_empty());
}

#[tokio::test]
async fn nobody_is_reached_behind_a_cut_and_that_is_no_refusal() {
    let (faults, _ours, _theirs) = connected().await;
    let net = FaultyNet::new(Arc::new(TcpNet), faults.clone());
    // Nobody listens for az-c: without a cut this is refused at once, which proves that the process is gone.
    assert!(timeout(LIMIT, net.connect("127.0.0.1:1")).await.expect("at once").is_err());
    faults.impose(order(r#"{"fault":"partition","az":["az-c"]}"#)).expect("imposed");
    assert!(timeout(NEVER, net.connect("127.0.0.1:1")).await.is_err(), "a cut proves nothing");
}

#[tokio::test]
async fn messages_are_late_by_what_was_asked_and_keep_their_order() {
    let (faults, mut ours, mut theirs) = connected().await;
    let slow = r#"{"fault":"delay","az":["az-b"],"direction":"to","delay_ms":200,"random_ms":100}"#;
    faults.impose(order(slow)).expect("imposed");
    let begun = Instant::now();
    for word in [b"one ", b"two ", b"thre", b"four"] {
        says(&mut ours, word).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for word in [b"one ", b"two ", b"thre", b"four"] {
        assert_eq!(hears(&mut theirs).await.expect("whole"), *word);
        assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    }
    assert!(faults.heal(None)[0].hits >= 1);
}

#[tokio::test]
async fn a_lost_message_takes_its_connection_with_it() {
    let (faults, mut ours, mut theirs) = connected().await;
    faults.impose(order(r#"{"fault":"loss","az":["az-b"],"share":1}"#)).expect("imposed");
    says(&mut ours, b"gone").await;
    let mut bytes = Vec::new();
    let read = timeout(LIMIT, theirs.read_to_end(&mut bytes)).await.expect("it ends");
    assert!(bytes.is_empty(), "{read:?}: {bytes:?}");
    assert!(hears(&mut ours).await.is_err(), "both ends learn of it");
}

#[tokio::test]
async fn a_share_of_messages_is_lost_and_not_all() {
    let (faults, ..) = connected().await;
    faults.impose(order(r#"{"fault":"loss","az":["az-b"],"share":0.3}"#)).expect("imposed");
    let lost = (0..2_000).filter(|_| faults.toll("az-b", Flow::To).is_none()).count();
    assert!((400..800).contains(&lost), "{lost} of 2000");
    assert_eq!(faults.list()[0].hits, lost as u64);
    assert!((0..100).all(|_| faults.toll("az-c", Flow::To).is_some()));
}

#[tokio::test]
async fn a_caller_is_cut_off_once_it_is_known() {
    let (faults, _) = faults_of("127.0.0.1:2");
    let net = FaultyNet::new(Arc::new(TcpNet), faults.clone());
    let door = net.bind("127.0.0.1:0").await.expect("a port");
    let address = door.local_addr().expect("bound");
    faults.impose(order(r#"{"fault":"partition","az":["az-b"]}"#)).expect("imposed");
    let (ours, theirs) = tokio::join!(door.accept(), TcpStream::connect(address));
    let (mut ours, mut theirs) = (ours.expect("accepted").0, theirs.expect("connected"));
    says(&mut theirs, b"whom").await;
    assert_eq!(hears(&mut ours).await.expect("whole"), *b"whom", "it may be a client");
    tonic::transport::server::Connected::connect_info(&ours).is("az-b");
    says(&mut theirs, b"more").await;
    says(&mut ours, b"back").await;
    tokio::join!(hears_nothing(&mut theirs), hears_nothing(&mut ours));
    faults.heal(None);
    assert_eq!(hears(&mut ours).await.expect("whole"), *b"more");
    assert_eq!(hears(&mut theirs).await.expect("whole"), *b"back");
}

#[tokio::test]
async fn the_end_of_a_cut_connection_is_not_hidden_for_ever() {
    let (faults, mut ours, theirs) = connected().await;
    faults.impose(order(r#"{"fault":"partition","az":["az-b"]}"#)).expect("imposed");
    drop(theirs);
    hears_nothing(&mut ours).await;
    assert!(hears(&mut ours).await.is_err(), "within {LIMIT:?}, and the cut lasts for a minute");
}

#[tokio::test]
async fn faults_have_a_bound_and_are_counted() {
    let (faults, metrics) = faults_of("127.0.0.1:2");
    let cut = || faults.impose(order(r#"{"fault":"partition","az":["az-b"]}"#));
    let ids: Vec<u64> = (0..FAULTS_MAX).map(|_| cut().expect("room").id).collect();
    assert_eq!(cut(), Err(Refused::TooMany));
    let text = metrics.encode();
    assert!(text.contains(r#"tristream_faults_on{fault="partition"} 32"#), "{text}");
    assert!(text.contains(r#"tristream_faults_total{fault="partition"} 32"#), "{text}");
    let healed = faults.heal(Some(ids[3]));
    assert_eq!(healed.iter().map(|one| one.id).collect::<Vec<_>>(), [ids[3]]);
    assert!(faults.heal(Some(ids[3])).is_empty());
    cut().expect("room again");
    assert_eq!(faults.heal(None).len(), FAULTS_MAX);
    assert!(metrics.encode().contains(r#"tristream_faults_on{fault="partition"} 0"#));
}
