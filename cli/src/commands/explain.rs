//! `countersign explain`: may one workload call another, and why.

use std::path::PathBuf;

use countersign_config::view::explain::{Demands, Known};
use countersign_config::{Inputs, RequestFacts, View};
use countersign_evidence::Reason;
use countersign_evidence::collateral::Marks;
use countersign_ratls::SpiffeId;
use countersign_wire::proto;
use serde_json::{Value, json};

use crate::appraisal::read_resources;
use crate::context::{ContextArgs, ask};
use crate::failure::{Failure, Outcome, Result};
use crate::input;
use crate::output::{BAD, DIM, Format, GOOD, NAME, NOTE, Output, clean, paint};

/// Say whether one workload may call another, and why
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign explain payments/audit payments/ledger
  countersign explain spiffe://prod.example/ns/payments/sa/audit spiffe://prod.example/ns/payments/sa/ledger --port 8443
  countersign explain audit ledger -o json
  countersign explain payments/audit payments/ledger --port 8443 -f policies/
  countersign explain payments/audit payments/ledger --port 8443 --method POST --path /v1/entries

The control plane decides with what it last saw of both sides: exit code 0 when the
call is allowed, 1 when it is not, 3 when there is no answer. SRC and DST are SPIFFE IDs, names of proxies, or
NAMESPACE/NAME of a WorkloadIdentity. With -f no control plane is asked: the answer is
what the files say, and what both sides would have to prove.")]
pub(crate) struct Args {
    /// Who calls
    source: String,
    /// Who is called
    destination: String,
    /// The port of the destination's workload
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The method of a request: GET if a path or a host is given
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// The path of a request: / if a method or a host is given
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// The host of a request
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Ask these files, not the control plane (may be repeated)
    #[arg(short, long = "file", value_name = "PATH", conflicts_with = "context")]
    file: Vec<PathBuf>,
    /// Digests and lines at their whole length, as JSON has them always
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Args {
    /// The request that is asked for, if any part of one is.
    fn request(&self) -> Option<proto::AskedRequest> {
        let part = |text: &Option<String>, usual: &str| text.clone().unwrap_or_else(|| usual.to_owned());
        [&self.method, &self.path, &self.host].iter().any(|part| part.is_some()).then(|| {
            proto::AskedRequest {
                method: part(&self.method, "GET"),
                host: part(&self.host, ""),
                path: part(&self.path, "/"),
            }
        })
    }
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let response = if args.file.is_empty() {
        let request = proto::ExplainRequest {
            source: args.source.clone(),
            destination: args.destination.clone(),
            port: u32::from(args.port),
            request: args.request(),
        };
        ask(&args.context, async |mut client| client.explain(request).await)?
    } else {
        offline(args)?
    };
    match args.output {
        Format::Json => out.json(&document(&response)),
        Format::Text => {
            for line in lines(&args.source, &args.destination, &response) {
                out.fitted(line, args.verbose);
            }
        }
    }
    Ok(Outcome::pass_if(response.allowed))
}

/// What the files say, in the form of the control plane's answer. Nobody proved anything.
fn offline(args: &Args) -> Result<proto::ExplainResponse> {
    let resources = read_resources(&args.file)?.into_iter().map(std::sync::Arc::new).collect();
    let inputs = Inputs { generation: 0, resources, bundles: Vec::new(), collateral: Vec::new() };
    let now = input::now();
    let built = View::build(inputs, &mut Marks::default(), now);
    if let Some((key, why)) = built.rejected.first() {
        return Err(Failure::input(format!("{key}: {why}")));
    }
    let view = built.view;
    let named = |what: &str| {
        let missing = || {
            let hint = view.workload_like(what).map(|like| format!("; did you mean {like}?"));
            Failure::input(format!(
                "{what:?} is no SPIFFE ID and no WorkloadIdentity of the files{}",
                hint.unwrap_or_default()
            ))
        };
        view.workload(what).cloned().or_else(|| SpiffeId::parse(what).ok()).ok_or_else(missing)
    };
    let (source, destination) = (named(&args.source)?, named(&args.destination)?);
    let request = args.request();
    let facts = request.as_ref().map(|asked| RequestFacts::new(&asked.method, &asked.host, &asked.path));
    let known = Known::default();
    let explanation = view.explain_request(&source, &destination, args.port, facts.as_ref(), &known, now);
    let decision = &explanation.authorization;
    let steps = vec![
        demanded("source must prove", &explanation.source_must_prove),
        demanded("destination must prove", &explanation.destination_must_prove),
        proto::Step {
            title: "authorization".to_owned(),
            ok: decision.allowed,
            text: [&decision.rule]
                .into_iter()
                .chain(&explanation.assumptions)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n"),
            json: serde_json::to_string(&explanation).unwrap_or_default(),
            ..Default::default()
        },
    ];
    Ok(proto::ExplainResponse { allowed: steps.iter().all(|step| step.ok), steps, generation: 0 })
}

/// What one side demands: the policies, and a line for each alternative.
fn demanded(title: &str, demands: &Demands) -> proto::Step {
    let policies = demands.policies.iter().map(|demand| {
        let alternatives = demand.any_of.iter().map(|line| format!("\n  {line}")).collect::<String>();
        format!("{} ({:?}){alternatives}", demand.policy, demand.mode)
    });
    proto::Step {
        title: title.to_owned(),
        ok: demands.refused.is_none(),
        text: policies.collect::<Vec<_>>().join("\n"),
        json: match &demands.refused {
            Some(denial) => serde_json::to_string(denial),
            None => serde_json::to_string(demands),
        }
        .unwrap_or_default(),
        ..Default::default()
    }
}

/// The answer as a document.
pub(crate) fn document(response: &proto::ExplainResponse) -> Value {
    let steps: Vec<Value> = response
        .steps
        .iter()
        .map(|step| {
            let detail: Value = serde_json::from_str(&step.json).unwrap_or(Value::Null);
            json!({
                "title": step.title, "ok": step.ok, "untried": step.untried, "text": step.text,
                "notes": step.notes, "detail": detail,
            })
        })
        .collect();
    json!({ "allowed": response.allowed, "generation": response.generation, "steps": steps })
}

/// The answer for people.
pub(crate) fn lines(source: &str, destination: &str, response: &proto::ExplainResponse) -> Vec<String> {
    let untried = response.allowed && response.steps.iter().any(|step| step.untried);
    let verdict = match (response.allowed, untried) {
        (false, _) => paint(BAD, "denied "),
        (true, false) => paint(GOOD, "allowed"),
        (true, true) => paint(NOTE, "allowed, as far as certificates show"),
    };
    let mut lines = vec![format!("{verdict}  {} → {}", paint(NAME, source), paint(NAME, destination))];
    for step in &response.steps {
        let mark = match (step.ok, step.untried) {
            (false, _) => paint(BAD, "✗"),
            (true, false) => paint(GOOD, "✓"),
            (true, true) => paint(NOTE, "?"),
        };
        let denial = if step.ok { Vec::new() } else { denial(&step.json) };
        let mut text = if denial.is_empty() { step.text.as_str() } else { "" }.lines();
        let first = text.next().map(|line| format!(": {}", clean(line))).unwrap_or_default();
        lines.push(format!("  {mark} {}{first}", clean(&step.title)));
        lines.extend(text.chain(step.notes.iter().map(String::as_str)).map(|line| {
            match line.strip_prefix("warning: ") {
                Some(doubt) => format!("    {} {}", paint(NOTE, "warning:"), clean(doubt)),
                None => format!("    {}", clean(line)),
            }
        }));
        lines.extend(denial);
        if !step.ok && step.title == "authorization" {
            lines.push(format!("    remedy  {}", Reason::AuthorizationDenied.remedy()));
        }
    }
    let of = match response.generation {
        0 => "as the files say; the control plane was not asked".to_owned(),
        generation => format!("as of generation {generation}"),
    };
    lines.push(paint(DIM, &of));
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
