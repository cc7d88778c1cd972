//! `countersign connect`: the s_client of attested TLS.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_evidence::observe::Entry;
use countersign_evidence::{Denial, UnixTime};
use countersign_ratls::certificate::to_pem;
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::peer::{Admission, Judge, Presented, Role};
use countersign_ratls::tls::{Connector, HandshakeError, Profile};
use countersign_ratls::{IdPattern, Identity};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::appraisal::{AppraisalArgs, Appraiser, Judged, facts, refusal};
use crate::certificate::Facts;
use crate::context::{Context, ContextArgs, profile};
use crate::failure::{Failure, Outcome, Result};
use crate::input;
use crate::output::{BAD, DIM, Format, GOOD, HEADING, NAME, NOTE, Output, clean, paint};
use crate::tree::{group, holds, lines, pass};

/// How long a peer may think after the handshake before its silence means consent:
/// in TLS 1.3 a server refuses a client's certificate only then.
const ANSWER: Duration = Duration::from_secs(2);

/// Attested TLS to a peer: who is there, what it proved, what the policy says
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign connect ledger.example:15008 --collateral ./collateral --policy policy.yaml
  countersign connect 127.0.0.1:15012 --context state/operator.yaml
  countersign connect 127.0.0.1:15008 --identity me.pem --bundle bundle.json -o json
  countersign connect ledger.example:15008 --save-chain ledger.pem

No application data is sent. The identity is that of --identity, else of the context,
else a self-signed one without evidence, which a mesh refuses: its alert is shown.
Exit code 0 when the peer passes every check and accepts us.")]
pub(crate) struct Args {
    /// host:port of the peer
    #[arg(value_name = "HOST:PORT")]
    target: String,
    /// Our certificate chain and private key, PEM, in one file
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The trust bundle (JWK Set or PEM) of the peer's trust domain
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    appraisal: AppraisalArgs,
    /// The application protocols to offer, with commas in between
    #[arg(long, value_name = "PROTOCOLS", value_delimiter = ',', default_value = "ratls-h2/1,h2")]
    alpn: Vec<String>,
    /// Write the certificate chain of the peer to FILE, as PEM
    #[arg(long, value_name = "FILE")]
    save_chain: Option<PathBuf>,
    /// Digests and lines at their whole length
    #[arg(short, long)]
    verbose: bool,
    /// Offer only key exchanges that resist quantum computers
    #[arg(long)]
    require_pq: bool,
    /// The longest that connecting may take, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What the judge saw in the handshake.
#[derive(Debug, Default)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    identity: Vec<Entry>,
    judged: Judged,
}

/// Judges completely, keeps everything, and lets the handshake go on: nothing is
/// sent afterwards, and an operator wants to see the rest as well.
#[derive(Debug)]
struct Witness {
    bundle: Option<Vec<u8>>,
    appraiser: Appraiser,
    seen: Mutex<Seen>,
}

impl Judge for Witness {
    fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        _role: Role,
        now: UnixTime,
    ) -> std::result::Result<Arc<Admission>, Denial> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.chain = chain.iter().map(|c| c.clone().into_owned()).collect();
        let presented = match Presented::parse(chain) {
            Ok(presented) => presented,
            Err(finding) => {
                seen.judged = Judged::denied("certificate", finding.clone());
                return Err(finding.into());
            }
        };
        let mut judged = self.appraiser.judge_presented(&presented, now);
        match &presented.id {
            Some(id) => seen.identity.push(pass("X.509-SVID profile", id.to_string())),
            None => seen.identity.push(pass("certificate", "without a SPIFFE ID (bootstrap or foreign)")),
        }
        if presented.evidence.is_some() {
            seen.identity.push(pass("key binding", "the evidence binds the key that this handshake proves"));
        }
        if let (Some(bundle), Some(id)) = (&self.bundle, &presented.id) {
            match super::verify::path(&presented, id, bundle, now) {
                Ok(entry) => seen.identity.push(entry),
                Err(finding) => {
                    seen.identity.push(refusal("path", &finding));
                    judged.denial = Some(finding.into());
                }
            }
        }
        let until = presented.not_after;
        let admission = Admission {
            claims: judged.claims.clone(),
            verdicts: judged.verdicts.clone(),
            ..Admission::without_evidence(presented, until, 0)
        };
        seen.judged = judged;
        Ok(Arc::new(admission))
    }
}

/// What TLS agreed on, and whether the peer took us.
#[derive(Default)]
struct Tls {
    facts: Vec<(&'static str, String)>,
    /// Why there is no connection, or how the peer refused us.
    refused: Option<String>,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let context = Context::load_if_named(&args.context)?;
    let (identity, who) = identity(args, context.as_ref())?;
    let bundle = match (&args.bundle, &context) {
        (Some(path), _) => Some(input::read(path)?),
        (None, Some(context)) => Some(context.bundle().to_json().into_bytes()),
        (None, None) => None,
    };
    let witness = Arc::new(Witness {
        bundle,
        appraiser: Appraiser::load(&args.appraisal, input::now())?,
        seen: Mutex::default(),
    });
    let profile = Profile {
        alpn: args.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect(),
        require_pq: args.require_pq,
        ..profile()
    };
    let any = IdPattern::parse("*").map_err(Failure::failed)?;
    let connector = Connector::new(&identity, witness.clone(), any, &profile).map_err(Failure::input)?;
    let tls = super::runtime()?.block_on(handshake(args, &connector))?;
    let seen = std::mem::take(&mut *witness.seen.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(path) = args.save_chain.as_ref().filter(|_| !seen.chain.is_empty()) {
        let pem: String = seen.chain.iter().map(to_pem).collect();
        std::fs::write(path, pem).map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
    }
    let passed = tls.refused.is_none() && seen.judged.denial.is_none() && holds(&seen.judged.entries);
    match args.output {
        Format::Json => out.json(&document(args, &who, &tls, &seen, passed)),
        Format::Text => text(args, &who, &tls, &seen, &witness, out),
    }
    Ok(Outcome::pass_if(passed))
}

fn identity(args: &Args, context: Option<&Context>) -> Result<(Identity, String)> {
    if let Some(path) = &args.identity {
        let pem = input::read_text(path)?;
        let named = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", path.display()));
        let key = PrivateKey::from_pem(&pem).map_err(|e| named(&e))?;
        let chain = input::certificates(pem.as_bytes()).map_err(|e| named(&e))?;
        return Ok((Identity::new(chain, &key).map_err(|e| named(&e))?, path.display().to_string()));
    }
    if let Some(context) = context {
        let who = context.identity().id.as_ref().map_or("the context".to_owned(), ToString::to_string);
        return Ok((context.identity().clone(), who));
    }
    let key = PrivateKey::generate(KeyType::EcP256).map_err(Failure::failed)?;
    let identity = Identity::bootstrap(&key, input::now()).map_err(Failure::failed)?;
    Ok((identity, "a self-signed certificate without evidence".to_owned()))
}

async fn handshake(args: &Args, connector: &Connector) -> Result<Tls> {
    let deadline = Duration::from_secs(args.timeout);
    let unreachable = |e: &dyn std::fmt::Display| Failure::unreachable(format!("{}: {e}", args.target));
    let io = tokio::time::timeout(deadline, TcpStream::connect(&args.target))
        .await
        .map_err(|_| unreachable(&format!("no connection within {} s", args.timeout)))?
        .map_err(|e| unreachable(&e))?;
    let handshaken = match tokio::time::timeout(deadline, connector.connect(io)).await {
        Err(_) => return Err(unreachable(&format!("no handshake within {} s", args.timeout))),
        Ok(Err(HandshakeError::Io(e))) => return Err(unreachable(&e)),
        Ok(Err(other)) => return Ok(Tls { refused: Some(other.to_string()), ..Tls::default() }),
        Ok(Ok(handshaken)) => handshaken,
    };
    let mut stream = handshaken.stream;
    let mut tls = Tls::default();
    let session = stream.get_ref().1;
    let debug = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    tls.facts.push(("version", debug(session.protocol_version().map(|v| format!("{v:?}")))));
    tls.facts
        .push(("cipher suite", debug(session.negotiated_cipher_suite().map(|s| format!("{:?}", s.suite())))));
    tls.facts.push((
        "key exchange",
        debug(session.negotiated_key_exchange_group().map(|g| format!("{:?}", g.name()))),
    ));
    tls.facts.push(("ALPN", debug(session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()))));
    tls.facts.push(("handshake", debug(session.handshake_kind().map(|k| format!("{k:?}")))));
    let mut first = [0; 1];
    match tokio::time::timeout(ANSWER, stream.read(&mut first)).await {
        Ok(Err(e)) => tls.refused = Some(format!("the peer refuses us: {e}")),
        Ok(Ok(0)) => tls.refused = Some("the peer closed the connection after the handshake".to_owned()),
        Ok(Ok(_)) | Err(_) => {}
    }
    Ok(tls)
}

fn document(args: &Args, who: &str, tls: &Tls, seen: &Seen, passed: bool) -> Value {
    let chain: Vec<_> = seen.chain.iter().filter_map(|der| Facts::of(der).ok()).collect();
    let facts: serde_json::Map<String, Value> =
        tls.facts.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.clone()))).collect();
    json!({
        "passed": passed, "target": args.target, "identity": who, "tls": facts, "refused": tls.refused,
        "chain": chain, "identityChecks": seen.identity, "checks": seen.judged.entries,
        "denial": seen.judged.denial, "claims": seen.judged.claims, "verdicts": seen.judged.verdicts,
        "emulated": seen.judged.claims.as_ref().map(|c| c.emulated),
    })
}

fn text(args: &Args, who: &str, tls: &Tls, seen: &Seen, witness: &Witness, out: &mut Output) {
    let whole = args.verbose;
    out.line(format!("{} {}  as {}", paint(HEADING, "connect"), paint(NAME, &args.target), clean(who)));
    for (name, value) in &tls.facts {
        out.line(format!("  {name:<13} {}", clean(value)));
    }
    for (i, der) in seen.chain.iter().enumerate() {
        let Ok(facts) = Facts::of(der) else { continue };
        let name = facts.uris.first().unwrap_or(&facts.subject);
        let line = format!("{} until {}", facts.key, input::rfc3339(facts.not_after));
        out.line(format!("  certificate {i} {} {}", paint(NAME, name), paint(DIM, &line)));
    }
    if let Some(path) = args.save_chain.as_ref().filter(|_| !seen.chain.is_empty()) {
        out.line(format!("  written to    {}", clean(&path.display().to_string())));
    }
    let mut entries = vec![group("identity", seen.identity.clone())];
    entries.extend(seen.judged.entries.iter().cloned());
    if !seen.chain.is_empty() {
        lines(&entries).iter().for_each(|line| out.fitted(line, whole));
    }
    if let Some(claims) = &seen.judged.claims {
        let emulated = if claims.emulated { format!("  {}", paint(NOTE, "EMULATED")) } else { String::new() };
        out.line(format!("{}{emulated}", paint(HEADING, "what it proved")));
        for (name, value) in facts(claims) {
            out.fitted(format!("  {name:<13} {}", clean(&value)), whole);
        }
    }
    if witness.bundle.is_none() {
        out.line(format!("{} the path was not checked: no --bundle and no context", paint(NOTE, "note:")));
    }
    if witness.appraiser.built_in {
        out.line(format!(
            "{} no --policy: strict built-in rules, measurements are not compared",
            paint(NOTE, "note:")
        ));
    }
    for note in witness.appraiser.refused_notes() {
        out.fitted(format!("{} {}", paint(NOTE, "note:"), clean(&note)), whole);
    }
    match &seen.judged.denial {
        Some(denial) => {
            out.fitted(format!("{} {}", paint(BAD, "we would deny it:"), clean(&denial.to_string())), whole);
        }
        None if seen.chain.is_empty() => {}
        None => out.line(paint(GOOD, "the peer passes every check")),
    }
    match &tls.refused {
        Some(refused) => out.fitted(paint(BAD, refused), whole),
        None => out.line(paint(GOOD, "the peer accepted us")),
    }
}
