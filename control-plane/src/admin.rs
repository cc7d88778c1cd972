//! What the three ports say.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use countersign_wire::proto;

use crate::cut::Cut;
use crate::http::{Answer, from_this_host};
use crate::issue::Issuer;
use crate::keep::Keep;
use crate::operator::Shared;
use crate::own::{Own, verify_own};

/// Behind the admin port.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) operator: Arc<Shared>,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) own: watch::Receiver<Option<Own>>,
    pub(crate) keep: Keep,
    pub(crate) tick: watch::Sender<u64>,
    pub(crate) quit: CancellationToken,
}

const INDEX: &str = "GET  /status           proxies, generation, what is missing\n\
                     GET  /config_dump      resources, collateral, what is rejected\n\
                     GET  /issued           certificates that are not expired\n\
                     POST /quitquitquit     shut down gracefully\n\
                     POST /raise_generation?above=N\n\
                     \x20                      after a restore: proxies refuse generations that are not newer\n";

impl Admin {
    pub(crate) fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !from_this_host(request.headers()) {
            return Answer::text(StatusCode::FORBIDDEN, "admin is for this host alone\n");
        }
        let post = *request.method() == Method::POST;
        match request.uri().path() {
            "/" => Answer::text(StatusCode::OK, INDEX),
            "/status" => Answer::json(&self.status()),
            "/config_dump" => Answer::json(&self.config_dump()),
            "/issued" => match self.keep.issued() {
                Ok(issued) => Answer::json(&json!({ "issued": issued })),
                Err(e) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
            },
            "/quitquitquit" | "/raise_generation" if !post => Answer::post_only(),
            "/quitquitquit" => {
                self.quit.cancel();
                Answer::text(StatusCode::OK, "shutting down\n")
            }
            "/raise_generation" => self.raise_generation(request.uri().query().unwrap_or_default()),
            _ => Answer::not_found(),
        }
    }

    fn raise_generation(&self, query: &str) -> Answer {
        let Some(Ok(above)) = query.strip_prefix("above=").map(str::parse::<u64>) else {
            return Answer::text(
                StatusCode::BAD_REQUEST,
                "say ?above=N, the generation that proxies have seen\n",
            );
        };
        // Room for the 2^63 that metrics and JSON readers hold.
        if above > u64::MAX >> 1 {
            return Answer::text(StatusCode::BAD_REQUEST, "too large\n");
        }
        match self.keep.raise_generation(above) {
            Ok(number) => {
                tracing::warn!(number, "the next generation was raised by an operator");
                self.tick.send_modify(|tick| *tick += 1);
                Answer::text(StatusCode::OK, format!("the next generation is greater than {number}\n"))
            }
            Err(e) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
        }
    }

    fn status(&self) -> Value {
        let status = self.operator.status();
        let own = self.own.borrow().clone();
        let evidence = match own.as_ref().map(|own| verify_own(own, &self.issuer, &self.operator.clock)) {
            None => json!("none yet"),
            Some(Ok(tee)) => json!({ "verified": tee }),
            Some(Err(denial)) => json!({ "notVerifiedByOurOwnView": denial }),
        };
        json!({
            "trustDomain": status.trust_domain,
            "software": status.software,
            "generation": status.generation,
            "ready": status.missing.is_empty(),
            "missing": status.missing,
            "caNotAfter": status.ca_not_after,
            "ownIdentityNotAfter": own.map(|own| own.not_after),
            "ownEvidence": evidence,
            "proxies": status.proxies.iter().map(proxy).collect::<Vec<_>>(),
        })
    }

    fn config_dump(&self) -> Value {
        let cut: Arc<Cut> = Arc::clone(&self.operator.cuts.borrow());
        let resources: Vec<Value> = cut
            .snapshot
            .entries()
            .iter()
            .filter(|(name, _)| name.starts_with("resource/"))
            .map(|(name, entry)| {
                let body = serde_json::from_slice(entry.body()).unwrap_or(Value::Null);
                let changed = cut.changed_in.get(name);
                json!({ "name": name, "version": entry.version().to_string(), "changedIn": changed, "body": body })
            })
            .collect();
        let pairs = |pairs: &[(String, String)]| -> Vec<Value> {
            pairs.iter().map(|(name, why)| json!({ "name": name, "reason": why })).collect()
        };
        json!({
            "generation": cut.snapshot.generation(),
            "storeRevision": cut.revision,
            "snapshotKey": cut.snapshot.kid(),
            "resources": resources,
            "rejected": pairs(&cut.rejected),
            "collateral": cut.view.collateral.inventory(),
            "refusedCollateral": pairs(&cut.refused_collateral),
            "keptCollateral": cut.kept_collateral,
        })
    }
}

fn proxy(status: &proto::ProxyStatus) -> Value {
    let rejected: Vec<Value> =
        status.rejected.iter().map(|r| json!({ "name": r.name, "reason": r.reason })).collect();
    json!({
        "name": status.name,
        "workload": status.workload,
        "spiffeId": status.spiffe_id,
        "connected": status.connected,
        "state": status.state,
        "generationSent": status.generation_sent,
        "generationAcked": status.generation_acked,
        "generationInUse": status.generation_in_use,
        "rejected": rejected,
        "tee": status.tee,
        "emulated": status.emulated,
        "svidNotAfter": status.svid_not_after,
        "lastSeen": status.last_seen,
        "hops": status.hops,
        "software": status.software,
        "address": status.address,
    })
}

/// The metrics port.
pub(crate) fn metrics(operator: &Shared, path: &str) -> Answer {
    if path != "/metrics" {
        return Answer::not_found();
    }
    let cut = Arc::clone(&operator.cuts.borrow());
    operator.proxies.measure(&operator.metrics, &cut);
    Answer {
        status: StatusCode::OK,
        kind: "text/plain; version=0.0.4; charset=utf-8",
        body: operator.metrics.text(),
    }
}

/// The readiness port.
pub(crate) fn readiness(operator: &Shared, path: &str) -> Answer {
    match path {
        "/healthz/live" => Answer::text(StatusCode::OK, "live\n"),
        "/healthz/ready" => {
            let missing = operator.ready.report();
            if missing.is_empty() {
                return Answer::text(StatusCode::OK, "ready\n");
            }
            let lines: String = missing.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, lines)
        }
        _ => Answer::not_found(),
    }
}
