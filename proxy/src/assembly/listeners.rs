//! The sockets of a proxy, and where its static mappings lead.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use countersign_config::bootstrap::{Hop, Inbound, Outbound};
use tokio::net::TcpListener;

use super::{Addresses, BuildError};
use crate::context::Context;
use crate::opaque::Dialer;
use crate::outbound::{Mapping, Way};
use crate::pool::Destination;
use crate::route;

/// This machine alone.
pub(super) const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Every address.
pub(super) const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

pub(super) fn listen(purpose: &str, address: SocketAddr) -> Result<TcpListener, BuildError> {
    countersign_net::listen(address).map_err(|source| BuildError::Listen {
        purpose: purpose.to_owned(),
        address,
        source,
    })
}

/// Listens on one port for both versions of IP. Where a machine has no IPv6
/// nothing of it can be captured.
pub(super) fn listen_twice(
    purpose: &str,
    ips: [IpAddr; 2],
    port: u16,
) -> Result<Vec<TcpListener>, BuildError> {
    let mut listeners = Vec::new();
    for ip in ips {
        let address = SocketAddr::new(ip, port);
        match countersign_net::listen_alone(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if ip.is_ipv6() && is_missing(&error) => {
                tracing::info!(%address, %error, "no IPv6 on this machine");
            }
            Err(source) => return Err(BuildError::Listen { purpose: purpose.to_owned(), address, source }),
        }
    }
    Ok(listeners)
}

/// Whether a version of IP is what is missing (EAFNOSUPPORT has no kind of its own).
fn is_missing(error: &std::io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

pub(super) fn local(purpose: &str, listener: &TcpListener) -> Result<SocketAddr, BuildError> {
    listener.local_addr().map_err(|source| BuildError::Listen {
        purpose: purpose.to_owned(),
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        source,
    })
}

pub(super) fn own_listeners(addresses: &Addresses) -> Vec<SocketAddr> {
    let mut own = vec![addresses.admin, addresses.metrics, addresses.readiness];
    own.extend(addresses.inbound);
    own.extend(addresses.outbound.iter().chain(&addresses.captured).chain(&addresses.plaintext));
    own.extend(addresses.explicit);
    own
}

pub(super) fn leads_to_us(inbound: &Inbound, port: u16, own: &[SocketAddr]) -> bool {
    route::leads_back(inbound.workload, SocketAddr::new(inbound.workload, port), own)
}

/// The static mappings; those that lead to one destination share its dialer.
pub(super) fn ways(mappings: Vec<(TcpListener, &Outbound)>, ctx: &Context) -> Vec<(TcpListener, Way)> {
    let mut dialers: HashMap<Destination, Arc<Dialer>> = HashMap::new();
    let way = |mapping: &Outbound| {
        let destination = Destination { to: mapping.to.clone(), address: mapping.address.clone() };
        let dedicated = (mapping.hop == Hop::Dedicated).then(|| {
            let dialer = dialers.entry(destination.clone());
            Arc::clone(dialer.or_insert_with(|| Arc::new(Dialer::new(destination.clone(), ctx))))
        });
        Way::Mapping(Arc::new(Mapping { destination, port: mapping.port, dedicated }))
    };
    let (listeners, mappings): (Vec<_>, Vec<_>) = mappings.into_iter().unzip();
    listeners.into_iter().zip(mappings.into_iter().map(way)).collect()
}
