//! Who this data folder is: format version, AZ, nonce, and, once founded, the cluster and its founders.
//!
//! Owns `identity.toml`. Invariant: a folder belongs to one node of one cluster for ever; a folder of a
//! newer format, or of another node, is refused before anything in it is touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tristream_proto::domain::NodeId;

use crate::disk::{Disk, Open};
use crate::entropy::Entropy;

/// Format of the data folder as a whole.
const FORMAT: u32 = 1;
const FILE: &str = "identity.toml";

/// What `identity.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the folder.
    pub format: u32,
    /// The AZ whose replicas live here.
    pub az: String,
    /// Random; tells this folder from any other, also from a later empty one in its place.
    pub nonce: String,
    /// Whether the log was created: a folder that had one and has none is a loss, not a new node.
    #[serde(default)]
    pub log_created: bool,
    /// Set once the folder belongs to a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub founding: Option<Founding>,
}

/// The founding document of a cluster, equal on all founders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Name of the cluster: a UUID.
    pub cluster: String,
    /// Its first nodes.
    pub founders: Vec<Founder>,
}

/// One of the first nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Its id.
    pub node: NodeId,
    /// Its AZ.
    pub az: String,
    /// The nonce of its folder.
    pub nonce: String,
}

impl Founding {
    /// The founder that `identity` is, if it is one.
    pub fn names(&self, identity: &Identity) -> Option<&Founder> {
        self.founders.iter().find(|f| f.az == identity.az && f.nonce == identity.nonce)
    }
}

/// The identity's file, held under the folder's lock.
pub struct Folder {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    _lock: Box<dyn Send + Sync>,
}

impl Folder {
    /// Takes the data folder for this process, creating it where missing, and reads who it is. A folder
    /// without an identity gets one for `az`.
    pub async fn open(
        disk: Arc<dyn Disk>,
        entropy: &dyn Entropy,
        dir: &Path,
        az: &str,
    ) -> anyhow::Result<(Folder, Identity)> {
        let shown = dir.display();
        disk.create_dir_all(dir).with_context(|| format!("cannot create data folder {shown}"))?;
        let lock = disk.lock(dir).with_context(|| {
            format!("data folder {shown} cannot be taken: another process has it, or no permission")
        })?;
        let folder = Folder { disk, dir: dir.to_owned(), _lock: lock };
        let names = folder.disk.list(dir).with_context(|| format!("cannot list {shown}"))?;
        if names.iter().any(|name| name == FILE) {
            let identity = folder.read().await?;
            check(&identity, az, dir)?;
            return Ok((folder, identity));
        }
        let identity = Identity {
            format: FORMAT,
            az: az.to_owned(),
            nonce: entropy.uuid(),
            log_created: false,
            founding: None,
        };
        folder.save(&identity).await?;
        Ok((folder, identity))
    }

    async fn read(&self) -> anyhow::Result<Identity> {
        let path = self.dir.join(FILE);
        let read = async {
            let file = self.disk.open(&path, Open::Existing)?;
            let len = file.len()?.min(1 << 20) as usize;
            file.read_at(0, len).await
        };
        let bytes = read.await.with_context(|| format!("cannot read {}", path.display()))?;
        let text = std::str::from_utf8(&bytes).context("identity.toml is not text")?;
        check_format(text, &self.dir)?;
        toml::from_str(text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Replaces the file in one step; durable when it returns.
    pub async fn save(&self, identity: &Identity) -> anyhow::Result<()> {
        let text = toml::to_string(identity).context("identity as TOML")?;
        let (fresh, path) = (self.dir.join("identity.tmp"), self.dir.join(FILE));
        let write = async {
            if self.disk.list(&self.dir)?.iter().any(|name| name == "identity.tmp") {
                self.disk.remove(&fresh)?;
            }
            let file = self.disk.open(&fresh, Open::New)?;
            file.write_at(0, vec![Bytes::from(text)]).await?;
            file.sync().await?;
            self.disk.rename(&fresh, &path)?;
            self.disk.sync_dir(&self.dir).await
        };
        write.await.with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Before anything else is believed: a newer format may have other fields.
fn check_format(text: &str, dir: &Path) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = toml::from_str(text).context("identity.toml is damaged")?;
    if head.format != FORMAT {
        bail!(
            "data folder {} has format {}, this version knows {FORMAT}: use the version that wrote it",
            dir.display(),
            head.format
        );
    }
    Ok(())
}

fn check(identity: &Identity, az: &str, dir: &Path) -> anyhow::Result<()> {
    if identity.az != az {
        bail!(
            "data folder {} belongs to the node of {}, not of {az}: check data_dir and az",
            dir.display(),
            identity.az
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::entropy::OsEntropy;

    async fn open(dir: &Path, az: &str) -> anyhow::Result<(Folder, Identity)> {
        Folder::open(Arc::new(RealDisk), &OsEntropy, dir, az).await
    }

    #[tokio::test]
    async fn a_folder_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, mut identity) = open(dir.path(), "az-a").await.unwrap();
        identity.log_created = true;
        folder.save(&identity).await.unwrap();
        drop(folder);
        assert_eq!(open(dir.path(), "az-a").await.unwrap().1, identity);
    }

    #[tokio::test]
    async fn a_folder_of_another_node_or_format_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), "az-a").await.unwrap());
        let file = dir.path().join(FILE);
        let before = std::fs::read(&file).unwrap();
        let error = open(dir.path(), "az-b").await.err().unwrap();
        assert!(error.to_string().contains("belongs to the node of az-a"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), before);

        std::fs::write(&file, "format = 2\nwhatever = true\n").unwrap();
        let error = open(dir.path(), "az-a").await.err().unwrap();
        assert!(error.to_string().contains("has format 2"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "format = 2\nwhatever = true\n");
    }

    #[tokio::test]
    async fn a_folder_serves_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = open(dir.path(), "az-a").await.unwrap();
        let error = open(dir.path(), "az-a").await.err().unwrap();
        assert!(error.to_string().contains("another process has it"), "{error}");
        drop(held);
        assert!(open(dir.path(), "az-a").await.is_ok());
    }
}
