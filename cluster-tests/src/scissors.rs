//! Connections that break when the answer to a put comes back: the put has happened, and its client does not know.
//!
//! Invariant: one answer is cut each time the scissors are armed. It is held until the test lets go, so that anything can
//! happen between the put and its retry. Must not know what a retry does.
//!
//! | part | file |
//! |---|---|
//! | a proxy before the HTTP door | `scissors/http.rs` |
//! | the native client's connections | `scissors/grpc.rs` |

pub mod grpc;
pub mod http;

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::watch;

/// For a put to be answered.
const CUT_LIMIT: Duration = Duration::from_secs(60);

/// What holds an answer back and then breaks its connection. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Scissors {
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Armed,
    Held,
}

impl Scissors {
    /// The next answer to a put never arrives.
    pub fn arm(&self) {
        self.state.send_replace(State::Armed);
    }

    /// Waits until an answer is held back.
    pub async fn held(&self) -> anyhow::Result<()> {
        let mut state = self.state.subscribe();
        let held = state.wait_for(|state| *state == State::Held);
        tokio::time::timeout(CUT_LIMIT, held).await.context("no answer came to be cut")??;
        Ok(())
    }

    /// Breaks the connection on which an answer is held.
    pub fn let_go(&self) -> anyhow::Result<()> {
        let held = self.state.send_replace(State::Open);
        ensure!(held == State::Held, "nothing was held: {held:?}");
        Ok(())
    }

    /// Whether this answer is the one to hold back.
    fn catch(&self) -> bool {
        self.state.send_if_modified(|state| {
            let armed = *state == State::Armed;
            if armed {
                *state = State::Held;
            }
            armed
        })
    }

    async fn gone(&self) {
        let _ = self.state.subscribe().wait_for(|state| *state != State::Held).await;
    }
}
