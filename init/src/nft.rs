//! The rules for nftables: one table, which one transaction replaces as a whole.

use std::fmt::Display;

use crate::rules::{Family, Include, Rules, of};

/// Removes the table whether or not it is there.
pub(crate) const CLEANUP: &str = "table inet countersign\ndelete table inet countersign\n";

/// What `nft -f -` reads.
pub(crate) fn text(rules: &Rules) -> String {
    let mut out = String::from("# Made by countersign-init.\n");
    out.push_str(CLEANUP);
    out.push_str("table inet countersign {\n");
    chain(&mut out, "exempt", None, &exempt(rules));
    chain(&mut out, "outbound", Some("type nat hook output priority -100; policy accept;"), &outbound(rules));
    chain(&mut out, "guard", Some("type filter hook output priority 0; policy accept;"), &guard(rules));
    chain(
        &mut out,
        "inbound",
        Some("type nat hook prerouting priority -100; policy accept;"),
        &inbound(rules),
    );
    out.push_str("}\n");
    out
}

fn chain(out: &mut String, name: &str, hook: Option<&str>, rules: &[String]) {
    out.push_str(&format!("\tchain {name} {{\n"));
    for line in hook.into_iter().chain(rules.iter().map(String::as_str)) {
        out.push_str(&format!("\t\t{line}\n"));
    }
    out.push_str("\t}\n");
}

/// What leaves as it is: what is not TCP, what stays on this machine, the proxy's
/// own connections, and what was excluded.
fn exempt(rules: &Rules) -> Vec<String> {
    let mut lines = vec!["meta l4proto != tcp accept".to_owned(), "oifname \"lo\" accept".to_owned()];
    lines.extend(set("oifname", &quoted(&rules.interfaces), "accept"));
    lines.extend(set("meta skuid", &rules.uids, "accept"));
    lines.extend(set("meta skgid", &rules.gids, "accept"));
    lines.extend(rules.mark.map(|mark| format!("meta mark {mark:#x} accept")));
    lines.extend(set("ip daddr", &of(Family::V4, &rules.not_to), "accept"));
    lines.extend(set("ip6 daddr", &of(Family::V6, &rules.not_to), "accept"));
    lines.extend(set("tcp dport", &rules.not_to_ports, "accept"));
    lines
}

fn outbound(rules: &Rules) -> Vec<String> {
    let mut lines = vec!["jump exempt".to_owned()];
    lines.extend(captured(rules, &format!("redirect to :{}", rules.outbound_port)));
    lines
}

/// What should have been redirected and was not: packets that do not belong to a
/// connection that is known (their destination is not translated), and connections
/// that somebody else's rules sent elsewhere first.
fn guard(rules: &Rules) -> Vec<String> {
    let mut lines = vec![
        "jump exempt".to_owned(),
        "ip daddr 127.0.0.0/8 accept".to_owned(),
        "ip6 daddr ::1 accept".to_owned(),
        "ct state invalid counter drop".to_owned(),
    ];
    lines.extend(captured(rules, "ct state new counter reject with tcp reset"));
    lines
}

/// One rule for each way to say what is captured.
fn captured(rules: &Rules, then: &str) -> Vec<String> {
    match &rules.to {
        Include::All => vec![format!("meta l4proto tcp {then}")],
        Include::Some(ranges) => {
            let mut lines = set("meta l4proto tcp ip daddr", &of(Family::V4, ranges), then);
            lines.extend(set("meta l4proto tcp ip6 daddr", &of(Family::V6, ranges), then));
            lines.extend(set("tcp dport", &rules.to_ports, then));
            lines
        }
    }
}

fn inbound(rules: &Rules) -> Vec<String> {
    let mut lines = vec![
        "meta l4proto != tcp accept".to_owned(),
        "iifname \"lo\" accept".to_owned(),
        // What is only forwarded is not for this workload.
        "fib daddr type != local accept".to_owned(),
    ];
    lines.extend(set("iifname", &quoted(&rules.interfaces), "accept"));
    lines.extend(set("tcp dport", &rules.open, "accept"));
    let then = format!("redirect to :{}", rules.inbound_port);
    match &rules.inbound {
        Include::All => lines.push(format!("meta l4proto tcp {then}")),
        Include::Some(ports) => lines.extend(set("tcp dport", ports, &then)),
    }
    lines
}

/// A rule for any of `values`; none for none.
fn set<T: Display>(what: &str, values: &[T], then: &str) -> Vec<String> {
    if values.is_empty() {
        return Vec::new();
    }
    let values: Vec<_> = values.iter().map(ToString::to_string).collect();
    vec![format!("{what} {{ {} }} {then}", values.join(", "))]
}

fn quoted(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("\"{name}\"")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::samples;

    #[test]
    fn the_table_is_replaced_as_a_whole_and_captures_both_directions() {
        let expected = r#"# Made by countersign-init.
table inet countersign
delete table inet countersign
table inet countersign {
	chain exempt {
		meta l4proto != tcp accept
		oifname "lo" accept
		meta skuid { 1337 } accept
	}
	chain outbound {
		type nat hook output priority -100; policy accept;
		jump exempt
		meta l4proto tcp redirect to :15001
	}
	chain guard {
		type filter hook output priority 0; policy accept;
		jump exempt
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
		ct state invalid counter drop
		meta l4proto tcp ct state new counter reject with tcp reset
	}
	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto != tcp accept
		iifname "lo" accept
		fib daddr type != local accept
		tcp dport { 15008, 15020, 15021 } accept
		meta l4proto tcp redirect to :15006
	}
}
"#;
        assert_eq!(text(&samples::plain()), expected);
    }

    #[test]
    fn every_exemption_is_in_the_redirection_and_in_the_guard_alike() {
        let text = text(&samples::everything());
        for line in [
            "oifname { \"docker0\" } accept",
            "meta skuid { 1337, 7 } accept",
            "meta skgid { 8 } accept",
            "meta mark 0x539 accept",
            "ip daddr { 10.1.0.0/16 } accept",
            "ip6 daddr { fd01::/16 } accept",
            "tcp dport { 25, 53 } accept",
            "meta l4proto tcp ip daddr { 10.0.0.0/8 } redirect to :15001",
            "meta l4proto tcp ip6 daddr { fd00::/8 } redirect to :15001",
            "tcp dport { 5432 } redirect to :15001",
            "meta l4proto tcp ip daddr { 10.0.0.0/8 } ct state new counter reject with tcp reset",
            "iifname { \"docker0\" } accept",
            "tcp dport { 22, 15008 } accept",
            "tcp dport { 80, 443 } redirect to :15006",
        ] {
            assert!(text.contains(&format!("\t\t{line}\n")), "{line}\n{text}");
        }
        assert_eq!(text.matches("jump exempt").count(), 2);
        assert!(!text.contains("meta l4proto tcp redirect"), "{text}");
    }

    #[test]
    fn nothing_included_is_nothing_captured() {
        let rules =
            Rules { to: Include::Some(Vec::new()), inbound: Include::Some(Vec::new()), ..samples::plain() };
        assert!(!text(&rules).contains("redirect"), "{}", text(&rules));
    }
}
