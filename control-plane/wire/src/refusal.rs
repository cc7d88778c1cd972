//! Refusals as gRPC statuses, without loss.

use countersign_evidence::policy::PolicyRef;
use countersign_evidence::{Denial, Finding, Reason};
use serde_json::Value;
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::{Code, Status};

/// The metadata key of the reason's code.
const REASON: &str = "countersign-reason";
/// The largest denial that is sent as a whole: trailers have the text as well, bytes.
const MAX_DENIAL: usize = 3072;
/// The metadata key of the whole denial, JSON.
const DENIAL: &str = "countersign-denial-bin";
/// What fits into the trailers that HTTP/2 peers accept by default, bytes.
const MAX_TEXT: usize = 4096;

/// A status for a denial: the text for people, the reason's code as metadata.
#[must_use]
pub fn status(denial: &Denial) -> Status {
    let mut status = with_reason(denial.reason, denial.to_string());
    // A long one is left to the text, which is cut.
    if let Some(whole) = serde_json::to_vec(denial).ok().filter(|whole| whole.len() <= MAX_DENIAL) {
        status.metadata_mut().insert_bin(DENIAL, BinaryMetadataValue::from_bytes(&whole));
    }
    status
}

/// The denial that [`status`] wrote, when all of it is one that we understand.
#[must_use]
pub fn denial(status: &Status) -> Option<Denial> {
    from_json(&status.metadata().get_bin(DENIAL)?.to_bytes().ok()?)
}

/// A denial as JSON of at most `limit` bytes. Of one that is longer, its first finding
/// stays, with less of what would have been accepted.
#[must_use]
pub fn to_json(denial: &Denial, limit: usize) -> String {
    let json = |denial: &Denial| serde_json::to_string(denial).unwrap_or_default();
    let whole = json(denial);
    if whole.len() <= limit {
        return whole;
    }
    let mut short = denial.clone();
    short.findings.truncate(1);
    for most in [limit / 2, limit / 8, 0] {
        for finding in &mut short.findings {
            if most < finding.expected.len() {
                finding.expected = format!("{}…", cut(&finding.expected, most));
            }
        }
        let shorter = json(&short);
        if shorter.len() <= limit {
            return shorter;
        }
    }
    json(&Finding::new(denial.reason, "denial", "a shorter one", "too long to be sent").into())
}

/// The denial that [`to_json`] wrote, when all of it is one that we understand.
#[must_use]
pub fn from_json(bytes: &[u8]) -> Option<Denial> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let text = |of: &Value, name: &str| of.get(name).and_then(Value::as_str).map(str::to_owned);
    let reason = |of: &Value| Reason::from_code(of.get("reason")?.as_str()?);
    let finding = |of: &Value| {
        Some(Finding::new(reason(of)?, text(of, "field")?, text(of, "expected")?, text(of, "presented")?))
    };
    let findings: Vec<_> = value.get("findings")?.as_array()?.iter().map(finding).collect::<Option<_>>()?;
    let policy = match value.get("policy") {
        None => None,
        Some(policy) => Some(PolicyRef {
            namespace: text(policy, "namespace")?,
            name: text(policy, "name")?,
            generation: policy.get("generation")?.as_u64()?,
        }),
    };
    let rule = text(&value, "rule").unwrap_or_default();
    (!findings.is_empty()).then_some(Denial { reason: reason(&value)?, policy, rule, findings })
}

/// A status with a reason.
#[must_use]
pub fn with_reason(reason: Reason, text: impl Into<String>) -> Status {
    let code = match reason.http_status() {
        400 | 413 => Code::InvalidArgument,
        503 | 504 => Code::Unavailable,
        500 => Code::Internal,
        _ => Code::PermissionDenied,
    };
    let mut status = Status::new(code, cut(&text.into(), MAX_TEXT));
    status.metadata_mut().insert(REASON, MetadataValue::from_static(reason.code()));
    status
}

/// The reason that [`status`] wrote, when it is one that we know.
#[must_use]
pub fn reason(status: &Status) -> Option<Reason> {
    Reason::from_code(status.metadata().get(REASON)?.to_str().ok()?)
}

/// The longest prefix of `text` of at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_arrives_as_it_was() {
        let finding = |n: usize| Finding::new(Reason::Debug, "debug", "x".repeat(n), "no \u{2026}");
        let mut sent = Denial::from(finding(3));
        assert_eq!(denial(&status(&sent)), Some(sent.clone()));
        sent.findings.push(Finding::new(Reason::UnknownWorkload, "workload", "a name", "a/b"));
        sent.policy = Some(PolicyRef { namespace: "n".into(), name: "p".into(), generation: 7 });
        sent.rule = "anyOf[0].tdx".to_owned();
        assert_eq!(denial(&status(&sent)), Some(sent.clone()));
        assert_eq!(from_json(to_json(&sent, 4096).as_bytes()), Some(sent.clone()));
        // In a report what would have been accepted is shortened first.
        sent.findings.push(finding(9000));
        sent.findings.swap(0, 2);
        let told = to_json(&sent, 4096);
        let short = from_json(told.as_bytes()).unwrap();
        assert!(told.len() <= 4096 && short.findings.len() == 1, "{told}");
        assert_eq!(
            (short.policy, &short.findings[0].presented),
            (sent.policy.clone(), &sent.findings[0].presented)
        );
        assert!(short.findings[0].expected.ends_with('…'));
        // What is too long for trailers, or was written by somebody else, has a text and a reason.
        let long = status(&Denial::from(finding(5000)));
        assert_eq!((denial(&long), reason(&long)), (None, Some(Reason::Debug)));
        let mut other = with_reason(Reason::Debug, "text");
        other.metadata_mut().insert_bin(DENIAL, BinaryMetadataValue::from_bytes(b"{\"reason\":\"debug\"}"));
        assert_eq!(denial(&other), None);
    }
}
