//! A peer that speaks the session protocol: as an honest one would, with the
//! machine that a test gives it, on a connection that a test opened.

use std::io;
use std::sync::Arc;

use countersign_attester::Attester;
use countersign_evidence::Denial;
use countersign_evidence::evidence::media_type;
use countersign_ratls::Identity;
use countersign_ratls::peer::Presented;
use countersign_ratls::session::{
    Acceptance, Action, Channel, Cut, Demands, EXPORTER_LABEL, Ekm, Endpoint, Level, Offer, Party, Quoted,
    SecureRandom, Side,
};
use countersign_ratls::tls::ALPN_MESH;
use rustls::ConnectionCommon;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::clock::Clock;
use crate::wait::within;

/// Who speaks: by which certificate, on which machine.
#[derive(Clone, Debug)]
pub struct Prover {
    /// The certificate of the handshake.
    pub identity: Arc<Identity>,
    /// The machine.
    pub attester: Arc<dyn Attester>,
    /// What is demanded of the other side. Any evidence will do.
    pub demands: Level,
}

impl Prover {
    /// With this certificate, on this machine, demanding nothing.
    #[must_use]
    pub fn new(identity: &Identity, attester: &Arc<dyn Attester>) -> Self {
        Self { identity: Arc::new(identity.clone()), attester: Arc::clone(attester), demands: Level::L1 }
    }
}

/// How the gate ended for us.
#[derive(Debug)]
pub enum Gate {
    /// It is open. What the peer said after its Open.
    Open(Vec<u8>),
    /// The session is over, for this reason.
    Cut(Cut),
    /// The connection ended.
    Ended(io::Error),
}

/// One end of a session.
#[derive(Debug)]
pub struct Speaker {
    /// The machine of the protocol.
    pub endpoint: Endpoint,
    /// How often evidence was asked for.
    pub quotes: usize,
    /// Everything that was said.
    pub said: Vec<u8>,
    prover: Prover,
    clock: Clock,
    opened: bool,
    cut: Option<Cut>,
}

impl Speaker {
    /// On a connection whose handshake is over.
    ///
    /// # Panics
    /// When the peer has no certificate, or there can be no session.
    #[must_use]
    pub fn new<D>(prover: &Prover, side: Side, tls: &ConnectionCommon<D>, clock: &Clock) -> Self {
        let ekm = tls.export_keying_material(zeroize::Zeroizing::new([0; 32]), EXPORTER_LABEL, None).unwrap();
        let peer = Presented::parse(tls.peer_certificates().expect("a certificate of the peer")).unwrap();
        let own = &prover.identity;
        let channel = Channel {
            side,
            quic: false,
            alpn: ALPN_MESH,
            ekm: Ekm::new(ekm),
            own: Party {
                id: own.id.clone().unwrap(),
                spki_sha256: own.spki_sha256,
                not_after: own.not_after,
            },
            peer: Party { id: peer.id.unwrap(), spki_sha256: peer.spki_sha256, not_after: peer.not_after },
        };
        let types = [media_type::TSM_TDX, media_type::TSM_SNP].map(str::to_owned).to_vec();
        let demands = Demands { level: prover.demands, accepted: types.clone(), ..Demands::default() };
        let offer = Offer { types, event_log: false };
        let (demands, offer) = (Arc::new(demands), Arc::new(offer));
        let endpoint =
            Endpoint::new(channel, demands, offer, SecureRandom::shared(), clock.moment()).unwrap();
        let (prover, clock) = (prover.clone(), clock.clone());
        Self { endpoint, quotes: 0, said: Vec::new(), prover, clock, opened: false, cut: None }
    }

    /// From now on it proves itself by this machine.
    pub fn move_to(&mut self, attester: &Arc<dyn Attester>) {
        self.prover.attester = Arc::clone(attester);
    }

    /// Does what the machine says, and returns what it wants to be written.
    ///
    /// # Panics
    /// When the attester fails.
    pub fn pump(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let now = self.clock.moment();
            match self.endpoint.poll(now) {
                Action::Send(bytes) => {
                    self.said.extend(&bytes);
                    out.extend(bytes);
                }
                Action::Quote(request) => {
                    self.quotes += 1;
                    let binder = request.core.binder(&[]);
                    let evidence = self.prover.attester.evidence(binder.as_bytes()).unwrap();
                    let (media_type, evidence) = (evidence.media_type, evidence.value);
                    let quoted = Quoted { media_type, evidence: &evidence, proof: None, event_log: None };
                    self.endpoint.quoted(Ok(quoted), now);
                }
                Action::Appraise(_) => {
                    let accepted = Acceptance { until: now.unix + crate::DAY, event_log: None };
                    self.endpoint.appraised(Ok(accepted), now);
                }
                Action::Judge(chain) => {
                    let judged = Presented::parse(&chain).map_err(Denial::from);
                    self.endpoint.judged(judged.as_ref().map_err(Clone::clone), now);
                }
                Action::Open => self.opened = true,
                Action::Accepted(_) | Action::Drain(_) => {}
                Action::Cut(cut) => self.cut = Some(cut),
                Action::Wait(_) => return out,
            }
        }
    }

    /// Takes in bytes; what there is to say to them, and what they have beyond the peer's Open.
    pub fn hear<'a>(&mut self, mut bytes: &'a [u8]) -> (Vec<u8>, &'a [u8]) {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let before = self.opened;
            let taken = self.endpoint.receive(bytes, self.clock.moment());
            bytes = &bytes[taken..];
            out.extend(self.pump());
            if taken == 0 || before != self.opened {
                break;
            }
        }
        (out, bytes)
    }

    /// Goes through the gate.
    pub async fn gate<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> Gate {
        let mut read = vec![0; 64 << 10];
        let mut out = Vec::new();
        loop {
            // The server speaks first, or refuses: an alert that is not read before
            // something is written to a closed connection can be lost.
            match within("the gate", stream.read(&mut read)).await {
                Ok(0) => return Gate::Ended(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Gate::Ended(error),
                Ok(some) => {
                    out.extend(self.pump());
                    let (answer, rest) = self.hear(&read[..some]);
                    out.extend(answer);
                    let written = async {
                        stream.write_all(&out).await?;
                        stream.flush().await
                    };
                    if let Err(error) = within("frames to be taken", written).await {
                        return Gate::Ended(error);
                    }
                    out.clear();
                    if let Some(cut) = self.cut.take() {
                        return Gate::Cut(cut);
                    }
                    if self.opened {
                        return Gate::Open(rest.to_vec());
                    }
                }
            }
        }
    }
}
