use std::sync::Arc;
use std::task::Waker;

use countersign_ratls::peer::Role;
use tokio::io::{DuplexStream, duplex, join};

use super::*;
use crate::gate::{Frames, Framing, Outlet};

/// A line over `stream`, the session's end of it, and the switch.
fn line<S>(stream: S, expects: Expects) -> (Line<S>, DuplexStream, Arc<Outlet>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (near, session) = duplex(64);
    let outlet = Arc::new(Outlet::default());
    let frames = Frames::of(Framing::Dedicated, Role::Client);
    let rest = Rest::new(BytesMut::new(), stream, Arc::clone(&outlet), frames);
    (Line::new(rest, near, expects), session, outlet)
}

#[test]
fn what_the_peer_said_before_the_connection_broke_is_heard() {
    let answer = Answer { status: 503, window: 0, reason: None };
    let mut said = Vec::new();
    record::write(&mut said, Kind::Attest, b"why");
    record::write(&mut said, Kind::Answer, &answer.encode());
    let (broken, _) = duplex(64);
    let (mut line, mut session, _) = line(join(&said[..], broken), Expects::Answer);
    line.say(Kind::Connect, b"a:1");
    let cx = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(Event::Answer(heard))) = line.poll(cx) else { panic!("no answer") };
    assert_eq!(heard, answer);
    let mut heard = [0; 9];
    let mut heard = ReadBuf::new(&mut heard);
    assert!(Pin::new(&mut session).poll_read(cx, &mut heard).is_ready());
    assert_eq!(heard.filled(), b"why");
    assert!(matches!(line.poll(cx), Poll::Ready(Err(Broken::Truncated))));
}

#[test]
fn a_write_that_a_cut_stopped_is_no_broken_connection() {
    let (near, _far) = duplex(64);
    let (mut line, _session, outlet) = line(near, Expects::Stream);
    record::write(&mut line.out, Kind::Data, b"bytes of an application");
    line.data = Some(0);
    outlet.shut();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(line.poll(cx).is_pending());
    // Of which nothing is left when the cut is there.
    assert!(line.cease());
    assert!(line.out.is_empty());
}

#[test]
fn an_idle_hop_lets_go_of_its_largest_buffers() {
    let (near, _far) = duplex(64);
    let (mut line, _session, _) = line(near, Expects::Stream);
    // A record of data behind one of credit.
    line.out.reserve_exact(LARGEST + record::HEAD + 4);
    line.reader.buffer().reserve(2 * LARGEST);
    line.reading = LARGEST;
    line.tidy();
    assert_eq!((line.out.capacity(), line.reader.buffer().capacity()), (0, 0));
}
