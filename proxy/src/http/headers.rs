//! Header fields between a caller and a workload: those of a connection end with it
//! (RFC 9110, section 7.6.1), and those that say who calls are ours alone: first all
//! of them are taken away, in any spelling, then set.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_ratls::SpiffeId;
use countersign_ratls::peer::Admission;
use countersign_ratls::session::Random;
use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::hop::REASON_HEADER;
use crate::observe::access::{Peer, well_formed_trace};

/// As Envoy writes it, with `By`, `Hash` and `URI`.
pub(super) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The SPIFFE ID of the caller.
pub(super) const PEER: HeaderName = HeaderName::from_static("x-countersign-peer");
/// The kind of TEE in which it runs; `emulated-` before it if it is none.
pub(super) const TEE: HeaderName = HeaderName::from_static("x-countersign-tee");
/// The policies that admitted it, `namespace/name`, separated by commas.
pub(super) const POLICY: HeaderName = HeaderName::from_static("x-countersign-policy");
/// The name of the verdict in every log.
pub(super) const VERDICT: HeaderName = HeaderName::from_static("x-countersign-verdict");
/// How many seconds ago it last proved itself.
pub(super) const AGE: HeaderName = HeaderName::from_static("x-countersign-age");
/// W3C Trace Context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Whatever begins like this is ours.
const OURS: &str = "x-countersign-";

const OF_A_CONNECTION: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Who calls, as the workload is told.
#[derive(Debug)]
pub(super) struct Stamp {
    /// What it was made from.
    pub(super) admission: Arc<Admission>,
    /// The same for logs.
    pub(super) peer: Arc<Peer>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Stamp {
    pub(super) fn new(admission: Arc<Admission>, me: &SpiffeId) -> Self {
        let peer = Peer::new(&admission);
        let id = admission.presented.id.as_ref().map_or("", SpiffeId::as_str);
        let leaf = admission.presented.chain.first().map_or(&[][..], |leaf| leaf.as_ref());
        let hash = hex::encode(digest(&SHA256, leaf));
        let tee = if peer.emulated == "true" { format!("emulated-{}", peer.tee) } else { peer.tee.clone() };
        let fields = [
            (XFCC, format!("By={me};Hash={hash};URI={id}")),
            (PEER, id.to_owned()),
            (TEE, tee),
            (POLICY, peer.policy.clone()),
            (VERDICT, peer.verdict.clone()),
        ];
        let fields = fields.into_iter().filter(|(_, value)| !value.is_empty());
        // None of these has a character that a field may not have.
        let fields = fields.filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)));
        Self { fields: fields.collect(), peer: Arc::new(peer), admission }
    }

    /// Says who calls, and nobody else has said it. `age`: seconds since its last proof.
    pub(super) fn set(&self, headers: &mut HeaderMap, age: u64) {
        for (name, value) in &self.fields {
            headers.insert(name, value.clone());
        }
        headers.insert(AGE, age.into());
    }
}

/// Takes away what is ours to say, and what ends with the connection.
pub(super) fn strip(headers: &mut HeaderMap) {
    let trailers = headers.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_connection(headers);
    if trailers {
        // HTTP/2 keeps this one, and gRPC asks for it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    strip_ours(headers);
}

/// The same for what comes back from a workload.
pub(super) fn strip_answer(headers: &mut HeaderMap) {
    strip_connection(headers);
    // Why a proxy refuses is said by proxies.
    headers.remove(REASON_HEADER);
}

/// Takes away what is ours to say.
pub(super) fn strip_ours(headers: &mut HeaderMap) {
    let theirs: Vec<_> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in theirs {
        headers.remove(name);
    }
}

fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|options| options.split(','))
        .filter_map(|option| option.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_A_CONNECTION) {
        headers.remove(name);
    }
}

/// Many servers read `_` and `-` as the same.
fn is_ours(name: &str) -> bool {
    let mut name = name.to_owned();
    if name.contains('_') {
        name = name.replace('_', "-");
    }
    name.starts_with(OURS) || name == XFCC.as_str()
}

/// The trace that a request belongs to: its own, or one that begins here.
pub(super) fn trace(headers: &mut HeaderMap, random: &dyn Random) {
    let mut given = headers.get_all(TRACEPARENT).iter();
    if let (Some(one), None) = (given.next(), given.next())
        && one.to_str().is_ok_and(well_formed_trace)
    {
        return;
    }
    let mut ids = [0; 24];
    headers.remove(TRACEPARENT);
    if random.fill(&mut ids).is_ok() {
        let (trace, span) = ids.split_at(16);
        let made = format!("00-{}-{}-00", hex::encode(trace), hex::encode(span));
        if let Ok(made) = HeaderValue::try_from(made) {
            headers.insert(TRACEPARENT, made);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn nobody_but_us_says_who_calls() {
        let mut all = headers(&[
            ("X-Countersign-Peer", "spiffe://evil"),
            ("x-countersign-peer", "spiffe://evil"),
            ("X_Countersign_Peer", "spiffe://evil"),
            ("x-countersign_tee", "tdx"),
            ("x-countersign-anything", "1"),
            ("X-Forwarded-Client-Cert", "URI=spiffe://evil"),
            ("x_forwarded-client_cert", "URI=spiffe://evil"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-request-id", "7"),
        ]);
        strip(&mut all);
        assert_eq!(all, headers(&[("x-forwarded-for", "10.0.0.1"), ("x-request-id", "7")]));
    }

    #[test]
    fn what_is_for_a_connection_ends_with_it() {
        let mut all = headers(&[
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        strip(&mut all);
        assert_eq!(all, headers(&[("te", "trailers"), ("trailer", "x-sum"), ("accept", "*/*")]));
        let mut gzip = headers(&[("te", "gzip, trailers")]);
        strip(&mut gzip);
        assert!(gzip.is_empty());
    }
}
