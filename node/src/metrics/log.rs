//! The metrics of the shared log.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::Registry;

use super::Metrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct SegmentKind {
    kind: &'static str,
}

impl Metrics {
    pub(super) fn register_log(&self, r: &mut Registry) {
        let counters = [
            ("log_user_bytes", "Payloads taken in by the shared log", &self.log_user_bytes),
            (
                "log_padding_bytes",
                "Zeros that fill the shared log's blocks, of the bytes written",
                &self.log_padding_bytes,
            ),
            (
                "log_footer_bytes",
                "Bytes of footers written behind full segments",
                &self.log_footer_bytes,
            ),
            (
                "log_rewritten_bytes",
                "Bytes written to bring entries together and to give space back",
                &self.log_rewritten_bytes,
            ),
            (
                "log_scrubbed_bytes",
                "Bytes of sealed segments read again to look for damage",
                &self.log_scrubbed_bytes,
            ),
            (
                "log_faulty_entries",
                "Entries of the log found damaged on disk",
                &self.log_faulty_entries,
            ),
            (
                "log_repaired_entries",
                "Damaged entries of the log put right",
                &self.log_repaired_entries,
            ),
            (
                "log_mended_footers",
                "Damaged footers made again from their segments",
                &self.log_mended_footers,
            ),
        ];
        for (name, help, counter) in counters {
            r.register(name, help, counter.clone());
        }
        r.register(
            "log_open_milliseconds",
            "Time that opening the shared log took",
            self.log_open_ms.clone(),
        );
        r.register(
            "log_segments_of_kind",
            "Segments of the shared log: active, full, sealed, rewritten",
            self.log_segments_by_kind.clone(),
        );
    }

    /// The log was written and synced.
    pub fn observe_fsync(&self, bytes: usize, took: Duration) {
        self.fsyncs.inc();
        self.log_bytes_written.inc_by(bytes as u64);
        self.fsync_seconds.observe(took.as_secs_f64());
    }

    /// A write or sync of the log failed.
    pub fn observe_fsync_failure(&self) {
        self.fsync_failures.inc();
    }

    /// Zeros were written into a file that will be a segment.
    pub fn observe_zero_fill(&self, bytes: u64) {
        self.log_zero_fill_bytes.inc_by(bytes);
    }

    /// Payloads were taken in, to be written.
    pub fn observe_log_user(&self, bytes: u64) {
        self.log_user_bytes.inc_by(bytes);
    }

    /// A block was filled up with zeros.
    pub fn observe_log_padding(&self, bytes: u64) {
        self.log_padding_bytes.inc_by(bytes);
    }

    /// A footer was written.
    pub fn observe_log_footer(&self, bytes: u64) {
        self.log_footer_bytes.inc_by(bytes);
    }

    /// Segments were rewritten into one of so many bytes.
    pub fn observe_rewritten(&self, bytes: u64) {
        self.log_rewritten_bytes.inc_by(bytes);
    }

    /// Sealed bytes were read again.
    pub fn observe_scrubbed(&self, bytes: u64) {
        self.log_scrubbed_bytes.inc_by(bytes);
    }

    /// An entry was found damaged.
    pub fn observe_faulty(&self) {
        self.log_faulty_entries.inc();
    }

    /// A damaged entry was put right.
    pub fn observe_repaired(&self) {
        self.log_repaired_entries.inc();
    }

    /// A damaged footer was made again.
    pub fn observe_footer_mended(&self) {
        self.log_mended_footers.inc();
    }

    /// The log was opened.
    pub fn set_log_open(&self, took: Duration) {
        self.log_open_ms.set(i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
    }

    /// How many segments there are of a kind.
    pub fn set_log_segments(&self, kind: &'static str, count: usize) {
        self.log_segments_by_kind.get_or_create(&SegmentKind { kind }).set(count as i64);
    }

    /// A torn tail was cut.
    pub fn observe_torn_tail(&self) {
        self.torn_tails.inc();
    }

    /// Size of the log on disk.
    pub fn set_log_size(&self, segments: usize, bytes: u64) {
        self.log_segments.set(segments as i64);
        self.log_bytes.set(bytes as i64);
    }
}
