//! The vendor on disk: one directory, keys and certificates as PEM.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use countersign_evidence::claims::Window;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::intel::Signer;
use super::key::{Key, Kind};
use super::vendor::{Family, Vendor};
use super::x509::{from_pem, pem};
use super::{DRIVER, amd, intel};
use crate::Error;

/// `vendor.json`, written last: without it a directory is not a vendor.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    format: u32,
    not_before: u64,
    not_after: u64,
    families: Vec<String>,
}

const MANIFEST: &str = "vendor.json";
const FORMAT: u32 = 1;
/// The largest file that is read.
const LIMIT: u64 = 64 * 1024;

/// Waits for whoever else makes a vendor in this directory. Released on drop.
pub(super) fn lock(directory: &Path) -> Result<File, Error> {
    create(directory)?;
    let path = directory.join(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io("open", &path, e))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| io("lock", &path, e.into()))?;
    Ok(file)
}

/// Whether a vendor was saved here.
pub(super) fn is_vendor(directory: &Path) -> bool {
    directory.join(MANIFEST).exists()
}

fn create(directory: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| io("create", directory, e))
}

pub(super) fn save(vendor: &Vendor, directory: &Path) -> Result<(), Error> {
    create(directory)?;
    let intel = &vendor.intel;
    save_signer(directory, "intel-root", &intel.root)?;
    save_signer(directory, "intel-platform-ca", &intel.platform_ca)?;
    save_signer(directory, "intel-tcb-signing", &intel.tcb_signing)?;
    let mut families = vec!["intel".to_owned()];
    if let Some(amd) = vendor.amd_if_made() {
        save_signer(directory, "amd-ark", &amd.ark)?;
        save_signer(directory, "amd-ask", &amd.ask)?;
        write(directory, "amd-asvk.cert.pem", 0o644, pem("CERTIFICATE", &amd.asvk).as_bytes())?;
        families.push("amd".to_owned());
    }
    let Window { from, until } = vendor.window;
    let manifest = Manifest { format: FORMAT, not_before: from, not_after: until, families };
    let json = serde_json::to_vec_pretty(&manifest).map_err(|e| io("write", directory, e.into()))?;
    write(directory, MANIFEST, 0o644, &json)
}

pub(super) fn load(directory: &Path) -> Result<Vendor, Error> {
    let manifest: Manifest = serde_json::from_slice(&read(directory, MANIFEST)?)
        .map_err(|e| damaged(directory, MANIFEST, &e.to_string()))?;
    if manifest.format != FORMAT {
        return Err(damaged(directory, MANIFEST, &format!("format {} is not {FORMAT}", manifest.format)));
    }
    let window = Window { from: manifest.not_before, until: manifest.not_after };
    let intel = intel::Authority {
        root: load_signer(directory, "intel-root", Kind::P256)?,
        platform_ca: load_signer(directory, "intel-platform-ca", Kind::P256)?,
        tcb_signing: load_signer(directory, "intel-tcb-signing", Kind::P256)?,
    };
    let amd = if manifest.families.iter().any(|f| f == "amd") {
        let authority = amd::Authority {
            ark: load_signer(directory, "amd-ark", Kind::Rsa4096)?,
            ask: load_signer(directory, "amd-ask", Kind::Rsa4096)?,
            asvk: load_pem(directory, "amd-asvk.cert.pem", "CERTIFICATE")?.to_vec(),
        };
        Family::Made(Arc::new(authority))
    } else {
        Family::Absent
    };
    Ok(Vendor::from_parts(window, intel, amd))
}

fn save_signer(directory: &Path, name: &str, signer: &Signer) -> Result<(), Error> {
    let key = signer.key.to_pkcs8()?;
    write(directory, &format!("{name}.key.pem"), 0o600, pem("PRIVATE KEY", &key).as_bytes())?;
    let certificate = pem("CERTIFICATE", &signer.certificate);
    write(directory, &format!("{name}.cert.pem"), 0o644, certificate.as_bytes())
}

fn load_signer(directory: &Path, name: &str, kind: Kind) -> Result<Signer, Error> {
    let key_file = format!("{name}.key.pem");
    let key = Key::from_pkcs8(kind, &load_pem(directory, &key_file, "PRIVATE KEY")?)
        .map_err(|_| damaged(directory, &key_file, "not a PKCS#8 key of the expected kind"))?;
    let certificate = load_pem(directory, &format!("{name}.cert.pem"), "CERTIFICATE")?.to_vec();
    let spki = key.spki()?;
    if !certificate.windows(spki.len()).any(|window| window == spki) {
        return Err(damaged(directory, &key_file, "not the key of the certificate next to it"));
    }
    Ok(Signer { key, certificate })
}

fn load_pem(directory: &Path, name: &str, label: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bytes = read(directory, name)?;
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| from_pem(label, text))
        .ok_or_else(|| damaged(directory, name, &format!("no PEM block {label:?}")))
}

/// Replaces a file atomically: a reader sees the old or the new one.
fn write(directory: &Path, name: &str, mode: u32, bytes: &[u8]) -> Result<(), Error> {
    let path = directory.join(name);
    let draft = directory.join(format!(".{name}.{}.new", std::process::id()));
    // A draft that an interrupted save left may have another mode.
    let _ = fs::remove_file(&draft);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, &path))
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(|e| io("write", &path, e))
}

fn read(directory: &Path, name: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let path = directory.join(name);
    // All in one allocation, so that no copy of a key stays behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT as usize));
    File::open(&path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        .map_err(|e| io("read", &path, e))?;
    Ok(bytes)
}

fn io(verb: &str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { driver: DRIVER, what: format!("{verb} {}", path.display()), source }
}

fn damaged(directory: &Path, name: &str, why: &str) -> Error {
    Error::Protocol(format!("{}: {why}", directory.join(name).display()), DRIVER)
}
