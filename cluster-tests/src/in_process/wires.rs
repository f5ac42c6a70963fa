//! Real loopback TCP between the nodes, with links that a test cuts, freezes and heals.
//!
//! Invariant: a cut refuses new connections of the pair and kills the open ones for good, also when it is healed
//! at once; a frozen link passes nothing and says nothing, and goes on where it was when it thaws. Links to
//! clients are never touched. Must not know what travels.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tristream_node::net::{Listener, Net, Stream, TcpNet};

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Up,
    Cut,
    Frozen,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    mode: Mode,
    /// Counts the cuts so far: a connection does not survive one.
    cuts: u64,
}

/// All links. Clones are handles.
#[derive(Clone)]
pub struct Wires {
    /// host:port of each node's peer door.
    doors: Arc<Vec<String>>,
    links: Arc<BTreeMap<(usize, usize), watch::Sender<Link>>>,
}

impl Wires {
    /// Links between the nodes whose peer doors are these, all up.
    pub fn new(doors: Vec<String>) -> Wires {
        let pairs = (0..doors.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
        let up = Link { mode: Mode::Up, cuts: 0 };
        let links = pairs.map(|pair| (pair, watch::channel(up).0)).collect();
        Wires { doors: Arc::new(doors), links: Arc::new(links) }
    }

    /// The network as one node has it.
    pub fn of(&self, me: usize) -> NodeNet {
        NodeNet { me, wires: self.clone() }
    }

    /// Cuts the link of two nodes: connections break, new ones are refused.
    pub fn cut(&self, a: usize, b: usize) {
        self.link(a, b).send_modify(|link| *link = Link { mode: Mode::Cut, cuts: link.cuts + 1 });
    }

    /// Freezes the link: connections stay and pass nothing, new ones wait.
    pub fn freeze(&self, a: usize, b: usize) {
        self.link(a, b).send_modify(|link| link.mode = Mode::Frozen);
    }

    /// The link works again.
    pub fn heal(&self, a: usize, b: usize) {
        self.link(a, b).send_modify(|link| link.mode = Mode::Up);
    }

    /// Cuts a node off from both others.
    pub fn isolate(&self, node: usize) {
        self.others(node).for_each(|other| self.cut(node, other));
    }

    /// Freezes both links of a node.
    pub fn freeze_out(&self, node: usize) {
        self.others(node).for_each(|other| self.freeze(node, other));
    }

    /// Heals both links of a node.
    pub fn rejoin(&self, node: usize) {
        self.others(node).for_each(|other| self.heal(node, other));
    }

    fn others(&self, node: usize) -> impl Iterator<Item = usize> {
        (0..self.doors.len()).filter(move |&other| other != node)
    }

    fn link(&self, a: usize, b: usize) -> &watch::Sender<Link> {
        &self.links[&(a.min(b), a.max(b))]
    }
}

/// One node's network.
pub struct NodeNet {
    me: usize,
    wires: Wires,
}

impl Net for NodeNet {
    fn bind<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        TcpNet.bind(addr)
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let target = self.wires.doors.iter().position(|door| door == addr);
            let Some(target) = target.filter(|target| *target != self.me) else {
                return TcpNet.connect(addr).await;
            };
            let link = self.wires.link(self.me, target);
            let mut now = link.subscribe();
            let passes = now.wait_for(|link| link.mode != Mode::Frozen).await;
            let born = *passes.map_err(|_| io::ErrorKind::NotConnected)?;
            if born.mode == Mode::Cut {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let inner = TcpNet.connect(addr).await?;
            let gate =
                || Gate { changes: WatchStream::new(link.subscribe()), born: born.cuts, now: born };
            Ok(Stream::new(Wire { inner, reads: gate(), writes: gate() }))
        })
    }
}

/// One direction's view of the link.
struct Gate {
    changes: WatchStream<Link>,
    born: u64,
    now: Link,
}

impl Gate {
    /// Ready when bytes may pass, or never will again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Poll::Ready(Some(link)) = Pin::new(&mut self.changes).poll_next(cx) {
            self.now = link;
        }
        if self.now.cuts != self.born {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.now.mode == Mode::Up { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

struct Wire {
    inner: Stream,
    reads: Gate,
    writes: Gate,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.reads.poll(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_read(cx, buf),
            other => other,
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.writes.poll(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_write(cx, buf),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
