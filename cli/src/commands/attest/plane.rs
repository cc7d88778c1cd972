//! All proxies, by way of the control plane.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_wire::proto;
use tonic::Streaming;

use super::Look;
use super::hops::Hop;
use crate::context::{Client, Context, TIMEOUT};
use crate::failure::{Failure, Result};

/// How long proxies may take to tell for the first time.
const PATIENCE: Duration = Duration::from_secs(5);

/// What proxies told last.
pub(super) struct Plane {
    // The stream ends with its connection.
    _client: Client,
    told: Streaming<proto::ProxyAttestation>,
    known: Known,
}

#[derive(Debug, Default)]
struct Known {
    /// By workload and name.
    proxies: BTreeMap<(String, String), proto::ProxyAttestation>,
    /// Whether all that were there at the beginning have been named.
    named: bool,
}

impl Plane {
    pub(super) async fn connect(context: &Context, proxies: &[String]) -> Result<Self> {
        let mut client = Client::connect(context, TIMEOUT).await?;
        let told = client.watch(proxies).await?;
        let mut known = Known::default();
        for name in proxies {
            known.awaited(name);
        }
        Ok(Self { _client: client, told, known })
    }

    /// The next news.
    pub(super) async fn next(&mut self) -> Result<()> {
        let news = self.told.message().await.map_err(|status| ended(status.message()))?;
        self.known.take(news.ok_or_else(|| ended("it shuts down"))?);
        Ok(())
    }

    /// Waits until everybody has told something, or for as long as that may take.
    pub(super) async fn everybody(&mut self) -> Result<()> {
        let all = async {
            while self.known.is_incomplete() {
                self.next().await?;
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap_or(Ok(()))
    }

    pub(super) fn look(&self) -> Look {
        self.known.look()
    }
}

impl Known {
    /// Somebody who was asked for by name, and may not be there.
    fn awaited(&mut self, name: &str) {
        let nobody = proto::ProxyAttestation { proxy: name.to_owned(), ..Default::default() };
        self.proxies.insert((String::new(), name.to_owned()), nobody);
    }

    fn take(&mut self, news: proto::ProxyAttestation) {
        if news.proxy.is_empty() {
            self.named = true;
            return;
        }
        self.proxies.remove(&(String::new(), news.proxy.clone()));
        let name = (news.workload.clone(), news.proxy.clone());
        let known = self.proxies.entry(name).or_default();
        // That it is there says nothing about what it told before.
        let before = known.attestation.take().filter(|_| news.connected);
        *known = proto::ProxyAttestation { attestation: news.attestation.clone().or(before), ..news };
    }

    fn is_incomplete(&self) -> bool {
        !self.named || self.proxies.values().any(|p| p.connected && p.reports && p.attestation.is_none())
    }

    fn look(&self) -> Look {
        let mut look = Look::default();
        for proxy in self.proxies.values() {
            match &proxy.attestation {
                Some(told) => {
                    look.total = look.total.saturating_add(told.total);
                    look.hops.extend(told.hops.iter().map(|hop| Hop::told(&proxy.proxy, hop)));
                }
                None => look.missing.push(format!("proxy {}: {}", proxy.proxy, silence(proxy))),
            }
        }
        look
    }
}

/// Why a proxy told nothing.
fn silence(proxy: &proto::ProxyAttestation) -> &'static str {
    match (proxy.connected, proxy.reports) {
        (false, _) if proxy.workload.is_empty() => "no such proxy is connected",
        (false, _) => "not connected any more",
        (true, false) => "its version does not tell",
        (true, true) => "nothing heard yet",
    }
}

fn ended(why: &str) -> Failure {
    Failure::failed(format!("the control plane ended the watch: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(proxy: &str, connected: bool, hops: Option<u64>) -> proto::ProxyAttestation {
        let hop = |hop| proto::HopAttestation { hop, ..Default::default() };
        proto::ProxyAttestation {
            proxy: proxy.to_owned(),
            workload: format!("payments/{proxy}"),
            connected,
            reports: true,
            attestation: hops.map(|n| proto::Attestation {
                total: n,
                hops: (0..n).map(hop).collect(),
                ..Default::default()
            }),
            now: 0,
        }
    }

    #[test]
    fn what_everybody_told_last_is_shown_and_who_told_nothing_is_named() {
        let mut known = Known::default();
        assert!(known.is_incomplete(), "nobody was named yet");
        known.take(news("a", true, None));
        known.take(news("b", true, None));
        known.take(proto::ProxyAttestation::default());
        assert!(known.is_incomplete());
        known.take(news("a", true, Some(2)));
        assert_eq!(known.look().missing, ["proxy b: nothing heard yet"]);
        known.take(news("b", true, Some(3)));
        assert!(!known.is_incomplete());
        // It came again, before it told anything: what it told before is still the last.
        known.take(news("b", true, None));
        let look = known.look();
        assert_eq!((look.total, look.hops.len(), look.missing.len()), (5, 5, 0));
        known.take(news("b", false, None));
        let look = known.look();
        assert_eq!((look.total, look.missing[0].as_str()), (2, "proxy b: not connected any more"));
    }

    #[test]
    fn somebody_who_is_not_there_and_somebody_who_cannot_tell_are_not_waited_for() {
        let mut known = Known::default();
        known.awaited("c");
        known.take(proto::ProxyAttestation::default());
        known.take(proto::ProxyAttestation { reports: false, ..news("d", true, None) });
        assert!(!known.is_incomplete());
        assert_eq!(
            known.look().missing,
            ["proxy c: no such proxy is connected", "proxy d: its version does not tell"]
        );
        known.take(news("c", true, Some(1)));
        assert_eq!(known.look().missing.len(), 1);
    }
}
