//! An attested mutual handshake against an ordinary one with the same keys.

use countersign_benches::fixture::now;
use countersign_benches::measure::{alone, compare, heading, line};
use countersign_benches::peers::Peers;
use countersign_ratls::peer::Role;

fn main() -> anyhow::Result<()> {
    let peers = Peers::new()?;
    let known = peers.ends(peers.guards());
    peers.handshake(&known);

    heading();
    let cached = compare(|| peers.plain_handshake(), || peers.handshake(&known));
    line("mutual handshake, verdicts cached / plain mTLS", &cached, 1.15);
    let forgetful = peers.ends(peers.forgetful());
    let fresh = compare(|| peers.plain_handshake(), || peers.handshake(&forgetful));
    line("mutual handshake, fresh TDX both ways / plain", &fresh, 1.8);

    let [_, server] = peers.guards();
    let hit = alone(|| drop(server.judge(peers.client_chain(), Role::Client, now())));
    println!(
        "{:<46} {:>19.2} {:>15.2}",
        "verdict-cache hit, hash included (us)",
        hit.as_secs_f64() * 1e6,
        5.0
    );
    Ok(())
}
