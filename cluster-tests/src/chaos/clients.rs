//! The producers of a run, through native and HTTP doors.

use super::HTTP_ATTEMPTS;
use crate::doors::Door;
use crate::doors::native::Native;
use crate::doors::raw::Raw;
use crate::processes::{Cluster, ZONES};

/// So many ways to put: every second one by the native client, the others by HTTP.
pub(super) fn doors(
    cluster: &Cluster,
    addresses: &[String],
    count: usize,
) -> anyhow::Result<Vec<(String, Box<dyn Door>)>> {
    let peers: Vec<String> =
        ZONES.iter().map(|zone| cluster.peer(zone)).collect::<anyhow::Result<_>>()?;
    let mut doors: Vec<(String, Box<dyn Door>)> = Vec::new();
    for number in 0..count {
        doors.push(if number % 2 == 0 {
            let options = tristream_client::Options::default();
            let client = tristream_client::Client::connect(peers.clone(), options)?;
            (format!("native-{number}"), Box::new(Native(client)))
        } else {
            (format!("http-{number}"), Box::new(Raw::new(addresses, number, HTTP_ATTEMPTS)))
        });
    }
    Ok(doors)
}
