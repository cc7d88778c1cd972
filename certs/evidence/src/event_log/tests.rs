use super::native::{Log, MAX_CONTENT, Record};
use super::*;

const ZERO: [Register; 4] = [[0; 48]; 4];

fn entry(kind: &str, content: &[u8]) -> Vec<u8> {
    Record::new(kind, content).unwrap().encode()
}

fn array(entries: &[Vec<u8>]) -> Vec<u8> {
    let head = match entries.len() {
        n @ 0..24 => vec![0x80 | n as u8],
        n => [&[0x99], &(n as u16).to_be_bytes()[..]].concat(),
    };
    [head, entries.concat()].concat()
}

/// The registers after these events.
fn measured(events: &[(&str, &[u8])]) -> [Register; 4] {
    let mut rtmr = ZERO;
    for (kind, content) in events {
        extend(&mut rtmr[3], &Record::new(kind, content).unwrap().digest());
    }
    rtmr
}

fn from_start(log: &[u8], rtmr: &[Register; 4]) -> Result<RegisterState, Finding> {
    replay(media_type::RUNTIME, log, rtmr, &RegisterState::default())
}

fn reason(outcome: Result<RegisterState, Finding>) -> Reason {
    outcome.map(|state| format!("{state:?}")).unwrap_err().reason
}

const A: (&str, &[u8]) = ("agent.exec", b"/usr/bin/ledger");
const B: (&str, &[u8]) = ("agent.config", b"7");
const C: (&str, &[u8]) = ("agent.shell", b"");

fn three() -> Vec<Vec<u8>> {
    [A, B, C].iter().map(|(kind, content)| entry(kind, content)).collect()
}

#[test]
fn an_entry_has_these_bytes() {
    // Computed with hashlib and a hand-written encoding.
    let digest =
        "3718e1e3a9992ce8c1ca2140a6becc850d66c6b4e69161584aa8189984a2663eb9f4eeb6549761b33f4b93cc63db5b1b";
    let record = Record::new("exec", b"hi").unwrap();
    assert_eq!(hex::encode(record.digest()), digest);
    let expected = format!("a40103025830{digest}0364657865630442{}", hex::encode(b"hi"));
    assert_eq!(hex::encode(record.encode()), expected);
    let mut log = Log::default();
    log.push(&record);
    assert_eq!(hex::encode(log.record(0).unwrap()), format!("81{expected}"));
}

#[test]
fn a_whole_log_lands_and_shows_its_events() {
    let state = from_start(&array(&three()), &measured(&[A, B, C])).unwrap();
    assert_eq!(state.next(), 3);
    let kinds: Vec<_> = state.events().iter().map(|e| (e.index, &*e.kind)).collect();
    assert_eq!(kinds, [(0, "agent.exec"), (1, "agent.config"), (2, "agent.shell")]);
    assert!(state.events().iter().all(|e| e.kind_measured));
    let empty = from_start(&array(&[]), &ZERO).unwrap();
    assert_eq!((empty.next(), empty.events().len()), (0, 0));
}

#[test]
fn the_tail_behind_the_quote_is_ignored() {
    let log = array(&three());
    for (n, quoted) in [&[][..], &[A], &[A, B], &[A, B, C]].into_iter().enumerate() {
        let state = from_start(&log, &measured(quoted)).unwrap();
        assert_eq!((state.next(), state.events().len()), (n as u64, n));
    }
}

#[test]
fn gaps_other_orders_and_other_registers_do_not_land() {
    let all = three();
    let pick = |places: &[usize]| places.iter().map(|n| all[*n].clone()).collect::<Vec<_>>();
    let quoted = measured(&[A, B, C]);
    for places in [&[0, 2][..], &[1, 2], &[0, 1], &[1, 0, 2], &[0, 0, 1, 2], &[]] {
        let finding = from_start(&array(&pick(places)), &quoted).unwrap_err();
        assert_eq!(finding.reason, Reason::EventLogMismatch);
        assert!(finding.expected.contains(&hex::encode(quoted[3])), "{finding}");
    }
    // What was measured elsewhere is not there: of such a log nothing is vouched for.
    let mut elsewhere = ZERO;
    elsewhere[2] = quoted[3];
    assert_eq!(from_start(&array(&three()), &elsewhere).unwrap().events().len(), 0);
    let mut other = quoted;
    other[2] = [7; 48];
    assert!(from_start(&array(&three()), &other).is_ok(), "the others are compared by value");
    // A register that starts anew, as after a restart of the guest.
    let state = from_start(&array(&three()), &quoted).unwrap();
    let reset = replay(media_type::RUNTIME, &array(&[]), &ZERO, &state);
    assert_eq!(reason(reset), Reason::EventLogMismatch);
}

#[test]
fn only_new_entries_are_replayed_and_all_are_remembered() {
    let all = three();
    let pick = |places: &[usize]| places.iter().map(|n| all[*n].clone()).collect::<Vec<_>>();
    // The tail of the first log comes again as the beginning of the next.
    let state = from_start(&array(&pick(&[0, 1])), &measured(&[A])).unwrap();
    assert_eq!(state.next(), 1);
    let after =
        |log: &[Vec<u8>], rtmr: &[Register; 4]| replay(media_type::RUNTIME, &array(log), rtmr, &state);
    let next = after(&pick(&[1, 2]), &measured(&[A, B, C])).unwrap();
    assert_eq!(next, from_start(&array(&three()), &measured(&[A, B, C])).unwrap());
    let same = after(&[], &measured(&[A])).unwrap();
    assert!(Arc::ptr_eq(same.events(), state.events()), "nothing new costs nothing");
    for places in [&[0, 1, 2][..], &[2], &[]] {
        assert_eq!(reason(after(&pick(places), &measured(&[A, B, C]))), Reason::EventLogMismatch);
    }
    // Another form starts from the beginning, whatever is known.
    let dstack = replay(media_type::DSTACK, b"[]", &ZERO, &state).unwrap();
    assert_eq!(dstack, RegisterState::default());
}

#[test]
fn an_entry_that_says_other_than_was_measured_is_refused() {
    let honest = entry("agent.exec", b"/bin/a");
    for (at, value, expected) in [
        (2, 2, Reason::Malformed),            // another register
        (7, 0xff, Reason::EventLogMismatch),  // another digest
        (57, b'A', Reason::EventLogMismatch), // another type
        (68, b' ', Reason::EventLogMismatch), // another content
        (0, 0xa3, Reason::Malformed),         // a key less
        (1, 0x02, Reason::Malformed),         // another key
    ] {
        let mut changed = honest.clone();
        changed[at] = value;
        assert_eq!(reason(from_start(&array(&[changed.clone()]), &ZERO)), expected, "{at}");
        assert!(Log::from_entries(&changed).is_err(), "{at}");
    }
    for kind in ["", "a b", "a\n", "é", &"x".repeat(MAX_KIND + 1)] {
        assert_eq!(Record::new(kind, b"").unwrap_err().reason, Reason::Malformed, "{kind:?}");
    }
    let large = Record::new("x", &[0; MAX_CONTENT + 1]).unwrap_err();
    assert_eq!(large.reason, Reason::Oversized);
}

#[test]
fn only_deterministic_cbor_is_read() {
    let one = entry("x", b"");
    let quoted = measured(&[("x", b"")]);
    let bytes = |head: &[u8]| [head, &one].concat();
    for (log, expected) in [
        (bytes(&[0x98, 1]), Reason::NonCanonical),
        ([bytes(&[0x9f]), vec![0xff]].concat(), Reason::NonCanonical),
        ([bytes(&[0x81]), vec![0]].concat(), Reason::Malformed),
        (bytes(&[0x82]), Reason::Truncated),
        (bytes(&[]), Reason::Malformed),
        (Vec::new(), Reason::Truncated),
    ] {
        assert_eq!(reason(from_start(&log, &quoted)), expected, "{log:02x?}");
    }
    // The register number in a longer form than it needs.
    let mut long = one.clone();
    long.splice(2..3, [0x18, 3]);
    assert_eq!(reason(from_start(&array(&[long]), &quoted)), Reason::NonCanonical);
}

#[test]
fn a_guest_keeps_its_log_and_sends_any_end_of_it() {
    let mut kept = Log::default();
    [A, B, C].iter().for_each(|(kind, content)| kept.push(&Record::new(kind, content).unwrap()));
    let all = three();
    for from in 0..=3 {
        assert_eq!(kept.record(from as u64).unwrap(), array(&all[from..]), "{from}");
    }
    assert_eq!((kept.record(4), kept.len(), kept.is_empty()), (None, 3, false));
    assert_eq!(Log::decode(&kept.record(0).unwrap()).unwrap(), kept);
    let registers = [0, 3, 4].map(|n| kept.register_after(n));
    assert_eq!(registers, [Some(ZERO[3]), Some(measured(&[A, B, C])[3]), None]);
    // As a file, which may end inside of an entry.
    let file = all.concat();
    for end in 0..=file.len() {
        let (log, torn) = Log::from_entries(&file[..end]).unwrap();
        let whole = (1..=3).rev().find(|n| all[..*n].concat().len() <= end).unwrap_or(0);
        assert_eq!((log.len() as usize, torn), (whole, end - all[..whole].concat().len()), "{end}");
    }
}

#[test]
fn a_log_is_bounded() {
    let oversized = |outcome| assert_eq!(reason(outcome), Reason::Oversized);
    oversized(from_start(&vec![0; MAX_LOG + 1], &ZERO));
    oversized(from_start(&[0x9a, 0xff, 0xff, 0xff, 0xff], &ZERO));
    let many = vec![entry("x", b""); MAX_EVENTS + 1];
    oversized(from_start(&array(&many), &ZERO));
    // Over several rounds as well.
    let most = &many[..MAX_EVENTS];
    let quoted = |n: usize| measured(&vec![("x", &b""[..]); n]);
    let state = from_start(&array(most), &quoted(MAX_EVENTS)).unwrap();
    let one_more = &array(&many[..1]);
    oversized(replay(media_type::RUNTIME, one_more, &quoted(MAX_EVENTS + 1), &state));
    let items = [r#"{"imr":0,"event_type":1,"digest":"","event":"","event_payload":""}"#; 4];
    let json = format!("[{}]", items.join(","));
    let dstack = |log: &[u8]| replay(media_type::DSTACK, log, &ZERO, &RegisterState::default());
    assert_eq!(reason(dstack(json.as_bytes())), Reason::Malformed, "no digest");
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(reason(dstack(nested.as_bytes())), Reason::Malformed);
}

/// A log of firmware with SHA-256 and SHA-384.
fn ccel(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut log = Vec::new();
    log.extend([1, 0, 0, 0, 3, 0, 0, 0]);
    log.extend([0; 20]);
    log.extend(37_u32.to_le_bytes());
    log.extend(b"Spec ID Event03\0");
    log.extend([0, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0, 0x0b, 0, 32, 0, 0x0c, 0, 48, 0, 0]);
    for (register, kind, data) in events {
        log.extend(register.to_le_bytes());
        log.extend(kind.to_le_bytes());
        log.extend([2, 0, 0, 0, 0x0b, 0]);
        log.extend([0; 32]);
        log.extend([0x0c, 0]);
        log.extend(sha384(&[data]));
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(*data);
    }
    log
}

fn firmware(log: &[u8], rtmr: &[Register; 4]) -> Result<RegisterState, Finding> {
    replay(media_type::CCEL, log, rtmr, &RegisterState::default())
}

#[test]
fn a_log_of_the_firmware_must_land_on_all_four_registers_at_once() {
    let events: [(u32, u32, &[u8]); 4] =
        [(1, 3, b"informs"), (1, 0x8000_0001, b"a"), (3, 4, b"b"), (4, 6, b"c")];
    let mut quoted = ZERO;
    extend(&mut quoted[0], &sha384(&[b"a"]));
    extend(&mut quoted[2], &sha384(&[b"b"]));
    let before = quoted;
    extend(&mut quoted[3], &sha384(&[b"c"]));
    let mut log = ccel(&events);
    let state = firmware(&log, &quoted).unwrap();
    let [event] = &state.events()[..] else { panic!("{state:?}") };
    assert_eq!((event.index, &*event.kind, event.kind_measured), (3, "0x00000006", false));
    assert_eq!((state.next(), firmware(&log, &before).unwrap().events().len()), (0, 0));
    for register in 0..4 {
        let mut other = quoted;
        other[register][0] ^= 1;
        let finding = firmware(&log, &other).unwrap_err();
        assert_eq!(finding.reason, Reason::EventLogMismatch);
        assert!(finding.expected.contains(&format!("rtmr[{register}]")), "{finding}");
    }
    // Each register for itself was there once, but never all of them.
    let never = [quoted[0], ZERO[1], ZERO[2], quoted[3]];
    assert_eq!(reason(firmware(&log, &never)), Reason::EventLogMismatch);
    log.extend([0xff; 100]);
    assert!(firmware(&log, &quoted).is_ok(), "the unused rest of the area");
    let five = ccel(&[(5, 4, b"x")]);
    assert_eq!(reason(firmware(&five, &ZERO)), Reason::Malformed);
}

#[test]
fn every_damaged_log_of_the_firmware_has_its_reason() {
    let log = ccel(&[(1, 4, b"x")]);
    for end in 0..log.len() {
        // A log may end after any entry, and the first is complete in itself.
        let outcome = firmware(&log[..end], &ZERO);
        assert!(end == 69 && outcome.is_ok() || reason(outcome) == Reason::Truncated, "{end}");
    }
    for (at, value, expected) in [
        (4, 4, Reason::UnsupportedFormat),     // no EV_NO_ACTION in front
        (32, b'X', Reason::UnsupportedFormat), // no Spec ID
        (56, 0, Reason::Malformed),            // no algorithm
        (56, 9, Reason::Malformed),            // too many
        (62, 33, Reason::Malformed),           // SHA-256 with 33 bytes
        (64, 0x0b, Reason::Malformed),         // SHA-256 twice
        (77, 1, Reason::Malformed),            // a digest less
        (81, 0x0c, Reason::Malformed),         // SHA-384 of 32 bytes
    ] {
        let mut changed = log.clone();
        assert_ne!(changed[at], value, "{at}");
        changed[at] = value;
        let outcome = firmware(&changed, &ZERO);
        let reason = reason(outcome);
        assert!(reason == expected || at == 81 && reason == Reason::Truncated, "{at}: {reason}");
    }
}

#[test]
fn a_name_in_a_dstack_log_cannot_run_into_its_payload() {
    let item = |name: &str, payload: &str, digest: &str| {
        format!(
            r#"[{{"imr":3,"event_type":134217729,"digest":"{digest}","event":"{name}","event_payload":"{payload}"}}]"#
        )
    };
    let run = |json: &str, rtmr: &[Register; 4]| {
        replay(media_type::DSTACK, json.as_bytes(), rtmr, &RegisterState::default())
    };
    let mut rtmr = ZERO;
    extend(&mut rtmr[3], &dstack_digest("app-id", b"\x01"));
    let state = run(&item("app-id", "01", ""), &rtmr).unwrap();
    assert_eq!((&*state.events()[0].kind, state.events()[0].kind_measured), ("app-id", true));
    let digest = hex::encode(dstack_digest("app-id", b"\x01"));
    assert_eq!(run(&item("app-id", "01", &digest), &rtmr).unwrap(), state);
    assert_eq!(reason(run(&item("app-id", "02", &digest), &rtmr)), Reason::EventLogMismatch);
    assert_eq!(reason(run(&item("app-id", "0", ""), &rtmr)), Reason::Malformed);
    assert_eq!(reason(run(&item("a:b", "01", ""), &rtmr)), Reason::Malformed);
    assert_eq!(reason(run(&item("app-id", "01", "00"), &rtmr)), Reason::Malformed);
    assert_eq!(reason(run("[{", &rtmr)), Reason::Truncated);
    assert_eq!(reason(run("{}", &rtmr)), Reason::Malformed);
    let second = item("app-id", "01", "").replace("}]", r#","version":2}]"#);
    assert_eq!(reason(run(&second, &rtmr)), Reason::UnsupportedVersion);
    let five = item("app-id", "01", "").replace("\"imr\":3", "\"imr\":4");
    assert_eq!(reason(run(&five, &rtmr)), Reason::Malformed);
}

#[test]
fn an_unknown_form_is_named() {
    let finding = replay("application/\u{1b}x", &[], &ZERO, &RegisterState::default()).unwrap_err();
    assert_eq!(finding.reason, Reason::UnsupportedFormat);
    assert!(finding.presented.contains("\\u{1b}"), "{finding}");
}

#[test]
fn no_changed_byte_makes_a_log_say_something_else() {
    let native = array(&three());
    let mut rtmr = measured(&[A, B, C]);
    let mut dstack_rtmr = ZERO;
    extend(&mut dstack_rtmr[3], &dstack_digest("app-id", b"\x01"));
    let json = r#"[{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"01"}]"#;
    let firmware = ccel(&[(1, 4, b"a"), (4, 6, b"c")]);
    let mut ccel_rtmr = ZERO;
    extend(&mut ccel_rtmr[0], &sha384(&[b"a"]));
    extend(&mut ccel_rtmr[3], &sha384(&[b"c"]));
    rtmr[0] = [9; 48];
    for (form, log, rtmr) in [
        (media_type::RUNTIME, native.as_slice(), &rtmr),
        (media_type::DSTACK, json.as_bytes(), &dstack_rtmr),
        (media_type::CCEL, &firmware, &ccel_rtmr),
    ] {
        let run = |log: &[u8]| replay(form, log, rtmr, &RegisterState::default());
        let honest = run(log).unwrap();
        let mut changed = log.to_vec();
        for at in 0..log.len() {
            for mask in [0x01, 0x20, 0x80, 0xff] {
                changed[at] ^= mask;
                if let Ok(state) = run(&changed) {
                    // Of a firmware's events the type is not measured.
                    let digests = |s: &RegisterState| s.events().iter().map(|e| e.digest).collect::<Vec<_>>();
                    assert_eq!(digests(&state), digests(&honest), "{form} {at} {mask:#x}");
                    assert!(form == media_type::CCEL || state == honest, "{form} {at} {mask:#x}");
                }
                changed[at] ^= mask;
            }
            let _ = run(&log[..at]);
        }
    }
}
