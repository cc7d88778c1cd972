//! The machines that asked for an identity, and what came of it: from these an
//! operator chooses whom to enrol.
//!
//! Only a machine whose evidence was verified is written down, whether the policy
//! then entitled it or not: one that is not enrolled yet is refused, and must be
//! seen all the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_evidence::claims::Body;
use countersign_evidence::{Claims, Reason};
use serde::{Deserialize, Serialize};

use crate::keep::{decode, encode};
use crate::store::{Change, Store, StoreError, Stored};

const PREFIX: &str = "platform/";
/// The most machines that are remembered; beyond, the one that was away longest is forgotten.
const MAX_PLATFORMS: usize = 10_000;
/// The most workloads of a machine, likewise.
const MAX_WORKLOADS: usize = 256;
/// A refusal like the one before is not written down again within this time, seconds:
/// whoever is refused asks again and again.
const QUIET: u64 = 60;

/// A machine, for one kind of TEE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Platform {
    /// `tdx`, `sgx`, `sevSnp`.
    pub(crate) tee: String,
    /// `piid`, `ppid`, `chipId`.
    pub(crate) kind: String,
    /// Lower-case hexadecimal.
    pub(crate) id: String,
    pub(crate) emulated: bool,
    /// Seconds since the epoch.
    pub(crate) first_seen: u64,
    /// Seconds since the epoch.
    pub(crate) last_seen: u64,
    /// What the vendor said of its TCB when it was seen last.
    pub(crate) tcb: String,
    /// By `namespace/name`.
    pub(crate) workloads: BTreeMap<String, Asked>,
}

/// A workload that asked for its identity from a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// When it asked last, seconds since the epoch.
    pub(crate) last: u64,
    /// The code of the reason for which it was refused then; empty when it was not.
    pub(crate) refused: String,
}

/// Everybody who was seen.
#[derive(Debug)]
pub(crate) struct Platforms {
    store: Arc<dyn Store>,
    /// One change at a time: each begins with what the last one left.
    turn: Mutex<()>,
}

impl Platforms {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, turn: Mutex::default() }
    }

    /// An identity is being issued: makes `record`, the record of it, and ours in one.
    pub(crate) fn issued(
        &self,
        claims: Option<&Claims>,
        workload: &str,
        now: u64,
        record: Change,
    ) -> Result<(), StoreError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = vec![record];
        if let Some(claims) = claims {
            changes.extend(self.seen(claims, workload, Asked { last: now, refused: String::new() })?);
        }
        self.store.commit(&changes).map(drop)
    }

    /// A machine that proved itself was refused an identity.
    pub(crate) fn refused(
        &self,
        claims: &Claims,
        workload: &str,
        now: u64,
        reason: Reason,
    ) -> Result<(), StoreError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.seen(claims, workload, Asked { last: now, refused: reason.code().to_owned() })?;
        if changes.is_empty() {
            return Ok(());
        }
        self.store.commit(&changes).map(drop)
    }

    /// Every machine, by kind of TEE and ID.
    pub(crate) fn all(&self) -> Result<Vec<Platform>, StoreError> {
        self.store.list(PREFIX)?.items.iter().map(decode).collect()
    }

    /// What must be written down; nothing for a machine that hides its identity,
    /// and for what was written down a moment ago.
    fn seen(&self, claims: &Claims, workload: &str, asked: Asked) -> Result<Vec<Change>, StoreError> {
        let Some(identity) = claims.platform() else { return Ok(Vec::new()) };
        let now = asked.last;
        let form = if claims.emulated { "/emulated" } else { "" };
        let key = format!("{PREFIX}{}/{}{form}", claims.tee, identity.value);
        let stored = self.store.get(&key)?;
        let mut changes = Vec::new();
        let mut platform = match &stored {
            Some(stored) => decode(stored)?,
            None => {
                changes.extend(self.make_room()?);
                Platform {
                    tee: claims.tee.name().to_owned(),
                    kind: identity.kind.to_owned(),
                    id: identity.value,
                    emulated: claims.emulated,
                    first_seen: now,
                    last_seen: now,
                    tcb: String::new(),
                    workloads: BTreeMap::new(),
                }
            }
        };
        let same =
            |before: &Asked| before.refused == asked.refused && now < before.last.saturating_add(QUIET);
        if !asked.refused.is_empty() && platform.workloads.get(workload).is_some_and(same) {
            return Ok(Vec::new());
        }
        platform.last_seen = now;
        platform.tcb = tcb(claims);
        platform.workloads.insert(workload.to_owned(), asked);
        while platform.workloads.len() > MAX_WORKLOADS {
            let oldest = platform.workloads.iter().min_by_key(|(_, asked)| asked.last);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            platform.workloads.remove(&oldest);
        }
        let expect = Some(stored.map_or(0, |stored| stored.revision));
        let body = encode(&key, &platform)?;
        changes.push(Change::put(key, body, expect));
        Ok(changes)
    }

    fn make_room(&self) -> Result<Option<Change>, StoreError> {
        let items = self.store.list(PREFIX)?.items;
        if items.len() < MAX_PLATFORMS {
            return Ok(None);
        }
        let oldest = items
            .iter()
            .filter_map(|stored: &Stored| Some((decode::<Platform>(stored).ok()?.last_seen, &stored.key)))
            .min();
        Ok(oldest.map(|(_, key)| Change::delete(key.clone())))
    }
}

/// What the vendor says of the platform's TCB, in a few words.
fn tcb(claims: &Claims) -> String {
    match &claims.body {
        Body::Tdx(c) => format!("{:?}", c.platform.tcb_status),
        Body::Sgx(c) => format!("{:?}", c.platform.tcb_status),
        Body::SevSnp(c) => {
            let t = c.reported_tcb;
            format!("bootloader {}, tee {}, snp {}, microcode {}", t.bootloader, t.tee, t.snp, t.microcode)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use countersign_attester::Attester;
    use countersign_attester::emulated::{TdxSpec, Vendor};
    use countersign_evidence::collateral::Marks;
    use countersign_evidence::{Anchors, Collateral, Evidence, UnixTime};

    use crate::store::Embedded;

    const NOW: u64 = 1_800_000_000;

    fn claims() -> Arc<Claims> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        let vendor = Vendor::generate(now, Duration::from_secs(86_400)).unwrap();
        let mut anchors = Anchors::built_in();
        anchors.admit_emulated(vendor.intel_root());
        let items = vendor.collateral(now).unwrap();
        let collateral = Collateral::appraise(&items, &anchors, &mut Marks::default(), now).collateral;
        let produced = vendor.tdx(TdxSpec::default()).unwrap().evidence(&[1; 64]).unwrap();
        let evidence = Evidence::parse(produced.media_type, &produced.value).unwrap();
        countersign_evidence::verify(&evidence, &collateral, &anchors, now, None, &mut ()).unwrap()
    }

    fn platforms() -> (Platforms, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("store.redb")).unwrap();
        (Platforms::new(Arc::new(store)), directory)
    }

    #[test]
    fn a_machine_is_remembered_with_who_asked_from_it_and_what_came_of_it() {
        let (platforms, _directory) = platforms();
        let claims = claims();
        let record = || Change::put("issued/x", "x", None);
        platforms.refused(&claims, "demo/web", NOW, Reason::PlatformNotAllowed).unwrap();
        platforms.issued(Some(&claims), "demo/web", NOW + 10, record()).unwrap();
        platforms.issued(Some(&claims), "demo/ledger", NOW + 20, record()).unwrap();
        let all = platforms.all().unwrap();
        let [platform] = &all[..] else { panic!("{all:?}") };
        assert_eq!((platform.first_seen, platform.last_seen), (NOW, NOW + 20));
        assert_eq!(
            (platform.tee.as_str(), platform.emulated, platform.tcb.as_str()),
            ("tdx", true, "UpToDate")
        );
        assert_eq!(platform.id, claims.platform().unwrap().value);
        assert_eq!(platform.workloads["demo/web"], Asked { last: NOW + 10, refused: String::new() });
        assert_eq!(platform.workloads.len(), 2);
    }

    #[test]
    fn whoever_is_refused_again_and_again_costs_one_write_a_minute() {
        let (platforms, _directory) = platforms();
        let claims = claims();
        let revision = || platforms.store.list(PREFIX).unwrap().revision;
        platforms.refused(&claims, "demo/web", NOW, Reason::PlatformNotAllowed).unwrap();
        let first = revision();
        for second in 1..QUIET {
            platforms.refused(&claims, "demo/web", NOW + second, Reason::PlatformNotAllowed).unwrap();
        }
        assert_eq!(revision(), first);
        // Another reason, and the same a minute later, are news.
        platforms.refused(&claims, "demo/web", NOW + 1, Reason::TcbOutOfDate).unwrap();
        platforms.refused(&claims, "demo/web", NOW + 1 + QUIET, Reason::TcbOutOfDate).unwrap();
        assert_eq!(revision(), first + 2);
        assert_eq!(platforms.all().unwrap()[0].last_seen, NOW + 1 + QUIET);
    }

    #[test]
    fn the_workloads_of_a_machine_are_bounded_and_the_newest_stay() {
        let (platforms, _directory) = platforms();
        let claims = claims();
        for i in 0..=u64::try_from(MAX_WORKLOADS).unwrap() {
            let record = Change::put("issued/x", "x", None);
            platforms.issued(Some(&claims), &format!("demo/{i}"), NOW + i, record).unwrap();
        }
        let workloads = &platforms.all().unwrap()[0].workloads;
        assert_eq!(workloads.len(), MAX_WORKLOADS);
        assert!(!workloads.contains_key("demo/0") && workloads.contains_key("demo/1"));
    }
}
