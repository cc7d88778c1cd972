//! Traffic of a workload that knows nothing of the proxy: real rules, real network
//! namespaces, real clients, and two proxies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

mod support;

#[path = "../../tests/shared/namespaces.rs"]
#[allow(unreachable_pub, reason = "shared")]
mod namespaces;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, mpsc};
use std::thread::Scope;

use countersign_attester::emulated::TdxSpec;
use countersign_config::View;
use countersign_config::bootstrap::{Capture, Inbound, ProxyBootstrap};
use countersign_proxy::context::Context;
use countersign_proxy::drain::Drain;
use namespaces::{Namespace, PROXY, Pair};
use support::{LEDGER, Policy, WEB, World};

const NOBODY: u32 = 65_534;
/// What a client waits at most, in seconds.
const PATIENCE: &str = "30";
/// How a client ends whose connection is refused, or reset: maybe before it has seen that it is there.
const REFUSED: i32 = 7;
const RESET: [i32; 3] = [REFUSED, 52, 56];

fn init() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.ancestors().nth(2).unwrap().join("countersign-init");
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

fn rules(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = namespace.command(init()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A real client of this user.
fn curl(namespace: &Namespace, user: u32, arguments: &[&str]) -> Output {
    let mut command = namespace.command_of(user, "curl");
    // What the machine of the test has for a proxy is not of this mesh.
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.args(["-sS", "-m", PATIENCE]).args(arguments).output().unwrap()
}

fn answers(namespace: &Namespace, arguments: &[&str]) {
    let output = curl(namespace, NOBODY, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    assert_eq!(output.stdout, b"ledger\n", "{arguments:?}");
}

fn fails(namespace: &Namespace, user: u32, arguments: &[&str], codes: &[i32]) -> String {
    let output = curl(namespace, user, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code().unwrap();
    assert!(codes.contains(&code), "{arguments:?}: {code} {said} {:?}", output.stdout);
    said
}

/// A workload that answers every request in the same way, for as long as the test runs.
fn workload(namespace: &Namespace, address: &str) {
    let listener = namespace.inside(0, || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => break,
                }
            }
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nledger\n");
        }
    });
}

/// A proxy on a thread of its own; it ends with this.
struct Running {
    ctx: Arc<Context>,
    drain: Drain,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.force();
    }
}

/// Starts a proxy in `namespace`, as the user whose connections are not captured.
fn start<'s>(
    scope: &'s Scope<'s, '_>,
    namespace: &'s Namespace,
    world: &'s World,
    bootstrap: ProxyBootstrap,
    id: &'static str,
    view: &Arc<View>,
) -> Running {
    let (tell, told) = mpsc::sync_channel(1);
    let view = Arc::clone(view);
    scope.spawn(move || {
        namespace.enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let identity = world.identity(id, &*world.platform(TdxSpec::default()));
            let proxy = world.start(&bootstrap, identity, &view);
            // The sockets that it opens from now on are this user's.
            rustix::thread::set_thread_uid(rustix::thread::Uid::from_raw(PROXY)).unwrap();
            tell.send(Running { ctx: Arc::clone(&proxy.ctx), drain: proxy.drain.clone() }).unwrap();
            proxy.task.await.unwrap();
        });
    });
    told.recv().unwrap()
}

fn view(world: &World) -> Arc<View> {
    let policy = Policy { mr_td: 0xd0, ports: vec![8080], level: "L2" };
    let services = r#"
---
apiVersion: countersign.dev/v1alpha1
kind: Service
metadata: { name: ledger, namespace: payments }
spec:
  hosts: [ledger.payments]
  addresses: [10.96.0.10, "fd96::10"]
  ports: [{ port: 80, targetPort: 8080 }, { port: 81, targetPort: 8081 }]
  selector: { matchLabels: { app: ledger } }
---
apiVersion: countersign.dev/v1alpha1
kind: WorkloadEntry
metadata: { name: ledger-0, namespace: payments }
spec: { address: 10.77.0.2, workload: ledger, labels: { app: ledger } }
"#;
    world.view_from(1, &(world.text(&policy, "") + services))
}

fn web(world: &World) -> ProxyBootstrap {
    let mut bootstrap = world.bootstrap("web", None, Vec::new());
    bootstrap.capture = Some(Capture { outbound: 15001, inbound: 15006 });
    bootstrap.explicit = Some("127.0.0.1:15080".parse().unwrap());
    bootstrap
}

fn ledger(world: &World) -> ProxyBootstrap {
    let listen: SocketAddr = "0.0.0.0:15008".parse().unwrap();
    let inbound = Inbound { listen, workload: [127, 0, 0, 1].into(), ports: vec![8080.into(), 8081.into()] };
    let mut bootstrap = world.bootstrap("ledger", Some(inbound), Vec::new());
    bootstrap.capture = Some(Capture { outbound: 15001, inbound: 15006 });
    bootstrap
}

fn refusals(running: &Running, direction: &str, reason: &str) -> u64 {
    let metrics = String::from_utf8(running.ctx.metrics.render().unwrap()).unwrap();
    let start = format!("mesh_connections_refused_total{{direction=\"{direction}\",reason=\"{reason}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.parse().unwrap())
}

/// The addresses of the ledger, which no machine has.
const LEDGERS: [&str; 2] = ["http://10.96.0.10/", "http://[fd96::10]/"];
/// A server of machine B that is no Service.
const STRANGERS: [&str; 2] = ["http://10.77.0.2:8000/", "http://[fd77::2]:8000/"];

/// Both machines, their workloads, and whether anybody reached the stranger.
fn mesh(test: impl FnOnce(&Pair, &World, &Arc<View>)) {
    let Some(pair) = Pair::new() else { return };
    let world = World::new();
    let view = view(&world);
    workload(&pair.b, "127.0.0.1:8080");
    test(&pair, &world, &view);
}

fn captured(backend: &str) {
    mesh(|pair, world, view| {
        let stranger = pair.b.inside(0, || TcpListener::bind("[::]:8000").unwrap());
        stranger.set_nonblocking(true).unwrap();
        let nobody_reached = || assert_eq!(stranger.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        rules(&pair.a, &["--backend", backend]);
        let without_the_proxy = || {
            for url in LEDGERS.into_iter().chain(STRANGERS) {
                fails(&pair.a, NOBODY, &[url], &[REFUSED]);
            }
            nobody_reached();
        };
        without_the_proxy();
        std::thread::scope(|scope| {
            let _ledger = start(scope, &pair.b, world, ledger(world), LEDGER, view);
            let web = start(scope, &pair.a, world, web(world), WEB, view);
            for url in LEDGERS {
                answers(&pair.a, &[url]);
                // A port of the Service that nobody may call.
                fails(&pair.a, NOBODY, &[&url.replace("]/", "]:81/").replace("10/", "10:81/")], &RESET);
            }
            assert_eq!(web.ctx.live.len(), 1);
            for (i, url) in STRANGERS.into_iter().enumerate() {
                fails(&pair.a, NOBODY, &[url], &RESET);
                assert_eq!(refusals(&web, "outbound", "unknown-destination"), i as u64 + 1);
            }
            // Whoever connects to the port of the rules by itself goes in no circle.
            fails(&pair.a, NOBODY, &["http://127.0.0.1:15001/"], &RESET);
            nobody_reached();
            let said = rules(&pair.a, &["--validate"]);
            assert_eq!(said.matches("where the proxy listens").count(), 2, "{said}");
        });
        without_the_proxy();
        // The proxy's own user is not captured, or it would reach nobody.
        let _connected = pair.a.inside(PROXY, || TcpStream::connect("10.77.0.2:8000").unwrap());
        stranger.accept().unwrap();
    });
}

#[test]
fn a_workload_calls_a_service_by_its_address_and_nothing_else_by_nftables() {
    captured("nft");
}

#[test]
fn a_workload_calls_a_service_by_its_address_and_nothing_else_by_iptables() {
    captured("iptables");
}

#[test]
fn a_workload_calls_a_service_by_its_name_over_socks5_and_connect() {
    mesh(|pair, world, view| {
        rules(&pair.a, &[]);
        let socks5 = ["--socks5-hostname", "127.0.0.1:15080"];
        let connect = ["--proxytunnel", "-x", "http://127.0.0.1:15080"];
        std::thread::scope(|scope| {
            let _ledger = start(scope, &pair.b, world, ledger(world), LEDGER, view);
            let _web = start(scope, &pair.a, world, web(world), WEB, view);
            for way in [&socks5[..], &connect] {
                for url in ["http://ledger.payments/", "http://10.96.0.10/", "http://[fd96::10]/"] {
                    answers(&pair.a, &[way, &[url]].concat());
                }
            }
            // 97: the SOCKS5 server said no; 56: the HTTP server did.
            let said = fails(&pair.a, NOBODY, &[&socks5[..], &["http://example.com/"]].concat(), &[97]);
            assert!(said.contains("(2)"), "{said}");
            let said = fails(&pair.a, NOBODY, &[&connect[..], &["http://example.com/"]].concat(), &[56]);
            assert!(said.contains("403"), "{said}");
        });
    });
}

#[test]
fn plaintext_that_bypasses_the_proxy_of_a_workload_is_refused_and_counted() {
    mesh(|pair, world, view| {
        let stranger = pair.b.inside(0, || TcpListener::bind("[::]:8000").unwrap());
        stranger.set_nonblocking(true).unwrap();
        rules(&pair.b, &[]);
        for url in STRANGERS {
            fails(&pair.a, NOBODY, &[url], &[REFUSED]);
        }
        std::thread::scope(|scope| {
            let ledger = start(scope, &pair.b, world, ledger(world), LEDGER, view);
            let _web = start(scope, &pair.a, world, web(world), WEB, view);
            for (i, url) in STRANGERS.into_iter().enumerate() {
                fails(&pair.a, NOBODY, &[url], &RESET);
                assert_eq!(refusals(&ledger, "inbound", "plaintext-refused"), i as u64 + 1);
            }
            // Hops arrive all the same.
            answers(&pair.a, &["--socks5-hostname", "127.0.0.1:15080", "http://ledger.payments/"]);
        });
        assert_eq!(stranger.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}
