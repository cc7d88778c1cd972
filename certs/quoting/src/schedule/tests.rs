use super::*;

const SECOND: Duration = Duration::from_secs(1);
const QUOTE: Duration = Duration::from_millis(40);

/// A schedule over numbers, and a time that the test moves.
struct World {
    schedule: Schedule<u32>,
    start: Instant,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let start = Instant::now();
        Self { schedule: Schedule::new(options), start, now: start }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn new_hop(&mut self, peer: u64, job: u32) -> Result<Ticket, Refused> {
        self.schedule.push(self.now, peer, Class::Session(Urgency::NewHop), job)
    }

    /// A round that is of use for another `patience`.
    fn round(&mut self, peer: u64, job: u32, patience: Duration) -> Result<Ticket, Refused> {
        let by = self.now + patience;
        self.schedule.push(self.now, peer, Class::Session(Urgency::Round { by }), job)
    }

    fn solo(&mut self, asker: u64, job: u32) -> Result<Ticket, Refused> {
        self.schedule.push(self.now, asker, Class::Solo, job)
    }

    fn poll(&mut self) -> Step<u32> {
        self.schedule.poll(self.now)
    }

    /// The quote that must start now takes `time`.
    fn quote(&mut self, time: Duration) -> Step<u32> {
        let step = self.poll();
        assert!(matches!(step, Step::Batch(_) | Step::Solo(_)), "{step:?}");
        self.pass(time);
        self.schedule.finished(self.now, true);
        step
    }

    /// After which time the next step is due.
    fn due(&mut self) -> Option<Duration> {
        match self.poll() {
            Step::WaitUntil(time) => Some(time - self.now),
            Step::Wait => None,
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn a_new_hop_does_not_wait_for_company() {
    let mut world = World::new();
    assert_eq!(world.poll(), Step::Wait);
    world.new_hop(1, 10).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![10]));
    world.pass(Duration::from_millis(1));
    world.new_hop(1, 11).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![11]));
    assert_eq!(world.poll(), Step::Wait);
}

#[test]
fn who_comes_while_the_device_is_busy_joins_the_next_quote_with_those_who_wait() {
    let mut world = World::new();
    world.new_hop(1, 10).unwrap();
    assert_eq!(world.poll(), Step::Batch(vec![10]));
    world.round(2, 20, 15 * SECOND).unwrap();
    world.new_hop(3, 30).unwrap();
    assert!(matches!(world.poll(), Step::WaitUntil(_)));
    world.pass(QUOTE);
    world.schedule.finished(world.now, true);
    assert_eq!(world.poll(), Step::Batch(vec![30, 20]));
}

#[test]
fn rounds_are_collected_for_a_while_or_four_quoting_times() {
    for (quote, pause) in [(QUOTE, 550), (Duration::from_millis(200), 800), (SECOND, 4000)] {
        let mut world = World::new();
        world.round(1, 10, 60 * SECOND).unwrap();
        // Nothing has started yet, so there is nothing to keep a distance from.
        assert_eq!(world.quote(quote), Step::Batch(vec![10]));
        world.round(1, 11, 60 * SECOND).unwrap();
        assert_eq!(world.due(), Some(Duration::from_millis(pause) - quote));
        world.pass(quote);
        world.round(2, 20, 60 * SECOND).unwrap();
        let due = world.due().unwrap();
        assert_eq!(due, Duration::from_millis(pause) - 2 * quote);
        world.pass(due);
        assert_eq!(world.quote(quote), Step::Batch(vec![11, 20]));
    }
}

#[test]
fn a_quote_for_a_new_hop_takes_the_waiting_rounds_with_it() {
    let mut world = World::new();
    world.round(1, 10, 60 * SECOND).unwrap();
    world.quote(QUOTE);
    world.round(1, 11, 60 * SECOND).unwrap();
    world.new_hop(2, 20).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![20, 11]));
    // And the distance counts from that one.
    world.round(1, 12, 60 * SECOND).unwrap();
    assert_eq!(world.due(), Some(Duration::from_millis(550) - QUOTE));
}

#[test]
fn the_first_deadline_hurries_a_round() {
    let mut world = World::new();
    world.round(1, 10, 60 * SECOND).unwrap();
    world.quote(SECOND);
    world.round(1, 11, 60 * SECOND).unwrap();
    world.round(1, 12, Duration::from_millis(2500)).unwrap();
    // Two quoting times before the deadline, and not after three more seconds.
    assert_eq!(world.due(), Some(Duration::from_millis(500)));
    world.pass(Duration::from_millis(500));
    assert_eq!(world.quote(SECOND), Step::Batch(vec![11, 12]));
}

#[test]
fn what_is_late_is_not_quoted_and_is_told_at_once() {
    let mut world = World::new();
    world.new_hop(1, 10).unwrap();
    assert_eq!(world.poll(), Step::Batch(vec![10]));
    world.round(1, 11, SECOND).unwrap();
    world.round(1, 12, 2 * SECOND).unwrap();
    assert_eq!(world.due(), Some(SECOND));
    world.pass(SECOND);
    assert_eq!(world.poll(), Step::Late(vec![11]));
    world.pass(SECOND);
    assert_eq!(world.poll(), Step::Late(vec![12]));
    world.schedule.finished(world.now, true);
    assert_eq!(world.poll(), Step::Wait);
    assert!(world.schedule.is_empty());
}

#[test]
fn a_full_batch_does_not_wait_for_more() {
    let mut world = World::with(Options { leaves: 8, ..Options::default() });
    world.round(1, 0, 60 * SECOND).unwrap();
    world.quote(QUOTE);
    for job in 1..8 {
        world.round(1, job, 60 * SECOND).unwrap();
    }
    assert!(world.due().is_some());
    for job in 8..20 {
        world.round(1, job, 60 * SECOND).unwrap();
    }
    assert_eq!(world.quote(QUOTE), Step::Batch((1..9).collect()));
    assert_eq!(world.quote(QUOTE), Step::Batch((9..17).collect()));
    assert!(world.due().is_some());
}

#[test]
fn peers_are_served_in_turn() {
    let mut world = World::with(Options { leaves: 4, ..Options::default() });
    for job in 0..100 {
        world.new_hop(1, job).unwrap();
    }
    world.new_hop(2, 200).unwrap();
    world.new_hop(3, 300).unwrap();
    world.new_hop(2, 201).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![0, 200, 300, 1]));
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![201, 2, 3, 4]));
    world.new_hop(3, 301).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![5, 301, 6, 7]));
}

#[test]
fn a_flood_of_new_hops_leaves_a_quarter_of_a_batch_to_rounds() {
    let mut world = World::with(Options { leaves: 8, ..Options::default() });
    for job in 0..20 {
        world.new_hop(1, job).unwrap();
    }
    for job in 100..105 {
        world.round(2, job, 60 * SECOND).unwrap();
    }
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![0, 1, 2, 3, 4, 5, 100, 101]));
    // What new hops do not use is for rounds.
    let mut world = World::with(Options { leaves: 8, ..Options::default() });
    world.new_hop(1, 0).unwrap();
    for job in 100..110 {
        world.round(2, job, 60 * SECOND).unwrap();
    }
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![0, 100, 101, 102, 103, 104, 105, 106]));
}

#[test]
fn the_queue_is_bounded_for_all_and_for_each() {
    let mut world = World::with(Options {
        sessions: 8,
        sessions_per_peer: 3,
        solos: 3,
        solos_per_peer: 2,
        ..Options::default()
    });
    for job in 0..3 {
        world.new_hop(1, job).unwrap();
    }
    assert_eq!(world.new_hop(1, 3), Err(Refused::FullForPeer));
    assert_eq!(world.round(1, 3, SECOND), Err(Refused::FullForPeer));
    for peer in 2..5 {
        world.new_hop(peer, 0).unwrap();
    }
    // New hops stop at three quarters, the rounds of live hops at the end.
    assert_eq!(world.new_hop(5, 0), Err(Refused::Full));
    world.round(6, 0, SECOND).unwrap();
    world.round(7, 0, SECOND).unwrap();
    assert_eq!(world.round(8, 0, SECOND), Err(Refused::Full));
    // Keys have a queue of their own.
    world.solo(1, 0).unwrap();
    world.solo(1, 0).unwrap();
    assert_eq!(world.solo(1, 0), Err(Refused::FullForPeer));
    world.solo(2, 0).unwrap();
    assert_eq!(world.solo(3, 0), Err(Refused::Full));
    // Nothing that was refused left anything behind.
    assert_eq!(world.schedule.len(), 11);
}

#[test]
fn keys_and_sessions_take_turns() {
    let mut world = World::new();
    world.solo(1, 1).unwrap();
    world.solo(1, 2).unwrap();
    world.solo(2, 3).unwrap();
    world.new_hop(1, 10).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Solo(1));
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![10]));
    world.new_hop(1, 11).unwrap();
    // Among those who want a quote of their own, askers take turns as well.
    assert_eq!(world.quote(QUOTE), Step::Solo(3));
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![11]));
    // A round that may wait does not hold a key up.
    world.round(1, 12, 60 * SECOND).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Solo(2));
    assert!(world.due().is_some());
}

#[test]
fn a_session_that_wants_no_batch_is_served_although_keys_and_batches_always_wait() {
    let mut world = World::new();
    world.schedule.push(world.now, 1, Class::Alone(Urgency::NewHop), 1000).unwrap();
    let mut served = Vec::new();
    for job in 0..9 {
        world.solo(2, job).unwrap();
        world.new_hop(3, 100 + job).unwrap();
        if let Step::Solo(job) = world.quote(QUOTE) {
            served.push(job);
        }
    }
    assert!(served.contains(&1000), "{served:?}");
}

#[test]
fn sessions_that_want_no_batch_take_neither_the_places_of_keys_nor_their_device() {
    let mut world = World::new();
    world.solo(0, 0).unwrap();
    world.quote(QUOTE);
    let alone = |world: &mut World, peer, job| {
        let by = world.now + 15 * SECOND;
        world.schedule.push(world.now, peer, Class::Alone(Urgency::Round { by }), job)
    };
    for job in 0..64 {
        alone(&mut world, u64::from(job % 8), 100 + job).unwrap();
    }
    assert_eq!(alone(&mut world, 9, 200), Err(Refused::Full));
    world.solo(0, 1).unwrap();
    world.solo(0, 2).unwrap();
    // In turn with others as long as it is their turn, and after that only so often.
    assert_eq!(world.quote(QUOTE), Step::Solo(100));
    assert_eq!(world.quote(QUOTE), Step::Solo(1));
    assert_eq!(world.quote(QUOTE), Step::Solo(2));
    assert_eq!(world.due(), Some(QUOTE));
    world.pass(QUOTE);
    assert_eq!(world.quote(QUOTE), Step::Solo(101));
    // A new hop finds the device free three quarters of the time.
    assert_eq!(world.due(), Some(3 * QUOTE));
    world.new_hop(1, 10).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![10]));
    // What waits for too long hears of it.
    world.pass(15 * SECOND);
    assert!(matches!(world.poll(), Step::Late(jobs) if jobs.len() == 62));
    assert!(world.schedule.is_empty());
}

#[test]
fn who_withdraws_leaves_nothing_behind() {
    let mut world = World::new();
    let first = world.new_hop(1, 10).unwrap();
    let second = world.round(1, 11, SECOND).unwrap();
    let third = world.solo(1, 12).unwrap();
    assert_eq!(world.schedule.oldest(), Some(world.start));
    assert_eq!(world.schedule.withdraw(second), Some(11));
    assert_eq!(world.schedule.withdraw(second), None);
    assert_eq!(world.schedule.withdraw(first), Some(10));
    assert_eq!(world.schedule.withdraw(third), Some(12));
    assert_eq!((world.poll(), world.schedule.len(), world.schedule.oldest()), (Step::Wait, 0, None));
    // The deadline went with it, and so did the turn.
    world.pass(2 * SECOND);
    assert_eq!(world.poll(), Step::Wait);
    world.new_hop(1, 13).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![13]));
    // What is being quoted does not wait any more.
    let last = world.new_hop(1, 14).unwrap();
    assert_eq!(world.poll(), Step::Batch(vec![14]));
    assert_eq!(world.schedule.withdraw(last), None);
}

#[test]
fn a_device_that_hangs_fails_all_and_is_used_again_when_it_answers() {
    let mut world = World::new();
    world.new_hop(1, 10).unwrap();
    assert_eq!(world.poll(), Step::Batch(vec![10]));
    world.new_hop(1, 11).unwrap();
    world.solo(1, 12).unwrap();
    assert_eq!(world.due(), Some(30 * SECOND));
    world.pass(30 * SECOND);
    assert_eq!(world.poll(), Step::Hung(vec![11, 12]));
    // No second call, and nobody waits for nothing.
    assert_eq!(world.poll(), Step::Wait);
    assert_eq!(world.new_hop(1, 13), Err(Refused::Hung));
    assert_eq!(world.solo(1, 13), Err(Refused::Hung));
    world.pass(100 * SECOND);
    world.schedule.finished(world.now, true);
    // How long it hung says nothing about how long it takes.
    assert_eq!(world.schedule.quoting_time(), None);
    world.new_hop(1, 14).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![14]));
}

#[test]
fn a_device_that_fails_is_asked_again_but_rounds_keep_their_distance() {
    let mut world = World::new();
    world.round(1, 10, 60 * SECOND).unwrap();
    assert_eq!(world.poll(), Step::Batch(vec![10]));
    world.schedule.finished(world.now, false);
    world.round(1, 11, 60 * SECOND).unwrap();
    assert_eq!(world.due(), Some(Duration::from_millis(550)));
    world.new_hop(1, 12).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![12, 11]));
    assert_eq!(world.schedule.quoting_time(), Some(QUOTE));
}

#[test]
fn a_batch_has_at_least_one_leaf_and_no_more_than_a_tree_holds() {
    let mut world = World::with(Options { leaves: 0, ..Options::default() });
    world.new_hop(1, 10).unwrap();
    assert_eq!(world.quote(QUOTE), Step::Batch(vec![10]));
    let mut world =
        World::with(Options { leaves: usize::MAX, sessions_per_peer: 4096, ..Options::default() });
    for job in 0..1500 {
        world.new_hop(1, job).unwrap();
    }
    assert_eq!(world.quote(QUOTE), Step::Batch((0..1024).collect()));
}

/// Numbers that look random and are the same in each run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn whatever_happens_everybody_is_answered_once_and_the_device_is_asked_once_at_a_time() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let options =
            Options { leaves: 4, sessions: 24, sessions_per_peer: 10, solos: 4, ..Options::default() };
        let mut world = World::with(options);
        let (mut next, mut busy) = (0, false);
        let (mut waiting, mut inside) = (BTreeMap::new(), 0_usize);
        for _ in 0..400 {
            match dice.below(7) {
                0..3 => {
                    let peer = dice.below(4);
                    let patience = Duration::from_millis(dice.below(3000));
                    let pushed = match dice.below(3) {
                        0 => world.solo(peer, next),
                        1 => world.new_hop(peer, next),
                        _ => world.round(peer, next, patience),
                    };
                    if let Ok(ticket) = pushed {
                        waiting.insert(next, ticket);
                        next += 1;
                    }
                }
                3 => {
                    let at = dice.below(waiting.len().max(1) as u64) as usize;
                    if let Some((job, ticket)) = waiting.iter().nth(at).map(|(job, ticket)| (*job, *ticket)) {
                        assert_eq!(world.schedule.withdraw(ticket), Some(job));
                        waiting.remove(&job);
                    }
                }
                4 if busy => {
                    world.schedule.finished(world.now, dice.below(2) == 0);
                    (busy, inside) = (false, 0);
                }
                4 => {}
                _ => world.pass(Duration::from_millis(dice.below(20_000) / (1 + dice.below(100)))),
            }
            loop {
                let answered = match world.poll() {
                    Step::Solo(job) => {
                        assert!(!std::mem::replace(&mut busy, true));
                        inside = 1;
                        vec![job]
                    }
                    Step::Batch(jobs) => {
                        assert!(!std::mem::replace(&mut busy, true));
                        assert!((1..=4).contains(&jobs.len()), "{jobs:?}");
                        inside = jobs.len();
                        jobs
                    }
                    Step::Late(jobs) => jobs,
                    Step::Hung(jobs) => {
                        assert!(busy && inside > 0);
                        jobs
                    }
                    Step::WaitUntil(time) => {
                        assert!(time > world.now);
                        break;
                    }
                    Step::Wait => break,
                };
                for job in answered {
                    assert!(waiting.remove(&job).is_some(), "{job} was answered twice");
                }
            }
            assert_eq!(world.schedule.len(), waiting.len());
            let oldest = waiting.values().min();
            assert_eq!(world.schedule.oldest().is_some(), oldest.is_some());
        }
    }
}
