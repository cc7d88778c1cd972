//! Reading ahead while a connection carries much. TLS asks for 4 KiB at a time, and
//! a system call for so few bytes costs more than their decryption.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;

/// What one read may bring.
const MOST: usize = 64 << 10;

/// What was read and nobody has asked for yet. A connection at rest holds nothing.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    bytes: BytesMut,
    /// The last read brought as much as was asked for: there may be more.
    much: bool,
}

impl Ahead {
    /// Reads into `buf`, from what is here or from the socket.
    pub(crate) fn poll_read(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            if !self.much {
                ready!(Pin::new(socket).poll_read(cx, buf))?;
                self.much = buf.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            // Not before there is something to put into it.
            ready!(socket.poll_read_ready(cx))?;
            let mut bytes = BytesMut::with_capacity(MOST);
            let read = ready!(pin!(socket.read_buf(&mut bytes)).poll(cx))?;
            self.much = read >= buf.remaining();
            self.bytes = bytes;
        }
        let some = self.bytes.len().min(buf.remaining());
        buf.put_slice(self.bytes.get(..some).unwrap_or_default());
        self.bytes.advance(some);
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}
