//! Bugs planted on purpose, so that anyone can watch the proof find them.
//!
//! Invariant: without `cfg(planted)` this is a macro that says `false`, and nothing else. Only the package
//! `tristream-planted` sets it, of which `tristream-lab` is made; `tristream` is not. Each bug is a few lines at the place of the
//! protection that it takes away: `if planted!(AckBeforeQuorum) { .. }`. At most one is switched on, for what
//! runs on one thread: a simulated run. Must not know what finds them.

/// Whether this bug is switched on here. Without `cfg(planted)`: `false`.
#[cfg(planted)]
macro_rules! planted {
    ($plant:ident) => {
        $crate::planted::is_on($crate::planted::Plant::$plant)
    };
}

/// Whether this bug is switched on here. Without `cfg(planted)`: `false`.
#[cfg(not(planted))]
macro_rules! planted {
    ($plant:ident) => {
        false
    };
}

#[cfg(planted)]
pub use table::{Plant, is_on, reached, switch_on};

#[cfg(planted)]
mod table {
    use std::cell::Cell;

    macro_rules! plants {
        ($($plant:ident $name:literal $about:literal,)*) => {
            /// A bug that can be switched on.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub enum Plant {
                $(#[doc = $about] $plant,)*
            }

            impl Plant {
                /// All of them.
                pub const ALL: &[Plant] = &[$(Plant::$plant,)*];

                /// Its name on the command line.
                pub fn name(self) -> &'static str {
                    match self {
                        $(Plant::$plant => $name,)*
                    }
                }

                /// What it does, in one line.
                pub fn about(self) -> &'static str {
                    match self {
                        $(Plant::$plant => $about,)*
                    }
                }
            }
        };
    }

    plants! {
        AckBeforeQuorum "ack-before-quorum"
            "A leader answers a put as soon as it has its place in the leader's own log.",
        AckBeforeFsync "ack-before-fsync"
            "A replica vouches for entries that it has not synced.",
        IgnoredFsyncError "ignored-fsync-error"
            "A sync that failed is taken for one that did not.",
        VoteNotFsynced "vote-not-fsynced"
            "A replica gives its vote before the vote is synced.",
        ResumedLeadership "resumed-leadership"
            "A leader that restarts goes on leading in its old term, without an election.",
        StaleLeaderRead "stale-leader-read"
            "A leader confirms the tip of a shard by itself, without asking a quorum.",
        SkippedApply "skipped-apply"
            "A follower leaves out one command in sixteen.",
        NoCrc "no-crc"
            "Checksums of entries are not looked at.",
        TruncationAtRot "truncation-at-bit-rot"
            "A damaged entry is taken for the log's torn end: it goes, with all that lies behind it.",
        SnapshotPastTrim "snapshot-past-the-trim-point"
            "A replica that lags begins again at the newest checkpoint, whatever is retained before it.",
        PurgeTooFar "purge-too-far"
            "Replicas let go of all that is applied as soon as anything is trimmed.",
        StateAheadOfLog "state-ahead-of-the-log"
            "The metadata tables keep what was applied before the log does, and a start believes them.",
        UnprovenTailDurable "unproven-tail-reported-as-durable"
            "What a restart finds in the page cache is told of before it is synced.",
        VoteLostWithSegment "newest-vote-lost-with-its-segment"
            "Votes are not written again before their segment goes.",
        LostAtBorder "one-record-lost-at-a-segments-border"
            "The last entry of a group in a sealed segment is passed over when it is read from the disk.",
        IteratorOffByOne "iterator-off-by-one"
            "An iterator after a sequence number begins behind the first record of the next entry.",
        EmptyFolderVotes "empty-folder-that-votes"
            "A node with an empty folder takes the place of the one that its peers knew.",
        NoDedupe "no-dedupe"
            "A shard does not remember the calls that it stored.",
        WindowNotHanded "window-not-handed-to-children"
            "Children of a reshard are opened without what their parents remember of calls.",
        SplitWithoutSeal "split-without-seal"
            "Children are opened, and their parents take records for ever.",
    }

    thread_local! {
        static ON: Cell<Option<Plant>> = const { Cell::new(None) };
        static REACHED: Cell<u64> = const { Cell::new(0) };
    }

    /// Switches `plant`, and no other, on for what runs on this thread.
    pub fn switch_on(plant: Option<Plant>) {
        ON.set(plant);
        REACHED.set(0);
    }

    /// Whether it is on. Counts how often somebody came by who was to be misled.
    pub fn is_on(plant: Plant) -> bool {
        let on = ON.get() == Some(plant);
        if on {
            REACHED.set(REACHED.get() + 1);
        }
        on
    }

    /// How often the bug that is on was come by, on this thread.
    pub fn reached() -> u64 {
        REACHED.get()
    }
}
