//! Which groups are open here, and what carries a stream from CREATING to ACTIVE and from DELETING to gone.
//!
//! Owns the reconciling of this node's groups with the metadata view. Invariant: a group is destroyed only
//! when the view proves that it was deleted (ids are never reused). Must not know requests.
