//! One honest end of a connection: what `session::Endpoint` of countersign-ratls
//! does, without time, bytes and sizes.
//!
//! Where to find it there: [`Session::start`] and [`Session::receive`] are
//! `endpoint`, the fields under *challenger* and `Session::ask` are
//! `challenger`, those under *prover* and [`Session::answer`] are `prover`,
//! `Session::renew` and `Session::adopt` are `renewal`.

use crate::defences::{Defence, Defences};
use crate::terms::{
    Binder, Cert, Challenge, Context, End, Frame, Hello, Hellos, Key, Level, Nonce, Platform, Quote, Renewal,
    Side, Statement, Summary, Tee,
};

/// What holds for every end of a world.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The defences in place.
    pub on: Defences,
    /// The last round.
    pub rounds: u8,
    /// How often a round can be repeated.
    pub retries: u8,
    /// How often an end can renew its identity.
    pub renewals: u8,
    /// Whether a quote takes time, in which frames can come.
    pub slow: bool,
}

/// Who sits at an end: what does not change.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Which end.
    pub end: End,
    /// In which TEE.
    pub tee: Tee,
    /// On which machine.
    pub platform: Platform,
    /// What it demands.
    pub demands: Level,
}

/// An end that gave up, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut(pub &'static str);

/// What happened at an end that an invariant may speak of.
#[derive(Clone, Debug)]
pub enum Event {
    /// Evidence was accepted, where this was expected.
    Accepted(Binder, Quote),
    /// The peer's new certificate is taken for its identity, instead of that of this key.
    Adopted(Renewal, Key),
    /// Application bytes flow.
    Application,
}

/// What an end sends, and what happened at it.
#[derive(Debug, Default)]
pub struct Effects {
    /// Frames to the peer, in order.
    pub frames: Vec<Frame>,
    /// For invariants.
    pub events: Vec<Event>,
}

/// The state of an honest end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// The peer, as its certificate names it.
    pub peer: Cert,
    /// The peer's key before, as long as the round lasts that was open when it changed.
    /// Only for the rule that [`Defence::KeyPoints`] replaced.
    peer_before: Option<Key>,
    /// The number of our identity on this connection.
    pub serial: u8,
    /// The number of the peer's identity.
    pub peer_serial: u8,
    /// The peer's Hello.
    pub peer_hello: Option<Hello>,

    // --- challenger
    /// Our open challenge.
    pub asked: Option<Challenge>,
    /// The number of our identity when it was sent.
    asked_as: u8,
    /// Every challenge that we sent.
    pub challenges: Vec<Challenge>,
    /// What we accepted, as we expected it.
    pub accepted: Vec<Binder>,

    // --- prover
    /// Whether we were ever challenged.
    challenged: bool,
    /// The binder that is being quoted.
    pub answering: Option<Binder>,
    /// What we sent and have no result for.
    pub unconfirmed: Option<Binder>,
    /// What the peer says that it accepted.
    pub confirmed: Vec<Binder>,
    /// Every quote that we made. Kept only where the attacker sees them.
    pub made: Vec<Quote>,

    // --- gate
    /// Whether our Open is out.
    pub open_sent: bool,
    /// Whether the peer's Open is in.
    pub open_received: bool,
    /// Whether application bytes flow.
    pub application: bool,
}

impl Session {
    /// An end after the TLS handshake, in which the peer showed this certificate.
    pub fn start(seat: Seat, rules: Rules, peer: Cert) -> (Self, Effects) {
        let mut session = Self {
            peer,
            peer_before: None,
            serial: 0,
            peer_serial: 0,
            peer_hello: None,
            asked: None,
            asked_as: 0,
            challenges: Vec::new(),
            accepted: Vec::new(),
            challenged: false,
            answering: None,
            unconfirmed: None,
            confirmed: Vec::new(),
            made: Vec::new(),
            open_sent: false,
            open_received: false,
            application: false,
        };
        let mut effects = Effects { frames: vec![Frame::Hello(Self::hello(seat))], ..Effects::default() };
        if seat.demands == Level::L2 {
            session.ask(seat, 0, 0, &mut effects);
        }
        session.advance(seat, rules, &mut effects);
        (session, effects)
    }

    /// The Hello of a seat.
    #[must_use]
    pub fn hello(seat: Seat) -> Hello {
        Hello {
            side: seat.end.side,
            all_features: true,
            nonce: Nonce::Hello(seat.end),
            demands: seat.demands,
        }
    }

    /// Whether frames after the gate may come and go.
    #[must_use]
    pub const fn open(&self) -> bool {
        self.open_sent && self.open_received
    }

    /// Both Hellos, client's first.
    #[must_use]
    pub fn hellos(&self, seat: Seat) -> Option<Hellos> {
        let (own, peer) = (Self::hello(seat), self.peer_hello?);
        Some(match seat.end.side {
            Side::Client => (own, peer),
            Side::Server => (peer, own),
        })
    }

    /// Sends a challenge.
    fn ask(&mut self, seat: Seat, round: u8, attempt: u8, effects: &mut Effects) {
        let challenge = Challenge { round, nonce: Nonce::Round(seat.end, round, attempt) };
        self.asked = Some(challenge);
        self.asked_as = self.serial;
        self.challenges.push(challenge);
        effects.frames.push(Frame::Challenge(challenge));
    }

    /// The challenge of the next round, if it may be sent now.
    pub fn next_round(&mut self, seat: Seat, rules: Rules) -> Option<Effects> {
        let round = self.accepted.len() as u8;
        if !self.open() || self.asked.is_some() || seat.demands == Level::L1 || round > rules.rounds {
            return None;
        }
        let mut effects = Effects::default();
        self.ask(seat, round, 0, &mut effects);
        Some(effects)
    }

    /// The binder of the evidence that `attester` makes for this challenge, as we
    /// see it, with these keys: our own and the peer's.
    fn binder(&self, seat: Seat, attester: Side, challenge: Challenge, keys: (Key, Key)) -> Option<Binder> {
        let (before, round) = if attester == seat.end.side {
            (&self.confirmed, self.confirmed.len())
        } else {
            (&self.accepted, self.accepted.len())
        };
        let ((own, peer), id) = (keys, seat.tee.id());
        let (keys, ids) = match seat.end.side {
            Side::Client => ((own, peer), (id, self.peer.id)),
            Side::Server => ((peer, own), (self.peer.id, id)),
        };
        Some(Binder::new(Context {
            attester,
            ekm: seat.end.link,
            keys,
            hellos: self.hellos(seat)?,
            challenge,
            round: round as u8,
            before: before.last().cloned(),
            ids,
        }))
    }

    /// What the peer must quote now: our key is that of our challenge, the peer's
    /// that of this point of its stream.
    #[must_use]
    pub fn expected(&self, seat: Seat) -> Option<Binder> {
        let own = seat.tee.key(self.asked_as)?;
        self.binder(seat, seat.end.side.other(), self.asked?, (own, self.peer.key))
    }

    /// What fits the open challenge.
    fn candidates(&self, seat: Seat, rules: Rules) -> Vec<Binder> {
        if rules.on.has(Defence::KeyPoints) {
            return self.expected(seat).into_iter().collect();
        }
        let peers = [Some(self.peer.key), self.peer_before];
        let binder = |peer| {
            let own = seat.tee.key(self.serial)?;
            self.binder(seat, seat.end.side.other(), self.asked?, (own, peer))
        };
        peers.into_iter().flatten().filter_map(binder).collect()
    }

    /// The quote for the open challenge is ready.
    pub fn answer(&mut self, seat: Seat) -> Option<Effects> {
        let binder = self.answering.take()?;
        let quote =
            Quote { binder: binder.clone(), platform: seat.platform, maker: Some(seat.end), stale: 0 };
        self.unconfirmed = Some(binder);
        self.made.push(quote.clone());
        Some(Effects { frames: vec![Frame::Evidence(quote)], ..Effects::default() })
    }

    /// Gives this end a new certificate, if it may change now.
    pub fn renew(&mut self, seat: Seat, rules: Rules) -> Option<Effects> {
        let waits = self.answering.is_some() && rules.on.has(Defence::KeyPoints);
        if !self.open() || self.serial >= rules.renewals || waits {
            return None;
        }
        let statement = Statement {
            side: seat.end.side,
            ekm: seat.end.link,
            hellos: self.hellos(seat)?,
            serial: self.serial + 1,
            old: seat.tee.key(self.serial)?,
            new: seat.tee.key(self.serial + 1)?,
        };
        self.serial += 1;
        Some(Effects { frames: vec![Frame::Identity(renewal_of(seat, statement))], ..Effects::default() })
    }

    /// Every Identity frame that this end sent.
    pub fn renewals(&self, seat: Seat) -> impl Iterator<Item = Renewal> + '_ {
        (1..=self.serial).filter_map(move |serial| {
            let statement = Statement {
                side: seat.end.side,
                ekm: seat.end.link,
                hellos: self.hellos(seat)?,
                serial,
                old: seat.tee.key(serial - 1)?,
                new: seat.tee.key(serial)?,
            };
            Some(renewal_of(seat, statement))
        })
    }

    /// A frame arrives. `retry`: the evidence in it cannot be appraised now.
    pub fn receive(&mut self, seat: Seat, rules: Rules, frame: &Frame, retry: bool) -> Result<Effects, Cut> {
        let mut effects = Effects::default();
        match frame {
            Frame::Hello(hello) => self.meet(seat, *hello)?,
            Frame::Challenge(challenge) => {
                self.accept_challenge(seat, rules, *challenge)?;
                if !rules.slow {
                    effects.frames.extend(self.answer(seat).into_iter().flat_map(|effects| effects.frames));
                }
            }
            Frame::Evidence(quote) => self.appraise(seat, rules, quote, retry, &mut effects)?,
            Frame::Result { round, accept } => self.hear(rules, *round, *accept)?,
            Frame::Open(summary) => self.compare(seat, rules, summary)?,
            Frame::Identity(renewal) => self.adopt(seat, rules, renewal, &mut effects)?,
        }
        self.advance(seat, rules, &mut effects);
        Ok(effects)
    }

    fn meet(&mut self, seat: Seat, hello: Hello) -> Result<(), Cut> {
        if self.peer_hello.is_some() || hello.side != seat.end.side.other() {
            return Err(Cut("a Hello that cannot be the peer's"));
        }
        self.peer_hello = Some(hello);
        Ok(())
    }

    fn accept_challenge(&mut self, seat: Seat, rules: Rules, challenge: Challenge) -> Result<(), Cut> {
        let hello = self.peer_hello.ok_or(Cut("a Challenge before the Hello"))?;
        let round = self.confirmed.len() as u8;
        if rules.on.has(Defence::Demand) && hello.demands == Level::L1 {
            return Err(Cut("a Challenge from a peer that demands no evidence"));
        }
        if self.answering.is_some() || self.unconfirmed.is_some() || self.open() != (round > 0) {
            return Err(Cut("a Challenge out of order"));
        }
        if rules.on.has(Defence::Round) && challenge.round != round {
            return Err(Cut("a Challenge of another round"));
        }
        self.challenged = true;
        let own = seat.tee.key(self.serial).ok_or(Cut("no key"))?;
        self.answering = self.binder(seat, seat.end.side, challenge, (own, self.peer.key));
        Ok(())
    }

    fn appraise(
        &mut self,
        seat: Seat,
        rules: Rules,
        quote: &Quote,
        retry: bool,
        effects: &mut Effects,
    ) -> Result<(), Cut> {
        if self.asked.is_none() {
            return Err(Cut("Evidence that nobody asked for"));
        }
        let round = self.accepted.len() as u8;
        if retry {
            let attempt = self.challenges.iter().filter(|challenge| challenge.round == round).count() as u8;
            effects.frames.push(Frame::Result { round, accept: false });
            self.ask(seat, round, attempt, effects);
            return Ok(());
        }
        let expected = self
            .candidates(seat, rules)
            .into_iter()
            .find(|expected| expected.matches(&quote.binder, rules.on))
            .ok_or(Cut("binding"))?;
        if rules.on.has(Defence::Platforms) && quote.platform == Platform::Foreign {
            return Err(Cut("platform"));
        }
        self.asked = None;
        self.asked_as = 0;
        self.peer_before = None;
        self.accepted.push(expected.clone());
        effects.frames.push(Frame::Result { round, accept: true });
        effects.events.push(Event::Accepted(expected, quote.clone()));
        Ok(())
    }

    fn hear(&mut self, rules: Rules, round: u8, accept: bool) -> Result<(), Cut> {
        if rules.on.has(Defence::Round) && usize::from(round) != self.confirmed.len() {
            return Err(Cut("a Result of another round"));
        }
        let binder = self.unconfirmed.take().ok_or(Cut("a Result for nothing"))?;
        if accept {
            self.confirmed.push(binder);
        }
        Ok(())
    }

    /// The value in an Open as this end sees it; none before the Hello.
    #[must_use]
    pub fn summary(&self, seat: Seat, sender: Side) -> Option<Summary> {
        let (own, peer) = (self.confirmed.first().cloned(), self.accepted.first().cloned());
        let (client, server) = match seat.end.side {
            Side::Client => (own, peer),
            Side::Server => (peer, own),
        };
        Some(Summary { sender, ekm: seat.end.link, hellos: self.hellos(seat)?, client, server })
    }

    fn compare(&mut self, seat: Seat, rules: Rules, theirs: &Summary) -> Result<(), Cut> {
        // Whoever sends Open has had from us what it demanded, and told us so before.
        if self.open_received || !self.open_sent {
            return Err(Cut("an Open out of order"));
        }
        let ours = self.summary(seat, seat.end.side.other()).ok_or(Cut("an Open before the Hello"))?;
        if rules.on.has(Defence::OpenCompared) && !ours.matches(theirs, rules.on) {
            return Err(Cut("an Open over something else"));
        }
        self.open_received = true;
        Ok(())
    }

    fn adopt(
        &mut self,
        seat: Seat,
        rules: Rules,
        renewal: &Renewal,
        effects: &mut Effects,
    ) -> Result<(), Cut> {
        if !self.open() {
            return Err(Cut("an Identity before the gate is open"));
        }
        if rules.on.has(Defence::IdentityName) && renewal.cert.id != self.peer.id {
            return Err(Cut("another SPIFFE ID"));
        }
        let mine = seat.tee.key(self.serial) == Some(renewal.cert.key);
        if rules.on.has(Defence::IdentityNotMine) && mine {
            return Err(Cut("our own key"));
        }
        if rules.on.has(Defence::IdentitySerial) && renewal.serial != self.peer_serial + 1 {
            return Err(Cut("a serial number that is not the next"));
        }
        let statement = Statement {
            side: seat.end.side.other(),
            ekm: seat.end.link,
            hellos: self.hellos(seat).ok_or(Cut("no Hello"))?,
            serial: renewal.serial,
            old: self.peer.key,
            new: renewal.cert.key,
        };
        let valid = renewal
            .signature
            .is_some_and(|(by, signed)| by == renewal.cert.key && signed.matches(&statement, rules.on));
        if rules.on.has(Defence::IdentitySigned) && !valid {
            return Err(Cut("signature"));
        }
        if self.asked.is_some() && !rules.on.has(Defence::KeyPoints) {
            self.peer_before = Some(self.peer.key);
        }
        effects.events.push(Event::Adopted(*renewal, self.peer.key));
        self.peer = renewal.cert;
        self.peer_serial = renewal.serial;
        Ok(())
    }

    /// What follows from what came: Open, and application bytes.
    fn advance(&mut self, seat: Seat, rules: Rules, effects: &mut Effects) {
        if !self.open_sent
            && let Some(hello) = self.peer_hello
        {
            let proved = seat.demands == Level::L1 || !self.accepted.is_empty();
            let required =
                if rules.on.has(Defence::Demand) { hello.demands == Level::L2 } else { self.challenged };
            if proved
                && (!required || !self.confirmed.is_empty())
                && let Some(summary) = self.summary(seat, seat.end.side)
            {
                self.open_sent = true;
                effects.frames.push(Frame::Open(summary));
            }
        }
        let allowed = if !rules.on.has(Defence::Gate) {
            true
        } else if rules.on.has(Defence::OpenAwaited) {
            self.open()
        } else {
            self.open_sent
        };
        if allowed && !self.application {
            self.application = true;
            effects.events.push(Event::Application);
        }
    }
}

fn renewal_of(seat: Seat, statement: Statement) -> Renewal {
    Renewal {
        cert: Cert { id: seat.tee.id(), key: statement.new },
        serial: statement.serial,
        signature: Some((statement.new, statement)),
    }
}
