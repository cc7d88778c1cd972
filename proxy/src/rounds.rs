//! Rounds on a live hop: frames of the session protocol on stream 1 of HTTP/2
//! (3-attestation, section 4.1). The client opens it before anything else, and
//! it stays for as long as the hop. On a dedicated hop there are records for them.

use std::time::Duration;

use bytes::Bytes;
use countersign_evidence::{Denial, Finding, Reason};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};

use crate::context::Context;
use crate::hop::broken;
use crate::live::Hop;
use crate::session::carrier::{Carrier, StreamOne};
use crate::session::drive::{self, Goal};
use crate::session::window::{RESERVE, Window};

const PATH: &str = "/.well-known/ratls-mesh/attest";
const FRAMES: HeaderValue = HeaderValue::from_static("application/vnd.countersign.ratls-mesh-frames");
/// The stream of the rounds.
const ONE: u32 = 1;
/// For how long the connection of a hop that is cut stays to say why.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(100);

/// A request for the rounds that waits for its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    response: ResponseFuture,
    send: SendStream<Bytes>,
}

/// Opens the channel: the first request of a connection, which makes it stream 1.
pub(crate) fn ask(sender: &mut SendRequest<Bytes>) -> Result<Asked, Denial> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::builder()
        .scheme("https")
        .authority("peer")
        .path_and_query(PATH)
        .build()
        .map_err(|error| Finding::new(Reason::Internal, "attest request", "a URI", error.to_string()))?;
    request.headers_mut().insert(CONTENT_TYPE, FRAMES);
    let (response, mut send) = sender.send_request(request, false).map_err(|error| broken(&error))?;
    if send.stream_id().as_u32() != ONE {
        let presented = send.stream_id().as_u32().to_string();
        return Err(Finding::new(Reason::Internal, "attest stream", "1", presented).into());
    }
    // Before any other stream can take it.
    send.reserve_capacity(RESERVE);
    Ok(Asked { response, send })
}

impl Asked {
    /// The channel, when the peer has said yes.
    pub(crate) async fn answered(self, window: &Window) -> Result<StreamOne, Denial> {
        let response = self.response.await.map_err(|error| broken(&error))?;
        let (status, kind) = (response.status(), response.headers().get(CONTENT_TYPE));
        if status != StatusCode::OK || kind != Some(&FRAMES) {
            return Err(refused("answer to the attest request", "200 with frames", status.as_str()));
        }
        Ok(StreamOne::new(self.send, response.into_body(), window))
    }
}

/// Whether a request is for the rounds.
pub(crate) fn is_attest(request: &Request<RecvStream>) -> bool {
    request.uri().path() == PATH
}

/// Answers the request for the rounds.
pub(crate) fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    window: &Window,
) -> Result<StreamOne, Denial> {
    let stream = respond.stream_id().as_u32();
    let is_attest = is_attest(&request);
    let (head, body) = request.into_parts();
    if !is_attest || head.method != Method::POST || head.headers.get(CONTENT_TYPE) != Some(&FRAMES) {
        return Err(refused("first request of a hop", "POST of frames for the rounds", head.method.as_str()));
    }
    if stream != ONE {
        return Err(refused("attest stream", "1", &stream.to_string()));
    }
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, FRAMES);
    let send = respond.send_response(response, false).map_err(|error| broken(&error))?;
    Ok(StreamOne::new(send, body, window))
}

/// What breaks the rules of the channel.
pub(crate) fn refused(field: &str, expected: &str, presented: &str) -> Denial {
    Finding::new(Reason::BadRequest, field, expected, presented).into()
}

/// Drives the rounds of `hop` over the stream that comes, until the hop is cut
/// and what the peer is to be told is on its way. Answers with the stream, which
/// takes that back when it is dropped.
/// On a hop without a session there is nothing to do, for as long as it lives.
pub(crate) async fn run<C: Carrier>(
    hop: &Hop,
    stream: impl Future<Output = Result<C, Denial>>,
    ctx: &Context,
) -> Option<C> {
    let Some(session) = &hop.session else {
        hop.cut.cancelled().await;
        return None;
    };
    // That it comes in time is the machine's business.
    match drive::attach(hop, session, stream, ctx).await? {
        Ok(mut stream) => {
            drive::drive(hop, session, &mut stream, Goal::Rounds, ctx).await;
            if hop.has_last_words() {
                drive::last_words(session, &mut stream, LAST_WORDS).await;
            }
            Some(stream)
        }
        Err(denial) => {
            hop.channel_failed(denial, ctx);
            None
        }
    }
}
