//! Measurements against Reference Values.
//!
//! One entry of one referenced set must match as a whole: registers of several
//! entries cannot be combined. When none does, the message compares with the
//! entry that comes closest, and lists for each differing register every value
//! that some entry has there.

use super::checks::{Checks, list, short};
use crate::claims::{SgxClaims, SnpClaims, TdxClaims};
use crate::finding::timestamp;
use crate::policy::{ReferenceSet, References, SgxReference, SnpReference, TdxReference};
use crate::reason::Reason;

/// Claims with measurements.
pub(super) trait Measured {
    /// A reference entry for this kind of TEE.
    type Entry;
    /// The entries of a set.
    fn entries(set: &ReferenceSet) -> &[Self::Entry];
    /// The name of an entry, for people.
    fn name(entry: &Self::Entry) -> &str;
    /// What the entry compares.
    fn compare(&self, entry: &Self::Entry) -> Vec<Register>;
}

/// One comparison.
pub(super) struct Register {
    field: &'static str,
    matches: bool,
    accepted: String,
    presented: String,
}

impl Register {
    fn digest<const N: usize>(
        field: &'static str,
        accepted: Option<&[u8; N]>,
        presented: &[u8; N],
    ) -> Option<Self> {
        accepted.map(|accepted| Self {
            field,
            matches: accepted == presented,
            accepted: short(accepted),
            presented: hex::encode(presented),
        })
    }
}

/// Compares with the sets that the rule names; with none it compares nothing.
pub(super) fn check<M: Measured>(checks: &mut Checks, body: &M, names: &[String], references: &References) {
    if names.is_empty() {
        return;
    }
    let mut entries = Vec::new();
    let mut unusable = Vec::new();
    for name in names {
        match references.get(name) {
            Some(set) if set.valid_until.is_none_or(|until| checks.now() <= until) => {
                entries.extend(M::entries(set).iter().map(|entry| (set, entry)));
            }
            Some(set) => {
                let expiry = timestamp(set.valid_until.unwrap_or(0));
                unusable.push((name, format!("expired {expiry}")));
            }
            None => unusable.push((name, "missing".to_owned())),
        }
    }
    // An entry that compares nothing approves nothing. Of several that match,
    // the one that holds longest counts.
    let compared: Vec<_> = entries.iter().map(|(set, e)| (set, *e, body.compare(e))).collect();
    let matching = compared.iter().filter(|(_, _, c)| !c.is_empty() && c.iter().all(|r| r.matches));
    if let Some((set, entry, _)) = matching.max_by_key(|(set, _, _)| set.valid_until.unwrap_or(u64::MAX)) {
        checks.holds_until(set.valid_until.unwrap_or(u64::MAX));
        checks.matched(M::name(entry).to_owned());
        return;
    }
    for (name, state) in unusable {
        checks.refuse(
            Reason::ReferenceValuesUnusable,
            "references",
            format!("usable values '{name}'"),
            state,
        );
    }
    let closest = compared
        .iter()
        .filter(|(_, _, c)| !c.is_empty())
        .min_by_key(|(_, _, c)| c.iter().filter(|r| !r.matches).count());
    match closest {
        Some((_, _, registers)) => {
            for register in registers.iter().filter(|r| !r.matches) {
                let all = compared.iter().filter_map(|(_, entry, registers)| {
                    let same = registers.iter().find(|r| r.field == register.field)?;
                    Some(format!("{} ({})", same.accepted, M::name(entry)))
                });
                let mut all: Vec<_> = all.collect();
                all.dedup();
                checks.refuse(
                    Reason::MeasurementMismatch,
                    register.field,
                    list(&all, "nothing"),
                    register.presented.clone(),
                );
            }
        }
        None => checks.refuse(
            Reason::MeasurementMismatch,
            "references",
            "an approved measurement for this kind of TEE",
            format!("no entry in {}", list(names, "any set")),
        ),
    }
}

impl Measured for TdxClaims {
    type Entry = TdxReference;

    fn entries(set: &ReferenceSet) -> &[TdxReference] {
        &set.tdx
    }

    fn name(entry: &TdxReference) -> &str {
        &entry.name
    }

    fn compare(&self, entry: &TdxReference) -> Vec<Register> {
        let [a0, a1, a2, a3] = &entry.rtmr;
        let [p0, p1, p2, p3] = &self.rtmr;
        [
            Register::digest("mrTd", entry.mr_td.as_ref(), &self.mr_td),
            Register::digest("rtmr[0]", a0.as_ref(), p0),
            Register::digest("rtmr[1]", a1.as_ref(), p1),
            Register::digest("rtmr[2]", a2.as_ref(), p2),
            Register::digest("rtmr[3]", a3.as_ref(), p3),
            Register::digest("mrSeam", entry.mr_seam.as_ref(), &self.mr_seam),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Measured for SgxClaims {
    type Entry = SgxReference;

    fn entries(set: &ReferenceSet) -> &[SgxReference] {
        &set.sgx
    }

    fn name(entry: &SgxReference) -> &str {
        &entry.name
    }

    fn compare(&self, entry: &SgxReference) -> Vec<Register> {
        if entry.mr_enclave.is_none() && entry.mr_signer.is_none() {
            return Vec::new(); // a product and a version say nothing without their signer
        }
        let product = entry.isv_prod_id.map(|accepted| Register {
            field: "isvProdId",
            matches: accepted == self.isv_prod_id,
            accepted: accepted.to_string(),
            presented: self.isv_prod_id.to_string(),
        });
        let version = entry.min_isv_svn.map(|least| Register {
            field: "isvSvn",
            matches: self.isv_svn >= least,
            accepted: format!("at least {least}"),
            presented: self.isv_svn.to_string(),
        });
        [
            Register::digest("mrEnclave", entry.mr_enclave.as_ref(), &self.mr_enclave),
            Register::digest("mrSigner", entry.mr_signer.as_ref(), &self.mr_signer),
            product,
            version,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Measured for SnpClaims {
    type Entry = SnpReference;

    fn entries(set: &ReferenceSet) -> &[SnpReference] {
        &set.sev_snp
    }

    fn name(entry: &SnpReference) -> &str {
        &entry.name
    }

    fn compare(&self, entry: &SnpReference) -> Vec<Register> {
        Vec::from_iter(Register::digest("measurement", Some(&entry.measurement), &self.measurement))
    }
}
