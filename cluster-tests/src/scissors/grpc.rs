//! The native client's connections. An answer begins with an HTTP/2 HEADERS frame: the first one that a node sends after
//! the scissors were armed is the answer to the put that the test sends then, with no other call under way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tristream_client::{Connection, Connector};

use super::Scissors;

const FRAME_HEADER_BYTES: usize = 9;
const TYPE_HEADERS: u8 = 1;

/// A connector for `Options::connector`.
pub fn connector(scissors: &Scissors) -> Connector {
    let scissors = scissors.clone();
    Connector::new(move |address: String| {
        let scissors = scissors.clone();
        async move {
            let inner = TcpStream::connect(address).await?;
            inner.set_nodelay(true)?;
            let frames = Frames::default();
            Ok(Box::new(Wire { inner, scissors, frames, held: None }) as Connection)
        }
    })
}

struct Wire {
    inner: TcpStream,
    scissors: Scissors,
    frames: Frames,
    /// Set when an answer was held back; ready when the connection shall break.
    held: Option<BoxFuture<'static, ()>>,
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.held.is_none() {
            let before = buf.filled().len();
            match Pin::new(&mut wire.inner).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            let answers = wire.frames.take(&buf.filled()[before..]);
            if !(answers && wire.scissors.catch()) {
                return Poll::Ready(Ok(()));
            }
            buf.set_filled(before);
            let scissors = wire.scissors.clone();
            wire.held = Some(Box::pin(async move { scissors.gone().await }));
        }
        match wire.held.as_mut().map(|held| held.as_mut().poll(cx)) {
            Some(Poll::Pending) => Poll::Pending,
            _ => {
                wire.held = Some(Box::pin(std::future::ready(())));
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Finds the HEADERS frames in what a node sends (RFC 9113, 4.1).
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    payload_left: usize,
}

impl Frames {
    /// Whether a HEADERS frame begins in these next bytes.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(bytes.len());
                self.payload_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = (FRAME_HEADER_BYTES - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.header.len() == FRAME_HEADER_BYTES {
                let [a, b, c, kind] =
                    [self.header[0], self.header[1], self.header[2], self.header[3]];
                found |= kind == TYPE_HEADERS;
                self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.header.clear();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, payload as u8, kind, 0, 0, 0, 0, 1];
        frame.extend(vec![TYPE_HEADERS; payload]);
        frame
    }

    #[test]
    fn an_answer_is_found_however_the_bytes_are_cut() {
        let settings_ping = [frame(4, 18), frame(6, 8), frame(8, 4)].concat();
        let answer = [settings_ping.clone(), frame(TYPE_HEADERS, 40)].concat();
        for size in 1..answer.len() {
            let mut frames = Frames::default();
            assert!(!settings_ping.chunks(size).any(|chunk| frames.take(chunk)), "{size}");
            let mut frames = Frames::default();
            let found = answer.chunks(size).filter(|chunk| frames.take(chunk)).count();
            assert_eq!(found, 1, "{size}");
        }
    }
}
