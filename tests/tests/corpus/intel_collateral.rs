//! TCB infos, QE identities and signing chains that must not be used.

use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::{Anchors, Collateral, UnixTime};

use crate::appraisals::Appraisals;
use crate::manifest::{Case, Sample, at};
use crate::tally::Miss;

/// A signed document that must not be used, beside every certificate that there is.
pub(crate) fn document(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let corpus = appraisals.corpus;
    let mut paths = corpus.collateral(&["x509-cert", "trust-anchor", "x509-chain"]);
    paths.extend(case.map(Case::collateral).unwrap_or_default());
    let mut items = appraisals.items(&paths)?;
    items.push(Item { name: "the sample".to_owned(), bytes: sample.bytes(corpus)? });
    let instants = case.map(Case::instants).transpose()?.unwrap_or_default();
    let now = instants.first().copied().or_else(|| at("2022-05-11T00:00:00Z")).ok_or("no time".to_owned())?;
    let appraised = Collateral::appraise(&items, &Anchors::built_in(), &mut Marks::default(), now);
    if let Some((_, finding)) = appraised.refused.iter().find(|(name, _)| name == "the sample") {
        return Ok(format!("refused, {finding}{}", reason(sample)));
    }
    // What is merely out of time is kept with its window, and refused when used.
    if is_usable(&appraised.collateral, now) || instants.is_empty() {
        return Err("admitted".to_owned().into());
    }
    Ok(format!("not valid at the time{}", reason(sample)))
}

/// A chain with which no document may be believed.
pub(crate) fn signing_chain(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let corpus = appraisals.corpus;
    let chain = Item { name: "the sample".to_owned(), bytes: sample.bytes(corpus)? };
    let documents = appraisals.items(&corpus.collateral(&["intel-tcb-info", "intel-qe-identity"]))?;
    let instants = case.map(Case::instants).transpose()?.unwrap_or_default();
    for document in &documents {
        let items = [chain.clone(), document.clone()];
        let now = instants.first().copied().unwrap_or(UnixTime::since_unix_epoch(std::time::Duration::ZERO));
        let appraised = Collateral::appraise(&items, &Anchors::built_in(), &mut Marks::default(), now);
        let refused = appraised.refused.iter().any(|(name, _)| *name == document.name);
        if !refused && (instants.is_empty() || is_usable(&appraised.collateral, now)) {
            return Err(format!("with it {} is admitted", document.name).into());
        }
    }
    if documents.is_empty() {
        return Err(Miss::Skipped("no document to try it with".to_owned()));
    }
    Ok(format!("none of {} documents is admitted with it{}", documents.len(), reason(sample)))
}

fn is_usable(collateral: &Collateral, now: UnixTime) -> bool {
    let documents = collateral.inventory();
    documents.iter().any(|e| ["tcbInfo", "qeIdentity"].contains(&e.kind) && e.window.contains(now.as_secs()))
}

fn reason(sample: &Sample<'_>) -> String {
    sample.expect().text("reason").map(|r| format!("; the defect: {r}")).unwrap_or_default()
}
