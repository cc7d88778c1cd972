//! A length and so many bytes, in bounded time and space.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Reads one message of at most `most` bytes.
pub(super) async fn read(stream: &mut UnixStream, most: usize, limit: Duration) -> io::Result<Vec<u8>> {
    let reading = async {
        let size = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        if size > most {
            let what = format!("a message of {size} bytes, accepted: at most {most}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut bytes = vec![0; size];
        stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    };
    timeout(limit, reading).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Writes one message.
pub(super) async fn write(stream: &mut UnixStream, bytes: &[u8], limit: Duration) -> io::Result<()> {
    let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(bytes.len() + 4);
    message.extend_from_slice(&size.to_be_bytes());
    message.extend_from_slice(bytes);
    let writing = async {
        stream.write_all(&message).await?;
        stream.flush().await
    };
    timeout(limit, writing).await.map_err(|_| io::ErrorKind::TimedOut)?
}
