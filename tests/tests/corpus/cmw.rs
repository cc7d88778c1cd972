//! Conceptual message wrappers.

use base64::Engine as _;
use countersign_ratls::cmw::{Cmw, Collection, Kind, Label};
use countersign_ratls::peer::Presented;

use crate::appraisals::Appraisals;
use crate::der;
use crate::manifest::{Case, Sample};
use crate::tally::Miss;

/// A collection that must be read.
pub(crate) fn collection(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let bytes = sample.bytes(appraisals.corpus)?;
    let (expect, fields) = (sample.expect(), sample.fields());
    let decoded = Cmw::decode(&bytes);
    if expect.flag("decodes_as_collection") == Some(false) {
        return match decoded {
            Ok(Cmw::Collection(_)) => Err("read as a collection".to_owned().into()),
            _ => Ok("not a collection".to_owned()),
        };
    }
    let Cmw::Collection(collection) = decoded.map_err(|f| f.to_string())? else {
        return Err("read as a record".to_owned().into());
    };
    let is_json = bytes.first() == Some(&b'{');
    let values = fields.text("decoded").map(|text| find_values(&collection, text, is_json)).transpose()?;
    Ok(format!(
        "a collection of {} entries, {} values compared{}{}",
        collection.entries.len(),
        values.unwrap_or(0),
        fields.not_compared(),
        expect.not_compared()
    ))
}

/// The manifest has the decoded collection as a Python literal: each label,
/// type, value and indicator must stand in it. Returns how many values were found.
fn find_values(collection: &Collection<'_>, decoded: &str, is_json: bool) -> Result<usize, String> {
    let mut found = 0;
    for entry in &collection.entries {
        let label = match &entry.label {
            Label::Uint(n) => format!("{n}: "),
            Label::Negative(n) => format!("-{}: ", u128::from(*n) + 1),
            Label::Text(text) => format!("'{text}': "),
        };
        find(decoded, &label)?;
        let record = match &entry.content {
            Cmw::Record(record) => record,
            Cmw::Collection(inner) => {
                found += find_values(inner, decoded, is_json)?;
                continue;
            }
        };
        let value = if is_json {
            format!("'{}'", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&record.value))
        } else {
            bytes_literal(&record.value)
        };
        find(decoded, &value)?;
        match (&record.kind, record.indicator) {
            (Kind::MediaType(media_type), Some(ind)) => {
                find(decoded, &format!("['{media_type}', {value}, {ind}]"))?;
            }
            (Kind::MediaType(media_type), None) => find(decoded, &format!("['{media_type}', {value}]"))?,
            (Kind::ContentFormat(format), Some(ind)) => {
                find(decoded, &format!("[{format}, {value}, {ind}]"))?;
            }
            (Kind::ContentFormat(format), None) => {
                // As an array, or as a tag: RFC 9277, section 4.3.
                let tag = 1_668_546_817 + u64::from(*format) / 255 * 256 + u64::from(*format) % 255;
                find(decoded, &format!("[{format}, {value}]"))
                    .or_else(|_| find(decoded, &format!("CBORTag({tag}, {value})")))?;
            }
        }
        found += 1;
    }
    Ok(found)
}

fn find(text: &str, part: &str) -> Result<(), String> {
    if text.contains(part) { Ok(()) } else { Err(format!("{part} is not in {text}")) }
}

/// Bytes as Python writes them.
fn bytes_literal(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut out = format!("b{quote}");
    for byte in bytes {
        match byte {
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\\' => out.push_str("\\\\"),
            b'\'' if quote == '\'' => out.push_str("\\'"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push(quote);
    out
}

/// Something that must not be read as a collection.
pub(crate) fn negative_collection(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    match Cmw::decode(&sample.bytes(appraisals.corpus)?) {
        Ok(Cmw::Collection(_)) => Err("read as a collection".to_owned().into()),
        Ok(Cmw::Record(_)) => Ok("not a collection".to_owned()),
        Err(finding) => Ok(format!("refused, {}", finding.reason)),
    }
}

/// A certificate with a CMW that is not of our profile: it can be read, and is
/// not taken for evidence of the certificate's key.
pub(crate) fn extension(
    appraisals: &Appraisals<'_>,
    sample: &Sample<'_>,
    _case: Option<&Case<'_>>,
) -> Result<String, Miss> {
    let chain = der::certificates(&sample.bytes(appraisals.corpus)?)?;
    let leaf = der::parse(chain.first().ok_or("no certificate".to_owned())?)?;
    let (expect, fields) = (sample.expect(), sample.fields());
    let oid = fields.text("extension_oid").unwrap_or("1.3.6.1.5.5.7.1.35");
    let extension = leaf.extensions().iter().find(|e| e.oid.to_id_string() == oid);
    expect.is("extension_present", extension.is_some())?;
    expect.get("self_signed");
    let Some(extension) = extension else { return Ok("no extension".to_owned()) };
    fields.is("extension_value", hex::encode(extension.value))?;
    let (_, choice) = x509_parser::der_parser::parse_der(extension.value).map_err(|e| e.to_string())?;
    let inner = choice.content.as_slice().map_err(|e| e.to_string())?;
    let what = match Cmw::decode(inner).map_err(|f| f.to_string())? {
        Cmw::Record(record) => format!("a record of {:?}", record.kind),
        Cmw::Collection(collection) => format!("a collection of {} entries", collection.entries.len()),
    };
    let presented = match Presented::parse(&chain) {
        Ok(presented) if presented.evidence.is_some() => {
            return Err("taken for evidence of this certificate's key".to_owned().into());
        }
        Ok(_) => "no evidence".to_owned(),
        Err(finding) => finding.reason.to_string(),
    };
    let notes = format!("{}{}", fields.not_compared(), expect.not_compared());
    Ok(format!("{what}; presented by a peer: {presented}{notes}"))
}
