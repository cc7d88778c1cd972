//! How a connection for requests comes about: to the workload beside us, or through a
//! hop to a peer's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_net::{Abort, Severable};
use countersign_ratls::peer::Role;
use h2::SendStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::either::Either;

use super::io::{self, Io, Pump};
use super::line::Common;
use super::serve::HEARING_OUT;
use crate::context::Context;
use crate::inbound::{overloaded, unreachable_workload};
use crate::observe::access::Peer;
use crate::outbound::{From, Reached, Tunnel, reach};
use crate::policy::Permitted;
use crate::pool::{Destination, Lease};
use crate::pools::{InUse, Pools};

/// What requests are written to.
pub(super) type Socket = Either<Severable, Io>;

/// How a connection comes about.
#[derive(Debug)]
pub(super) enum Way {
    /// To the workload.
    Workload(SocketAddr),
    /// To a peer's.
    Peer(Box<Hopping>),
}

/// The way through a hop.
#[derive(Debug)]
pub(super) struct Hopping {
    pools: Arc<Pools>,
    destination: Destination,
    port: u16,
    from: From,
    /// Who we are to it, and who it was when it was reached last.
    met: Mutex<Option<Met>>,
}

/// Who answered.
#[derive(Clone, Debug)]
pub(super) struct Met {
    pub(super) common: Arc<Common>,
    pub(super) peer: Arc<Peer>,
}

impl Way {
    pub(super) fn through(pools: &Arc<Pools>, destination: Destination, port: u16, from: From) -> Self {
        let pools = Arc::clone(pools);
        Self::Peer(Box::new(Hopping { pools, destination, port, from, met: Mutex::default() }))
    }

    /// Who answered last, where that can change.
    pub(super) fn met(&self) -> Option<Met> {
        match self {
            Self::Workload(_) => None,
            Self::Peer(hopping) => hopping.met.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(super) fn unreachable(&self, why: &str) -> Denial {
        match self {
            Self::Workload(address) => unreachable_workload(*address, why),
            Self::Peer(_) => self.silent(why),
        }
    }

    /// There is no answer, or no end of it.
    pub(super) fn silent(&self, why: &str) -> Denial {
        let whom = match self {
            Self::Workload(address) => format!("workload {address}"),
            Self::Peer(hopping) => format!("workload of {}", hopping.destination.to),
        };
        Finding::new(Reason::ConnectFailed, whom, "an answer", why).into()
    }

    pub(super) async fn dial(&self, abort: &Abort, ctx: &Context) -> Result<(Socket, Held), Denial> {
        match self {
            Self::Workload(address) => {
                let permit = Arc::clone(&ctx.connections).try_acquire_owned().map_err(|_| overloaded())?;
                let limit = ctx.limits.connect_timeout;
                match timeout(limit, countersign_net::connect(*address)).await {
                    Ok(Ok(socket)) => {
                        let socket = Severable::new(socket, abort.clone());
                        Ok((Either::Left(socket), Held::Workload(permit)))
                    }
                    Ok(Err(error)) => Err(self.unreachable(&error.to_string())),
                    Err(_) => Err(self.unreachable(&format!("no answer in {limit:?}"))),
                }
            }
            Self::Peer(hopping) => {
                let reached =
                    reach(&hopping.destination, hopping.port, hopping.from, &hopping.pools, ctx).await?;
                Ok(hopping.met(reached, ctx))
            }
        }
    }
}

impl Hopping {
    fn met(&self, reached: Reached, ctx: &Context) -> (Socket, Held) {
        let Reached { tunnel: Tunnel { permitted, send, recv, lease }, in_use } = reached;
        let hop = &permitted.hop;
        let destination = self.destination.to.to_string();
        let common = Common {
            role: Role::Server,
            client: self.from.peer,
            series: ctx.metrics.requests(hop.me.as_str(), &destination, Role::Server),
            source: hop.me.to_string(),
            destination,
            port: self.port,
            stream: Some(Arc::clone(&permitted.stream)),
        };
        let met = Met { common: Arc::new(common), peer: Arc::new(Peer::new(&permitted.admission)) };
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = Some(met);
        hop.series.open();
        let (io, pump) = io::pair(&permitted, recv);
        let carried = Carried { permitted, send, pump, _lease: lease, _in_use: in_use };
        (Either::Right(io), Held::Peer(Box::new(carried)))
    }
}

/// What a connection holds for as long as it lives.
pub(super) enum Held {
    /// The leave to have a socket.
    Workload(OwnedSemaphorePermit),
    /// The stream of a hop.
    Peer(Box<Carried>),
}

/// A stream of a hop that carries a connection.
pub(super) struct Carried {
    permitted: Permitted,
    send: SendStream<Bytes>,
    pump: Pump,
    _lease: Lease,
    _in_use: InUse,
}

impl Held {
    /// Runs the connection, and ends what it held when it ends.
    pub(super) async fn hold(self, connection: impl Future<Output = ()>) {
        let mut carried = match self {
            Self::Workload(_permit) => return connection.await,
            Self::Peer(carried) => carried,
        };
        let Carried { permitted, send, pump, .. } = &mut *carried;
        let hop = &permitted.hop;
        let window = hop.session.as_ref().map(|session| &session.window);
        let both = async {
            let connection = async {
                connection.await;
                Ok(())
            };
            let in_order = tokio::try_join!(connection, pump.run(send, window)).is_ok();
            if in_order {
                // Who does not stop is not waited for.
                let _ = timeout(HEARING_OUT, pump.hear_out()).await;
            }
            in_order
        };
        let in_order = tokio::select! {
            biased;
            () = permitted.stream.cut.cancelled() => false,
            in_order = both => in_order,
        };
        if !in_order {
            send.send_reset(h2::Reason::CANCEL);
        }
        let cause = permitted.stream.cut.cause().map(|cause| cause.denial().reason.flag());
        hop.series.close(cause.unwrap_or("-"));
    }
}
