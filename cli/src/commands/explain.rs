//! `countersign explain`: may one workload call another, and why.

use countersign_evidence::Reason;
use countersign_wire::proto;
use serde_json::{Value, json};

use crate::context::{ContextArgs, ask};
use crate::failure::{Outcome, Result};
use crate::output::{BAD, DIM, Format, GOOD, NAME, Output, clean, paint};

/// Say whether one workload may call another, and why
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign explain payments/audit payments/ledger
  countersign explain spiffe://prod.example/ns/payments/sa/audit spiffe://prod.example/ns/payments/sa/ledger --port 8443
  countersign explain audit ledger -o json

The control plane decides with what it last saw of both sides: exit code 0 when the
call is allowed, 1 when it is not. SRC and DST are SPIFFE IDs or names of proxies.")]
pub(crate) struct Args {
    /// Who calls
    source: String,
    /// Who is called
    destination: String,
    /// The port of the destination's workload
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let request = proto::ExplainRequest {
        source: args.source.clone(),
        destination: args.destination.clone(),
        port: u32::from(args.port),
    };
    let response = ask(&args.context, async |mut client| client.explain(request).await)?;
    match args.output {
        Format::Json => out.json(&document(&response)),
        Format::Text => {
            lines(&args.source, &args.destination, &response).iter().for_each(|line| out.line(line));
        }
    }
    Ok(Outcome::pass_if(response.allowed))
}

/// The answer as a document.
pub(crate) fn document(response: &proto::ExplainResponse) -> Value {
    let steps: Vec<Value> = response
        .steps
        .iter()
        .map(|step| {
            let detail: Value = serde_json::from_str(&step.json).unwrap_or(Value::Null);
            json!({ "title": step.title, "ok": step.ok, "text": step.text, "detail": detail })
        })
        .collect();
    json!({ "allowed": response.allowed, "generation": response.generation, "steps": steps })
}

/// The answer for people.
pub(crate) fn lines(source: &str, destination: &str, response: &proto::ExplainResponse) -> Vec<String> {
    let verdict = if response.allowed { paint(GOOD, "allowed") } else { paint(BAD, "denied ") };
    let mut lines = vec![format!("{verdict}  {} → {}", paint(NAME, source), paint(NAME, destination))];
    for step in &response.steps {
        let mark = if step.ok { paint(GOOD, "✓") } else { paint(BAD, "✗") };
        let denial = if step.ok { Vec::new() } else { denial(&step.json) };
        let mut text = if denial.is_empty() { step.text.as_str() } else { "" }.lines();
        let first = text.next().map(|line| format!(": {}", clean(line))).unwrap_or_default();
        lines.push(format!("  {mark} {}{first}", clean(&step.title)));
        lines.extend(text.map(|line| format!("    {}", clean(line))));
        lines.extend(denial);
    }
    lines.push(paint(DIM, &format!("as of generation {}", response.generation)));
    lines
}

/// The parts of a denial, when the step is one: policy, reason, remedy.
fn denial(json: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<Value>(json) else { return Vec::new() };
    let Some(findings) = value.get("findings").and_then(Value::as_array) else { return Vec::new() };
    let text = |of: &Value, name: &str| of.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut lines = Vec::new();
    if let Some(policy) = value.get("policy").filter(|policy| policy.is_object()) {
        lines.push(format!(
            "    policy  {}/{} (generation {}){}",
            clean(&text(policy, "namespace")),
            clean(&text(policy, "name")),
            policy.get("generation").and_then(Value::as_u64).unwrap_or(0),
            clean(&match text(&value, "rule") {
                rule if rule.is_empty() => rule,
                rule => format!(", {rule}"),
            })
        ));
    }
    for finding in findings {
        lines.push(format!(
            "    reason  {}: {} is {}, accepted: {}",
            paint(BAD, &text(finding, "reason")),
            clean(&text(finding, "field")),
            clean(&text(finding, "presented")),
            clean(&text(finding, "expected"))
        ));
    }
    if let Some(reason) = Reason::from_code(&text(&value, "reason")) {
        lines.push(format!("    remedy  {}", reason.remedy()));
    }
    lines
}
