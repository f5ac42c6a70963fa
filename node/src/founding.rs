//! The first start of a cluster: three empty folders become three nodes.
//!
//! The node of the first AZ (by name) founds: it waits until both others answer that they are empty, writes
//! the founding document with the nonces of all three folders, and keeps it before anybody else sees it. The
//! others find themselves in it by probing. Invariants: a folder joins only a document that names its own
//! nonce, so an empty folder in the place of a lost one never votes; nobody founds while any peer belongs
//! to a cluster. Must not know Raft.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use parking_lot::RwLock;
use tonic::transport::Channel;
use tristream_proto::domain::NodeId;
use tristream_proto::wire;
use tristream_proto::wire::peer_client::PeerClient;

use crate::entropy::Entropy;
use crate::identity::{Folder, Founder, Founding, Identity};

/// Between two rounds of probing.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
/// How long one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// What this node tells who asks; shared with the peer service.
#[derive(Clone)]
pub struct SelfPortrait {
    identity: Arc<RwLock<Identity>>,
}

impl SelfPortrait {
    /// Of this identity.
    pub fn new(identity: Identity) -> SelfPortrait {
        SelfPortrait { identity: Arc::new(RwLock::new(identity)) }
    }

    /// The identity as it is now.
    pub fn identity(&self) -> Identity {
        self.identity.read().clone()
    }

    /// The answer to a probe.
    pub fn probe(&self) -> wire::ProbeResponse {
        let identity = self.identity.read();
        let founding = identity.founding.as_ref();
        wire::ProbeResponse {
            az: identity.az.clone(),
            nonce: identity.nonce.clone(),
            cluster: founding.map(|f| f.cluster.clone()).unwrap_or_default(),
            founders: founding.into_iter().flat_map(|f| &f.founders).map(to_wire).collect(),
        }
    }

    fn set(&self, identity: Identity) {
        *self.identity.write() = identity;
    }
}

fn to_wire(founder: &Founder) -> wire::Founder {
    wire::Founder { node: founder.node.0, az: founder.az.clone(), nonce: founder.nonce.clone() }
}

fn from_wire(answer: &wire::ProbeResponse) -> Founding {
    let founder = |f: &wire::Founder| Founder {
        node: NodeId(f.node),
        az: f.az.clone(),
        nonce: f.nonce.clone(),
    };
    Founding {
        cluster: answer.cluster.clone(),
        founders: answer.founders.iter().map(founder).collect(),
    }
}

/// What to do after a round of probes.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Ask again.
    Wait,
    /// Belong to this cluster from now on.
    Join(Founding),
    /// All are empty and it is on this node to found.
    Found,
    /// This folder must not take part.
    Refuse(String),
}

/// Decides on the answers of the others, by AZ. `zones` are all AZs of the configuration.
fn decide(me: &Identity, zones: &[&str], answers: &BTreeMap<String, wire::ProbeResponse>) -> Step {
    let mut clusters = answers.values().filter(|answer| !answer.cluster.is_empty()).peekable();
    let strange = clusters.peek().map(|answer| (answer.az.clone(), answer.cluster.clone()));
    if let Some(founding) = clusters.map(from_wire).find(|founding| founding.names(me).is_some()) {
        return Step::Join(founding);
    }
    if let Some(answer) = answers.values().find(|answer| !answer.cluster.is_empty())
        && planted!(EmptyFolderVotes)
    {
        let mut founding = from_wire(answer);
        let lost = founding.founders.iter_mut().filter(|founder| founder.az == me.az);
        lost.for_each(|founder| founder.nonce.clone_from(&me.nonce));
        return Step::Join(founding);
    }
    if let Some((az, cluster)) = strange {
        return Step::Refuse(format!(
            "this data folder is empty, but the node of {az} belongs to cluster {cluster} already: the \
             folder of {} was lost or data_dir is wrong. It must not vote in place of the lost one. Bring \
             the old folder back",
            me.az
        ));
    }
    let first = zones.iter().min().is_some_and(|zone| *zone == me.az);
    let all_empty = zones.iter().all(|zone| *zone == me.az || answers.contains_key(*zone));
    if first && all_empty { Step::Found } else { Step::Wait }
}

/// The document for `me` and the empty folders that answered; node ids count from 1 by AZ.
fn document(
    cluster: String,
    me: &Identity,
    answers: &BTreeMap<String, wire::ProbeResponse>,
) -> Founding {
    let mut nonces: BTreeMap<&str, &str> =
        answers.iter().map(|(az, answer)| (az.as_str(), answer.nonce.as_str())).collect();
    nonces.insert(&me.az, &me.nonce);
    let founders = (1..).zip(nonces).map(|(node, (az, nonce))| Founder {
        node: NodeId(node),
        az: az.to_owned(),
        nonce: nonce.to_owned(),
    });
    Founding { cluster, founders: founders.collect() }
}

/// Probes the other nodes (AZ and channel) until this folder belongs to a cluster, and gives the document.
pub async fn join_or_found(
    folder: &Folder,
    portrait: &SelfPortrait,
    others: &[(String, Channel)],
    entropy: &dyn Entropy,
) -> anyhow::Result<Founding> {
    let mut identity = portrait.identity();
    if let Some(founding) = identity.founding {
        return Ok(founding);
    }
    tracing::info!("empty data folder: waiting for the other nodes to found a cluster");
    let mut zones: Vec<&str> = others.iter().map(|(az, _)| az.as_str()).collect();
    let own = identity.az.clone();
    zones.push(&own);
    let founding = loop {
        let answers = probe_all(others, &own).await;
        match decide(&identity, &zones, &answers) {
            Step::Wait => tokio::time::sleep(PROBE_INTERVAL).await,
            Step::Join(founding) => break founding,
            Step::Found => break document(entropy.uuid(), &identity, &answers),
            Step::Refuse(why) => bail!(why),
        }
    };
    identity.founding = Some(founding.clone());
    // Durable before anybody sees it: a founder that forgot its own document could found twice.
    folder.save(&identity).await?;
    portrait.set(identity);
    tracing::info!(cluster = %founding.cluster, "belongs to a cluster");
    Ok(founding)
}

async fn probe_all(
    others: &[(String, Channel)],
    own: &str,
) -> BTreeMap<String, wire::ProbeResponse> {
    let probes = others.iter().map(|(az, channel)| async move {
        let mut client = PeerClient::new(channel.clone());
        let request = wire::ProbeRequest { az: own.to_owned() };
        let answer = tokio::time::timeout(PROBE_TIMEOUT, client.probe(request)).await;
        let answer = answer.ok()?.ok()?.into_inner();
        // A node that says it is of another AZ than configured is no answer for this one.
        (answer.az == *az).then(|| (az.clone(), answer))
    });
    futures::future::join_all(probes).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(az: &str, nonce: &str) -> Identity {
        Identity {
            format: 1,
            az: az.to_owned(),
            nonce: nonce.to_owned(),
            log_created: false,
            founding: None,
        }
    }

    fn answers(of: &[Identity]) -> BTreeMap<String, wire::ProbeResponse> {
        of.iter().map(|i| (i.az.clone(), SelfPortrait::new(i.clone()).probe())).collect()
    }

    const ZONES: [&str; 3] = ["az-b", "az-a", "az-c"];

    #[test]
    fn only_the_first_zone_founds_and_only_when_all_are_empty() {
        let (a, b, c) = (identity("az-a", "1"), identity("az-b", "2"), identity("az-c", "3"));
        let all = answers(&[b.clone(), c.clone()]);
        assert_eq!(decide(&a, &ZONES, &all), Step::Found);
        assert_eq!(decide(&a, &ZONES, &answers(std::slice::from_ref(&b))), Step::Wait);
        assert_eq!(decide(&b, &ZONES, &answers(&[a.clone(), c])), Step::Wait);
        let founding = document("x".to_owned(), &a, &all);
        let ids: Vec<(u64, &str)> =
            founding.founders.iter().map(|f| (f.node.0, f.az.as_str())).collect();
        assert_eq!(ids, [(1, "az-a"), (2, "az-b"), (3, "az-c")]);
        assert_eq!(founding.names(&b).map(|f| f.node), Some(NodeId(2)));
    }

    #[test]
    fn a_folder_in_place_of_a_lost_one_is_refused() {
        let (mut a, b, c) = (identity("az-a", "1"), identity("az-b", "2"), identity("az-c", "3"));
        let founding = document("x".to_owned(), &a, &answers(&[b.clone(), c]));
        a.founding = Some(founding.clone());
        assert_eq!(decide(&b, &ZONES, &answers(&[a.clone()])), Step::Join(founding));
        let impostor = identity("az-b", "other");
        assert!(matches!(decide(&impostor, &ZONES, &answers(&[a])), Step::Refuse(_)));
    }

    #[test]
    fn the_first_zone_never_founds_while_a_peer_has_a_cluster() {
        let (a, mut b, c) = (identity("az-a", "1"), identity("az-b", "2"), identity("az-c", "3"));
        b.founding = Some(document("x".to_owned(), &a, &answers(&[b.clone(), c.clone()])));
        let lost = identity("az-a", "new");
        assert!(matches!(decide(&lost, &ZONES, &answers(&[b, c])), Step::Refuse(_)));
    }
}
