//! The risky floors, proven on three nodes in one process: durability, partitions, restarts, deletion, overload.
//! The table in `docs/guarantees.md` says which promise each test shows.

mod durability;
