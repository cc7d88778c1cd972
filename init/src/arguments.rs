//! What can be asked for. Names are those of Istio's annotations.

use clap::{Parser, ValueEnum};

use crate::rules::{Include, Range, Rules};
use crate::tools::Backend;

/// Sends the TCP traffic of a workload to its Countersign proxy, by rules in the
/// network namespace in which this runs. Run it before the workload starts; it
/// needs CAP_NET_ADMIN. Until the proxy listens, what is captured is refused.
#[derive(Debug, Parser)]
#[command(
    name = "countersign-init",
    version,
    after_help = "Examples:\n  countersign-init\n  countersign-init --exclude-inbound-ports 22 --exclude-outbound-ip-ranges 169.254.169.254/32\n  countersign-init --dry-run --backend iptables\n  countersign-init --validate\n  countersign-init --cleanup"
)]
pub(crate) struct Arguments {
    /// The tool that sets the rules.
    #[arg(long, value_enum, default_value_t = Choice::Auto, value_name = "TOOL")]
    backend: Choice,
    /// Print the rules and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Remove the rules, of either tool.
    #[arg(long, conflicts_with = "validate")]
    cleanup: bool,
    /// Only check that the rules hold: connect to an address that nobody has, and see who answers.
    #[arg(long, conflicts_with = "dry_run")]
    validate: bool,

    /// The proxy's port for captured outbound connections (`capture.outbound`).
    #[arg(long, default_value_t = 15001, value_name = "PORT", value_parser = port())]
    outbound_port: u16,
    /// The proxy's port for captured inbound connections (`capture.inbound`).
    #[arg(long, default_value_t = 15006, value_name = "PORT", value_parser = port())]
    inbound_port: u16,
    /// The proxy's port for hops, which is never captured.
    #[arg(long, default_value_t = 15008, value_name = "PORT", value_parser = port())]
    hop_port: u16,
    /// The proxy's ports for metrics and readiness, which others reach as they are.
    #[arg(long, default_value = "15020,15021", value_delimiter = ',', value_name = "PORTS")]
    ops_ports: Vec<String>,

    /// The users whose connections are not captured: that of the proxy.
    #[arg(long, alias = "proxy-uid", default_value = "1337", value_delimiter = ',', value_name = "UIDS")]
    uid: Vec<u32>,
    /// Groups whose connections are not captured.
    #[arg(long, alias = "proxy-gid", value_delimiter = ',', value_name = "GIDS")]
    gid: Vec<u32>,
    /// A mark of packets that are not captured (SO_MARK), decimal or 0x….
    #[arg(long, value_name = "MARK", value_parser = mark)]
    mark: Option<u32>,

    /// Networks to which outbound connections are captured; `*` for all. Those to others leave in plaintext.
    #[arg(long, default_value = "*", value_delimiter = ',', value_name = "CIDRS")]
    include_outbound_ip_ranges: Vec<String>,
    /// Networks to which outbound connections leave in plaintext.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS")]
    exclude_outbound_ip_ranges: Vec<String>,
    /// Ports to which outbound connections are captured whatever the network.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    include_outbound_ports: Vec<String>,
    /// Ports to which outbound connections leave in plaintext.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    exclude_outbound_ports: Vec<String>,
    /// Ports whose inbound connections are captured; `*` for all.
    #[arg(long, default_value = "*", value_delimiter = ',', value_name = "PORTS")]
    include_inbound_ports: Vec<String>,
    /// Ports whose inbound connections arrive in plaintext.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    exclude_inbound_ports: Vec<String>,
    /// Interfaces whose traffic is not captured in either direction.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    exclude_interfaces: Vec<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Apply,
    Cleanup,
    Validate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// nft if it is there, otherwise iptables.
    Auto,
    /// nftables: one table, replaced as a whole.
    Nft,
    /// iptables and ip6tables: chains of our own.
    Iptables,
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.ok().filter(|mark| *mark != 0).ok_or_else(|| "accepted: a number from 1 to 0xffffffff".to_owned())
}

impl Arguments {
    pub(crate) const fn action(&self) -> Action {
        match (self.cleanup, self.validate) {
            (true, _) => Action::Cleanup,
            (_, true) => Action::Validate,
            _ => Action::Apply,
        }
    }

    /// The tool that was asked for.
    pub(crate) const fn chosen(&self) -> Option<Backend> {
        match self.backend {
            Choice::Auto => None,
            Choice::Nft => Some(Backend::Nft),
            Choice::Iptables => Some(Backend::Iptables),
        }
    }

    /// What they mean.
    pub(crate) fn rules(&self) -> anyhow::Result<Rules> {
        let include = |flag, values: &[String]| match values {
            [all] if all == "*" => Ok(Include::All),
            some => ports(flag, some).map(Include::Some),
        };
        let mut open = vec![self.hop_port];
        open.extend(ports("--ops-ports", &self.ops_ports)?);
        open.extend(ports("--exclude-inbound-ports", &self.exclude_inbound_ports)?);
        open.sort_unstable();
        open.dedup();
        for name in &self.exclude_interfaces {
            // As the kernel takes them, and nothing that a rule file reads in another way.
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@');
            anyhow::ensure!(
                (1..=15).contains(&name.len()) && name.bytes().all(fits),
                "--exclude-interfaces: {name:?} is no name of an interface"
            );
        }
        Ok(Rules {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            uids: self.uid.clone(),
            gids: self.gid.clone(),
            mark: self.mark,
            to: match self.include_outbound_ip_ranges.as_slice() {
                [all] if all == "*" => Include::All,
                some => Include::Some(ranges("--include-outbound-ip-ranges", some)?),
            },
            to_ports: ports("--include-outbound-ports", &self.include_outbound_ports)?,
            not_to: ranges("--exclude-outbound-ip-ranges", &self.exclude_outbound_ip_ranges)?,
            not_to_ports: ports("--exclude-outbound-ports", &self.exclude_outbound_ports)?,
            inbound: include("--include-inbound-ports", &self.include_inbound_ports)?,
            open,
            interfaces: self.exclude_interfaces.clone(),
        })
    }
}

/// Port numbers; an empty word, as an empty list makes it, is none.
fn ports(flag: &str, words: &[String]) -> anyhow::Result<Vec<u16>> {
    let mut ports = Vec::new();
    for word in words.iter().map(|word| word.trim()).filter(|word| !word.is_empty()) {
        match word.parse() {
            Ok(port @ 1..=u16::MAX) => ports.push(port),
            _ => anyhow::bail!("{flag}: {word:?} is no port, accepted: 1 to 65535"),
        }
    }
    Ok(ports)
}

fn ranges(flag: &str, words: &[String]) -> anyhow::Result<Vec<Range>> {
    words
        .iter()
        .map(|word| word.trim())
        .filter(|word| !word.is_empty())
        .map(|word| Range::parse(word).map_err(|why| anyhow::anyhow!("{flag}: {word:?} {why}")))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "test code")]
    use super::*;
    use clap::CommandFactory as _;

    fn rules(arguments: &[&str]) -> anyhow::Result<Rules> {
        let words = std::iter::once("countersign-init").chain(arguments.iter().copied());
        Arguments::try_parse_from(words)?.rules()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_arguments_everything_is_captured_but_the_proxy_itself() {
        let rules = rules(&[]).unwrap();
        assert_eq!((rules.outbound_port, rules.inbound_port), (15001, 15006));
        assert_eq!((rules.uids.as_slice(), rules.gids.as_slice()), ([1337].as_slice(), [].as_slice()));
        assert_eq!((rules.to, rules.inbound), (Include::All, Include::All));
        assert_eq!(rules.open, [15008, 15020, 15021]);
        assert!(rules.not_to.is_empty() && rules.not_to_ports.is_empty() && rules.mark.is_none());
    }

    #[test]
    fn lists_are_words_with_commas_and_an_empty_one_is_none() {
        let rules = rules(&[
            "--include-outbound-ip-ranges=10.0.0.0/8,fd00::/8",
            "--exclude-inbound-ports=22,22",
            "--include-inbound-ports=",
            "--uid=7,8",
            "--mark=0x539",
        ])
        .unwrap();
        assert!(matches!(&rules.to, Include::Some(ranges) if ranges.len() == 2));
        assert_eq!(rules.inbound, Include::Some(Vec::new()));
        assert_eq!(rules.open, [22, 15008, 15020, 15021]);
        assert_eq!((rules.uids, rules.mark), (vec![7, 8], Some(1337)));
    }

    #[test]
    fn what_is_no_port_range_or_interface_is_named() {
        for (argument, said) in [
            ("--exclude-outbound-ports=80,0", "\"0\""),
            ("--exclude-outbound-ports=http", "\"http\""),
            ("--exclude-outbound-ip-ranges=10.0.0.1/8", "10.0.0.0/8"),
            ("--exclude-interfaces=eth0\" accept", "no name"),
            ("--exclude-interfaces=an-interface-name-that-is-too-long", "no name"),
            ("--mark=0", "1 to 0xffffffff"),
        ] {
            let error = rules(&[argument]).unwrap_err().to_string();
            assert!(error.contains(said), "{argument}: {error}");
        }
    }
}
