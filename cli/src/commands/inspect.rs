//! `countersign inspect`: what a certificate says, without verifying it.

use std::path::PathBuf;

use countersign_evidence::Evidence;
use countersign_ratls::peer::Presented;
use serde_json::{Value, json};

use crate::certificate::Facts;
use crate::failure::{Failure, Outcome, Result};
use crate::input;
use crate::output::{BAD, DIM, Format, GOOD, HEADING, NOTE, Output, clean, paint};

/// Show what a certificate says, without verifying it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign inspect peer.pem
  countersign inspect svid.der -o json
  openssl s_client -connect ledger:15008 -alpn ratls-h2/1 -showcerts </dev/null | countersign inspect -
  countersign inspect -

A listener of the mesh answers only those who offer the protocol that it speaks, hence -alpn.
Nothing is verified: neither signatures nor evidence. Use `countersign verify` for that.
Exit code 1 when the certificate breaks the X.509-SVID profile or its evidence does
not bind its key.")]
pub(crate) struct Args {
    /// A certificate or chain, PEM or DER; `-` for standard input
    file: PathBuf,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args, out: &mut Output) -> Result {
    let bytes = input::read(&args.file)?;
    if let (false, Ok(evidence)) = (input::looks_like_certificate(&bytes), Evidence::sniff(&bytes)) {
        let (file, what) = (args.file.display(), super::verify::kind(&evidence));
        return Err(Failure::input(format!(
            "{file}: this is no certificate but an {what}: countersign verify {file}"
        )));
    }
    let chain = input::certificates(&bytes).map_err(Failure::input)?;
    let facts: Vec<Facts> =
        chain.iter().map(Facts::of).collect::<std::result::Result<_, _>>().map_err(Failure::input)?;
    let presented = Presented::parse(&chain);
    let evidence = presented.as_ref().ok().and_then(evidence);
    let conforms = presented.is_ok();
    if args.output == Format::Json {
        out.json(&json!({
            "verified": false,
            "certificates": facts,
            "spiffeId": presented.as_ref().ok().and_then(|p| p.id.as_ref()).map(ToString::to_string),
            "profile": { "holds": conforms, "finding": presented.as_ref().err() },
            "evidence": evidence,
        }));
        return Ok(Outcome::pass_if(conforms));
    }
    out.line(paint(NOTE, "Parsed, NOT verified: nothing below is proven."));
    for (i, certificate) in facts.iter().enumerate() {
        let title = if i == 0 { "Leaf".to_owned() } else { format!("Issuer {i}") };
        out.line(format!(
            "{} {}",
            paint(HEADING, &title),
            paint(DIM, &format!("{} bytes", certificate.bytes))
        ));
        for (name, value) in certificate.lines() {
            out.line(format!("  {name:<11} {}", clean(&value)));
        }
        for extension in &certificate.extensions {
            let critical = if extension.critical { ", critical" } else { "" };
            out.line(format!(
                "  {} {} ({}{critical}): {}",
                paint(DIM, "extension  "),
                clean(&extension.name),
                clean(&extension.oid),
                clean(&extension.value)
            ));
        }
    }
    out.line(paint(HEADING, "Profile"));
    match &presented {
        Ok(presented) => {
            let id = presented
                .id
                .as_ref()
                .map_or("no SPIFFE ID: bootstrap or foreign".to_owned(), |id| format!("X.509-SVID of {id}"));
            out.line(format!("  {} {}", paint(GOOD, "✓"), clean(&id)));
        }
        Err(finding) => out.line(format!("  {} {}", paint(BAD, "✗"), clean(&finding.to_string()))),
    }
    out.line(format!("{} {}", paint(HEADING, "Evidence"), paint(NOTE, "(not verified)")));
    match &evidence {
        Some(Value::Object(members)) => {
            for (name, value) in members {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                out.line(format!("  {name:<11} {}", clean(&text)));
            }
        }
        _ => out.line("  none that could be read"),
    }
    Ok(Outcome::pass_if(conforms))
}

/// A summary of the evidence, as the peer claims it.
fn evidence(presented: &Presented) -> Option<Value> {
    let conveyed = presented.evidence.as_ref()?;
    let mut summary = json!({
        "form": conveyed.form,
        "mediaType": conveyed.media_type,
        "bytes": conveyed.value.len(),
    });
    let object = summary.as_object_mut()?;
    match Evidence::parse(&conveyed.media_type, &conveyed.value) {
        Ok(evidence) => {
            object.insert("reportData".to_owned(), hex::encode(evidence.report_data()).into());
            object.insert("binding".to_owned(), "the report data binds the certificate's key".into());
            object.insert("claims".to_owned(), crate::summary::of(&evidence));
        }
        Err(finding) => {
            object.insert("problem".to_owned(), finding.to_string().into());
        }
    }
    Some(summary)
}
