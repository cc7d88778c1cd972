//! What operators hand us: files, directories, times, hexadecimal. All bounded.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use countersign_evidence::UnixTime;
use countersign_evidence::collateral::Item;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::failure::{Failure, Result};

/// The largest file that is read.
pub(crate) const FILE_LIMIT: u64 = 16 * 1024 * 1024;
/// The most files of one directory.
pub(crate) const FILES_LIMIT: usize = 1024;
/// The most certificates of one file.
const CERTIFICATES_LIMIT: usize = 16;

/// The time now. The one clock of this program.
#[allow(clippy::disallowed_methods, reason = "a command runs at one time, read here and passed on")]
pub(crate) fn now() -> UnixTime {
    UnixTime::now()
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let named = |e: io::Error| Failure::input(format!("{}: {e}", path.display()));
    if path == Path::new("-") {
        return bounded(io::stdin().lock(), path);
    }
    let file = File::open(path).map_err(named)?;
    if file.metadata().map_err(named)?.is_dir() {
        return Err(Failure::input(format!("{}: is a directory, a file was expected", path.display())));
    }
    bounded(file, path)
}

fn bounded(source: impl Read, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source
        .take(FILE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Failure::input(format!(
            "{}: larger than {} MiB, the limit of an input file",
            path.display(),
            FILE_LIMIT >> 20
        )));
    }
    Ok(bytes)
}

/// Reads a file as UTF-8 text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|e| {
        Failure::input(format!("{}: not UTF-8 text (byte {})", path.display(), e.utf8_error().valid_up_to()))
    })
}

/// The files that an argument names: itself, or those of a directory that end in
/// one of `extensions` (all when there are none), sorted by name.
pub(crate) fn files(path: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let named = |e: io::Error| Failure::input(format!("{}: {e}", path.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(named)? {
        let file = entry.map_err(named)?.path();
        let known = extensions.is_empty()
            || file.extension().is_some_and(|e| extensions.iter().any(|known| e.eq_ignore_ascii_case(known)));
        if known && file.is_file() {
            found.push(file);
        }
        if found.len() > FILES_LIMIT {
            return Err(Failure::input(format!("{}: more than {FILES_LIMIT} files", path.display())));
        }
    }
    if found.is_empty() {
        let wanted = if extensions.is_empty() { "files".to_owned() } else { extensions.join(" or ") };
        return Err(Failure::input(format!("{}: no {wanted} in this directory", path.display())));
    }
    found.sort();
    Ok(found)
}

/// Reads collateral from files and directories.
pub(crate) fn collateral(paths: &[PathBuf]) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for path in paths {
        for file in files(path, &[])? {
            items.push(Item { name: file.display().to_string(), bytes: read(&file)? });
        }
    }
    Ok(items)
}

/// A point in time: RFC 3339, or seconds since the Unix epoch.
pub(crate) fn time(text: &str) -> std::result::Result<UnixTime, String> {
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => Some(seconds),
        Err(_) => {
            OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|t| u64::try_from(t.unix_timestamp()).ok())
        }
    };
    seconds.map(|s| UnixTime::since_unix_epoch(std::time::Duration::from_secs(s))).ok_or_else(|| {
        "write a time as 2026-11-21T08:00:00Z or as seconds since 1970-01-01T00:00:00Z".to_owned()
    })
}

/// Seconds since the Unix epoch as RFC 3339; `never` for the end of time.
pub(crate) fn rfc3339(seconds: u64) -> String {
    if seconds == u64::MAX {
        return "never".to_owned();
    }
    i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

/// How long from `from` to `to`, roughly, for people: `in 59 min`, `3 h ago`.
pub(crate) fn distance(from: u64, to: u64) -> String {
    let seconds = from.abs_diff(to);
    let amount = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    };
    if to < from { format!("{amount} ago") } else { format!("in {amount}") }
}

/// Exactly 64 bytes in hexadecimal.
pub(crate) fn report_data(text: &str) -> std::result::Result<[u8; 64], String> {
    let mut out = [0; 64];
    hex::decode_to_slice(text.trim(), &mut out).map(|()| out).map_err(|_| {
        format!("report data is 128 hexadecimal digits (64 bytes), this has {}", text.trim().len())
    })
}

/// Certificates from PEM or DER, in the order of the file.
pub(crate) fn certificates(bytes: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    if !is_pem(bytes) {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .take(CERTIFICATES_LIMIT + 1)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| format!("not a PEM file of certificates: {e}"))?;
    if chain.len() > CERTIFICATES_LIMIT {
        return Err(format!("more than {CERTIFICATES_LIMIT} certificates"));
    }
    Ok(chain)
}

/// Whether the bytes look like one or more X.509 certificates. A quote may hold
/// a chain in PEM, so that the marker alone says nothing: PEM is text as a whole.
pub(crate) fn looks_like_certificate(bytes: &[u8]) -> bool {
    is_pem(bytes) || (matches!(bytes, [0x30, 0x82, ..]) && x509_parser::parse_x509_certificate(bytes).is_ok())
}

fn is_pem(bytes: &[u8]) -> bool {
    contains(bytes, b"-----BEGIN CERTIFICATE-----")
        && bytes.iter().all(|b| *b >= 0x20 || b"\n\r\t".contains(b))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(time("1700000000").unwrap().as_secs(), 1_700_000_000);
        assert_eq!(time("2023-11-14T22:13:20Z").unwrap().as_secs(), 1_700_000_000);
        assert_eq!(time("2023-11-14T23:13:20+01:00").unwrap().as_secs(), 1_700_000_000);
        assert!(time("yesterday").is_err());
        assert!(time("1969-01-01T00:00:00Z").is_err());
    }

    #[test]
    fn report_data_has_exactly_64_bytes() {
        assert!(report_data(&"ab".repeat(64)).is_ok());
        assert!(report_data(&"ab".repeat(32)).is_err());
        assert!(report_data("xy").is_err());
    }

    #[test]
    fn distances_are_for_people() {
        assert_eq!(distance(100, 160), "in 60 s");
        assert_eq!(distance(10_000, 0), "2 h ago");
        assert_eq!(rfc3339(u64::MAX), "never");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    }
}
