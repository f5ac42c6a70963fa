//! The risky floors, proven on three nodes in one process: durability, partitions, restarts, deletion, overload.
//! The table in `docs/guarantees.md` says which promise each test shows.

mod deletion;
mod durability;
mod full_disk;
mod overload;
mod partition;
mod refusals;
mod resharding;
mod restart;
mod retention;
mod rot;
