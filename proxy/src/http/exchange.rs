//! One request: checked, decided about, handed to the workload, and its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwapOption;
use countersign_config::kinds::service::AppProtocol;
use countersign_evidence::{Denial, Finding, Reason};
use countersign_ratls::peer::Admission;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::body::{AnswerBody, RequestBody};
use super::headers::{self, Stamp};
use super::line::{Common, Line};
use super::request::{self, Asked};
use super::tasks::Tasks;
use super::upstream::{Lease, Upstream};
use crate::context::Context;
use crate::hop::REASON_HEADER;
use crate::inbound::refused_to;
use crate::policy::{self, Permitted, PermittedRequest};

/// What the requests of one stream share.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) permitted: Permitted,
    pub(super) ctx: Arc<Context>,
    pub(super) protocol: AppProtocol,
    pub(super) upstream: Upstream,
    pub(super) tasks: Tasks,
    pub(super) common: Arc<Common>,
    /// Who calls; made anew when that is known by another certificate.
    pub(super) stamp: ArcSwapOption<Stamp>,
}

/// The answer to a request: the workload's, or why there is none.
pub(super) async fn answer(
    served: Arc<Served>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (head, body) = request.into_parts();
    let mut line = Line::new(&served.common, &head);
    Ok(match served.exchange(head, body, &mut line).await {
        Ok((Answered::Response(response, lease), permit)) => {
            let (head, body) = response.into_parts();
            line.answered(head.status.as_u16(), &head.headers);
            Response::from_parts(head, AnswerBody::of(body, line, Some(permit), lease))
        }
        Ok((Answered::Short(response), _)) => response.map(|()| AnswerBody::empty(line)),
        Ok((Answered::Upgraded(response, caller, workload), permit)) => {
            line.answered(response.status().as_u16(), response.headers());
            let tasks = served.tasks.clone();
            served.tasks.spawn(upgraded(tasks, caller, workload, line, Some((permit, Arc::clone(&served)))));
            response.map(|()| AnswerBody::silent())
        }
        Err(denial) => {
            refused_to("request", &served.permitted.hop, &denial, &served.ctx);
            line.refused(&denial);
            let head = refusal(&denial, line.is_grpc());
            line.answered(head.status().as_u16(), head.headers());
            head.map(|()| AnswerBody::empty(line))
        }
    })
}

pub(super) enum Answered {
    Response(Response<Incoming>, Option<Lease>),
    /// Of a proxy itself.
    Short(Response<()>),
    Upgraded(Response<()>, OnUpgrade, OnUpgrade),
}

impl Served {
    async fn exchange(
        &self,
        head: Parts,
        body: Incoming,
        line: &mut Line,
    ) -> Result<(Answered, PermittedRequest), Denial> {
        let asked = request::read(&head)?;
        line.asked(&asked);
        // Each request needs what the stream needed, at this moment.
        let permit = policy::permit_request(&self.permitted, asked.facts.clone(), &self.ctx)?;
        let forwarded = self.forward(head, body, &asked, &permit, line);
        tokio::select! {
            biased;
            () = permit.cut() => Err(permit.cause()),
            answered = forwarded => Ok((answered?, permit)),
        }
    }

    async fn forward(
        &self,
        mut head: Parts,
        body: Incoming,
        asked: &Asked,
        permit: &PermittedRequest,
        line: &mut Line,
    ) -> Result<Answered, Denial> {
        let stamp = self.stamp(&permit.admission);
        headers::strip(&mut head.headers);
        headers::trace(&mut head.headers, &*self.ctx.random);
        line.permitted(permit, &stamp, &head.headers);
        stamp.set(&mut head.headers, self.age(&stamp));
        let limit = self.ctx.limits.http.body_bytes;
        check_length(&head, limit)?;
        let caller = head.extensions.remove::<OnUpgrade>();
        let over_two = match self.protocol {
            AppProtocol::Http2 | AppProtocol::Grpc => true,
            AppProtocol::Http | AppProtocol::Tcp => head.version == Version::HTTP_2,
        };
        let body = RequestBody::new(body, limit, Arc::clone(&line.received));
        if over_two {
            let request = Request::from_parts(for_two(head, asked)?, body);
            let response = self.upstream.ask_two(request).await.map_err(|failed| failed.denial)?;
            return answered(response, None, None);
        }
        let upgrade = caller.filter(|_| asked.upgrade.is_some());
        let request = Request::from_parts(for_one(head, asked, upgrade.is_some())?, body);
        let (response, lease) = self.upstream.ask_one(request).await.map_err(|failed| failed.denial)?;
        answered(response, Some(lease), upgrade)
    }

    /// Who calls, at this moment.
    fn stamp(&self, admission: &Arc<Admission>) -> Arc<Stamp> {
        if let Some(stamp) = self.stamp.load_full()
            && Arc::ptr_eq(&stamp.admission, admission)
        {
            return stamp;
        }
        let stamp = Arc::new(Stamp::new(Arc::clone(admission), &self.permitted.hop.me));
        self.stamp.store(Some(Arc::clone(&stamp)));
        stamp
    }

    /// How many seconds ago the peer proved itself last: in a round, or, where there
    /// are none, for its certificate.
    fn age(&self, stamp: &Stamp) -> u64 {
        let session = self.permitted.hop.session.as_ref();
        match session.and_then(|session| session.state().peer.since) {
            Some(since) => self.ctx.clock.monotonic().saturating_sub(since).as_secs(),
            None => self.ctx.clock.seconds().saturating_sub(stamp.admission.presented.not_before),
        }
    }
}

/// A body that says that it is too long need not come.
pub(super) fn check_length(head: &Parts, limit: Option<u64>) -> Result<(), Denial> {
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match (length, limit) {
        (Some(length), Some(limit)) if length > limit => {
            let expected = format!("at most {limit} bytes");
            Err(Finding::new(Reason::RequestTooLarge, "body", expected, length.to_string()).into())
        }
        _ => Ok(()),
    }
}

/// The head of a request as HTTP/1.1 has it.
pub(super) fn for_one(mut head: Parts, asked: &Asked, upgrades: bool) -> Result<Parts, Denial> {
    head.version = Version::HTTP_11;
    head.uri = Uri::from(asked.target.clone());
    let host = HeaderValue::try_from(&asked.host).map_err(|_| malformed("host"))?;
    head.headers.insert(HOST, host);
    if let Some(protocol) = asked.upgrade.clone().filter(|_| upgrades) {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
    }
    Ok(head)
}

/// The head of a request as HTTP/2 has it.
pub(super) fn for_two(mut head: Parts, asked: &Asked) -> Result<Parts, Denial> {
    head.version = Version::HTTP_2;
    head.headers.remove(HOST);
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(asked.target.clone());
    if !asked.host.is_empty() {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::try_from(asked.host.as_str()).map_err(|_| malformed("host"))?);
    }
    head.uri = Uri::from_parts(uri).map_err(|_| malformed("request target"))?;
    Ok(head)
}

fn malformed(field: &str) -> Denial {
    Finding::new(Reason::BadRequest, field, "one that can be forwarded", "another").into()
}

/// The workload's answer, as the caller gets it.
pub(super) fn answered(
    mut response: Response<Incoming>,
    lease: Option<Lease>,
    caller: Option<OnUpgrade>,
) -> Result<Answered, Denial> {
    *response.version_mut() = Version::HTTP_11;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        headers::strip_answer(response.headers_mut());
        return Ok(Answered::Response(response, lease));
    }
    let Some(caller) = caller else {
        let presented = "101 Switching Protocols";
        return Err(Finding::new(Reason::ConnectFailed, "workload", "an answer", presented).into());
    };
    let workload = hyper::upgrade::on(&mut response);
    let protocol = response.headers().get(UPGRADE).cloned();
    headers::strip_answer(response.headers_mut());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        response.headers_mut().insert(UPGRADE, protocol);
    }
    Ok(Answered::Upgraded(response.map(drop), caller, workload))
}

/// Bytes of another protocol, both ways, until both sides have ended it.
pub(super) async fn upgraded(
    tasks: Tasks,
    caller: OnUpgrade,
    workload: OnUpgrade,
    mut line: Line,
    permit: Option<(PermittedRequest, Arc<Served>)>,
) {
    let permit = permit.as_ref().map(|(permit, _)| permit);
    let both = async {
        let (caller, workload) = tokio::try_join!(caller, workload).map_err(|error| error.to_string())?;
        let (mut caller, mut workload) = (TokioIo::new(caller), TokioIo::new(workload));
        let copied = tokio::select! {
            biased;
            cause = cut(permit) => Err(cause),
            copied = copy_bidirectional(&mut caller, &mut workload) => copied.map_err(|e| broken(&e.to_string())),
        };
        if copied.is_err() {
            // Both ends are still there: what broke must not look like an orderly end.
            tasks.abandon();
        }
        Ok::<_, String>(copied)
    };
    match both.await.unwrap_or_else(|error| Err(broken(&error))) {
        Ok((received, sent)) => {
            line.received.store(received, Ordering::Relaxed);
            line.sent = sent;
            line.done();
        }
        Err(denial) => line.refused(&denial),
    }
}

/// Why the request is cut, if it ever is.
async fn cut(permit: Option<&PermittedRequest>) -> Denial {
    let Some(permit) = permit else { return std::future::pending().await };
    permit.cut().await;
    permit.cause()
}

fn broken(why: &str) -> Denial {
    Finding::new(Reason::ConnectFailed, "stream", "an orderly end", why).into()
}

/// The answer that says no, and why, by the reason table.
pub(super) fn refusal(denial: &Denial, grpc: bool) -> Response<()> {
    let status =
        StatusCode::from_u16(denial.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(REASON_HEADER, HeaderValue::from_static(denial.reason.code()));
    if grpc {
        // Trailers alone (gRPC over HTTP/2, "Responses").
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", grpc_status(status).into());
        headers.insert("grpc-message", HeaderValue::from_static(denial.reason.code()));
    } else {
        *response.status_mut() = status;
    }
    response
}

/// As gRPC itself reads a status of HTTP, but for what a proxy can say better.
const fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 3,
        401 => 16,
        403 => 7,
        404 => 12,
        413 | 429 => 8,
        500 => 13,
        502..=504 => 14,
        _ => 2,
    }
}
