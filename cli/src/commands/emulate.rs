//! `countersign emulate`: a vendor of emulated hardware, its collateral, evidence.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use countersign_attester::Attester;
use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec, Vendor};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::failure::{Failure, Outcome, Result};
use crate::input;
use crate::output::{Format, GOOD, NOTE, Output, paint};

/// How long an emulated vendor's certificates are valid.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Where a vendor's collateral is, below its own directory.
pub(crate) const COLLATERAL: &str = "collateral";

/// Emulated TEE platforms for tests and demonstrations
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign emulate init ./vendor
  countersign emulate evidence ./vendor --tdx -o quote.bin
  countersign emulate evidence ./vendor --sev-snp --spec guest.json -o report.bin
  countersign emulate refresh ./vendor

Emulated evidence has the bytes of genuine evidence, but proves nothing about
hardware: only a policy that names the vendor's root under emulatedRoots admits it.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a vendor (keys, certificates) and its collateral in DIR
    Init {
        /// A directory that does not exist yet, or is empty
        dir: PathBuf,
        /// The form of the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Publish new collateral for the vendor in DIR
    Refresh {
        /// The directory of `emulate init`
        dir: PathBuf,
    },
    /// Let an emulated machine of the vendor in DIR produce evidence
    Evidence(EvidenceArgs),
}

#[derive(Debug, clap::Args)]
#[group(id = "tee", required = true, multiple = false)]
struct Tee {
    /// An Intel TDX quote
    #[arg(long)]
    tdx: bool,
    /// An Intel SGX quote
    #[arg(long)]
    sgx: bool,
    /// An AMD SEV-SNP report
    #[arg(long)]
    sev_snp: bool,
}

#[derive(Debug, clap::Args)]
struct EvidenceArgs {
    /// The directory of `emulate init`
    dir: PathBuf,
    #[command(flatten)]
    tee: Tee,
    /// The machine as JSON; fields that are not given have their defaults
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// The 64 bytes to quote, in hexadecimal; zeros when not given
    #[arg(long, value_name = "HEX", value_parser = input::report_data)]
    report_data: Option<[u8; 64]>,
    /// Where the evidence goes; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Where the log of the machine's runtime events goes, if it has one
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
}

pub(crate) fn run(args: Args, out: &mut Output) -> Result {
    match args.command {
        Command::Init { dir, output } => init(&dir, output, out),
        Command::Refresh { dir } => refresh(&dir, out),
        Command::Evidence(args) => evidence(&args, out),
    }
}

fn init(dir: &Path, format: Format, out: &mut Output) -> Result {
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::input(format!("{}: is not empty", dir.display())));
    }
    let vendor = create(dir)?;
    let (intel, amd) =
        (vendor.intel_root().to_string(), vendor.amd_root().map_err(Failure::failed)?.to_string());
    match format {
        Format::Json => out.json(&json!({
            "directory": dir, "collateral": dir.join(COLLATERAL),
            "roots": { "intel": intel, "amd": amd },
        })),
        Format::Text => {
            out.line(format!("{} emulated vendor in {}", paint(GOOD, "created"), dir.display()));
            out.line(format!("collateral     {}", dir.join(COLLATERAL).display()));
            out.line(format!("TDX, SGX root  {intel}"));
            out.line(format!("SEV-SNP root   {amd}"));
            out.line(paint(
                NOTE,
                "It proves nothing about hardware: admit it by name under emulatedRoots, for tests.",
            ));
        }
    }
    Ok(Outcome::Pass)
}

/// Makes a vendor with both families, saves it, and publishes its collateral.
pub(crate) fn create(dir: &Path) -> Result<Vendor> {
    let vendor = Vendor::generate(input::now(), VALIDITY).map_err(Failure::failed)?;
    vendor.amd_root().map_err(Failure::failed)?;
    vendor.save(dir).map_err(Failure::failed)?;
    publish(&vendor, dir)?;
    Ok(vendor)
}

/// Writes the vendor's collateral of now; returns the number of files.
pub(crate) fn publish(vendor: &Vendor, vendor_dir: &Path) -> Result<usize> {
    let dir = vendor_dir.join(COLLATERAL);
    let named = |e: std::io::Error| Failure::failed(format!("{}: {e}", dir.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(named)?;
    let items = vendor.collateral(input::now()).map_err(Failure::failed)?;
    for item in &items {
        // The vendor's names are paths of a store; here each is one file, replaced as a whole.
        let name = item.name.rsplit('/').next().unwrap_or(&item.name);
        let new = vendor_dir.join(format!(".{name}.new"));
        std::fs::write(&new, &item.bytes)
            .and_then(|()| std::fs::rename(&new, dir.join(name)))
            .map_err(named)?;
    }
    Ok(items.len())
}

fn refresh(dir: &Path, out: &mut Output) -> Result {
    let vendor = Vendor::load(dir).map_err(Failure::input)?;
    let count = publish(&vendor, dir)?;
    out.line(format!("{} {count} files in {}", paint(GOOD, "published"), dir.join(COLLATERAL).display()));
    Ok(Outcome::Pass)
}

fn evidence(args: &EvidenceArgs, out: &mut Output) -> Result {
    let vendor = Vendor::load(&args.dir).map_err(Failure::input)?;
    let produced = {
        let data = args.report_data.unwrap_or([0; 64]);
        let spec = args.spec.as_deref();
        if args.tee.tdx {
            vendor.tdx(read_spec::<TdxSpec>(spec)?).and_then(|machine| machine.evidence(&data))
        } else if args.tee.sgx {
            vendor.sgx(read_spec::<SgxSpec>(spec)?).and_then(|machine| machine.evidence(&data))
        } else {
            vendor.snp(read_spec::<SnpSpec>(spec)?).and_then(|machine| machine.evidence(&data))
        }
    }
    .map_err(Failure::failed)?;
    if let Some(path) = &args.event_log {
        let log = produced.event_log_from(0).map(|(_, log)| log);
        let log = log.ok_or_else(|| Failure::input("this machine keeps no log of runtime events"))?;
        std::fs::write(path, log).map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
    }
    if args.output == Path::new("-") {
        if out.to_terminal() {
            return Err(Failure::input("evidence is binary: name a file with -o, or redirect the output"));
        }
        out.raw(&produced.value).map_err(|e| Failure::failed(format!("standard output: {e}")))?;
    } else {
        std::fs::write(&args.output, &produced.value)
            .map_err(|e| Failure::input(format!("{}: {e}", args.output.display())))?;
        out.note(format!(
            "{} bytes of {} in {}",
            produced.value.len(),
            produced.media_type,
            args.output.display()
        ));
    }
    Ok(Outcome::Pass)
}

fn read_spec<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T> {
    let Some(path) = path else { return Ok(T::default()) };
    serde_json::from_slice(&input::read(path)?)
        .map_err(|e| Failure::input(format!("{}: {e}", path.display())))
}
