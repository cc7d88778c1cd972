//! A client with a live hop of its own: it went through the gate as an honest
//! peer does, has the channel for the rounds, and says there what a test wants.

use std::net::SocketAddr;

use bytes::Bytes;
use countersign_ratls::session::Side;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use crate::attacker::{Offer, Raw, attest_request};
use crate::clock::Clock;
use crate::session::{Gate, Prover, Speaker};
use crate::wait::within;

/// A visitor, until it is dropped.
#[derive(Debug)]
pub struct Visitor {
    /// Its end of the session.
    pub speaker: Speaker,
    streams: SendRequest<Bytes>,
    out: SendStream<Bytes>,
    incoming: RecvStream,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Visitor {
    /// Goes through the gate at `address`, and opens the channel.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn enter(prover: &Prover, address: SocketAddr, clock: &Clock) -> Self {
        let raw = Raw::new(Offer::of(&prover.identity), clock);
        let mut stream = raw.handshake(address).await.unwrap();
        let mut speaker = Speaker::new(prover, Side::Client, stream.get_ref().1, clock);
        let rest = match speaker.gate(&mut stream).await {
            Gate::Open(rest) => rest,
            other => panic!("not let in: {other:?}"),
        };
        let (read, write) = tokio::io::split(stream);
        let stream = tokio::io::join(std::io::Cursor::new(rest).chain(read), write);
        let (mut streams, connection) = within("HTTP/2", h2::client::handshake(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let (response, out) = streams.send_request(attest_request(), false).unwrap();
        let incoming = within("the channel", response).await.unwrap().into_body();
        speaker.endpoint.attached(clock.moment());
        Self { speaker, streams, out, incoming, connection }
    }

    /// Asks for a stream to `port`, and holds it.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn call(&mut self, port: u16) -> (StatusCode, SendStream<Bytes>) {
        self.streams = within("room for a stream", self.streams.clone().ready()).await.unwrap();
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = format!("ledger:{port}").parse().unwrap();
        let (response, stream) = self.streams.send_request(request, false).unwrap();
        (within("an answer", response).await.unwrap().status(), stream)
    }

    /// What the peer says next on the channel.
    ///
    /// # Panics
    /// When it says nothing more.
    pub async fn hear(&mut self) -> Bytes {
        let bytes = within("frames of the peer", self.incoming.data()).await.expect("frames").unwrap();
        self.incoming.flow_control().release_capacity(bytes.len()).unwrap();
        bytes
    }

    /// Says this on the channel.
    ///
    /// # Panics
    /// When the channel is closed.
    pub fn say(&mut self, bytes: Vec<u8>) {
        self.out.send_data(bytes.into(), false).unwrap();
    }

    /// Hears what the peer says next, and answers as an honest peer does.
    pub async fn answer(&mut self) {
        let bytes = self.hear().await;
        let (answer, _) = self.speaker.hear(&bytes);
        if !answer.is_empty() {
            self.say(answer);
        }
    }

    /// Waits until the connection is over; it must end by a reset.
    ///
    /// # Panics
    /// When it stays, or ends in order.
    pub async fn is_cut_off(&mut self) {
        let ended = within("the end of a hop", &mut self.connection).await.unwrap();
        assert!(ended.is_err(), "the hop ended in order");
    }
}
