//! The model: states, and what can happen in them.

use stateright::{Model, Property};

use crate::attacker;
use crate::defences::{Defence, Defences};
use crate::invariants::{Broken, Invariant, judge};
use crate::session::{Effects, Event, Rules, Seat, Session};
use crate::terms::{Cert, End, Frame, Key, Level, Side, Tee};
use crate::world::{Link, Party, World};

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Whether it came about.
    pub started: bool,
    /// The ends, client first; none for the attacker.
    pub ends: [Option<Session>; 2],
    /// Frames under way to each end. Only if sealed: on other connections they
    /// go to the attacker, who says what arrives.
    pub queues: [Vec<Frame>; 2],
}

/// All connections, and what was broken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Which of the world's topologies it is.
    pub topology: usize,
    /// Its connections.
    pub connections: Vec<Connection>,
    /// The invariants that were broken on the way.
    pub broken: Broken,
}

impl State {
    /// An honest end.
    #[must_use]
    pub fn session(&self, end: End) -> Option<&Session> {
        self.connections.get(usize::from(end.link))?.ends.get(end.side as usize)?.as_ref()
    }

    /// All honest ends.
    pub fn sessions(&self) -> impl Iterator<Item = (End, &Session)> {
        self.connections.iter().enumerate().flat_map(|(link, connection)| {
            [Side::Client, Side::Server].into_iter().filter_map(move |side| {
                let session = connection.ends.get(side as usize)?.as_ref()?;
                Some((End { link: link as u8, side }, session))
            })
        })
    }

    fn sessions_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.connections.iter_mut().flat_map(|connection| connection.ends.iter_mut().flatten())
    }
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A connection comes about.
    Connect(u8),
    /// The next frame arrives that the other honest end sent. The flag: evidence
    /// in it cannot be appraised now.
    Deliver(End, bool),
    /// A frame arrives that the attacker sent.
    Say(End, Frame, bool),
    /// A quote is ready.
    Quoted(End),
    /// A round is due.
    Challenge(End),
    /// A new certificate is there.
    Renew(End),
}

/// A world, with some defences.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// The world.
    pub world: World,
    /// The defences in place.
    pub on: Defences,
    /// The invariants that are watched.
    pub watched: Vec<Invariant>,
    /// Whether progress is checked too.
    pub progress: bool,
    topologies: Vec<Vec<Link>>,
}

impl Mesh {
    /// This world, with these defences taken out.
    #[must_use]
    pub fn new(world: World, removed: &[Defence], watched: &[Invariant]) -> Self {
        let on = Defences::without(removed);
        Self { world, on, watched: watched.to_vec(), progress: false, topologies: world.topologies(on) }
    }

    /// The connections of a state.
    #[must_use]
    pub fn links(&self, state: &State) -> &[Link] {
        self.topologies.get(state.topology).map_or(&[], Vec::as_slice)
    }

    /// Whether honest ends have done all that the world has for them.
    #[must_use]
    pub fn complete(&self, state: &State) -> bool {
        let done = |(end, session): (End, &Session)| {
            let rounds = match self.seat(state, end).map(|seat| seat.demands) {
                Some(Level::L2) => usize::from(self.world.rounds) + 1,
                _ => 0,
            };
            session.open()
                && session.application
                && session.accepted.len() == rounds
                && session.serial == self.world.renewals
        };
        let quiet = state.connections.iter().all(|c| c.started && c.queues.iter().all(Vec::is_empty));
        quiet && state.sessions().all(done)
    }

    fn rules(&self) -> Rules {
        self.world.rules(self.on)
    }

    /// The honest end.
    #[must_use]
    pub fn seat(&self, state: &State, end: End) -> Option<Seat> {
        self.world.seat(self.links(state).get(usize::from(end.link))?, end)
    }

    /// What the party at an end shows in the handshake.
    fn shown(&self, link: &Link, end: End) -> Option<Cert> {
        match link.party(end.side) {
            Party::Attacker(cert) => Some(cert),
            Party::Tee(tee) => Some(Cert { id: tee.id(), key: tee.key(0)? }),
        }
    }

    /// The handshake: both ends take the other's certificate, or nothing comes about.
    fn connect(&self, state: &mut State, index: u8) -> Option<()> {
        let link = *self.links(state).get(usize::from(index))?;
        let ends = [Side::Client, Side::Server].map(|side| End { link: index, side });
        for end in ends {
            let (own, peer) = (self.shown(&link, end)?, self.shown(&link, end.other())?);
            let Some(seat) = self.world.seat(&link, end) else { continue };
            let misnamed = end.side == Side::Client && peer.id != link.wants;
            let refused = (misnamed && self.on.has(Defence::PeerName))
                || (own.key == peer.key && self.on.has(Defence::NotMyself))
                || (!link.mesh && seat.demands == Level::L2 && self.on.has(Defence::Protocol));
            if refused {
                return None;
            }
        }
        state.connections.get_mut(usize::from(index))?.started = true;
        for end in ends {
            let Some(seat) = self.world.seat(&link, end) else { continue };
            if !link.mesh {
                let links = self.links(state);
                let mut broken = state.broken;
                judge(&self.world, links, state, seat, &Event::Application, &mut broken);
                state.broken = broken;
                continue;
            }
            let (session, effects) = Session::start(seat, self.rules(), self.shown(&link, end.other())?);
            *state.connections.get_mut(usize::from(index))?.ends.get_mut(end.side as usize)? = Some(session);
            self.settle(state, seat, effects);
        }
        Some(())
    }

    /// Sends what an end has to send, and judges what happened at it.
    fn settle(&self, state: &mut State, seat: Seat, effects: Effects) {
        let links = self.links(state);
        let sealed = links.get(usize::from(seat.end.link)).is_some_and(Link::sealed);
        if effects.frames.iter().any(|frame| matches!(frame, Frame::Challenge(_))) {
            mark_older(state, seat.end);
        }
        let mut broken = state.broken;
        for event in &effects.events {
            judge(&self.world, links, state, seat, event, &mut broken);
        }
        state.broken = broken;
        let Some(connection) = state.connections.get_mut(usize::from(seat.end.link)) else { return };
        if sealed {
            if let Some(session) = connection.ends.get_mut(seat.end.side as usize).and_then(Option::as_mut) {
                session.made.clear();
            }
            if let Some(queue) = connection.queues.get_mut(seat.end.side.other() as usize) {
                queue.extend(effects.frames);
            }
        }
    }

    /// Lets an end do something.
    fn step(
        &self,
        state: &mut State,
        end: End,
        what: impl FnOnce(&mut Session, Seat, Rules) -> Option<Effects>,
    ) -> Option<()> {
        let seat = self.seat(state, end)?;
        let session =
            state.connections.get_mut(usize::from(end.link))?.ends.get_mut(end.side as usize)?.as_mut()?;
        let effects = what(session, seat, self.rules())?;
        self.settle(state, seat, effects);
        Some(())
    }

    /// A frame arrives. An end that cuts is gone, which is of interest only if nobody disturbed it.
    fn receive(&self, state: &mut State, end: End, frame: &Frame, retry: bool, honest: bool) -> Option<()> {
        let mut cut = false;
        let done = self.step(state, end, |session, seat, rules| {
            let effects = session.receive(seat, rules, frame, retry);
            cut = effects.is_err();
            effects.ok()
        });
        if cut && honest {
            // G may be unwanted, and nobody is wanted by itself.
            let links = self.links(state).get(usize::from(end.link))?;
            let both = [links.client, links.server];
            if both.contains(&Party::Tee(Tee::A)) && both.contains(&Party::Tee(Tee::B)) {
                state.broken.add(Invariant::NoFalseCut);
            }
            return Some(());
        }
        done
    }

    /// Whether evidence that arrives can be put off once more.
    fn can_retry(&self, session: &Session) -> bool {
        let round = session.accepted.len();
        let asked = session.challenges.iter().filter(|c| usize::from(c.round) == round).count();
        asked <= usize::from(self.world.retries)
    }
}

/// Every quote that exists is older than the challenge that this end makes now.
fn mark_older(state: &mut State, end: End) {
    let bit = end.bit();
    for session in state.sessions_mut() {
        for quote in &mut session.made {
            quote.stale |= bit;
        }
    }
    for frame in state.connections.iter_mut().flat_map(|c| c.queues.iter_mut().flatten()) {
        if let Frame::Evidence(quote) = frame {
            quote.stale |= bit;
        }
    }
}

impl Model for Mesh {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let empty = |(topology, links): (usize, &Vec<Link>)| State {
            topology,
            connections: vec![Connection::default(); links.len()],
            broken: Broken::default(),
        };
        self.topologies.iter().enumerate().map(empty).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let links = self.links(state);
        for (index, connection) in state.connections.iter().enumerate() {
            let index = index as u8;
            if !connection.started {
                actions.push(Action::Connect(index));
            }
        }
        for (end, session) in state.sessions() {
            let Some(link) = links.get(usize::from(end.link)) else { continue };
            let Some(seat) = self.world.seat(link, end) else { continue };
            if session.answering.is_some() {
                actions.push(Action::Quoted(end));
            }
            if session.open() && session.asked.is_none() {
                actions.push(Action::Challenge(end));
            }
            if session.open() && session.serial < self.world.renewals {
                actions.push(Action::Renew(end));
            }
            let mut arrive = |frame: &Frame, action: &dyn Fn(bool) -> Action| {
                actions.push(action(false));
                if matches!(frame, Frame::Evidence(_)) && self.can_retry(session) {
                    actions.push(action(true));
                }
            };
            if link.sealed() {
                let queue = state.connections.get(usize::from(end.link)).map(|c| &c.queues);
                if let Some(frame) = queue.and_then(|q| q.get(end.side as usize)?.first()) {
                    arrive(frame, &|retry| Action::Deliver(end, retry));
                }
            } else {
                for frame in attacker::frames(&self.world, links, self.on, state, seat, session) {
                    arrive(&frame, &|retry| Action::Say(end, frame.clone(), retry));
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        // What was broken stays broken: there is nothing to be learnt behind it.
        if state.broken.any(&self.watched) {
            return None;
        }
        let mut next = state.clone();
        match action {
            Action::Connect(index) => self.connect(&mut next, index)?,
            Action::Deliver(end, retry) => {
                let queue =
                    next.connections.get_mut(usize::from(end.link))?.queues.get_mut(end.side as usize)?;
                let frame = queue.remove(0);
                self.receive(&mut next, end, &frame, retry, true)?;
            }
            Action::Say(end, frame, retry) => self.receive(&mut next, end, &frame, retry, false)?,
            Action::Quoted(end) => self.step(&mut next, end, |session, seat, _| session.answer(seat))?,
            Action::Challenge(end) => self.step(&mut next, end, Session::next_round)?,
            Action::Renew(end) => self.step(&mut next, end, Session::renew)?,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let sound = Property::always("sound", |mesh: &Self, state: &State| !state.broken.any(&mesh.watched));
        if !self.progress {
            // Alone, so that the search ends with the first attack, which is a shortest one.
            return vec![sound];
        }
        vec![
            sound,
            Property::always("never stuck", |mesh: &Self, state| {
                let mut actions = Vec::new();
                mesh.actions(state, &mut actions);
                let goes_on = |action| mesh.next_state(state, action).is_some();
                actions.into_iter().any(goes_on) || mesh.complete(state)
            }),
            Property::sometimes("complete", Self::complete),
            Property::sometimes("complete after a retry", |mesh: &Self, state: &State| {
                mesh.complete(state)
                    && state.sessions().any(|(_, session)| session.challenges.len() > session.accepted.len())
            }),
            Property::sometimes("a round over an identity renewed at both ends", |_, state: &State| {
                state.sessions().count() == 2
                    && state.sessions().all(|(_, session)| {
                        session.accepted.last().is_some_and(|binder| {
                            let keys = binder.context().keys;
                            keys == (Key::A2, Key::B2)
                        })
                    })
            }),
        ]
    }
}
