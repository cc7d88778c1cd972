//! X.509-SVIDs and trust bundles.

use countersign_ratls::peer::Presented;
use countersign_ratls::{Bundle, SpiffeId, TrustDomain, svid as profile};
use rustls_pki_types::CertificateDer;
use toml::Value;

use crate::appraisals::Appraisals;
use crate::der;
use crate::manifest::{Case, Sample, rfc3339};
use crate::tally::Miss;

/// An SVID that must be accepted.
pub(crate) fn svid(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let chain = der::certificates(&sample.bytes(appraisals.corpus)?)?;
    let id = profile::check(&chain).map_err(|f| f.to_string())?;
    let presented = Presented::parse(&chain);
    let (expect, fields) = (sample.expect(), sample.fields());
    let compared = fields.compare(|name, _| field(&chain, &id, presented.as_ref().ok(), name))?;
    for key in ["valid_svid", "python_rule_check", "contains_private_key"] {
        expect.get(key);
    }
    let mut path = String::new();
    if let Some(case) = case.filter(|case| !case.collateral().is_empty()) {
        let invalid = case.expect().text("crypto") == Some("invalid");
        match (validate(appraisals, case, &chain, &id), invalid) {
            (Ok(()), false) => path = ", its path is valid".to_owned(),
            (Err(why), true) => path = format!(", its path is refused: {why}"),
            (Ok(()), true) => return Err("its path is accepted".to_owned().into()),
            (Err(why), false) => return Err(why.into()),
        }
    }
    Ok(format!("{id}{path}; {compared} fields{}{}", fields.not_compared(), expect.not_compared()))
}

/// Validates the path to the certificates of a case, at its times.
fn validate(
    appraisals: &Appraisals<'_>,
    case: &Case<'_>,
    chain: &[CertificateDer<'_>],
    id: &SpiffeId,
) -> Result<(), String> {
    let presented = Presented::parse(chain).map_err(|f| f.to_string())?;
    let mut bundle = Bundle::parse(id.trust_domain(), b"").map_err(|f| f.to_string())?;
    for path in case.collateral() {
        let bytes = appraisals.corpus.read(path)?;
        let more = Bundle::parse(id.trust_domain(), &bytes).map(|b| b.x509_authorities);
        bundle.x509_authorities.extend(more.or_else(|_| der::certificates(&bytes))?);
    }
    for now in case.instants()? {
        bundle.validate(&presented, now).map_err(|f| f.to_string())?;
    }
    Ok(())
}

fn field(
    chain: &[CertificateDer<'_>],
    id: &SpiffeId,
    presented: Option<&Presented>,
    name: &str,
) -> Option<Option<Value>> {
    Some(match name {
        "certificates" => i64::try_from(chain.len()).ok().map(Value::from),
        "leaf_uri_sans" => Some(Value::Array(vec![id.as_str().into()])),
        // What the profile demands of every leaf that it lets pass.
        "leaf_is_ca" => Some(false.into()),
        "leaf_key_usage" => {
            let usages = [("digital_signature", true), ("cert_sign", false), ("crl_sign", false)];
            Some(usages.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect::<toml::Table>().into())
        }
        "not_before" => presented.map(|p| rfc3339(p.not_before).into()),
        "not_after" => presented.map(|p| rfc3339(p.not_after).into()),
        _ => return None,
    })
}

/// A chain that breaks the profile, or whose path does not hold.
pub(crate) fn negative_svid(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let defect = sample.expect().text("reason").map(|r| format!("; the defect: {r}")).unwrap_or_default();
    let chain = match der::certificates(&sample.bytes(appraisals.corpus)?) {
        Ok(chain) => chain,
        Err(why) => return Ok(format!("refused, {why}{defect}")),
    };
    let id = match profile::check(&chain) {
        Ok(id) => id,
        Err(finding) => return Ok(format!("refused, {finding}{defect}")),
    };
    // What a peer presents is read by the same rules.
    let Some(case) = case.filter(|case| !case.collateral().is_empty()) else {
        return Err(format!("accepted as {id}").into());
    };
    match validate(appraisals, case, &chain, &id) {
        Ok(()) => Err(format!("accepted as {id}").into()),
        Err(why) => Ok(format!("refused, {why}{defect}")),
    }
}

fn parse(document: &[u8]) -> Result<Bundle, String> {
    let domain = TrustDomain::parse("example.org").map_err(|f| f.to_string())?;
    Bundle::parse(domain, document).map_err(|f| f.to_string())
}

/// A bundle that must be read.
pub(crate) fn bundle(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let bundle = parse(&sample.bytes(appraisals.corpus)?)?;
    let (expect, fields) = (sample.expect(), sample.fields());
    expect.get("valid_bundle");
    let authorities = i64::try_from(bundle.x509_authorities.len()).unwrap_or(i64::MAX);
    fields.is("certificates", authorities)?;
    if let (Some(uses), Some(counts)) = (fields.list("uses"), fields.integers("x5c_counts")) {
        let x509 = uses.iter().zip(counts).filter(|(usage, _)| **usage == "x509-svid");
        let expected: i64 = x509.map(|(_, count)| count).sum();
        if expected != authorities {
            return Err(format!("expected {expected} authorities, found {authorities}").into());
        }
    }
    // Keys of JWT-SVIDs are checked and not kept.
    for key in ["keys", "kids"] {
        fields.get(key);
    }
    Ok(format!("{authorities} authorities{}{}", fields.not_compared(), expect.not_compared()))
}

/// A bundle that must be refused.
pub(crate) fn negative_bundle(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    match parse(&sample.bytes(appraisals.corpus)?) {
        Ok(_) => Err("accepted".to_owned().into()),
        Err(why) => Ok(format!("refused, {why}")),
    }
}
