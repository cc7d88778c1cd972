//! The records of a dedicated hop, by hand.

use std::io;

use bytes::BytesMut;
use countersign_proxy::opaque::record::{self, Connect, Kind, Part, Reader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::called::SECRET;
use super::peer::Plain;

/// What our peers may send beyond what we have taken.
pub const WINDOW: u32 = 1 << 20;

pub struct Records {
    stream: Plain,
    reader: Reader,
    /// What came besides the session's, in order; data as one entry for each piece.
    pub parts: Vec<Part>,
    /// The data among it.
    pub data: Vec<u8>,
    /// How the connection ended.
    pub end: Option<io::Result<()>>,
}

impl Records {
    pub fn new(stream: Plain) -> Self {
        Self { stream, reader: Reader::default(), parts: Vec::new(), data: Vec::new(), end: None }
    }

    /// Writes any bytes.
    pub async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    pub async fn write(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        self.raw(&record(kind, payload)).await
    }

    /// Asks for `port` of the workload.
    pub async fn connect(&mut self, port: u16) {
        self.raw(&connect(port)).await.unwrap();
    }

    /// Ends TLS, and TCP.
    pub async fn close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads something; the session's bytes go to `session`. False at the end.
    pub async fn read(&mut self, session: &mut Vec<u8>) -> io::Result<bool> {
        let mut some = BytesMut::with_capacity(64 << 10);
        let read = self.stream.read_buf(&mut some).await;
        self.reader.buffer().extend_from_slice(&some);
        while let Some(part) = self.reader.part().expect("records, and nothing else") {
            match part {
                Part::Attest(n) => {
                    session.extend_from_slice(self.reader.front(n));
                    self.reader.pass(n);
                }
                Part::Data(n) => {
                    self.data.extend_from_slice(self.reader.front(n));
                    self.reader.pass(n);
                    self.parts.push(part);
                }
                _ => self.parts.push(part),
            }
        }
        match read {
            Ok(1..) => Ok(true),
            end => {
                self.end = Some(end.map(drop));
                Ok(false)
            }
        }
    }
}

pub fn record(kind: Kind, payload: &[u8]) -> Vec<u8> {
    [&record::head(kind, payload.len()), payload].concat()
}

/// A call of `port` of the workload.
pub fn connect(port: u16) -> Vec<u8> {
    let connect = Connect { window: WINDOW, authority: format!("ledger:{port}"), ..Connect::default() };
    record(Kind::Connect, &connect.encode())
}

/// Everything that a peer behind the gate would say: a call, and a secret without
/// waiting for the answer.
pub fn call(port: u16) -> Vec<u8> {
    [connect(port), record(Kind::Data, SECRET)].concat()
}

/// Yes to a call, and a secret.
pub fn answer() -> Vec<u8> {
    let answer = record::Answer { status: 200, window: WINDOW, reason: None };
    [record(Kind::Answer, &answer.encode()), record(Kind::Data, SECRET)].concat()
}
