//! Third stage: the gate. Nothing of an application, not even the first byte of
//! HTTP/2, passes in either direction before both sides have proved themselves
//! for this very connection, as far as the policies of both demand it.
//!
//! ```text
//! Handshaken -- level, limits, registered --> frames over TLS -- Open both ways --> Attested
//! ```

mod crowd;
mod framing;
mod outlet;
mod rest;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use countersign_evidence::policy::Level;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::{Presented, Role};
use countersign_ratls::tls::{ALPN_H2, ALPN_MESH, ALPN_TCP, Agreed, peer_refusal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, timeout};

pub use crowd::Crowd;
pub use framing::Framing;
pub(crate) use outlet::{Frames, Outlet};
pub(crate) use rest::Rest;

use crate::context::{Context, Credentials};
use crate::handshake::Handshaken;
use crate::live::{Hop, NewHop, Registered};
use crate::session::carrier::Raw;
use crate::session::drive::{self, Goal};
use crate::session::{Session, terms};

/// For how long a peer that is refused may take to hear why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection on which both sides have consented, and which can be cut.
#[derive(Debug)]
pub(crate) struct Attested<S> {
    pub(crate) hop: Registered,
    pub(crate) stream: Rest<S>,
    // Only this module makes one.
    _private: (),
}

/// The application protocols that a hop of ours to a peer may have, most wanted first.
pub(crate) fn protocols(credentials: &Credentials, ctx: &Context) -> &'static [&'static [u8]] {
    const BOTH: &[&[u8]] = &[ALPN_MESH, ALPN_H2];
    const MESH: &[&[u8]] = &[ALPN_MESH];
    if admits_without_proof(credentials, ctx) { BOTH } else { MESH }
}

/// Those that a peer may choose from. That of dedicated hops stands first: who
/// offers it wants it.
pub(crate) fn answered(credentials: &Credentials, ctx: &Context) -> &'static [&'static [u8]] {
    const ALL: &[&[u8]] = &[ALPN_TCP, ALPN_MESH, ALPN_H2];
    const MESH: &[&[u8]] = &[ALPN_TCP, ALPN_MESH];
    if admits_without_proof(credentials, ctx) { ALL } else { MESH }
}

/// `h2`, in which nothing is proved for the connection, is spoken only where a policy
/// admits somebody by it; whom, is looked at when it is known who is there.
fn admits_without_proof(credentials: &Credentials, ctx: &Context) -> bool {
    let levels = ctx.view.load().levels(&credentials.me);
    levels.is_some_and(|levels| levels.lowest < Level::L2)
}

/// Takes a connection through the gate.
pub(crate) async fn pass<S>(shaken: Handshaken<S>, ctx: &Context) -> Result<Attested<S>, Denial>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Handshaken { stream, role, admission, agreed, credentials, address, abort, permit, .. } = shaken;
    // The permit counts connections on which nobody has consented yet.
    let _permit = permit;
    let presented = &admission.presented;
    if presented.spki_sha256 == credentials.identity.spki_sha256 {
        let expected = "another key than ours";
        return Err(Finding::new(Reason::SelfConnection, "peer's key", expected, "our own").into());
    }
    let place = ctx.crowd.enter(presented, ctx);
    match &place {
        Ok(_) => ctx.metrics.admitted(&admission, role),
        Err(denial) => ctx.metrics.denied(denial, role),
    }
    let framing = Framing::of(&agreed.alpn).ok_or_else(|| unknown(&agreed.alpn))?;
    let session = match framing {
        Framing::Plain => None,
        _ => Some(session(agreed, framing, role, &credentials, presented, ctx)),
    };
    let (_place, session) = match (place, session.transpose()) {
        (Ok(place), session) => (place, session.inspect_err(|denial| ctx.metrics.denied(denial, role))?),
        (Err(denial), session) => {
            if let Ok(Some(session)) = session {
                turn_away(&session, stream, &denial, ctx).await;
            }
            return Err(denial);
        }
    };
    let new = NewHop {
        role,
        me: credentials.me.clone(),
        address,
        own_until: credentials.identity.not_after,
        judge: Arc::clone(&credentials.judge),
        admission,
        abort: abort.clone(),
        framing,
        session,
    };
    let started = Instant::now();
    let hop = ctx.live.register(new, ctx);
    let passed = match &hop.session {
        Some(session) => attest(&hop, session, stream, ctx).await,
        None => consent(&hop, stream, ctx).await,
    };
    // Looked at again: a view that came before the registration has not seen it.
    let passed = passed.and_then(|stream| hop.current(ctx).map(|_| stream));
    match passed {
        Ok(stream) => {
            hop.audited(&hop.admission().audited, ctx);
            catch_up(&hop, &credentials, ctx);
            ctx.metrics.attestation.gate(role, framing.name(), started.elapsed());
            Ok(Attested { hop, stream, _private: () })
        }
        Err(denial) => {
            abort.set();
            Err(denial)
        }
    }
}

/// Tells the peer of a certificate that came after the handshake began.
fn catch_up(hop: &Hop, credentials: &Credentials, ctx: &Context) {
    let current = ctx.credentials.borrow().clone();
    if let Some(current) = current.filter(|current| current.me == credentials.me)
        && !Arc::ptr_eq(&current.identity, &credentials.identity)
    {
        hop.renew(&current.identity, ctx);
    }
}

/// No handshake ends like this: each protocol that is offered has a framing.
fn unknown(alpn: &[u8]) -> Denial {
    let presented = String::from_utf8_lossy(alpn);
    Finding::new(Reason::Internal, "ALPN", "a protocol of the mesh", presented).into()
}

/// A session on the connection of a handshake.
fn session(
    agreed: Agreed,
    framing: Framing,
    role: Role,
    credentials: &Credentials,
    peer: &Presented,
    ctx: &Context,
) -> Result<Session, Denial> {
    let channel = terms::channel(agreed, framing, role, credentials, peer)?;
    let demands = ctx.view.load().demands(&credentials.me, &channel.peer.id)?;
    let demands = terms::demands(&demands, ctx);
    Session::new(channel, demands, terms::offer(ctx), Arc::clone(&ctx.random), ctx.clock.moment())
}

/// Both sides prove what the other demands, over the bare TLS stream.
async fn attest<S>(hop: &Hop, session: &Session, stream: S, ctx: &Context) -> Result<Rest<S>, Denial>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut carrier = Raw::new(stream);
    let left = drive::drive(hop, session, &mut carrier, Goal::Gate, ctx).await;
    if let Some(cause) = hop.cut.cause() {
        // In TLS 1.3 a client learns with its first read that its certificate is refused.
        let refusal = left.broken.as_ref().and_then(peer_refusal);
        let denial = refusal.map_or_else(|| cause.denial(), Denial::from);
        drive::last_words(session, &mut carrier, LAST_WORDS).await;
        return Err(denial);
    }
    Ok(beyond(hop, left.rest, carrier.into_inner()))
}

/// Who does not even get a place before the gate is told why, in our first flight:
/// else its operator reads of a connection that ended, and of no reason.
async fn turn_away<S>(session: &Session, stream: S, denial: &Denial, ctx: &Context)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    session.turn_away(denial.clone(), ctx.clock.moment());
    drive::last_words(session, &mut Raw::new(stream), LAST_WORDS).await;
}

/// The stream behind the gate, of which `ahead` was read already.
fn beyond<S>(hop: &Hop, ahead: BytesMut, stream: S) -> Rest<S> {
    Rest::new(ahead, stream, Arc::clone(&hop.outlet), Frames::of(hop.framing, hop.role))
}

/// Over plain `h2` nothing is proved for the connection. A client is done with
/// the handshake before the server has judged it: its first byte says that it
/// admits us.
async fn consent<S>(hop: &Hop, mut stream: S, ctx: &Context) -> Result<Rest<S>, Denial>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Its certificate was admitted, and counted as that; its connection is not.
    let enough = hop.reattest(&hop.admission(), ctx);
    enough.inspect_err(|denial| ctx.metrics.denied(denial, hop.role))?;
    let mut first = BytesMut::with_capacity(64);
    if hop.role == Role::Client {
        return Ok(beyond(hop, first, stream));
    }
    let limit = ctx.limits.handshake_timeout;
    let silence = |presented: &str| Finding::new(Reason::TlsFailure, "hop", "the peer's consent", presented);
    let read = tokio::select! {
        biased;
        () = hop.cut.cancelled() => {
            return Err(hop.cut.cause().map_or_else(|| silence("a cut").into(), crate::live::Cause::denial));
        }
        read = timeout(limit, stream.read_buf(&mut first)) => read,
    };
    match read {
        Ok(Ok(1..)) => Ok(beyond(hop, first, stream)),
        Ok(Ok(0)) => Err(silence("the connection ended without a word").into()),
        Ok(Err(error)) => Err(peer_refusal(&error).unwrap_or_else(|| silence(&error.to_string())).into()),
        Err(_) => {
            Err(Finding::new(Reason::ConnectFailed, "consent of the peer", format!("in {limit:?}"), "none")
                .into())
        }
    }
}
