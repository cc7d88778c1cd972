//! Enrolment: an operator puts a machine on a PlatformList, or takes it away.
//! Which machine is meant is decided here, by what was seen and what is listed.

mod calls;

use std::collections::{BTreeMap, BTreeSet};

use countersign_config::kinds::PlatformListSpec;
use countersign_config::kinds::attestation_policy::TeeKind;
use countersign_config::kinds::platform_list::Platform as Entry;
use countersign_config::kinds::scalar::{PlatformId, Timestamp};
use countersign_config::resource::Metadata;
use countersign_config::{Key, Resource};
use countersign_evidence::claims::Tee;
use countersign_wire::proto;

use crate::platforms::Platform;
use crate::resources::{self, Set};

/// The fewest digits by which a machine may be named.
const MIN_DIGITS: usize = 8;
/// The most candidates that are named to somebody who named too many.
const MAX_CANDIDATES: usize = 8;

/// A machine on a list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) list: Key,
    pub(crate) entry: Entry,
}

/// What is meant: a kind of TEE, and an ID or the beginning of one.
#[derive(Debug)]
pub(crate) struct Wanted {
    tee: Option<TeeKind>,
    digits: String,
}

/// Who decides, and when.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) by: String,
    pub(crate) at: u64,
    pub(crate) note: String,
}

/// A machine: kind of TEE by name, and the whole ID.
type Machine = (&'static str, String);

impl Wanted {
    /// Reads `[KIND:]DIGITS` and the name of a kind of TEE, which may be empty.
    pub(crate) fn parse(id: &str, tee: &str) -> Result<Self, String> {
        let digits = id.rsplit(':').next().unwrap_or(id).to_ascii_lowercase();
        if digits.len() < MIN_DIGITS || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!(
                "{id:?} names no platform: give its ID in hexadecimal, or at least {MIN_DIGITS} digits of its beginning"
            ));
        }
        let tee = match tee {
            "" => None,
            name => Some(
                kind(name)
                    .ok_or_else(|| format!("{name:?} is no kind of TEE; there are tdx, sgx, sevSnp"))?,
            ),
        };
        Ok(Self { tee, digits })
    }

    fn means(&self, tee: &str, id: &str) -> bool {
        self.tee.is_none_or(|wanted| name(wanted) == tee) && id.starts_with(&self.digits)
    }

    /// The one machine of these that is meant; `None` when none is.
    fn only(&self, machines: BTreeSet<Machine>) -> Result<Option<Machine>, String> {
        if machines.len() < 2 {
            return Ok(machines.into_iter().next());
        }
        let more = machines.len().saturating_sub(MAX_CANDIDATES);
        let named: Vec<_> =
            machines.iter().take(MAX_CANDIDATES).map(|(tee, id)| format!("{tee} {id}")).collect();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Err(format!("several platforms are meant: {}{more}; give more digits, or --tee", named.join(", ")))
    }
}

/// Every machine on a list, by the name of the list.
pub(crate) fn listed(set: &Set) -> Vec<Listed> {
    let lists = set.resources.values().filter_map(|kept| match &*kept.resource {
        Resource::PlatformList(_, spec) => Some((kept.resource.key(), spec)),
        _ => None,
    });
    lists
        .flat_map(|(key, spec)| {
            spec.platforms.iter().map(move |entry| Listed { list: key.clone(), entry: entry.clone() })
        })
        .collect()
}

/// The list with the machine on it, and which machine that is.
pub(crate) fn approve(
    set: &Set,
    seen: &[Platform],
    wanted: &Wanted,
    list: &Key,
    decision: &Decision,
) -> Result<(Machine, Resource), String> {
    let known = seen.iter().filter_map(|p| Some((name(kind(&p.tee)?), p.id.clone())));
    let known = known.chain(listed(set).into_iter().map(|l| (name(l.entry.tee), l.entry.id.0)));
    let meant = wanted.only(known.filter(|(tee, id)| wanted.means(tee, id)).collect())?;
    let machine = match (meant, wanted.tee) {
        (Some(machine), _) => machine,
        (None, Some(tee)) if wanted.digits.len() == digits(tee) => (name(tee), wanted.digits.clone()),
        (None, tee) => return Err(unknown(wanted, tee)),
    };
    let (metadata, mut spec) = match set.resources.get(&resources::name(list)).map(|kept| &*kept.resource) {
        Some(Resource::PlatformList(metadata, spec)) => (metadata.clone(), spec.clone()),
        _ => (metadata(list), PlatformListSpec::default()),
    };
    let note = (!decision.note.is_empty()).then(|| decision.note.clone());
    match spec.platforms.iter_mut().find(|entry| is(entry, &machine)) {
        // It stays approved by whom it was.
        Some(entry) => entry.note = note.or_else(|| entry.note.take()),
        None => spec.platforms.push(Entry {
            tee: kind(machine.0).ok_or("an unknown kind of TEE")?,
            id: PlatformId::parse(&machine.1)?,
            note,
            approved_by: Some(decision.by.clone()),
            approved_at: Some(Timestamp(decision.at)),
        }),
    }
    Ok((machine, Resource::PlatformList(metadata, spec)))
}

/// The lists without the machine, and which machine that is.
pub(crate) fn revoke(
    set: &Set,
    seen: &[Platform],
    wanted: &Wanted,
    list: Option<&Key>,
) -> Result<(Machine, Vec<Resource>), String> {
    let all = listed(set);
    let on = |l: &&Listed| list.is_none_or(|list| *list == l.list);
    let machines = all.iter().filter(on).map(|l| (name(l.entry.tee), l.entry.id.0.clone()));
    let machines: BTreeSet<Machine> = machines.filter(|(tee, id)| wanted.means(tee, id)).collect();
    let Some(machine) = wanted.only(machines)? else {
        let known = seen.iter().any(|p| wanted.means(&p.tee, &p.id));
        let place = list.map_or_else(|| "any PlatformList".to_owned(), ToString::to_string);
        let what = if known { "the platform is not on" } else { "no such platform is on" };
        return Err(format!("{what} {place}: nothing to revoke; see `countersign platforms list`"));
    };
    let mut changed: BTreeMap<Key, Resource> = BTreeMap::new();
    for listed in all.iter().filter(on).filter(|l| is(&l.entry, &machine)) {
        if let Some(kept) = set.resources.get(&resources::name(&listed.list))
            && let Resource::PlatformList(metadata, spec) = &*kept.resource
        {
            let mut spec = spec.clone();
            spec.platforms.retain(|entry| !is(entry, &machine));
            changed.insert(listed.list.clone(), Resource::PlatformList(metadata.clone(), spec));
        }
    }
    Ok((machine, changed.into_values().collect()))
}

/// Everybody who was seen or is listed, for `countersign platforms list`.
pub(crate) fn inventory(set: &Set, seen: &[Platform]) -> Vec<proto::Platform> {
    let mut left = listed(set);
    let mut out: Vec<proto::Platform> = Vec::new();
    for platform in seen {
        let mine = |l: &Listed| name(l.entry.tee) == platform.tee && l.entry.id.0 == platform.id;
        let approvals = left.iter().filter(|l| mine(l)).map(approval).collect();
        out.push(shown(platform, approvals));
    }
    left.retain(|l| !seen.iter().any(|p| name(l.entry.tee) == p.tee && l.entry.id.0 == p.id));
    for listed in left {
        let tee = name(listed.entry.tee);
        match out.iter_mut().find(|p| p.last_seen == 0 && p.tee == tee && p.id == listed.entry.id.0) {
            Some(known) => known.approvals.push(approval(&listed)),
            None => out.push(proto::Platform {
                tee: tee.to_owned(),
                id: listed.entry.id.0.clone(),
                approvals: vec![approval(&listed)],
                ..Default::default()
            }),
        }
    }
    out
}

fn shown(platform: &Platform, approvals: Vec<proto::Approval>) -> proto::Platform {
    proto::Platform {
        tee: platform.tee.clone(),
        id: platform.id.clone(),
        kind: platform.kind.clone(),
        emulated: platform.emulated,
        first_seen: platform.first_seen,
        last_seen: platform.last_seen,
        tcb: platform.tcb.clone(),
        workloads: platform
            .workloads
            .iter()
            .map(|(workload, asked)| proto::PlatformWorkload {
                workload: workload.clone(),
                last: asked.last,
                refused: asked.refused.clone(),
            })
            .collect(),
        approvals,
    }
}

fn approval(listed: &Listed) -> proto::Approval {
    let entry = &listed.entry;
    proto::Approval {
        namespace: listed.list.namespace.clone(),
        name: listed.list.name.clone(),
        note: entry.note.clone().unwrap_or_default(),
        approved_by: entry.approved_by.clone().unwrap_or_default(),
        approved_at: entry.approved_at.as_ref().map_or(0, |at| at.0),
    }
}

fn unknown(wanted: &Wanted, tee: Option<TeeKind>) -> String {
    let whole = match tee {
        Some(tee) => format!("the whole ID, {} digits for {}", digits(tee), name(tee)),
        None => "--tee and the whole ID".to_owned(),
    };
    format!(
        "no platform was seen whose ID begins with {}; `countersign platforms list` shows all. \
         To approve one before it comes, give {whole}",
        wanted.digits
    )
}

fn metadata(list: &Key) -> Metadata {
    Metadata { name: list.name.clone(), namespace: list.namespace.clone(), ..Metadata::default() }
}

fn is(entry: &Entry, machine: &Machine) -> bool {
    name(entry.tee) == machine.0 && entry.id.0 == machine.1
}

fn name(tee: TeeKind) -> &'static str {
    Tee::from(tee).name()
}

fn kind(name: &str) -> Option<TeeKind> {
    [TeeKind::Tdx, TeeKind::Sgx, TeeKind::SevSnp].into_iter().find(|tee| self::name(*tee) == name)
}

/// PIID and PPID have 16 bytes, CHIP_ID has 64.
const fn digits(tee: TeeKind) -> usize {
    match tee {
        TeeKind::Tdx | TeeKind::Sgx => 32,
        TeeKind::SevSnp => 128,
    }
}

#[cfg(test)]
mod tests;
