//! Lines of bytes, read with a bound on each: a line without end must not fill the memory.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tristream_proto::domain::limits::RECORD_DATA_BYTES_CEILING;

pub(super) struct Lines {
    input: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    /// What was read of the line that is not yet whole. Kept here so that a call that is dropped loses nothing.
    begun: Option<Line>,
}

/// A line without its end (`\n` or `\r\n`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    bytes: Vec<u8>,
    /// Bytes that were left out because the line is too long.
    beyond: usize,
}

impl Line {
    /// Its length, also where not all of it was kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.beyond
    }

    /// Its bytes, unless it is longer than a record may be.
    pub(super) fn complete(self) -> Option<Vec<u8>> {
        (self.beyond == 0).then_some(self.bytes)
    }

    fn extend(&mut self, more: &[u8]) {
        // One byte over: the `\r` of a line end is taken off later.
        let room = (RECORD_DATA_BYTES_CEILING + 1).saturating_sub(self.bytes.len());
        let (kept, beyond) = more.split_at(room.min(more.len()));
        self.bytes.extend_from_slice(kept);
        self.beyond += beyond.len();
    }

    fn ended(mut self) -> Line {
        if self.beyond == 0 && self.bytes.last() == Some(&b'\r') {
            self.bytes.pop();
        }
        let beyond = self.bytes.len().saturating_sub(RECORD_DATA_BYTES_CEILING);
        self.bytes.truncate(RECORD_DATA_BYTES_CEILING);
        self.beyond += beyond;
        self
    }
}

impl Lines {
    pub(super) fn new(input: Box<dyn AsyncRead + Send + Unpin>) -> Lines {
        Lines { input: BufReader::with_capacity(64 << 10, input), begun: None }
    }

    /// The next line; the last one needs no end. A call that is dropped before it returns loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.input.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(self.begun.take().map(Line::ended));
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let line = self.begun.get_or_insert_default();
            line.extend(&chunk[..end.unwrap_or(chunk.len())]);
            let used = end.map_or(chunk.len(), |end| end + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(self.begun.take().map(Line::ended));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: Vec<u8>) -> Vec<(usize, Option<Vec<u8>>)> {
        let mut lines = Lines::new(Box::new(io::Cursor::new(text)));
        let mut out = vec![];
        while let Some(line) = lines.next().await.expect("memory can be read") {
            out.push((line.len(), line.complete()));
        }
        out
    }

    #[tokio::test]
    async fn lines_are_split_and_their_ends_taken_off() {
        let lines: Vec<_> = read(b"a\n\r\nbc\r\n\xff\r\rd\nlast".to_vec()).await;
        let lines: Vec<Vec<u8>> = lines.into_iter().filter_map(|(_, line)| line).collect();
        assert_eq!(lines, [&b"a"[..], b"", b"bc", b"\xff\r\rd", b"last"]);
        assert!(read(vec![]).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_counted_but_not_kept() {
        let max = RECORD_DATA_BYTES_CEILING;
        let mut text = vec![b'x'; max];
        text.extend(b"\r\n");
        text.extend(vec![b'y'; max + 1]);
        text.extend(b"\nz");
        let lines = read(text).await;
        let seen: Vec<_> = lines.iter().map(|(len, line)| (*len, line.is_some())).collect();
        assert_eq!(seen, [(max, true), (max + 1, false), (1, true)]);
    }
}
