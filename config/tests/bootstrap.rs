//! The files that processes start from.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_config::bootstrap::{
    AttesterChoice, ControlPlaneBootstrap, Hop, Machine, ProxyBootstrap, read_collateral,
};
use countersign_config::kinds::service::AppProtocol;
use countersign_config::{Kind, Resource, parse};
use countersign_evidence::UnixTime;
use countersign_ratls::{Authority, Bundle, TrustDomain};

const ATTESTATION: &str = include_str!("../examples/control-plane-attestation.yaml");
const PROXY: &str = include_str!("../examples/proxy.yaml");

/// A directory with everything that the example of a proxy names.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let trust_domain = TrustDomain::parse("prod.example").unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let authority = Authority::create(&trust_domain, 86_400, now).unwrap();
    let bundle = Bundle {
        trust_domain,
        x509_authorities: vec![authority.certificate],
        snapshot_keys: Vec::new(),
        sequence: 1,
        refresh_hint: None,
    };
    write("bundle.json", &bundle.to_json());
    write("control-plane-attestation.yaml", ATTESTATION);
    write("proxy.yaml", PROXY);
    std::fs::create_dir(dir.path().join("collateral")).unwrap();
    write("collateral/b.json", "{}");
    write("collateral/a.pem", "x");
    write("collateral/.hidden", "x");
    let path = dir.path().join("proxy.yaml");
    (dir, path)
}

fn problems(path: &Path, text: &str) -> Vec<String> {
    std::fs::write(path, text).unwrap();
    let dir = format!("{}/", path.parent().unwrap().display());
    let problems = ProxyBootstrap::load(path).map(drop).unwrap_err();
    problems.iter().map(|p| p.to_string().replace(&dir, "")).collect()
}

#[test]
fn a_proxy_is_read_with_the_files_that_it_names() {
    let (dir, path) = directory();
    let proxy = ProxyBootstrap::load(&path).unwrap();
    assert_eq!(proxy.workload, "payments/ledger");
    assert_eq!(proxy.bundle.x509_authorities.len(), 1);
    assert_eq!(proxy.attester, AttesterChoice::Device);
    assert_eq!(proxy.state_dir, dir.path().join("./state/ledger-0"));
    assert_eq!(proxy.control_plane.attestation.len(), 2);
    let names: Vec<_> = proxy.control_plane.collateral.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["a.pem", "b.json"]);
    assert_eq!(proxy.outbound.iter().map(|o| o.hop).collect::<Vec<_>>(), [Hop::Shared, Hop::Dedicated]);
    assert_eq!(proxy.admin.to_string(), "127.0.0.1:15000");
    assert_eq!(proxy.readiness.to_string(), "0.0.0.0:15021");
    assert_eq!(proxy.limits.handshake_timeout, Duration::from_secs(10));
    assert_eq!((proxy.inbound.unwrap().ports, proxy.outbound[0].port), (vec![8443.into()], 8443));
}

#[test]
fn a_port_of_the_workload_is_a_number_or_has_a_protocol() {
    let (_dir, path) = directory();
    let ports = |text: &str| PROXY.replace("ports: [8443]", &format!("ports: {text}"));
    std::fs::write(&path, ports("[8443, { port: 8080, protocol: HTTP }, { port: 50051, protocol: GRPC }]"))
        .unwrap();
    let read: Vec<_> = ProxyBootstrap::load(&path).unwrap().inbound.unwrap().ports;
    let read: Vec<_> = read.into_iter().map(|p| (p.port, p.protocol)).collect();
    assert_eq!(read, [(8443, None), (8080, Some(AppProtocol::Http)), (50051, Some(AppProtocol::Grpc))]);
    for (wrong, said) in [
        ("[8080, { port: 8080, protocol: TCP }]", "spec.inbound.ports[1]: 8080 is listed twice"),
        (
            "[{ port: 8080, protocol: HTTPS }]",
            "spec.inbound.ports[0].protocol: is `HTTPS`, accepted: HTTP, HTTP2, GRPC, TCP",
        ),
        ("[{ port: 0, protocol: HTTP }]", "spec.inbound.ports[0].port: is 0, accepted: 1 to 65535"),
        ("[{ port: 80 }]", "spec.inbound.ports[0]: field `protocol` is missing"),
        ("[0]", "spec.inbound.ports[0]: is 0, accepted: 1 to 65535"),
    ] {
        let found = problems(&path, &ports(wrong));
        assert!(matches!(found.as_slice(), [one] if one.contains(said)), "{wrong}: {found:?}");
    }
}

#[test]
fn a_broker_is_named_by_its_socket() {
    let (dir, path) = directory();
    let attester = |text: &str| {
        std::fs::write(&path, PROXY.replace("{ device: Auto }", text)).unwrap();
        ProxyBootstrap::load(&path).map(|proxy| proxy.attester)
    };
    let socket = |socket| AttesterChoice::Broker { socket };
    assert_eq!(attester("{ broker: { socket: /run/quotes } }").unwrap(), socket("/run/quotes".into()));
    assert_eq!(attester("{ broker: { socket: quotes } }").unwrap(), socket(dir.path().join("quotes")));
    let found = problems(&path, &PROXY.replace("{ device: Auto }", "{ broker: {} }"));
    assert_eq!(
        found,
        [
            "proxy.yaml:10:23: spec.attester.broker: field `socket` is missing (Its socket, as in `countersign-broker --socket`)"
        ]
    );
}

#[test]
fn every_problem_of_a_proxy_is_reported_at_its_place() {
    let (dir, path) = directory();
    let wrong = PROXY
        .replace("127.0.0.1:9001", "0.0.0.0:15008")
        .replace("  limits: { handshakeTimeout: 10s }", "  admin: 0.0.0.0:15000")
        .replace("{ device: Auto }", "{ emulated: { vendor: v, tdx: {}, sevSnp: {} } }");
    assert_eq!(
        problems(&path, &wrong),
        [
            "proxy.yaml:10:25: spec.attester.emulated: holds 2 machines, accepted: exactly one of tdx, sgx, sevSnp",
            "proxy.yaml:30:10: spec.admin: 0.0.0.0:15000 is not a loopback address: it is for administrators of this machine only",
            "proxy.yaml:21:15: spec.outbound[0].listen: 0.0.0.0:15008 is not a loopback address: it is for the workload of this machine only",
            "proxy.yaml:21:15: spec.outbound[0].listen: 0.0.0.0:15008 is the port of spec.inbound.listen already",
        ]
    );
    let wrong = PROXY.replace(
        "{ device: Auto }",
        "{ emulated: { vendor: v, tdx: { mrTd: '00', quoteVersion: 4, x: 1 } } }",
    );
    assert_eq!(
        problems(&path, &wrong),
        [
            "proxy.yaml:10:51: spec.attester.emulated.tdx.mrTd: `00` is not 96 hex digits",
            "proxy.yaml:10:74: spec.attester.emulated.tdx.x: unknown field `x` (known: events, mrConfigId, mrOwner, \
             mrOwnerConfig, mrSeam, mrServiceTd, mrSignerSeam, mrTd, platform, quoteVersion, quotingLatency, rtmr, \
             seamAttributes, tdAttributes, teeTcbSvn, teeTcbSvn2, xfam)",
        ]
    );

    std::fs::write(dir.path().join("bundle.json"), "{").unwrap();
    std::fs::write(
        dir.path().join("control-plane-attestation.yaml"),
        ATTESTATION.replace("snp: 23", "snp: x"),
    )
    .unwrap();
    std::fs::remove_dir_all(dir.path().join("collateral")).unwrap();
    let found = problems(&path, PROXY);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("proxy.yaml:8:16: spec.trustBundle: ./bundle.json: "), "{}", found[0]);
    assert!(
        found[1].starts_with(
            "./control-plane-attestation.yaml:18:24: spec.anyOf[0].sevSnp.minTcb.snp: is the text `x`"
        ),
        "{}",
        found[1]
    );
    assert!(
        found[2].starts_with("proxy.yaml:15:17: spec.controlPlane.collateral: ./collateral cannot be read"),
        "{}",
        found[2]
    );
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let (_dir, path) = directory();
    let found = problems(&path, include_str!("../examples/control-plane.yaml"));
    assert_eq!(found, ["proxy.yaml:3:7: kind: is `ControlPlaneBootstrap`, accepted: `ProxyBootstrap`"]);
    assert_eq!(problems(&path, ""), ["proxy.yaml: must hold exactly one document, of kind ProxyBootstrap"]);
    assert!(ProxyBootstrap::load(Path::new("/nowhere")).is_err());
}

#[test]
fn a_control_plane_has_defaults() {
    let (dir, _) = directory();
    let path = dir.path().join("cp.yaml");
    std::fs::write(&path, include_str!("../examples/control-plane.yaml")).unwrap();
    let cp = ControlPlaneBootstrap::load(&path).unwrap();
    assert_eq!(cp.id.as_str(), "spiffe://prod.example/countersign/control-plane");
    assert_eq!(cp.listen.to_string(), "0.0.0.0:15012");
    assert!(matches!(cp.attester, AttesterChoice::Device));
    let emulated = include_str!("../examples/control-plane.yaml").replace(
        "{ device: Auto }",
        "{ emulated: { vendor: ./vendor, sevSnp: { product: Genoa, vmpl: 0 } } }",
    );
    std::fs::write(&path, emulated).unwrap();
    let cp = ControlPlaneBootstrap::load(&path).unwrap();
    let AttesterChoice::Emulated { vendor, machine: Machine::SevSnp(spec) } = cp.attester else { panic!() };
    assert_eq!((vendor, spec.vmpl), (dir.path().join("./vendor"), 0));
}

#[test]
fn the_examples_are_of_one_trust_domain_and_fit_together() {
    let (dir, path) = directory();
    let control_plane = dir.path().join("cp.yaml");
    std::fs::write(&control_plane, include_str!("../examples/control-plane.yaml")).unwrap();
    std::fs::write(&path, include_str!("../examples/proxy.yaml")).unwrap();
    let (plane, proxy) =
        (ControlPlaneBootstrap::load(&control_plane).unwrap(), ProxyBootstrap::load(&path).unwrap());
    assert_eq!(plane.id, proxy.control_plane.id);
    let resources = parse("payments.yaml", include_str!("../examples/payments.yaml")).unwrap();
    let domain = resources.iter().find(|r| r.kind() == Kind::TrustDomain).unwrap();
    assert_eq!(domain.metadata().name, plane.trust_domain.as_str());
    let workload = resources.iter().find_map(|r| match r {
        Resource::WorkloadIdentity(m, _) if format!("{}/{}", m.namespace, m.name) == proxy.workload => {
            Some(m)
        }
        _ => None,
    });
    assert!(workload.is_some(), "{} has no WorkloadIdentity", proxy.workload);
}

#[test]
fn collateral_is_bounded() {
    let (dir, _) = directory();
    let many = dir.path().join("many");
    std::fs::create_dir(&many).unwrap();
    for i in 0..257 {
        std::fs::write(many.join(i.to_string()), "x").unwrap();
    }
    assert!(read_collateral(&many).unwrap_err().to_string().contains("more than 256 files"));
    let large = dir.path().join("large");
    std::fs::create_dir(&large).unwrap();
    std::fs::File::create(large.join("x")).unwrap().set_len((4 << 20) + 1).unwrap();
    assert!(read_collateral(&large).unwrap_err().to_string().contains("x: is larger than"));
}
