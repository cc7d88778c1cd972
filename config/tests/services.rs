//! From what an application wants to reach to who must answer there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod common;

use std::sync::Arc;

use common::{AUDIT, LEDGER, WORLD, at, id, resources};
use countersign_attester::emulated::TdxSpec;
use countersign_config::kinds::service::AppProtocol;
use countersign_config::resource::check_set;
use countersign_config::{Called, Kind, Target, View, parse};
use countersign_evidence::collateral::Marks;

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: countersign.dev/v1alpha1\nkind: {kind}\n\
         metadata: {{ name: {name}, namespace: payments }}\nspec: {spec}\n"
    )
}

fn service(name: &str, spec: &str) -> String {
    document("Service", name, &format!("{{ selector: {{ matchLabels: {{ app: {name} }} }}, {spec} }}"))
}

fn entry(name: &str, app: &str, more: &str) -> String {
    let labels = format!("workload: {app}, labels: {{ app: {app} }}");
    document("WorkloadEntry", name, &format!("{{ {labels}, {more} }}"))
}

/// A ledger on two machines and one that drains; an audit log under a name.
fn mesh() -> String {
    resources()
        + &service(
            "ledger",
            "hosts: [ledger.example], addresses: [10.96.0.1, 'fd00::1'], \
             ports: [{ port: 443, targetPort: 8443, appProtocol: HTTP2 }, { port: 9000 }]",
        )
        + &entry("ledger-0", "ledger", "address: 10.1.0.1, weight: 7, locality: eu/a")
        + &entry("ledger-1", "ledger", "address: 'fd00:1::1', proxyPort: 15118")
        + &entry("ledger-2", "ledger", "address: 10.1.0.3, weight: 0")
        + &service("audit", "hosts: [audit.example], ports: [{ port: 443 }]")
        + &entry("audit-0", "audit", "address: audit-0.example")
}

fn address(text: &str) -> Target {
    Target::Address(text.parse().unwrap())
}

fn name(host: &str, port: u16) -> Target {
    Target::Name { host: host.to_owned(), port }
}

/// Who answers, as `entry port`.
fn answering(called: Option<&Arc<Called>>) -> Vec<String> {
    let called = called.into_iter();
    called.flat_map(|c| c.endpoints.iter().map(|e| format!("{} {}", e.entry, c.target_port))).collect()
}

#[test]
fn a_service_is_called_by_its_names_and_addresses() {
    let view = WORLD.view(&mesh());
    let called = view.destination(&address("10.96.0.1:443")).unwrap();
    assert_eq!((called.service.name.as_str(), called.port, called.target_port), ("ledger", 443, 8443));
    assert_eq!(called.protocol, Some(AppProtocol::Http2));
    let endpoints: Vec<_> = called.endpoints.iter().map(|e| (e.address.as_str(), e.weight)).collect();
    assert_eq!(endpoints, [("10.1.0.1:15008", 7), ("[fd00:1::1]:15118", 1)], "what drains gets nothing new");
    assert!(called.endpoints.iter().all(|e| e.id == id(LEDGER)));
    assert_eq!(called.endpoints[0].locality.as_ref().unwrap().0, "eu/a");

    for target in [
        address("[fd00::1]:443"),
        address("[::ffff:10.96.0.1]:443"),
        name("ledger.example", 443),
        name("Ledger.EXAMPLE.", 443),
        name("10.96.0.1", 443),
        name("fd00::1", 443),
    ] {
        let found = view.destination(&target).unwrap_or_else(|| panic!("{target}"));
        assert!(Arc::ptr_eq(found, called), "{target}");
    }
    let bytes = view.destination(&name("ledger.example", 9000)).unwrap();
    assert_eq!((bytes.target_port, bytes.protocol), (9000, None));
    assert!(Arc::ptr_eq(view.service("payments", "ledger", 9000).unwrap(), bytes));

    for target in [
        address("10.96.0.1:8443"),
        address("10.96.0.2:443"),
        name("ledger.example", 8443),
        name("ledger", 443),
        name("ledger.example..", 443),
        name("x.ledger.example", 443),
        name("", 443),
    ] {
        assert_eq!(view.destination(&target), None, "{target}");
    }
}

#[test]
fn what_is_spoken_at_a_port_is_what_the_services_say_that_lead_there() {
    let view = WORLD.view(&mesh());
    assert_eq!(view.spoken(&id(LEDGER), 8443), Some(AppProtocol::Http2));
    assert_eq!(view.spoken(&id(LEDGER), 443), None);
    assert_eq!(view.spoken(&id(LEDGER), 9000), None);
    assert_eq!(view.spoken(&id(AUDIT), 443), None);
    // One that says otherwise does not have requests passed over.
    let other = "{ port: 1, targetPort: 8443, appProtocol: TCP }";
    let other = format!("{{ selector: {{ matchLabels: {{ app: ledger }} }}, ports: [{other}] }}");
    let view = WORLD.view(&(mesh() + &document("Service", "other", &other)));
    assert_eq!(view.spoken(&id(LEDGER), 8443), Some(AppProtocol::Http));
}

#[test]
fn an_endpoint_is_called_by_its_own_address_at_the_port_of_the_workload() {
    let view = WORLD.view(&mesh());
    for (target, expected) in [
        (address("10.1.0.1:8443"), "ledger-0 8443"),
        (address("[fd00:1::1]:9000"), "ledger-1 9000"),
        (address("10.1.0.3:8443"), "ledger-2 8443"),
        (name("audit-0.EXAMPLE", 443), "audit-0 443"),
    ] {
        let called = view.destination(&target);
        assert_eq!(answering(called), [expected]);
        assert_eq!(called.unwrap().endpoints[0].weight.max(1), called.unwrap().endpoints[0].weight);
    }
    // Not by the port of the Service, nor at one that nobody offers.
    assert_eq!(view.destination(&address("10.1.0.1:443")), None);
    assert_eq!(view.destination(&address("10.1.0.1:15008")), None);
    assert!(view.is_endpoint(&id(LEDGER), "10.1.0.3:15008"));
    assert!(!view.is_endpoint(&id(AUDIT), "10.1.0.3:15008"));
    assert!(!view.is_endpoint(&id(LEDGER), "10.1.0.3:15118"));
}

#[test]
fn what_could_mean_two_things_means_none() {
    // Two proxies of one machine: its address does not say which is meant.
    let one_machine = entry("audit-1", "audit", "address: 10.1.0.1, proxyPort: 15108")
        + &service("audit", "hosts: [audit.example], ports: [{ port: 443, targetPort: 8443 }]");
    let text = mesh().replace(&service("audit", "hosts: [audit.example], ports: [{ port: 443 }]"), "");
    let view = WORLD.view(&(text + &one_machine));
    assert_eq!(view.destination(&address("10.1.0.1:8443")), None);
    assert_eq!(answering(view.destination(&address("10.1.0.1:9000"))), ["ledger-0 9000"]);
    assert_eq!(view.destination(&name("audit.example", 443)).unwrap().endpoints.len(), 2);

    // Two Services with one name or address: none of them has it.
    let greedy = "hosts: [ledger.example], addresses: [10.96.0.1, 10.1.0.1], ports: [{ port: 9000 }]";
    let built = WORLD.build(&(mesh() + &service("greedy", greedy)));
    let why: Vec<_> = built.rejected.iter().map(|(key, why)| format!("{key}: {why}")).collect();
    assert_eq!(
        why,
        [
            "Service payments/greedy: ledger.example belongs to Service payments/ledger as well: nobody is called by it",
            "Service payments/ledger: ledger.example belongs to Service payments/greedy as well: nobody is called by it",
            "Service payments/greedy: 10.96.0.1:9000 belongs to Service payments/ledger as well: nobody is called by it",
            "Service payments/ledger: 10.96.0.1:9000 belongs to Service payments/greedy as well: nobody is called by it",
        ]
    );
    assert_eq!(built.view.destination(&name("ledger.example", 443)), None);
    assert_eq!(built.view.destination(&address("10.96.0.1:9000")), None);
    assert_eq!(answering(built.view.destination(&address("10.96.0.1:443"))).len(), 2);
    // The address of an endpoint is a Service's, once one claims it.
    assert_eq!(built.view.destination(&address("10.1.0.1:9000")).unwrap().service.name, "greedy");
}

#[test]
fn nobody_is_called_whose_identity_is_not_known() {
    let text = mesh()
        + &entry("ledger-9", "ledger", "address: 10.1.0.9").replace("workload: ledger", "workload: lost");
    let built = WORLD.build(&text);
    let [(key, why)] = built.rejected.as_slice() else { panic!("{:?}", built.rejected) };
    assert_eq!((key.kind, key.name.as_str()), (Kind::WorkloadEntry, "ledger-9"));
    assert!(why.contains("payments/lost"), "{why}");
    assert_eq!(built.view.destination(&address("10.1.0.9:8443")), None);
    assert_eq!(built.view.destination(&name("ledger.example", 443)).unwrap().endpoints.len(), 2);
}

#[test]
fn a_service_that_nobody_answers_is_known_all_the_same() {
    let view = WORLD.view(&(resources() + &service("ledger", "hosts: [l.example], ports: [{ port: 1 }]")));
    assert_eq!(view.destination(&name("l.example", 1)).unwrap().endpoints.len(), 0);
}

#[test]
fn what_did_not_change_is_shared_and_live_hops_do_not_rest_on_it() {
    let before = WORLD.view(&mesh());
    let after =
        |text: &str| View::build_after(&before, WORLD.inputs(text), &mut Marks::default(), at(0)).view;
    let moved = after(&mesh().replace("address: audit-0.example", "address: audit-7.example"));
    for target in [name("ledger.example", 443), address("10.1.0.1:8443")] {
        assert!(Arc::ptr_eq(before.destination(&target).unwrap(), moved.destination(&target).unwrap()));
    }
    let audit = name("audit.example", 443);
    assert_eq!(moved.destination(&audit).unwrap().endpoints[0].address, "audit-7.example:15008");
    assert_ne!(moved.destination(&audit), before.destination(&audit));
    assert_ne!(moved.id(), before.id());

    let changes = moved.changes_since(&before);
    assert_eq!(changes.names().count(), 1);
    assert!(!changes.bring_policies() && !changes.affects_calls(&id(AUDIT)));
    let hop = TdxSpec::default();
    let admitted = before.judge_hop(&id(AUDIT), WORLD.presented(LEDGER, hop), at(60)).unwrap();
    assert!(!changes.affects(&admitted.dependencies, &id(AUDIT), &id(LEDGER)));
}

#[test]
fn what_is_wrong_with_services_is_said_at_its_place() {
    let text = [
        service(
            "a",
            "hosts: [a.example, a.example, A.example, 10.0.0.1], addresses: [0.0.0.0, 10.0.0.1, '::ffff:10.0.0.1', ff02::1], \
             ports: [{ port: 80 }, { port: 80, appProtocol: http }, { port: 0 }]",
        ),
        document("Service", "b", "{ hosts: [b.example] }"),
        entry("c", "c", "address: 255.255.255.255"),
        entry("d", "d", "address: D_, weight: 1000001, locality: eu//x"),
    ]
    .concat();
    let problems: Vec<_> = parse("f", &text).unwrap_err().iter().map(ToString::to_string).collect();
    let expected = [
        "spec.hosts[2]: `A.example` is not a DNS-1123 name",
        "spec.hosts[3]: `10.0.0.1` is an IP address, accepted: a DNS name",
        "spec.ports[1].appProtocol: is `http`, accepted: HTTP, HTTP2, GRPC, TCP (did you mean `HTTP`?)",
        "spec.ports[2].port: is 0, accepted: 1 to 65535",
        "spec: field `ports` is missing",
        "spec: field `selector` is missing",
        "spec.address: 255.255.255.255 is the broadcast address: nothing runs there",
        "spec.address: `D_` is not a DNS-1123 name",
        "spec.weight: is 1000001, accepted: 0 to 1000000",
        "spec.locality: `eu//x` is not a region, region/zone or region/zone/subzone",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{problem}");
    }
    let text = service(
        "a",
        "hosts: [a.example, a.example], addresses: [0.0.0.0, 10.0.0.1, '::ffff:10.0.0.1', ff02::1], ports: [{ port: 80 }, { port: 80 }]",
    );
    let problems: Vec<_> =
        parse("f", &text).unwrap_err().iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
    assert_eq!(
        problems,
        [
            "spec.hosts[1]: a.example is listed twice",
            "spec.addresses[0]: 0.0.0.0 stands for every address: nobody calls a Service there",
            "spec.addresses[2]: ::ffff:10.0.0.1 is listed twice",
            "spec.addresses[3]: ff02::1 is a multicast address: nobody calls a Service there",
            "spec.ports[1].port: 80 is listed twice",
        ]
    );
}

#[test]
fn services_are_checked_as_a_set() {
    let text = mesh()
        + &service(
            "other",
            "hosts: [ledger.example], addresses: [10.96.0.1], ports: [{ port: 443 }, { port: 9000 }]",
        )
        + &entry("lost", "ledgr", "address: 10.0.0.1");
    let text = text.replace("ROOT", &"00".repeat(32));
    let problems: Vec<_> = check_set(&parse("f", &text).unwrap()).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Service payments/other, spec.hosts[0]: ledger.example already belongs to Service payments/ledger",
            "Service payments/other, spec.addresses[0]: 10.96.0.1:443 already belongs to Service payments/ledger",
            "warning: Service payments/other, spec.selector: selects no WorkloadEntry of its namespace: nobody answers calls",
            "WorkloadEntry payments/lost, spec.workload: there is no WorkloadIdentity payments/ledgr (did you mean `ledger`?)",
            "warning: WorkloadEntry payments/lost, spec.labels: no Service of its namespace selects it: nobody calls it",
        ]
    );
}
