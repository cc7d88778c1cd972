use std::sync::Arc;

use countersign_config::Kind;

use super::*;
use crate::platforms::Asked;
use crate::resources::Kept;

const A: &str = "00112233445566778899aabbccddee00";
const B: &str = "00112233445566778899aabbccddeeff";

fn key(name: &str) -> Key {
    Key { kind: Kind::PlatformList, namespace: "payments".into(), name: name.into() }
}

fn set(lists: &[(&str, &[(&str, &str)])]) -> Set {
    let mut resources = BTreeMap::new();
    for (name, machines) in lists {
        let mut text = format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: PlatformList\n\
             metadata: {{ name: {name}, namespace: payments }}\nspec:\n  platforms:\n"
        );
        for (tee, id) in *machines {
            text.push_str(&format!(
                "    - {{ tee: {tee}, id: \"{id}\", note: rack 1, approvedBy: somebody }}\n"
            ));
        }
        let resource = countersign_config::parse("lists.yaml", &text).unwrap().remove(0);
        let kept = Kept { revision: 1, resource: Arc::new(resource) };
        resources.insert(resources::name(&key(name)), kept);
    }
    Set { revision: 1, resources }
}

fn seen(tee: &str, id: &str) -> Platform {
    Platform {
        tee: tee.into(),
        kind: "ppid".into(),
        id: id.into(),
        emulated: true,
        first_seen: 5,
        last_seen: 7,
        tcb: "UpToDate".into(),
        workloads: [("payments/web".to_owned(), Asked { last: 7, refused: "platform-not-allowed".into() })]
            .into(),
    }
}

fn decision() -> Decision {
    Decision { by: "spiffe://a/operator/admin".into(), at: 1_800_000_000, note: "rack 4".into() }
}

fn wanted(id: &str, tee: &str) -> Wanted {
    Wanted::parse(id, tee).unwrap()
}

fn entries(resource: &Resource) -> Vec<(&'static str, String, Option<String>)> {
    let Resource::PlatformList(_, spec) = resource else { panic!("{resource:?}") };
    spec.platforms.iter().map(|e| (name(e.tee), e.id.0.clone(), e.note.clone())).collect()
}

#[test]
fn an_id_is_given_in_any_case_with_or_without_its_kind_and_not_too_short() {
    for text in [A, "PPID:00112233445566778899AABBCCDDEE00", "ppid:00112233"] {
        assert!(wanted(text, "").means("tdx", A), "{text}");
    }
    assert!(!wanted("00112233", "sgx").means("tdx", A));
    for text in ["", "0011223", "ppid:", "rack four", "0011223g", "00112233 "] {
        assert!(Wanted::parse(text, "").unwrap_err().contains("at least 8 digits"), "{text}");
    }
    assert!(Wanted::parse(A, "TDX").unwrap_err().contains("tdx, sgx, sevSnp"));
}

#[test]
fn a_machine_that_was_seen_is_approved_by_the_beginning_of_its_id() {
    let all = [seen("tdx", A), seen("sevSnp", &"ab".repeat(64))];
    let (machine, list) =
        approve(&set(&[]), &all, &wanted("00112233", ""), &key("machines"), &decision()).unwrap();
    assert_eq!(machine, ("tdx", A.to_owned()));
    let Resource::PlatformList(metadata, spec) = &list else { panic!("{list:?}") };
    assert_eq!((metadata.namespace.as_str(), metadata.name.as_str()), ("payments", "machines"));
    let entry = &spec.platforms[0];
    assert_eq!(entry.approved_by.as_deref(), Some("spiffe://a/operator/admin"));
    assert_eq!(entry.approved_at.as_ref().unwrap().to_string(), "2027-01-15T08:00:00Z");
    // It is one that everybody can read.
    assert_eq!(Resource::from_json(&list.to_json()).unwrap(), list);
}

#[test]
fn approving_again_keeps_who_did_and_takes_a_new_note() {
    let before = set(&[("machines", &[("tdx", A), ("sgx", B)])]);
    let quiet = Decision { note: String::new(), ..decision() };
    let (_, same) = approve(&before, &[], &wanted(A, ""), &key("machines"), &quiet).unwrap();
    assert_eq!(&same, &*before.resources[&resources::name(&key("machines"))].resource);
    let (_, noted) = approve(&before, &[], &wanted(A, ""), &key("machines"), &decision()).unwrap();
    let Resource::PlatformList(_, spec) = &noted else { panic!("{noted:?}") };
    assert_eq!(spec.platforms[0].note.as_deref(), Some("rack 4"));
    assert_eq!(spec.platforms[0].approved_by.as_deref(), Some("somebody"));
    assert_eq!(spec.platforms.len(), 2);
}

#[test]
fn several_machines_that_may_be_meant_are_named_and_none_is_chosen() {
    let all = [seen("tdx", A), seen("tdx", B), seen("sgx", A)];
    let attempt = |id: &str, tee: &str| {
        approve(&set(&[]), &all, &wanted(id, tee), &key("machines"), &decision()).map(|(machine, _)| machine)
    };
    let why = attempt("00112233", "").unwrap_err();
    for part in ["several platforms", A, B, "sgx", "--tee"] {
        assert!(why.contains(part), "{why}");
    }
    assert!(attempt("00112233", "tdx").unwrap_err().contains(B));
    assert_eq!(attempt(B, ""), Ok(("tdx", B.to_owned())));
    assert_eq!(attempt("00112233", "sgx"), Ok(("sgx", A.to_owned())));
}

#[test]
fn a_machine_that_was_never_seen_needs_its_whole_id_and_its_tee() {
    let attempt = |id: &str, tee: &str| {
        approve(&set(&[]), &[], &wanted(id, tee), &key("machines"), &decision()).map(|(machine, _)| machine)
    };
    assert_eq!(attempt(A, "tdx"), Ok(("tdx", A.to_owned())));
    assert!(attempt(A, "").unwrap_err().contains("--tee"));
    assert!(attempt("00112233", "tdx").unwrap_err().contains("32 digits"));
    assert!(attempt(A, "sevSnp").unwrap_err().contains("128 digits"));
}

#[test]
fn revoking_takes_a_machine_from_one_list_or_from_all_and_leaves_the_others() {
    let lists = set(&[("one", &[("tdx", A), ("tdx", B)]), ("two", &[("tdx", A)]), ("three", &[("sgx", B)])]);
    let (machine, changed) = revoke(&lists, &[], &wanted(A, ""), None).unwrap();
    assert_eq!(machine, ("tdx", A.to_owned()));
    let changed: Vec<_> = changed.iter().map(|r| (r.metadata().name.as_str(), entries(r))).collect();
    let left = ("tdx", B.to_owned(), Some("rack 1".to_owned()));
    assert_eq!(changed, [("one", vec![left]), ("two", vec![])]);
    let (_, changed) = revoke(&lists, &[], &wanted(A, ""), Some(&key("two"))).unwrap();
    assert_eq!(changed.len(), 1);
    assert!(revoke(&lists, &[], &wanted(B, ""), None).unwrap_err().contains("several platforms"));
    assert!(revoke(&lists, &[], &wanted(B, "sgx"), None).is_ok());
}

#[test]
fn what_is_on_no_list_cannot_be_revoked() {
    let lists = set(&[("one", &[("tdx", A)])]);
    let why = revoke(&lists, &[seen("tdx", B)], &wanted(B, ""), None).unwrap_err();
    assert!(why.contains("the platform is not on any PlatformList"), "{why}");
    let why = revoke(&lists, &[], &wanted(B, ""), Some(&key("one"))).unwrap_err();
    assert!(why.contains("no such platform is on PlatformList payments/one"), "{why}");
}

#[test]
fn the_inventory_has_who_was_seen_and_who_is_only_listed() {
    let lists = set(&[("one", &[("tdx", A), ("tdx", B)]), ("two", &[("tdx", B), ("tdx", A)])]);
    let all = inventory(&lists, &[seen("tdx", A), seen("sgx", A)]);
    let lists: Vec<_> =
        all.iter().map(|p| (p.tee.as_str(), p.id.as_str(), p.last_seen, p.approvals.len())).collect();
    assert_eq!(lists, [("tdx", A, 7, 2), ("sgx", A, 7, 0), ("tdx", B, 0, 2)]);
    assert_eq!(all[0].workloads[0].refused, "platform-not-allowed");
    assert_eq!(all[0].approvals[0].note, "rack 1");
}
