//! `/dev/tdx_guest` for the TDREPORT, and the host's quote generation service
//! (QGS) over vsock for the quote.
//!
//! This is the fast way: the kernel's own (configfs-tsm) looks once a second
//! whether the host has answered. The host must run Intel's QGS with a vsock
//! port, which `/etc/tdx-attest.conf` names, as for Intel's own library.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_evidence::claims::Tee;
use countersign_evidence::evidence::{TsmReport, media_type};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::ioctl;
use crate::machine::{is_over, obstacle, text, under};
use crate::{Attester, Detection, Error, Produced};

const DRIVER: &str = "tdx-guest";
const NODE: &str = "/dev/tdx_guest";
const VSOCK: &str = "/dev/vsock";
const CONF: &str = "/etc/tdx-attest.conf";
/// VMADDR_CID_HOST.
const HOST: u32 = 2;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the driver needs of the device.
trait Device: Send + Sync + fmt::Debug {
    fn report(&self, report_data: &[u8; 64]) -> io::Result<[u8; 1024]>;
}

impl Device for File {
    fn report(&self, report_data: &[u8; 64]) -> io::Result<[u8; 1024]> {
        ioctl::tdx_report(self, report_data)
    }
}

/// A connection to the QGS.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// How to reach the QGS.
trait Connect: Send + Sync + fmt::Debug {
    fn connect(&self) -> io::Result<Box<dyn Stream>>;
}

/// The host's vsock port.
#[derive(Debug)]
struct Vsock {
    port: u32,
}

impl Connect for Vsock {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        socket.connect_timeout(&SockAddr::vsock(HOST, self.port), Duration::from_secs(2))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Box::new(socket))
    }
}

pub(crate) fn detect(root: &Path) -> Detection {
    let node = "no TDX guest, or kernel option CONFIG_TDX_GUEST_DRIVER is off (Linux 6.2 or later)";
    let vsock = "kernel option CONFIG_VIRTIO_VSOCKETS, or modprobe vmw_vsock_virtio_transport; the host must \
                 give the guest a vsock device";
    let mut missing: Vec<_> =
        [obstacle(root, NODE, node), obstacle(root, VSOCK, vsock)].into_iter().flatten().collect();
    if let Err(why) = port(root) {
        missing.push(why);
    }
    Detection { driver: DRIVER, tee: Tee::Tdx, missing }
}

/// The port that the configuration names: a line `port=4050`.
fn port(root: &Path) -> Result<u32, String> {
    let conf = text(root, CONF).map_err(|e| {
        format!("{CONF} cannot be read ({e}): write the vsock port of the host's QGS, port=4050")
    })?;
    let value = conf.lines().find_map(|line| {
        let (key, value) = line.split('#').next()?.split_once('=')?;
        (key.trim() == "port").then(|| value.trim())
    });
    match value.map(str::parse) {
        Some(Ok(port)) if port > 0 => Ok(port),
        _ => Err(format!("{CONF} names no port: write the vsock port of the host's QGS, port=4050")),
    }
}

/// Opens the device and sees that the QGS can be reached.
pub(crate) fn open(root: &Path) -> Result<Arc<dyn Attester>, Error> {
    let device = ioctl::open(&under(root, NODE)).map_err(|e| io_error(format!("open {NODE}"), e))?;
    let port = port(root).map_err(|missing| Error::Unavailable { driver: DRIVER, missing })?;
    let connect = Vsock { port };
    connect.connect().map_err(|e| Error::Unavailable {
        driver: DRIVER,
        missing: format!("no QGS answers at vsock port {port} of the host ({e}): start Intel's qgsd there"),
    })?;
    Ok(Arc::new(TdxGuest { device: Box::new(device), qgs: Box::new(connect) }))
}

#[derive(Debug)]
struct TdxGuest {
    device: Box<dyn Device>,
    qgs: Box<dyn Connect>,
}

impl Attester for TdxGuest {
    fn tee(&self) -> Tee {
        Tee::Tdx
    }

    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        let tdreport =
            self.device.report(report_data).map_err(|e| io_error(format!("TDREPORT from {NODE}"), e))?;
        let mut stream = self.qgs.connect().map_err(|e| io_error("connect to the QGS".to_owned(), e))?;
        let quote = qgs::quote(&mut *stream, &tdreport)?;
        is_over(&quote, report_data, DRIVER)?;
        let report = TsmReport { provider: "tdx_guest".into(), outblob: quote.into(), auxblob: None };
        Ok(Produced::new(media_type::TSM_TDX, report.encode()))
    }
}

fn io_error(what: String, source: io::Error) -> Error {
    Error::Io { driver: DRIVER, what, source }
}

/// The messages of the QGS (Intel DCAP, qgs_msg_lib.h): a length of 4 bytes big
/// endian, then a header of 16 bytes and a body, little endian.
mod qgs {
    use super::{DRIVER, Error, Stream, io_error};

    const MAJOR: u16 = 1;
    const MINOR: u16 = 1;
    const GET_QUOTE_REQ: u32 = 0;
    const GET_QUOTE_RESP: u32 = 1;
    /// Header, and the two lengths that start a body.
    const FIXED: u32 = 24;
    /// The largest answer: a quote has about 5 KiB.
    const LIMIT: u32 = 64 * 1024;

    /// Asks for a quote of this TDREPORT.
    pub(super) fn quote(stream: &mut dyn Stream, tdreport: &[u8; 1024]) -> Result<Vec<u8>, Error> {
        stream
            .write_all(&request(tdreport))
            .and_then(|()| stream.flush())
            .map_err(|e| io_error("send to the QGS".to_owned(), e))?;
        let mut length = [0; 4];
        let received = |e| io_error("receive from the QGS".to_owned(), e);
        stream.read_exact(&mut length).map_err(received)?;
        let length = u32::from_be_bytes(length);
        if !(FIXED..=LIMIT).contains(&length) {
            return Err(refuse(&format!("a message of {length} bytes")));
        }
        let mut message = vec![0; length as usize];
        stream.read_exact(&mut message).map_err(received)?;
        response(&message)
    }

    pub(super) fn request(tdreport: &[u8; 1024]) -> Vec<u8> {
        let size = FIXED + 1024;
        let mut out = Vec::with_capacity(size as usize + 4);
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        // type, size, error code, size of the report, size of the list of key IDs
        for number in [GET_QUOTE_REQ, size, 0, 1024, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(tdreport);
        out
    }

    /// Reads header, selected key ID and quote. The minor version may differ:
    /// services before DCAP 1.21 say 0.
    fn response(message: &[u8]) -> Result<Vec<u8>, Error> {
        let Some((fixed, rest)) = message.split_first_chunk::<{ FIXED as usize }>() else {
            return Err(refuse("a message without a header"));
        };
        let [m0, m1, _, _, numbers @ ..] = *fixed;
        let number = |at: usize| {
            numbers.get(at * 4..).and_then(|n| n.first_chunk()).map_or(0, |n| u32::from_le_bytes(*n))
        };
        let (kind, size, error) = (number(0), number(1), number(2));
        if u16::from_le_bytes([m0, m1]) != MAJOR || kind != GET_QUOTE_RESP || size as usize != message.len() {
            return Err(refuse(&format!("a message of type {kind} and size {size}")));
        }
        if error != 0 {
            return Err(Error::Protocol(format!("the QGS failed with error {error:#x}"), DRIVER));
        }
        let (id, quote) = (number(3) as usize, number(4) as usize);
        match rest.split_at_checked(id) {
            Some((_, rest)) if rest.len() == quote && quote > 0 => Ok(rest.to_vec()),
            _ => Err(refuse(&format!("a quote of {quote} bytes in a message of {size}"))),
        }
    }

    fn refuse(what: &str) -> Error {
        Error::Protocol(format!("the QGS answered with {what}"), DRIVER)
    }
}

#[cfg(test)]
mod tests;
