//! docs/reasons.md is the table of reasons, for operators: written from the table itself.

use std::fmt::Write as _;
use std::path::Path;

use countersign_evidence::Reason;
use countersign_evidence::reason::Fault;

const HEAD: &str = "\
# Reasons

Written from `certs/evidence/src/reason.rs` by its test; do not edit. After a change:

```sh
COUNTERSIGN_WRITE_DOCS=1 cargo test -p countersign-evidence --test reasons
```

The list is closed. A code is the reason in logs, in the answer of `countersign`
and in the header `countersign-reason`, and the label `reason` of metrics. The
flag stands in the access log and in the label `response_flags`. The status is
that of the answer to a CONNECT; the alert is the TLS alert of a refused
handshake ([RFC 8446, section 6](https://www.rfc-editor.org/rfc/rfc8446#section-6)),
or the nearest that the TLS library can send. *Again* says whether the same
attempt can succeed later without anybody's help.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (fault, title) in [
        (Fault::Peer, "What the peer presented is not acceptable"),
        (Fault::Ourselves, "We lack something ourselves"),
        (Fault::Upstream, "The workload or the service behind failed"),
    ] {
        let _ = write!(
            page,
            "\n## {title}\n\n| code | what to do | flag | status | alert | again |\n|---|---|---|---|---|---|\n"
        );
        for reason in Reason::ALL.iter().filter(|reason| reason.fault() == fault) {
            let again = if reason.retry_can_help() { "yes" } else { "no" };
            let _ = writeln!(
                page,
                "| `{}` | {} | `{}` | {} | {} | {again} |",
                reason.code(),
                reason.remedy(),
                reason.flag(),
                reason.http_status(),
                reason.tls_alert(),
            );
        }
    }
    page
}

#[test]
fn the_page_of_reasons_is_that_of_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reasons.md");
    let page = page();
    if std::env::var_os("COUNTERSIGN_WRITE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "docs/reasons.md differs: run this test with COUNTERSIGN_WRITE_DOCS=1");
}
