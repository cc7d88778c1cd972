//! What is shown, in order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_wire::proto;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Stage;
use super::children::{Children, Reserved};
use super::files::{self, AUDIT, LEDGER, Ports, Software};
use crate::commands::apply::{key, problem, request};
use crate::commands::attest::{self, now::Proof};
use crate::commands::{emulate, explain};
use crate::context::{Client, Context, ContextArgs, TIMEOUT};
use crate::failure::{Failure, Result};
use crate::output::{BAD, DIM, Format, GOOD, NAME, NOTE, clean, paint};

/// How long anything of the demonstration may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at what the control plane knows.
const PAUSE: Duration = Duration::from_millis(10);
/// What a round at level L2 says.
const PROVED: &str = "L2: a quote over this TLS connection's own secret, both keys and a fresh nonce, chained to \
                      the round before: the connection ends in that TEE, now";
/// Where the control plane writes the operator's context, below the directory.
pub(super) const CONTEXT: &str = "control-plane/operator.yaml";

/// What is started.
pub(super) struct Programs {
    pub(super) control_plane: PathBuf,
    pub(super) proxy: PathBuf,
    pub(super) own: PathBuf,
}

/// What the audit workload tells, and when it was heard.
struct Heard {
    at: Instant,
    event: String,
    text: String,
}

/// Tells all of it; returns the ledger's port.
pub(super) async fn tell(
    programs: &Programs,
    dir: &Path,
    children: &mut Children,
    stage: &mut Stage<'_>,
) -> Result<u16> {
    // Two demonstrations at once do not get in each other's way.
    let mut reserved = Reserved::default();
    let ports = ports(&mut reserved)?;

    stage.chapter("A vendor of emulated TEEs, and a control plane in a TDX guest of it");
    let roots = vendor(dir, stage)?;
    write(dir, "control-plane.yaml", &files::control_plane(&ports))?;
    write(dir, "control-plane-policy.yaml", &files::control_plane_policy(&roots.0))?;
    start(children, "control plane", &programs.control_plane, dir, "control-plane")?;
    let [_, _, readiness] = ports.control_plane_ops;
    children.ready(readiness, "control plane", LIMIT).await?;
    let context = Context::load(&ContextArgs { context: Some(dir.join(CONTEXT)) })?;
    write(dir, "bundle.json", &context.bundle().to_json())?;
    let mut client = Client::connect(&context, TIMEOUT).await?;
    stage.say(format!("control plane on {}, ready", context.server()));
    let proved = client.peer.claims.as_ref().map(|claims| claims.tee.name());
    if let Some(tee) = proved {
        let emulated = paint(NOTE, " EMULATED");
        stage.say(format!(
            "it proved itself to this terminal: {tee}{emulated} evidence, as proxies demand it"
        ));
    }
    stage.event("controlPlaneReady", json!({ "server": context.server(), "proved": proved }));

    stage.chapter("The operator applies identities, attestation policies, reference values");
    let mesh = files::mesh(&roots.0, &roots.1, &ports);
    let v1 = files::ledger_releases(&[("ledger v1.4.2", Software::LedgerV1)]);
    write(dir, "mesh.yaml", &mesh)?;
    write(dir, "ledger-releases.yaml", &v1)?;
    let applied = apply(&mut client, &[("mesh.yaml", &mesh), ("ledger-releases.yaml", &v1)]).await?;
    for result in &applied.results {
        stage.say(format!("{} {}", paint(GOOD, "applied"), clean(&key(result.key.as_ref()))));
    }
    stage.event("applied", json!({ "generation": applied.generation, "resources": applied.results.len() }));

    stage.chapter("Two workloads, a proxy next to each: each quotes, and gets an identity for it");
    write(dir, "ledger-proxy.yaml", &files::ledger_proxy(&ports))?;
    write(dir, "audit-proxy.yaml", &files::audit_proxy(&ports))?;
    let listen = ports.ledger.to_string();
    let log = dir.join("ledger.log");
    children.start("ledger", &programs.own, &["demo-workload", "ledger", &listen], log, false)?;
    start(children, "ledger's proxy", &programs.proxy, dir, "ledger-proxy")?;
    start(children, "audit's proxy", &programs.proxy, dir, "audit-proxy")?;
    let ([_, _, ledger], [_, _, audit]) = (ports.ledger_ops, ports.audit_ops);
    children.ready(ledger, "ledger's proxy", LIMIT).await?;
    children.ready(audit, "audit's proxy", LIMIT).await?;
    who_is_there(&mut client, stage).await?;

    stage.chapter("audit calls ledger: one long-lived connection, a line every 100 ms");
    let connect = ports.audit_outbound.to_string();
    let log = dir.join("audit.log");
    let pipe = children.start("audit", &programs.own, &["demo-workload", "audit", &connect], log, true)?;
    let mut heard = listen_to(pipe);
    let answer = wait(&mut heard, "answered", children).await?;
    stage.say(format!("ledger says: {}", paint(GOOD, &answer.text)));
    stage.event("answered", json!({ "text": answer.text }));
    let ([audit, ..], [ledger, ..]) = (ports.audit_ops, ports.ledger_ops);
    stage.say("before the first byte passed:");
    for (who, admin) in [("audit", audit), ("ledger", ledger)] {
        shown(who, &attest::now::proofs(admin, LIMIT).await?, stage);
    }
    // A machine quotes for one hop every 5 s: what is asked now is there in a moment.
    let (to_audit, to_ledger) =
        (tokio::spawn(attest::now::again(audit, LIMIT)), tokio::spawn(attest::now::again(ledger, LIMIT)));
    why(&mut client, &ports, stage).await?;
    let booked = wait(&mut heard, "booked", children).await?;
    stage.say(format!("the same connection carries on: {}", clean(&booked.text)));

    stage.chapter("Each end has the other prove itself again, over that very connection");
    for (who, again) in [("audit", to_audit), ("ledger", to_ledger)] {
        let proofs = again.await.map_err(Failure::failed)??;
        shown(who, &proofs, stage);
    }
    stage.say(paint(DIM, PROVED));
    let booked = wait(&mut heard, "booked", children).await?;
    stage.say(format!("no line had to wait for it: {}", clean(&booked.text)));

    stage.chapter("The operator withdraws ledger v1.4.2: only v1.4.3 is approved from now on");
    let v2 = files::ledger_releases(&[("ledger v1.4.3", Software::LedgerV2)]);
    write(dir, "ledger-releases.yaml", &v2)?;
    let before = Instant::now();
    let applied = apply(&mut client, &[("ledger-releases.yaml", &v2)]).await?;
    let stored = before.elapsed();
    let cut = wait(&mut heard, "cut", children).await?;
    let took = cut.at.duration_since(before);
    stage.say(format!(
        "{} the live hop {} after `apply` was sent {}",
        paint(BAD, "cut"),
        paint(NAME, &format!("{:.0} ms", took.as_secs_f64() * 1e3)),
        paint(
            DIM,
            &format!(
                "(stored as generation {} after {:.0} ms)",
                applied.generation,
                stored.as_secs_f64() * 1e3
            )
        ),
    ));
    stage.event("cut", json!({ "milliseconds": took.as_secs_f64() * 1e3, "generation": applied.generation }));
    why(&mut client, &ports, stage).await?;

    stage.chapter("The operator approves v1.4.2 again: traffic goes on, no process was restarted");
    let both = files::ledger_releases(&[
        ("ledger v1.4.2", Software::LedgerV1),
        ("ledger v1.4.3", Software::LedgerV2),
    ]);
    write(dir, "ledger-releases.yaml", &both)?;
    let before = Instant::now();
    apply(&mut client, &[("ledger-releases.yaml", &both)]).await?;
    let answer = wait(&mut heard, "answered", children).await?;
    let took = answer.at.duration_since(before);
    stage.say(format!(
        "ledger says: {} {}",
        paint(GOOD, &answer.text),
        paint(DIM, &format!("({:.0} ms after `apply`)", took.as_secs_f64() * 1e3))
    ));
    stage.event("restored", json!({ "milliseconds": took.as_secs_f64() * 1e3, "text": answer.text }));
    let total = stage.start.elapsed().as_secs_f64();
    stage.say(paint(DIM, &format!("all of it took {total:.1} s")));
    stage.event("done", json!({ "seconds": total }));
    Ok(ports.ledger.port())
}

fn ports(reserved: &mut Reserved) -> Result<Ports> {
    let mut address = || reserved.address();
    let mut three = || Ok::<_, Failure>([address()?, address()?, address()?]);
    let [control_plane_ops, ledger_ops, audit_ops] = [three()?, three()?, three()?];
    Ok(Ports {
        control_plane: address()?,
        control_plane_ops,
        ledger: address()?,
        ledger_proxy: address()?,
        ledger_ops,
        audit_outbound: address()?,
        audit_ops,
    })
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let file = dir.join(name);
    std::fs::write(&file, text).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))
}

/// The emulated vendor; returns the roots of its Intel-like and AMD-like families.
fn vendor(dir: &Path, stage: &mut Stage<'_>) -> Result<(String, String)> {
    let vendor = emulate::create(&dir.join("vendor"))?;
    let roots = (vendor.intel_root().to_string(), vendor.amd_root().map_err(Failure::failed)?.to_string());
    stage.say(paint(
        NOTE,
        "EMULATED: this evidence proves nothing about hardware; the policies admit its roots by name",
    ));
    stage.event("vendor", json!({ "emulated": true, "roots": { "intel": roots.0, "amd": roots.1 } }));
    Ok(roots)
}

/// Starts a program that takes `NAME.yaml` and logs to `NAME.log`.
fn start(children: &mut Children, who: &'static str, program: &Path, dir: &Path, name: &str) -> Result<()> {
    let bootstrap = dir.join(format!("{name}.yaml"));
    let arguments = ["--config", &bootstrap.display().to_string()];
    children.start(who, program, &arguments, dir.join(format!("{name}.log")), false).map(drop)
}

async fn apply(client: &mut Client, files: &[(&str, &str)]) -> Result<proto::ApplyResponse> {
    let sources: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let response = client.apply(request(&sources, false)).await?;
    let errors: Vec<_> = response.problems.iter().filter(|p| p.severity != "warning").map(problem).collect();
    if errors.is_empty() { Ok(response) } else { Err(Failure::Problems(errors, sources)) }
}

/// What each proxy proved to the control plane. A proxy is ready a moment before
/// the control plane has heard what it uses.
async fn who_is_there(client: &mut Client, stage: &mut Stage<'_>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        let status = client.status().await?;
        let heard = status.proxies.iter().all(|proxy| proxy.generation_in_use > 0);
        if heard || Instant::now() > deadline {
            break status;
        }
        tokio::time::sleep(PAUSE).await;
    };
    for proxy in &status.proxies {
        let emulated = if proxy.emulated { paint(NOTE, " EMULATED") } else { String::new() };
        stage.say(format!(
            "{} is {}: {}{emulated} evidence appraised, {}",
            clean(&proxy.name),
            paint(NAME, &proxy.spiffe_id),
            clean(&proxy.tee),
            match proxy.generation_in_use {
                0 => "no configuration in use yet".to_owned(),
                generation => format!("generation {generation} in use"),
            }
        ));
        stage.event(
            "proxy",
            json!({
                "name": proxy.name, "spiffeId": proxy.spiffe_id, "tee": proxy.tee, "emulated": proxy.emulated,
                "generation": proxy.generation_in_use,
            }),
        );
    }
    Ok(())
}

/// What peers have proved to `who`.
fn shown(who: &str, proofs: &[Proof], stage: &mut Stage<'_>) {
    for proof in proofs {
        let emulated = if proof.emulated { paint(NOTE, " EMULATED") } else { String::new() };
        let peer = proof.peer.rsplit('/').next().unwrap_or_default();
        stage.say(format!(
            "{} {} proved itself to {who}: level {}, round {}, {}{emulated}",
            paint(GOOD, "✓"),
            paint(NAME, peer),
            paint(NAME, &proof.level),
            paint(NAME, &proof.round.to_string()),
            clean(&proof.tee),
        ));
        stage.event(
            "proved",
            json!({
                "to": who, "peer": proof.peer, "level": proof.level, "round": proof.round, "tee": proof.tee,
                "emulated": proof.emulated, "policies": proof.policies,
            }),
        );
    }
}

/// The control plane's explanation.
async fn why(client: &mut Client, ports: &Ports, stage: &mut Stage<'_>) -> Result<()> {
    let request = proto::ExplainRequest {
        source: AUDIT.to_owned(),
        destination: LEDGER.to_owned(),
        port: u32::from(ports.ledger.port()),
        request: None,
    };
    let response = client.explain(request).await?;
    if stage.format == Format::Text {
        explain::lines(AUDIT, LEDGER, &response).iter().for_each(|line| stage.say(line));
    }
    stage.event("explained", json!({ "explanation": explain::document(&response) }));
    Ok(())
}

/// What the audit workload tells, with the moment at which it was heard.
fn listen_to(pipe: Option<ChildStdout>) -> mpsc::Receiver<Heard> {
    let (sender, receiver) = mpsc::channel(64);
    if let Some(pipe) = pipe {
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let at = Instant::now();
                let Ok(told) = serde_json::from_str::<Value>(&line) else { continue };
                let text = |name: &str| told.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
                if sender.send(Heard { at, event: text("event"), text: text("text") }).await.is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

async fn wait(heard: &mut mpsc::Receiver<Heard>, event: &str, children: &mut Children) -> Result<Heard> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match tokio::time::timeout_at(deadline, heard.recv()).await {
            Ok(Some(told)) if told.event == event => return Ok(told),
            Ok(Some(_)) => {}
            Ok(None) => {
                return Err(children
                    .ended()
                    .unwrap_or_else(|| Failure::failed("the audit workload is silent")));
            }
            Err(_) => {
                let why = children.ended();
                return Err(why.unwrap_or_else(|| {
                    Failure::failed(format!("nothing {event} within {} s", LIMIT.as_secs()))
                }));
            }
        }
    }
}
