//! Who this data folder is: format version, nonce, and, once founded, cluster and node id.
//!
//! Owns `identity.toml`. Invariant: a folder belongs to one node of one cluster for ever; an empty folder
//! joins a cluster only while it is being founded, and only if the founding document names its nonce.
