//! HTTP/1.1 by hand, on both sides: what is written is what is tested.

use countersign_config::bootstrap::ProxyBootstrap;
use countersign_config::kinds::service::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Pair, World, within};

/// A pair whose port speaks this.
pub async fn pair(protocol: AppProtocol) -> Pair {
    pair_with(protocol, |_| {}).await
}

/// The same, with something changed in the bootstrap of both.
pub async fn pair_with(protocol: AppProtocol, change: impl Fn(&mut ProxyBootstrap)) -> Pair {
    let declare = |bootstrap: &mut ProxyBootstrap| {
        if let Some(inbound) = &mut bootstrap.inbound {
            inbound.ports[0].protocol = Some(protocol);
        }
        change(bootstrap);
    };
    Pair::build(World::new(), declare).await
}

/// One end of a connection.
pub struct Spoken(pub TcpStream);

/// A message: its first line, its fields as they came, its body as it was framed.
#[derive(Debug)]
pub struct Message {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Message {
    /// The one value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        match (values.next(), values.next()) {
            (one, None) => one.map(|(_, value)| value.as_str()),
            _ => panic!("several {name}: {self:?}"),
        }
    }

    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Spoken {
    /// A connection of the application.
    pub async fn application(pair: &Pair) -> Self {
        Self(TcpStream::connect(pair.web.addresses.outbound[0]).await.unwrap())
    }

    /// The next connection to the workload.
    pub async fn workload(pair: &Pair) -> Self {
        Self(within("a call of the workload", pair.workload.accept()).await.unwrap().0)
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next message, up to its body.
    pub async fn head(&mut self) -> Message {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("a head", self.0.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let start = lines.next().unwrap().to_owned();
        let field =
            |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())).unwrap();
        Message { start, fields: lines.map(field).collect() }
    }

    /// Bytes that must come next.
    pub async fn hears(&mut self, expected: impl AsRef<[u8]>) {
        let mut bytes = vec![0; expected.as_ref().len()];
        within("bytes", self.0.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(expected.as_ref()));
    }

    /// Whatever comes until the end, which is in order.
    pub async fn rest(&mut self) -> String {
        let mut rest = String::new();
        within("the end", self.0.read_to_string(&mut rest)).await.unwrap();
        rest
    }

    /// Answers 200 with this body.
    pub async fn answer(&mut self, body: &str) {
        self.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    }

    /// Asks for a path, without a body.
    pub async fn get(&mut self, path: &str) {
        self.say(format!("GET {path} HTTP/1.1\r\nhost: ledger\r\n\r\n")).await;
    }
}

/// Whether nobody has called the workload meanwhile.
pub fn nobody_called(pair: &Pair) -> bool {
    let waker = std::task::Waker::noop();
    pair.workload.poll_accept(&mut std::task::Context::from_waker(waker)).is_pending()
}

/// A request for a path, and its answer with this body, over both connections.
pub async fn exchanged(application: &mut Spoken, workload: &mut Spoken, path: &str) {
    application.get(path).await;
    assert_eq!(workload.head().await.start, format!("GET {path} HTTP/1.1"));
    workload.answer("fine").await;
    assert_eq!(application.head().await.status(), 200);
    application.hears("fine").await;
}
