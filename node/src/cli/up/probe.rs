//! Asks nodes whether they are ready: `GET /readyz`.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Pause between two rounds.
const STEP: Duration = Duration::from_millis(50);
/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// A status line is shorter.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Returns when every door has answered 200 in one round.
pub(super) async fn all_ready(doors: &[String]) {
    while !not_ready(doors).await.is_empty() {
        sleep(STEP).await;
    }
}

/// The doors, by their place in `doors`, that do not answer 200 now.
pub(super) async fn not_ready(doors: &[String]) -> Vec<usize> {
    let asked = doors.iter().map(|door| timeout(PATIENCE, is_ready(door)));
    let answers = futures::future::join_all(asked).await;
    let late = |(at, answer)| (!matches!(answer, Ok(Ok(true)))).then_some(at);
    answers.into_iter().enumerate().filter_map(late).collect()
}

async fn is_ready(door: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(door).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {door}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut bounded = stream.take(ANSWER_BYTES_MAX);
    // The status line is enough; what follows may take its time.
    while !answer.contains(&b'\n') && bounded.read_buf(&mut answer).await? > 0 {}
    Ok(is_ok(&answer))
}

fn is_ok(answer: &[u8]) -> bool {
    let mut words = answer.split(|byte| byte.is_ascii_whitespace());
    words.next().is_some_and(|version| version.starts_with(b"HTTP/1."))
        && words.next() == Some(b"200")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn only_200_is_ready() {
        assert!(is_ok(b"HTTP/1.1 200 OK\r\n"));
        for bad in [&b"HTTP/1.1 503 Service Unavailable\r\n"[..], b"200", b"", b"HTTP/1.1 2000\r\n"]
        {
            assert!(!is_ok(bad));
        }
    }

    #[tokio::test]
    async fn a_cluster_is_ready_when_all_are() {
        let good = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let bad = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = |l: &TcpListener| l.local_addr().expect("bound").to_string();
        let doors = [address(&good), address(&bad), address(&gone)];
        drop(gone);
        let answer = async |listener: &TcpListener, status: &str| {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let _ = stream.read(&mut [0; 1024]).await;
                let text = format!("HTTP/1.1 {status}\r\n\r\n");
                let _ = stream.write_all(text.as_bytes()).await;
            }
        };
        let asked = async {
            assert_eq!(not_ready(&doors).await, [1, 2]);
            all_ready(&doors[..1]).await;
        };
        tokio::select! {
            () = asked => {}
            () = answer(&good, "200 OK") => {}
            () = answer(&bad, "503 Service Unavailable") => {}
        }
    }
}
