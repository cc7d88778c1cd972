//! The rules on a real system: what they catch, what they leave alone, and that
//! nothing leaves while no proxy is there.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "test code"
)]

#[path = "../../tests/shared/namespaces.rs"]
#[allow(unreachable_pub, reason = "shared")]
mod namespaces;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use namespaces::{Namespace, PROXY, Pair};

/// A connection inside of one machine takes no time; a slow machine may take some.
const PATIENCE: Duration = Duration::from_secs(20);
const BOTH: [&str; 2] = ["10.77.0.2:8000", "[fd77::2]:8000"];
const BACKENDS: [&str; 2] = ["nft", "iptables"];
const NOBODY: u32 = 65_534;

fn init(namespace: &Namespace, arguments: &[&str]) -> Output {
    namespace.command(env!("CARGO_BIN_EXE_countersign-init")).args(arguments).output().unwrap()
}

fn good(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = init(namespace, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn bad(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = init(namespace, arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// Listens on the port of a workload, for both versions of IP.
fn workload(namespace: &Namespace, port: u16) -> TcpListener {
    namespace.inside(0, || TcpListener::bind(("::", port)).unwrap())
}

/// Who answers `user` at `address`: a connection, or how there is none.
fn call(namespace: &Namespace, user: u32, address: &str) -> Result<TcpStream, ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    namespace.inside(user, || TcpStream::connect_timeout(&address, PATIENCE)).map_err(|error| error.kind())
}

fn refused(namespace: &Namespace, user: u32, address: &str) {
    assert_eq!(call(namespace, user, address).unwrap_err(), ErrorKind::ConnectionRefused, "{address}");
}

#[test]
fn without_a_proxy_nothing_of_the_workload_leaves_and_the_proxy_itself_does() {
    let Some(pair) = Pair::new() else { return };
    let _workload = workload(&pair.b, 8000);
    for backend in BACKENDS {
        for address in BOTH {
            call(&pair.a, NOBODY, address).unwrap();
        }
        good(&pair.a, &["--backend", backend]);
        for address in BOTH {
            for user in [0, NOBODY] {
                refused(&pair.a, user, address);
            }
            call(&pair.a, PROXY, address).unwrap();
        }
        good(&pair.a, &["--cleanup"]);
        for address in BOTH {
            call(&pair.a, NOBODY, address).unwrap();
        }
    }
}

#[test]
fn what_is_captured_arrives_at_the_proxy_with_where_it_was_going() {
    let Some(pair) = Pair::new() else { return };
    for backend in BACKENDS {
        good(&pair.a, &["--backend", backend]);
        for (address, loopback) in BOTH.into_iter().zip(["127.0.0.1:15001", "[::1]:15001"]) {
            let loopback: SocketAddr = loopback.parse().unwrap();
            let proxy = pair.a.inside(PROXY, || TcpListener::bind(loopback).unwrap());
            let stream = call(&pair.a, NOBODY, address).unwrap();
            let (_, peer) = proxy.accept().unwrap();
            assert_eq!(peer, stream.local_addr().unwrap(), "{backend} {address}");
            // The workload sees the address that it asked for.
            assert_eq!(stream.peer_addr().unwrap(), address.parse().unwrap());
        }
        good(&pair.a, &["--cleanup"]);
    }
}

#[test]
fn plaintext_from_outside_is_captured_and_the_ports_of_the_proxy_are_not() {
    let Some(pair) = Pair::new() else { return };
    let _ports = [8000, 8001, 15008, 15020, 15021].map(|port| workload(&pair.b, port));
    for backend in BACKENDS {
        good(&pair.b, &["--backend", backend, "--exclude-inbound-ports", "8001"]);
        for address in BOTH {
            refused(&pair.a, 0, address);
            let at = |port: u16| address.replace("8000", &port.to_string());
            for open in [8001, 15008, 15020, 15021] {
                call(&pair.a, 0, &at(open)).unwrap();
            }
            // Whoever is on the machine itself calls it as before.
            call(&pair.b, NOBODY, address).unwrap();
        }
        for address in ["127.0.0.1:8000", "[::1]:8000"] {
            call(&pair.b, NOBODY, address).unwrap();
        }
        good(&pair.b, &["--cleanup"]);
    }
}

#[test]
fn what_is_excluded_leaves_and_what_is_not_included_does() {
    let Some(pair) = Pair::new() else { return };
    let _workload = workload(&pair.b, 8000);
    for backend in BACKENDS {
        for (arguments, leaves) in [
            (["--exclude-outbound-ports", "9,8000"], true),
            (["--exclude-outbound-ip-ranges", "10.77.0.0/16,fd77::/16"], true),
            (["--exclude-interfaces", "eth0"], true),
            (["--uid", "1337,65534"], true),
            (["--gid", "0"], true),
            (["--include-outbound-ip-ranges", "10.1.0.0/16,fd01::/16"], true),
            (["--include-outbound-ip-ranges", "10.0.0.0/8,fd00::/8"], false),
            (["--exclude-outbound-ports", "9"], false),
        ] {
            // Each takes the place of the one before.
            good(&pair.a, &["--backend", backend, arguments[0], arguments[1]]);
            for address in BOTH {
                match leaves {
                    true => drop(call(&pair.a, NOBODY, address).unwrap()),
                    false => refused(&pair.a, NOBODY, address),
                }
            }
        }
        let some = ["--backend", backend, "--include-outbound-ip-ranges=", "--include-outbound-ports=8000"];
        good(&pair.a, &some);
        BOTH.into_iter().for_each(|address| refused(&pair.a, NOBODY, address));
        good(&pair.a, &["--cleanup"]);
    }
}

#[test]
fn the_same_rules_again_are_the_same_rules() {
    let Some(pair) = Pair::new() else { return };
    let rules = |program: &str| {
        let output = pair.a.command(program).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // Counters and dates say nothing about rules.
        let ours = |line: &&str| line.contains("COUNTERSIGN") && !line.starts_with(':');
        text.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>()
    };
    good(&pair.a, &["--backend", "iptables"]);
    let first = (rules("iptables-save"), rules("ip6tables-save"));
    assert!(!first.0.is_empty() && !first.1.is_empty());
    good(&pair.a, &["--backend", "iptables"]);
    assert_eq!((rules("iptables-save"), rules("ip6tables-save")), first);
    good(&pair.a, &["--cleanup"]);
    good(&pair.a, &["--cleanup"]);
    assert!(rules("iptables-save").is_empty() && rules("ip6tables-save").is_empty());

    let table = || {
        let output = pair.a.command("nft").args(["list", "table", "inet", "countersign"]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    good(&pair.a, &["--backend", "nft"]);
    let first = table();
    assert!(first.is_some());
    good(&pair.a, &["--backend", "nft"]);
    assert_eq!(table(), first);
    good(&pair.a, &["--cleanup"]);
    assert_eq!(table(), None);
}

#[test]
fn a_connection_that_somebody_else_sends_elsewhere_first_is_refused() {
    let Some(pair) = Pair::new() else { return };
    let _workload = workload(&pair.b, 8000);
    // Rules of another program that come before ours: ours are not asked any more.
    let other = "table inet other { chain c { type nat hook output priority -110; tcp dport 7000 dnat ip to 10.77.0.2:8000; }; }";
    let output = pair.a.command("nft").arg(other).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    call(&pair.a, NOBODY, "10.9.9.9:7000").unwrap();
    for backend in BACKENDS {
        good(&pair.a, &["--backend", backend]);
        refused(&pair.a, NOBODY, "10.9.9.9:7000");
        good(&pair.a, &["--cleanup"]);
    }
}

#[test]
fn validation_says_whether_the_rules_hold() {
    let Some(pair) = Pair::new() else { return };
    let said = bad(&pair.a, &["--validate"]);
    assert!(said.contains("192.0.2.1:9 was not answered at port 15001"), "{said}");
    for backend in BACKENDS {
        good(&pair.a, &["--backend", backend]);
        let said = good(&pair.a, &["--validate"]);
        assert_eq!(said.matches("is captured; the proxy does not listen yet").count(), 2, "{said}");
        let _proxy = ["127.0.0.1:15001", "[::1]:15001"]
            .map(|address| pair.a.inside(PROXY, || TcpListener::bind(address).unwrap()));
        let said = good(&pair.a, &["--validate"]);
        assert_eq!(said.matches("where the proxy listens").count(), 2, "{said}");
        let said = bad(&pair.a, &["--validate", "--uid", "0"]);
        assert!(said.contains("validate as another user"), "{said}");
        good(&pair.a, &["--cleanup"]);
    }
}

#[test]
fn who_may_not_and_what_is_missing_is_said() {
    let Some(pair) = Pair::new() else { return };
    let program = env!("CARGO_BIN_EXE_countersign-init");
    let other = pair.a.command_of(NOBODY, program).output();
    // The program may lie where this user cannot go; then there is nothing to be said here.
    if let Ok(output) = other
        && output.status.code() == Some(1)
    {
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("needs CAP_NET_ADMIN"), "{said}");
    }
    let nowhere = |arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).env("PATH", "/nonexistent").output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    assert!(nowhere(&[]).contains("install nftables or iptables"), "{}", nowhere(&[]));
    assert!(
        nowhere(&["--backend", "nft"]).contains("nft is not on the PATH"),
        "{}",
        nowhere(&["--backend", "nft"])
    );
}
