//! SGX under Gramine: the pseudo files of `/dev/attestation` (Gramine
//! documentation, "Attestation and Secret Provisioning").

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_evidence::claims::Tee;
use countersign_evidence::evidence::media_type;

use crate::machine::{is_over, read_bounded, text, under};
use crate::{Attester, Detection, Error, Produced};

const DRIVER: &str = "gramine";
const DIRECTORY: &str = "/dev/attestation";

pub(crate) fn detect(root: &Path) -> Detection {
    let missing = match text(root, "/dev/attestation/attestation_type").as_deref() {
        Ok("dcap") => None,
        Ok(other) => Some(format!(
            "Gramine's attestation type is {other:?}: set sgx.remote_attestation = \"dcap\" in the manifest"
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Some(format!("{DIRECTORY}/attestation_type does not exist: not inside an SGX enclave of Gramine"))
        }
        Err(e) => Some(format!("{DIRECTORY}/attestation_type cannot be read: {e}")),
    };
    Detection { driver: DRIVER, tee: Tee::Sgx, missing: missing.into_iter().collect() }
}

pub(crate) fn open(root: &Path) -> Arc<dyn Attester> {
    Arc::new(Gramine { directory: under(root, DIRECTORY), one_at_a_time: Mutex::new(()) })
}

#[derive(Debug)]
struct Gramine {
    directory: PathBuf,
    /// The input is one file of the whole process.
    one_at_a_time: Mutex<()>,
}

impl Attester for Gramine {
    fn tee(&self) -> Tee {
        Tee::Sgx
    }

    fn driver(&self) -> &'static str {
        DRIVER
    }

    fn evidence(&self, report_data: &[u8; 64]) -> Result<Produced, Error> {
        let _guard = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let input = self.directory.join("user_report_data");
        OpenOptions::new()
            .write(true)
            .open(&input)
            .and_then(|mut file| file.write_all(report_data))
            .map_err(|e| io_error("write", &input, e))?;
        let output = self.directory.join("quote");
        let value = read_bounded(&output).map_err(|e| io_error("read", &output, e))?;
        is_over(&value, report_data, DRIVER)?;
        Ok(Produced::new(media_type::SGX_QUOTE, value))
    }
}

fn io_error(verb: &str, path: &Path, source: io::Error) -> Error {
    Error::Io { driver: DRIVER, what: format!("{verb} {}", path.display()), source }
}

#[cfg(test)]
mod tests;
