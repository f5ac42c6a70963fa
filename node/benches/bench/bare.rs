//! The bare loop that the log is measured against: the same bytes in the same batches, written and
//! synced one after the other by one thread, into a file that was written before.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A file for the loop: as long as a segment, written once from end to end.
pub(crate) struct Bare {
    file: fs::File,
    bytes: u64,
    at: u64,
    stock: Vec<u8>,
}

impl Bare {
    pub(crate) fn new(dir: &Path, bytes: u64) -> io::Result<Bare> {
        let path = dir.join("bare");
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let stock: Vec<u8> = (0..16u32 << 20).map(|at| (at * 7 + 1) as u8).collect();
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(stock.len() as u64);
            file.write_all_at(&stock[..len as usize], at)?;
            file.sync_data()?;
            at += len;
        }
        file.sync_all()?;
        Ok(Bare { file, bytes, at: 0, stock })
    }

    /// Writes and syncs batches of these sizes.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn run(&mut self, batches: &[u64]) -> io::Result<Duration> {
        let began = Instant::now();
        for batch in batches {
            if self.at + batch > self.bytes {
                self.at = 0;
            }
            let mut left = *batch;
            while left > 0 {
                let len = left.min(self.stock.len() as u64);
                self.file.write_all_at(&self.stock[..len as usize], self.at)?;
                (self.at, left) = (self.at + len, left - len);
            }
            self.file.sync_data()?;
        }
        Ok(began.elapsed())
    }
}
