//! What a session is told at its beginning: the channel, our demands, our offer.

use std::sync::Arc;

use countersign_config::kinds::assurance;
use countersign_config::view::demand;
use countersign_evidence::evidence::media_type;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::{Presented, Role};
use countersign_ratls::session::{Channel, Demands, Offer, OnFailure, Party, Side, Wanted};
use countersign_ratls::tls::Agreed;

use crate::context::{Context, Credentials};
use crate::gate::Framing;

/// The connection, as the handshake left it.
pub(crate) fn channel(
    agreed: Agreed,
    framing: Framing,
    role: Role,
    credentials: &Credentials,
    peer: &Presented,
) -> Result<Channel, Denial> {
    let Some(id) = peer.id.clone() else {
        return Err(Finding::new(Reason::SvidInvalid, "the peer's certificate", "a SPIFFE ID", "none").into());
    };
    let side = match role {
        Role::Client => Side::Server,
        Role::Server => Side::Client,
    };
    let (me, not_after) = (credentials.me.clone(), credentials.identity.not_after);
    Ok(Channel {
        side,
        quic: false,
        alpn: framing.alpn(),
        ekm: agreed.ekm,
        own: Party { id: me, spki_sha256: agreed.own_spki_sha256, not_after },
        peer: Party { id, spki_sha256: agreed.peer_spki_sha256, not_after: peer.not_after },
    })
}

/// What our policies demand of the peer, in the machine's words.
pub(crate) fn demands(of: &demand::Demands, ctx: &Context) -> Arc<Demands> {
    Arc::new(Demands {
        level: of.level,
        accepted: of.media_types.iter().map(|media_type| (*media_type).to_owned()).collect(),
        wanted: if of.event_log { Wanted::CPU.and(Wanted::EVENT_LOG) } else { Wanted::CPU },
        policy_id: of.policy_id.0,
        interval: of.interval,
        response: of.timeout,
        gate: ctx.limits.gate_timeout,
        on_failure: match of.on_failure {
            assurance::OnFailure::Drain => OnFailure::Drain,
            assurance::OnFailure::Cut => OnFailure::Cut,
        },
        drain_grace: of.drain_grace,
        ..Demands::default()
    })
}

/// What this machine can prove.
pub(crate) fn offer(ctx: &Context) -> Arc<Offer> {
    let platform = ctx.quoter.platform();
    Arc::new(Offer { types: vec![media_type::of(platform.tee).to_owned()], event_log: platform.event_log })
}
