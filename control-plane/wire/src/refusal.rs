//! Refusals as gRPC statuses, without loss.

use countersign_evidence::{Denial, Reason};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The metadata key of the reason's code.
const REASON: &str = "countersign-reason";
/// What fits into the trailers that HTTP/2 peers accept by default, bytes.
const MAX_TEXT: usize = 4096;

/// A status for a denial: the text for people, the reason's code as metadata.
#[must_use]
pub fn status(denial: &Denial) -> Status {
    with_reason(denial.reason, denial.to_string())
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
