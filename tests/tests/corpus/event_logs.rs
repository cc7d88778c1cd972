//! Event logs of real machines, replayed to the registers of real quotes.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, digest};
use countersign_evidence::event_log::{self, Register, RegisterState, media_type, replay, tcg};
use countersign_evidence::intel::{Quote, QuoteBody};
use countersign_evidence::{Evidence, Finding, Reason};
use serde_json::Value as Json;
use toml::Value;

use crate::appraisals::Appraisals;
use crate::manifest::{Case, Corpus, Keys, Sample};
use crate::tally::Miss;

type Registers = [Register; 4];

/// The firmware's log of a TDX guest, with the quote of the same guest.
pub(crate) fn ccel(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let log = sample.bytes(appraisals.corpus)?;
    let (fields, expect) = (sample.fields(), sample.expect());
    let registers = match fields.text("quote_sample") {
        Some(id) => registers(&quote_bytes(appraisals.corpus, id)?)?,
        None => return Err(Miss::Skipped("no quote goes with this log".to_owned())),
    };
    let (mut events, mut folded) = (0_i64, [[0; 48]; 4]);
    tcg::parse(&log, |event| {
        events += 1;
        fold(&mut folded, &event);
        Ok(())
    })
    .map_err(|f| f.to_string())?;
    fields.is("event_count", events)?;
    let by_index = fields.get("replay_mr_index").and_then(Value::as_table);
    for (index, value) in by_index.into_iter().flatten() {
        let register = index.parse::<usize>().ok().and_then(|n| n.checked_sub(1)).and_then(|n| folded.get(n));
        let found = register.map(hex::encode).ok_or_else(|| format!("no register for MR index {index}"))?;
        fields_same("replay_mr_index", value, &found)?;
    }
    let what = compare(media_type::CCEL, &log, &registers, &folded, &expect)?;
    let padded = [log.as_slice(), &[0xff; 64]].concat();
    same_outcome("with padding", &run(media_type::CCEL, &log, &registers), &padded, &registers)?;
    Ok(format!("{events} events, {what}{}{}", fields.not_compared(), expect.not_compared()))
}

/// A quote with the JSON log of a dstack guest.
pub(crate) fn dstack(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let bytes = sample.bytes(appraisals.corpus)?;
    let (fields, expect) = (sample.fields(), sample.expect());
    let report: Json = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let text = |key: &str| report.get(key).and_then(Json::as_str).ok_or_else(|| format!("no {key}"));
    let registers = registers(&hex::decode(text("quote")?).map_err(|e| e.to_string())?)?;
    let log = text("event_log")?;
    let items: Vec<Json> = serde_json::from_str(log).map_err(|e| e.to_string())?;
    fields.is("events", i64::try_from(items.len()).unwrap_or(i64::MAX))?;
    let mut folded = [[0; 48]; 4];
    for item in &items {
        let number = item.get("imr").and_then(Json::as_u64).and_then(|n| usize::try_from(n).ok());
        let digest = item.get("digest").and_then(Json::as_str).and_then(|d| hex::decode(d).ok());
        let digest: Option<Register> = digest.and_then(|d| d.try_into().ok());
        let (Some(number), Some(digest)) = (number, digest) else {
            return Err("an odd event".to_owned().into());
        };
        let register = folded.get_mut(number).ok_or_else(|| format!("imr {number}"))?;
        event_log::extend(register, &digest);
    }
    let replayed = fields.get("replay").and_then(Value::as_table);
    for (number, value) in replayed.into_iter().flatten() {
        let register = number.parse::<usize>().ok().and_then(|n| folded.get(n));
        let found = register.map(hex::encode).ok_or_else(|| format!("no register {number}"))?;
        fields_same("replay", value, &found)?;
    }
    let what = compare(media_type::DSTACK, log.as_bytes(), &registers, &folded, &expect)?;
    if run(media_type::DSTACK, log.as_bytes(), &registers).is_ok() {
        mutations(&items, &registers)?;
    }
    Ok(format!("{} events, {what}{}{}", items.len(), fields.not_compared(), expect.not_compared()))
}

/// The log of a TPM's platform. Its registers are PCRs, which no evidence that
/// is understood quotes: the reading and the banks are compared.
pub(crate) fn tcg_log(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    const BANKS: [(&str, u16, &Algorithm); 3] = [
        ("replay_sha1", 0x0004, &SHA1_FOR_LEGACY_USE_ONLY),
        ("replay_sha256", 0x000b, &SHA256),
        ("replay_sha384", tcg::SHA384, &SHA384),
    ];
    let log = sample.bytes(appraisals.corpus)?;
    let (fields, expect) = (sample.fields(), sample.expect());
    let mut banks: BTreeMap<(&str, u32), Vec<u8>> = BTreeMap::new();
    let mut events = 0_i64;
    let parsed = tcg::parse(&log, |event| {
        events += 1;
        for (name, number, algorithm) in BANKS {
            let zero = || vec![0; algorithm.output_len()];
            if event.kind == tcg::EV_NO_ACTION {
                // The locality that started the TPM is the last byte of PCR 0.
                if let Some([locality]) = event.data.strip_prefix(b"StartupLocality\0") {
                    let register = banks.entry((name, 0)).or_insert_with(zero);
                    register.splice(register.len() - 1.., [*locality]);
                }
            } else if let Some(extension) = event.digest(number) {
                let register = banks.entry((name, event.register)).or_insert_with(zero);
                *register = digest(algorithm, &[register.as_slice(), extension].concat()).as_ref().to_vec();
            }
        }
        Ok(())
    });
    expect.is("parses", parsed.is_ok())?;
    if let Err(finding) = parsed {
        return Ok(format!("refused: {finding}"));
    }
    fields.is("event_count", events)?;
    let mut compared = 0;
    for (name, ..) in BANKS {
        for (register, value) in fields.get(name).and_then(Value::as_table).into_iter().flatten() {
            let found = register.parse().ok().and_then(|n: u32| banks.get(&(name, n)));
            fields_same(name, value, &found.map(hex::encode).unwrap_or_default())?;
            compared += 1;
        }
    }
    // A TPM's log is none of a TDX guest, and is never mistaken for one.
    match run(media_type::CCEL, &log, &[[7; 48]; 4]) {
        Ok(_) => Err("replayed onto registers of a TDX guest".to_owned().into()),
        Err(_) => Ok(format!("{events} events, {compared} registers compared")),
    }
}

fn quote_bytes(corpus: &Corpus, id: &str) -> Result<Vec<u8>, String> {
    let samples = corpus.samples();
    let quote = samples.iter().find(|s| s.id() == id).ok_or_else(|| format!("no sample {id}"))?;
    quote.bytes(corpus)
}

fn registers(quote: &[u8]) -> Result<Registers, String> {
    let evidence = Evidence::sniff(quote).map_err(|f| f.to_string())?;
    match &evidence {
        Evidence::Intel(quote) => rtmr(quote).ok_or_else(|| "no TDX quote".to_owned()),
        Evidence::Amd(_) => Err("no TDX quote".to_owned()),
    }
}

fn rtmr(quote: &Quote<'_>) -> Option<Registers> {
    match quote.body() {
        QuoteBody::Tdx(report) => Some(report.rtmr),
        QuoteBody::Sgx(_) => None,
    }
}

fn fold(registers: &mut Registers, event: &tcg::Event<'_>) {
    let number = event.register.checked_sub(1).and_then(|n| usize::try_from(n).ok());
    let register = number.and_then(|n| registers.get_mut(n));
    let digest = event.digest(tcg::SHA384).and_then(|d| Register::try_from(d).ok());
    if let (Some(register), Some(digest)) = (register, digest)
        && event.kind != tcg::EV_NO_ACTION
    {
        event_log::extend(register, &digest);
    }
}

fn run(media_type: &str, log: &[u8], registers: &Registers) -> Result<RegisterState, Finding> {
    replay(media_type, log, registers, &RegisterState::default())
}

/// The replay must land exactly when each register is as expected.
fn compare(
    media_type: &str,
    log: &[u8],
    quoted: &Registers,
    folded: &Registers,
    expect: &Keys<'_>,
) -> Result<String, String> {
    let mut all = true;
    for (number, (quoted, folded)) in quoted.iter().zip(folded).enumerate() {
        let matches = quoted == folded;
        expect.is(&format!("rtmr{number}_matches_quote"), matches)?;
        all &= matches;
    }
    match run(media_type, log, quoted) {
        Ok(state) if all => Ok(format!("lands on the quote with {} runtime events", state.events().len())),
        Err(finding) if !all && finding.reason == Reason::EventLogMismatch => {
            Ok("does not land on the quote".to_owned())
        }
        Ok(_) => Err("a log that does not match was accepted".to_owned()),
        Err(finding) => Err(finding.to_string()),
    }
}

fn same_outcome(
    what: &str,
    before: &Result<RegisterState, Finding>,
    log: &[u8],
    registers: &Registers,
) -> Result<(), String> {
    let after = run(media_type::CCEL, log, registers);
    match after.as_ref().ok() == before.as_ref().ok() {
        true => Ok(()),
        false => Err(format!("{what}: another outcome, {after:?}")),
    }
}

/// What happens to a real log in the hands of somebody who wants to hide an event.
fn mutations(items: &[Json], registers: &Registers) -> Result<(), String> {
    let attempt = |items: &[Json]| {
        let text = serde_json::to_vec(items).map_err(|e| e.to_string())?;
        Ok::<_, String>(run(media_type::DSTACK, &text, registers))
    };
    let runtime: Vec<usize> = (0..items.len())
        .filter(|n| items.get(*n).and_then(|i| i.get("imr")).and_then(Json::as_u64) == Some(3))
        .collect();
    let refused = |what: &str, changed: &[Json]| match attempt(changed)? {
        Err(_) => Ok::<_, String>(()),
        Ok(_) => Err(format!("{what} was accepted")),
    };
    for place in &runtime {
        let mut gap = items.to_vec();
        let removed = gap.remove(*place);
        refused("a log with a gap", &gap)?;
        gap.push(removed);
        if Some(place) != runtime.last() {
            refused("a log in another order", &gap)?;
        }
        let mut elsewhere = items.to_vec();
        if let Some(imr) = elsewhere.get_mut(*place).and_then(|item| item.get_mut("imr")) {
            *imr = Json::from(2);
        }
        refused("an event of another register", &elsewhere)?;
        for field in ["event", "event_payload", "digest"] {
            let mut other = items.to_vec();
            if let Some(Json::String(text)) = other.get_mut(*place).and_then(|item| item.get_mut(field)) {
                text.push_str("00");
            }
            refused(field, &other)?;
        }
    }
    let last = runtime.last().and_then(|n| items.get(*n)).cloned();
    let longer: Vec<_> = items.iter().cloned().chain(last).collect();
    match (attempt(items)?, attempt(&longer)?) {
        (Ok(before), Ok(after)) if before == after => Ok(()),
        _ => Err("a tail behind the quote changed the outcome".to_owned()),
    }
}

fn fields_same(what: &str, expected: &Value, found: &str) -> Result<(), String> {
    match expected.as_str() {
        Some(expected) if expected.eq_ignore_ascii_case(found) => Ok(()),
        _ => Err(format!("{what}: expected {expected:?}, found {found}")),
    }
}
