//! The authority of a CONNECT request: which port a peer asks for.
#![no_main]

use countersign_proxy::route::authority_port;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(port) = authority_port(text) else { return };
    // There is one way to write what is accepted, and others read it as we do.
    let (host, written) = text.rsplit_once(':').expect("a port");
    assert!(port != 0 && !host.is_empty() && !host.contains('@'));
    assert_eq!(written, port.to_string());
    let authority: http::uri::Authority = text.parse().expect("an authority");
    assert_eq!((authority.host(), authority.port_u16()), (host, Some(port)));
});
