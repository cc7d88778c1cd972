//! Sockets with the options that a proxied connection needs.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

// Linux clamps it to net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Keepalive: first probe after 180 s of silence, then every 180 s, nine times.
const KEEPALIVE: Duration = Duration::from_secs(180);
const KEEPALIVE_PROBES: u32 = 9;
/// Unacknowledged data ends a connection after this time.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A listening socket. Must be called inside a Tokio runtime.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bound(address, false)
}

/// A listening socket for one version of IP alone, so that the other can have the
/// same port. Must be called inside a Tokio runtime.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen_alone(address: SocketAddr) -> io::Result<TcpListener> {
    bound(address, true)
}

fn bound(address: SocketAddr, alone: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if alone && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Where a connection was going before it came here: by REDIRECT, which the
/// system remembers, or by TPROXY, which leaves it as our own address.
///
/// # Errors
/// When the connection is gone.
pub fn original_destination(socket: &TcpStream) -> io::Result<SocketAddr> {
    let local = socket.local_addr()?;
    let socket = SockRef::from(socket);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // Of a connection that nobody redirected the system may know nothing.
    Ok(original.ok().and_then(|address| address.as_socket()).unwrap_or(local))
}

/// Sets the options of an accepted or connected socket: no delay, keepalive,
/// and a limit for unacknowledged data where the peer is another machine. One on this
/// machine does not vanish unseen, and a workload that does not read for a while is
/// none that is gone: the system counts its closed window as unacknowledged data.
///
/// # Errors
/// When the system refuses an option (the peer may be gone already).
pub fn tune(socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    match is_local(socket.local_addr()?.as_socket(), socket.peer_addr()?.as_socket()) {
        true => Ok(()),
        false => socket.set_tcp_user_timeout(Some(USER_TIMEOUT)),
    }
}

/// Whether both ends are on this machine; also of a connection that was redirected here.
fn is_local(here: Option<SocketAddr>, there: Option<SocketAddr>) -> bool {
    let (Some(here), Some(there)) = (here, there) else { return false };
    here.ip().is_loopback() || there.ip().is_loopback() || here.ip() == there.ip()
}

/// Connects to `address`, with the options of [`tune`].
///
/// # Errors
/// When the connection cannot be made. The caller bounds the time.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let stream = socket.connect(address).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Ends a connection at once: what is queued is thrown away and the peer sees a
/// reset, so that it cannot take a cut for an orderly end.
pub fn abort(socket: TcpStream) {
    // A socket that is gone already needs no reset.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_workload_that_does_not_read_is_not_given_up_and_another_machine_is() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(SockRef::from(&client).tcp_user_timeout().unwrap(), None);
        assert!(SockRef::from(&client).keepalive().unwrap());
        let [one, other, redirected] =
            ["10.0.0.5:1", "10.0.0.6:1", "127.0.0.1:15001"].map(|address| address.parse().ok());
        assert!(is_local(one, one) && is_local(redirected, one));
        assert!(!is_local(one, other));
    }
}
