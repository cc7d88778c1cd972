//! One request of the workload, made of one endpoint after the other until one
//! answers: another one is asked as long as nobody has seen the request, and the rule
//! says when one that was seen may be made again. One with a body never is.

use std::sync::Arc;

use countersign_config::Called;
use countersign_config::kinds::service::AppProtocol;
use countersign_config::view::route::RouteRule;
use countersign_evidence::{Denial, Finding, Reason};
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::time::{sleep, timeout};

use super::body::RequestBody;
use super::exchange::{Answered, answered, for_one, for_two};
use super::line::Line;
use super::request::Asked;
use super::routed::{Routed, late};
use super::upstream::{Failed, Lease, Upstream};
use crate::hop::REASON_HEADER;
use crate::outbound::another_may_do;
use crate::pool::Destination;

/// Endpoints that are asked for one request.
const ENDPOINTS: usize = 3;

/// What one request needs to be made.
pub(super) struct Attempts<'a> {
    pub(super) routed: &'a Routed,
    /// Whom it is made of.
    pub(super) called: &'a Arc<Called>,
    pub(super) rule: Option<&'a RouteRule>,
}

/// What is made again: the head of a request without a body.
struct Again<'a> {
    head: &'a Parts,
    left: u32,
}

impl Attempts<'_> {
    /// Makes the request.
    pub(super) async fn make(
        &self,
        mut head: Parts,
        body: Incoming,
        asked: &Asked,
        line: &mut Line,
    ) -> Result<Answered, Denial> {
        let caller = head.extensions.remove::<OnUpgrade>();
        let over_two = self.is_over_two(&head);
        let upgrade = caller.filter(|_| asked.upgrade.is_some() && !over_two);
        let head = match over_two {
            true => for_two(head, asked)?,
            false => for_one(head, asked, upgrade.is_some())?,
        };
        let attempts = self.rule.and_then(|rule| rule.retry.as_ref()).map_or(0, |retry| retry.attempts);
        let replays = body.is_end_stream() && upgrade.is_none();
        let body = match replays {
            true => RequestBody::nothing(),
            false => RequestBody::new(body, None, Arc::clone(&line.received)),
        };
        let again = replays.then_some(Again { head: &head, left: attempts });
        let (response, lease) =
            self.until_answered(Some((head.clone(), body)), again, over_two, line).await?;
        // A proxy said why. What a workload says of it does not leave its proxy.
        let said =
            response.headers().get(REASON_HEADER).and_then(|code| Reason::from_code(code.to_str().ok()?));
        let mut answer = answered(response, lease, upgrade)?;
        if let (Some(reason), Answered::Response(response, _)) = (said, &mut answer) {
            response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(reason.code()));
            line.refused_there(reason);
        }
        Ok(answer)
    }

    /// Makes a copy of a request without a body, and hears its answer out.
    pub(super) async fn copy(&self, head: Parts, asked: &Asked) -> Result<(), Denial> {
        let over_two = self.is_over_two(&head);
        let head = if over_two { for_two(head, asked)? } else { for_one(head, asked, false)? };
        let chosen = self.routed.pools.choose(&self.called.endpoints, &[]);
        let endpoint = chosen.and_then(|chosen| self.called.endpoints.get(chosen));
        let endpoint = endpoint.ok_or_else(|| self.nobody())?;
        let destination = Destination { to: endpoint.id.clone(), address: endpoint.address.clone() };
        let peer = self.routed.peer(destination, self.called.target_port);
        let request = Request::from_parts(head, RequestBody::nothing());
        let (response, lease) = self.one(&peer, request, over_two).await.map_err(|failed| failed.denial)?;
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        if let Some(lease) = lease {
            lease.free();
        }
        Ok(())
    }

    fn is_over_two(&self, head: &Parts) -> bool {
        match self.called.protocol {
            Some(AppProtocol::Http2 | AppProtocol::Grpc) => true,
            _ => head.version == Version::HTTP_2,
        }
    }

    async fn until_answered(
        &self,
        first: Option<(Parts, RequestBody)>,
        mut again: Option<Again<'_>>,
        over_two: bool,
        line: &mut Line,
    ) -> Result<(Response<Incoming>, Option<Lease>), Denial> {
        let mut next = first.map(|(head, body)| Request::from_parts(head, body));
        let (mut tried, mut last) = (Vec::new(), None);
        loop {
            let Some(chosen) = self.routed.pools.choose(&self.called.endpoints, &tried) else {
                return Err(last.unwrap_or_else(|| self.nobody()));
            };
            let Some(endpoint) = self.called.endpoints.get(chosen) else { return Err(self.nobody()) };
            let destination = Destination { to: endpoint.id.clone(), address: endpoint.address.clone() };
            let peer = self.routed.peer(destination, self.called.target_port);
            let request = match (next.take(), &again) {
                (Some(request), _) => request,
                (None, Some(again)) => Request::from_parts(again.head.clone(), RequestBody::nothing()),
                (None, None) => return Err(last.unwrap_or_else(|| self.nobody())),
            };
            let result = self.one(&peer, request, over_two).await;
            line.routed(self.rule.map_or("", |rule| &rule.name), peer.way().met());
            match result {
                Ok((response, lease)) => {
                    let retry = self.rule.and_then(|rule| rule.retry.as_ref());
                    let wanted = retry.is_some_and(|retry| retry.codes.contains(&response.status().as_u16()));
                    if !wanted || !self.may(&mut again).await {
                        return Ok((response, lease));
                    }
                    // An answer that was not read to its end holds its connection.
                    if let Some(lease) = lease.filter(|_| response.body().is_end_stream()) {
                        lease.free();
                    }
                }
                Err(Failed { denial, unsent }) => {
                    tried.push(chosen);
                    let another = tried.len() < ENDPOINTS && another_may_do(&denial, &self.routed.ctx);
                    match unsent.filter(|_| another) {
                        Some(unsent) => next = Some(*unsent),
                        None if another && self.may(&mut again).await => {}
                        None => return Err(denial),
                    }
                    last = Some(denial);
                }
            }
        }
    }

    async fn one(
        &self,
        peer: &Upstream,
        request: Request<RequestBody>,
        over_two: bool,
    ) -> Result<(Response<Incoming>, Option<Lease>), Failed> {
        let ask = async {
            match over_two {
                true => peer.ask_two(request).await.map(|response| (response, None)),
                false => peer.ask_one(request).await.map(|(response, lease)| (response, Some(lease))),
            }
        };
        match self.rule.and_then(|rule| rule.timeouts.backend_request) {
            None => ask.await,
            Some(limit) => match timeout(limit, ask).await {
                Ok(result) => result,
                Err(_) => Err(Failed { denial: late("attempt", limit), unsent: None }),
            },
        }
    }

    /// Whether what was seen may be made again, after a pause.
    async fn may(&self, again: &mut Option<Again<'_>>) -> bool {
        let Some(again) = again.as_mut().filter(|again| again.left > 0) else { return false };
        if !self.routed.pools.retries().withdraw() {
            return false;
        }
        again.left -= 1;
        let pause = self.rule.and_then(|rule| rule.retry.as_ref()).map(|retry| retry.backoff);
        sleep(pause.unwrap_or_default()).await;
        true
    }

    fn nobody(&self) -> Denial {
        let expected = "an endpoint: a WorkloadEntry with the labels of its selector";
        Finding::new(Reason::ConnectFailed, self.called.service.to_string(), expected, "none").into()
    }
}
