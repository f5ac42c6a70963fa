//! Where the cluster is: the argument that all client commands share.

use std::time::Duration;

use anyhow::anyhow;
use tristream_client::{Client, Error, Options};

use tristream_proto::domain::Effect;

/// How long a person waits to hear that no cluster is there.
const PICTURE_MAX: Duration = Duration::from_secs(4);

/// Addresses of the cluster.
#[derive(Debug, clap::Args)]
pub(super) struct Endpoints {
    /// host:port of a node's native door; repeat it or separate by commas. One live node is enough.
    #[arg(
        long = "endpoint",
        env = "TRISTREAM_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:5567,127.0.0.1:5568,127.0.0.1:5569",
        global = true
    )]
    pub(super) endpoints: Vec<String>,
}

impl Endpoints {
    /// A client that is as patient as records deserve: a failover may take a moment.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        self.connect(Options::default())
    }

    /// A client for a person who waits for a picture.
    pub(super) fn quick_client(&self) -> anyhow::Result<Client> {
        self.connect(Options { deadline: PICTURE_MAX, ..Options::default() })
    }

    fn connect(&self, options: Options) -> anyhow::Result<Client> {
        let client = Client::connect(self.endpoints.iter().cloned(), options);
        client.map_err(|error| explain(error, self))
    }
}

/// The error as a sentence that says what to do next.
pub(super) fn explain(error: Error, endpoints: &Endpoints) -> anyhow::Error {
    let advice = match &error {
        Error::Unavailable(what) if what.contains("cannot connect") => format!(
            "is a cluster running at {}? Start one with `tristream up`, or name yours with --endpoint",
            endpoints.endpoints.join(", ")
        ),
        Error::Unavailable(_) => {
            "see `tristream status`: a shard needs two of its three nodes".to_owned()
        }
        Error::StreamNotFound(_) => {
            "see `tristream stream list`, or create it with `tristream stream create NAME`"
                .to_owned()
        }
        Error::AlreadyExists(_) => "choose another name, or delete that stream first".to_owned(),
        Error::NotActive(_) => {
            "see `tristream stream list`, and try again when it is ACTIVE".to_owned()
        }
        Error::LimitExceeded(_) => "use fewer shards, or delete a stream".to_owned(),
        Error::Throttled(_) => "send slower, or use more shards".to_owned(),
        Error::StorageFull(_) => {
            "see `tristream status`: delete a stream, or give the disk more room".to_owned()
        }
        Error::Protocol(_) => "are the nodes of the same version as this program?".to_owned(),
        Error::Unknown(_) => "look whether it happened before you repeat it".to_owned(),
        Error::Invalid(_) | Error::NotLeader { .. } | Error::StaleMap(_) => {
            return anyhow!(error);
        }
    };
    anyhow!("{error} ({advice})")
}

/// One word for what is known of a record that was not acked.
pub(super) fn fate(error: &Error) -> &'static str {
    match error.effect() {
        Effect::None => "not stored",
        Effect::Unknown => "may be stored",
    }
}
