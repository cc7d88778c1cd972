//! The rules for iptables and ip6tables: chains of our own, and one jump to each.

use std::fmt::Display;

use crate::rules::{Family, Include, Rules, of};

/// A jump to one of our chains from one of the system's: table, chain, ours.
pub(crate) type Hook = (&'static str, &'static str, &'static str);

/// The guard comes first: until the redirection is there as well nothing leaves.
pub(crate) const HOOKS: [Hook; 3] = [
    ("filter", "OUTPUT", "COUNTERSIGN_GUARD"),
    ("nat", "OUTPUT", "COUNTERSIGN_OUTPUT"),
    ("nat", "PREROUTING", "COUNTERSIGN_INBOUND"),
];

/// What `iptables-restore --noflush` reads, which empties our chains before it
/// fills them. `missing` are the jumps that are not there yet.
pub(crate) fn text(rules: &Rules, family: Family, missing: &[Hook]) -> String {
    let mut out = String::from("# Made by countersign-init.\n");
    for table in ["filter", "nat"] {
        out.push_str(&format!("*{table}\n"));
        for (_, _, ours) in HOOKS.iter().filter(|hook| hook.0 == table) {
            out.push_str(&format!(":{ours} - [0:0]\n"));
        }
        for (_, chain, ours) in HOOKS.iter().filter(|hook| hook.0 == table) {
            let lines = match *chain {
                "PREROUTING" => inbound(rules),
                _ if table == "filter" => guard(rules, family),
                _ => outbound(rules, family),
            };
            for line in lines {
                out.push_str(&format!("-A {ours} {line}\n"));
            }
        }
        for (_, chain, ours) in missing.iter().filter(|hook| hook.0 == table) {
            out.push_str(&format!("-I {chain} 1 -p tcp -j {ours}\n"));
        }
        out.push_str("COMMIT\n");
    }
    out
}

/// Removes our chains whether or not they are there, and the jumps that are: `present`.
pub(crate) fn cleanup(present: &[Hook]) -> String {
    let mut out = String::new();
    // The redirection first: nothing leaves in between.
    for table in ["nat", "filter"] {
        out.push_str(&format!("*{table}\n"));
        for (_, _, ours) in HOOKS.iter().filter(|hook| hook.0 == table) {
            out.push_str(&format!(":{ours} - [0:0]\n"));
        }
        for (_, chain, ours) in present.iter().filter(|hook| hook.0 == table) {
            out.push_str(&format!("-D {chain} -p tcp -j {ours}\n"));
        }
        for (_, _, ours) in HOOKS.iter().filter(|hook| hook.0 == table) {
            out.push_str(&format!("-X {ours}\n"));
        }
        out.push_str("COMMIT\n");
    }
    out
}

/// What leaves as it is, as in the rules for nftables.
fn exempt(rules: &Rules, family: Family) -> Vec<String> {
    let mut matches = vec!["-o lo".to_owned()];
    matches.extend(each("-o", &rules.interfaces));
    matches.extend(each("-m owner --uid-owner", &rules.uids));
    matches.extend(each("-m owner --gid-owner", &rules.gids));
    matches.extend(rules.mark.map(|mark| format!("-m mark --mark {mark:#x}")));
    matches.extend(each("-d", &of(family, &rules.not_to)));
    matches.extend(each("-p tcp --dport", &rules.not_to_ports));
    matches.into_iter().map(|m| format!("{m} -j RETURN")).collect()
}

fn outbound(rules: &Rules, family: Family) -> Vec<String> {
    let mut lines = exempt(rules, family);
    lines.extend(captured(rules, family, &format!("-j REDIRECT --to-ports {}", rules.outbound_port)));
    lines
}

fn guard(rules: &Rules, family: Family) -> Vec<String> {
    let mut lines = exempt(rules, family);
    lines.push(match family {
        Family::V4 => "-d 127.0.0.0/8 -j RETURN".to_owned(),
        Family::V6 => "-d ::1/128 -j RETURN".to_owned(),
    });
    lines.push("-m conntrack --ctstate INVALID -j DROP".to_owned());
    lines.extend(captured(rules, family, "-m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset"));
    lines
}

fn captured(rules: &Rules, family: Family, then: &str) -> Vec<String> {
    match &rules.to {
        Include::All => vec![format!("-p tcp {then}")],
        Include::Some(ranges) => {
            let mut matches: Vec<_> =
                of(family, ranges).iter().map(|range| format!("-d {range} -p tcp")).collect();
            matches.extend(each("-p tcp --dport", &rules.to_ports));
            matches.into_iter().map(|m| format!("{m} {then}")).collect()
        }
    }
}

fn inbound(rules: &Rules) -> Vec<String> {
    let mut matches = vec!["-i lo".to_owned(), "-m addrtype ! --dst-type LOCAL".to_owned()];
    matches.extend(each("-i", &rules.interfaces));
    matches.extend(each("-p tcp --dport", &rules.open));
    let mut lines: Vec<_> = matches.into_iter().map(|m| format!("{m} -j RETURN")).collect();
    let then = format!("-j REDIRECT --to-ports {}", rules.inbound_port);
    match &rules.inbound {
        Include::All => lines.push(format!("-p tcp {then}")),
        Include::Some(ports) => {
            lines.extend(each("-p tcp --dport", ports).into_iter().map(|m| format!("{m} {then}")));
        }
    }
    lines
}

fn each<T: Display>(what: &str, values: &[T]) -> Vec<String> {
    values.iter().map(|value| format!("{what} {value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::samples;

    #[test]
    fn our_chains_are_emptied_and_filled_and_jumped_to_once() {
        let expected = "# Made by countersign-init.
*filter
:COUNTERSIGN_GUARD - [0:0]
-A COUNTERSIGN_GUARD -o lo -j RETURN
-A COUNTERSIGN_GUARD -m owner --uid-owner 1337 -j RETURN
-A COUNTERSIGN_GUARD -d 127.0.0.0/8 -j RETURN
-A COUNTERSIGN_GUARD -m conntrack --ctstate INVALID -j DROP
-A COUNTERSIGN_GUARD -p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset
-I OUTPUT 1 -p tcp -j COUNTERSIGN_GUARD
COMMIT
*nat
:COUNTERSIGN_OUTPUT - [0:0]
:COUNTERSIGN_INBOUND - [0:0]
-A COUNTERSIGN_OUTPUT -o lo -j RETURN
-A COUNTERSIGN_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A COUNTERSIGN_OUTPUT -p tcp -j REDIRECT --to-ports 15001
-A COUNTERSIGN_INBOUND -i lo -j RETURN
-A COUNTERSIGN_INBOUND -m addrtype ! --dst-type LOCAL -j RETURN
-A COUNTERSIGN_INBOUND -p tcp --dport 15008 -j RETURN
-A COUNTERSIGN_INBOUND -p tcp --dport 15020 -j RETURN
-A COUNTERSIGN_INBOUND -p tcp --dport 15021 -j RETURN
-A COUNTERSIGN_INBOUND -p tcp -j REDIRECT --to-ports 15006
-I OUTPUT 1 -p tcp -j COUNTERSIGN_OUTPUT
-I PREROUTING 1 -p tcp -j COUNTERSIGN_INBOUND
COMMIT
";
        assert_eq!(text(&samples::plain(), Family::V4, &HOOKS), expected);
        let again = text(&samples::plain(), Family::V4, &[]);
        assert!(!again.contains("-I "), "{again}");
    }

    #[test]
    fn each_family_has_its_own_networks() {
        let four = text(&samples::everything(), Family::V4, &[]);
        let six = text(&samples::everything(), Family::V6, &[]);
        for (mine, line) in [
            (&four, "-A COUNTERSIGN_OUTPUT -d 10.1.0.0/16 -j RETURN"),
            (&four, "-A COUNTERSIGN_OUTPUT -d 10.0.0.0/8 -p tcp -j REDIRECT --to-ports 15001"),
            (&six, "-A COUNTERSIGN_GUARD -d fd01::/16 -j RETURN"),
            (
                &six,
                "-A COUNTERSIGN_GUARD -d fd00::/8 -p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset",
            ),
        ] {
            assert!(mine.contains(&format!("{line}\n")), "{line}\n{mine}");
        }
        assert!(!six.contains("10.") && !four.contains("fd0"), "{four}{six}");
        for text in [four, six] {
            for line in [
                "-A COUNTERSIGN_OUTPUT -o docker0 -j RETURN",
                "-A COUNTERSIGN_OUTPUT -m owner --uid-owner 7 -j RETURN",
                "-A COUNTERSIGN_OUTPUT -m owner --gid-owner 8 -j RETURN",
                "-A COUNTERSIGN_OUTPUT -m mark --mark 0x539 -j RETURN",
                "-A COUNTERSIGN_OUTPUT -p tcp --dport 25 -j RETURN",
                "-A COUNTERSIGN_OUTPUT -p tcp --dport 5432 -j REDIRECT --to-ports 15001",
                "-A COUNTERSIGN_INBOUND -i docker0 -j RETURN",
                "-A COUNTERSIGN_INBOUND -p tcp --dport 22 -j RETURN",
                "-A COUNTERSIGN_INBOUND -p tcp --dport 443 -j REDIRECT --to-ports 15006",
            ] {
                assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
            }
        }
    }

    #[test]
    fn cleaning_up_names_each_chain_so_that_it_is_there_to_be_removed() {
        let text = cleanup(&HOOKS[..1]);
        assert!(text.contains("-D OUTPUT -p tcp -j COUNTERSIGN_GUARD\n"), "{text}");
        assert_eq!(text.matches("-D ").count(), 1, "{text}");
        for (_, _, chain) in HOOKS {
            assert!(text.contains(&format!(":{chain} - [0:0]\n")) && text.contains(&format!("-X {chain}\n")));
        }
    }
}
