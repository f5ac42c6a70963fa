//! Where bytes of a connection come from, when it is not the operating system's TCP.
//!
//! Must not know what travels.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// An open connection.
pub type Connection = Box<dyn Duplex>;

type Connect = dyn Fn(String) -> BoxFuture<'static, io::Result<Connection>> + Send + Sync;

/// Opens a connection to `host:port`. An error means that nothing was sent.
#[derive(Clone)]
pub struct Connector(Arc<Connect>);

impl Connector {
    /// Calls `connect` for each connection.
    pub fn new<F, Fut>(connect: F) -> Connector
    where
        F: Fn(String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Connection>> + Send + 'static,
    {
        Connector(Arc::new(move |address| Box::pin(connect(address))))
    }

    pub(crate) fn channel(&self, endpoint: &Endpoint, address: &str) -> Channel {
        let (connect, address) = (self.0.clone(), address.to_owned());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let connecting = connect(address.clone());
            async move { connecting.await.map(TokioIo::new) }
        }))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}
