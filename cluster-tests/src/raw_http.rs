//! One HTTP/1.1 request on a connection of its own, for what the SDK hides: headers, admin pages, refusals.
//!
//! Must not grow into a client: no redirects, no TLS, no keep-alive.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// More than any answer of a test.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer encoding.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of the first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// `GET path` at `address` (host:port).
pub async fn get(address: &str, path: &str, limit: Duration) -> anyhow::Result<Answer> {
    send(address, "GET", path, &[], b"", limit).await
}

/// One Kinesis operation, unsigned, with a JSON body.
pub async fn kinesis(
    address: &str,
    operation: &str,
    body: &Value,
    limit: Duration,
) -> anyhow::Result<Answer> {
    let target = target(operation);
    send(address, "POST", "/", &kinesis_headers(&target), &serde_json::to_vec(body)?, limit).await
}

/// The same over a connection that is already open; `invocation` is what an SDK sends with every attempt of
/// one call.
pub async fn kinesis_over(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    operation: &str,
    body: &Value,
    invocation: Option<&str>,
) -> anyhow::Result<Answer> {
    let target = target(operation);
    let body = serde_json::to_vec(body)?;
    let mut headers = kinesis_headers(&target).to_vec();
    headers.extend(invocation.map(|id| ("amz-sdk-invocation-id", id)));
    parse(&exchange(connection, address, "POST", "/", &headers, &body).await?)
}

fn target(operation: &str) -> String {
    format!("Kinesis_20131202.{operation}")
}

fn kinesis_headers(target: &str) -> [(&str, &str); 2] {
    [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)]
}

/// Sends one request and reads the answer to its end, all within `limit`.
pub async fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> anyhow::Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        exchange(stream, address, method, path, headers, body).await
    };
    let raw = tokio::time::timeout(limit, exchange)
        .await
        .with_context(|| format!("{method} {address}{path}: no answer in {limit:?}"))?
        .with_context(|| format!("{method} {address}{path}"))?;
    parse(&raw).with_context(|| format!("{method} {address}{path}"))
}

/// Gives back every byte of the answer.
async fn exchange(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    connection.write_all(request.as_bytes()).await?;
    connection.write_all(body).await?;
    let mut raw = Vec::new();
    connection.take(ANSWER_BYTES_MAX).read_to_end(&mut raw).await?;
    Ok(raw)
}

fn parse(raw: &[u8]) -> anyhow::Result<Answer> {
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n").context("a broken-off answer")?;
    let head = std::str::from_utf8(&raw[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?;
    let status = status.parse().context("no status code")?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: raw[end + 4..].to_vec() };
    if answer.header("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        answer.body = unchunk(&answer.body)?;
    } else if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse()?;
        if answer.body.len() != length {
            bail!("body of {} bytes where {length} were promised", answer.body.len());
        }
    }
    Ok(answer)
}

fn unchunk(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").context("a cut chunk")?;
        let size = std::str::from_utf8(&rest[..end])?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or(size).trim(), 16)?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..size).context("a cut chunk")?);
        rest = rest.get(size + 2..).context("a cut chunk")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_answer_is_read() {
        let answer = parse(b"HTTP/1.1 400 Bad\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.header("x-a")), (400, Some("b")));
        assert_eq!(answer.json().unwrap(), serde_json::json!({}));
    }

    #[test]
    fn a_chunked_answer_is_joined() {
        let raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(raw).unwrap().body, b"abcde");
    }

    #[test]
    fn a_short_body_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
