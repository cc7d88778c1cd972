//! TCB info, QE identity and TDX module identity: signed JSON of Intel's
//! Provisioning Certification Service (API versions 2 to 4).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::tcb::TcbStatus;
use crate::bytes::sha256;
use crate::claims::{Tee, Window};
use crate::finding::Finding;
use crate::reason::Reason;
use crate::x509::{Certificate, Path, verify_p256};

/// How the certificate that signs collateral is named.
const SIGNER_NAME: &str = "SGX TCB Signing";

/// Statuses that a level of the TCB info may have. The others only arise.
const PLATFORM: &[TcbStatus] = &[
    TcbStatus::UpToDate,
    TcbStatus::SWHardeningNeeded,
    TcbStatus::ConfigurationNeeded,
    TcbStatus::ConfigurationAndSWHardeningNeeded,
    TcbStatus::OutOfDate,
    TcbStatus::OutOfDateConfigurationNeeded,
    TcbStatus::Revoked,
];
/// Statuses that an enclave or a TDX module may have.
const PART: &[TcbStatus] = &[
    TcbStatus::UpToDate,
    TcbStatus::ConfigurationNeeded,
    TcbStatus::OutOfDate,
    TcbStatus::OutOfDateConfigurationNeeded,
    TcbStatus::Revoked,
];

/// A signed document, as it was published: the signature is over `body` exactly.
#[derive(Clone, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) kind: Kind,
    pub(crate) body: &'a str,
    pub(crate) signature: [u8; 64],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    TcbInfo,
    QeIdentity,
}

impl<'a> Signed<'a> {
    /// Reads the envelope of a published document.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Finding> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Envelope<'a> {
            #[serde(borrow)]
            tcb_info: Option<&'a RawValue>,
            #[serde(borrow, alias = "qeIdentity")]
            enclave_identity: Option<&'a RawValue>,
            signature: String,
        }
        let envelope: Envelope<'a> = serde_json::from_str(text)
            .map_err(|e| invalid("document", "a signed JSON document", e.to_string()))?;
        let (kind, body) = match (envelope.tcb_info, envelope.enclave_identity) {
            (Some(body), None) => (Kind::TcbInfo, body),
            (None, Some(body)) => (Kind::QeIdentity, body),
            _ => return Err(invalid("document", "tcbInfo or enclaveIdentity", "neither or both")),
        };
        Self::from_parts(kind, body.get(), &envelope.signature)
    }

    /// From a body and its signature in hexadecimal.
    pub(crate) fn from_parts(kind: Kind, body: &'a str, signature: &str) -> Result<Self, Finding> {
        let mut bytes = [0; 64];
        hex::decode_to_slice(signature, &mut bytes).map_err(|_| {
            invalid("signature", "64 bytes in hexadecimal", signature.chars().take(160).collect::<String>())
        })?;
        Ok(Self { kind, body, signature: bytes })
    }

    /// Whether the leaf of `path` made the signature: a TCB signing certificate
    /// directly under a root.
    pub(crate) fn verify(&self, path: &Path) -> Result<Arc<Certificate>, Finding> {
        let [signer, _root] = path.certificates.as_slice() else {
            return Err(invalid("TCB signing certificate", "issued by the root", "another chain"));
        };
        if !self.is_signed_by(signer) {
            return Err(invalid("signature", "signed by the TCB signing certificate", "another signature"));
        }
        Ok(Arc::clone(signer))
    }

    fn is_signed_by(&self, certificate: &Certificate) -> bool {
        let [4, point @ ..] = certificate.public_key() else { return false };
        point.try_into().is_ok_and(|point| verify_p256(point, self.body.as_bytes(), &self.signature))
    }

    /// The document that this body is, with who signed it.
    pub(crate) fn endorse<T>(
        &self,
        document: T,
        signer: Arc<Certificate>,
        path: &Path,
        window: Window,
    ) -> Endorsed<T> {
        let window = window.intersect(path.window);
        Endorsed { document, signer, path: path.clone(), window, digest: sha256(self.body.as_bytes()) }
    }
}

/// Whether a certificate may sign collateral, by its name.
pub(crate) fn is_signer(certificate: &Certificate) -> bool {
    certificate.common_name().contains(SIGNER_NAME)
}

/// Who signed a document, and how that leads to a root.
#[derive(Clone, Debug)]
pub(crate) struct Endorsed<T> {
    pub(crate) document: T,
    pub(crate) signer: Arc<Certificate>,
    pub(crate) path: Path,
    /// When the document and its chain are valid.
    pub(crate) window: Window,
    /// SHA-256 of the body.
    pub(crate) digest: [u8; 32],
}

/// TCB info, version 2 (SGX) or 3.
#[derive(Clone, Debug)]
pub(crate) struct TcbInfo {
    pub(crate) tee: Tee,
    pub(crate) version: u64,
    pub(crate) window: Window,
    pub(crate) fmspc: [u8; 6],
    pub(crate) pce_id: [u8; 2],
    pub(crate) evaluation_number: u32,
    pub(crate) module: Option<Module>,
    pub(crate) module_identities: Vec<ModuleIdentity>,
    /// From the newest.
    pub(crate) levels: Vec<TcbLevel>,
}

/// The TDX module without a version of its own.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) mr_signer: [u8; 48],
    pub(crate) attributes: [u8; 8],
    pub(crate) attributes_mask: [u8; 8],
}

/// A TDX module, `TDX_nn`.
#[derive(Clone, Debug)]
pub(crate) struct ModuleIdentity {
    pub(crate) version: u8,
    pub(crate) mr_signer: [u8; 48],
    pub(crate) attributes: [u8; 8],
    pub(crate) attributes_mask: [u8; 8],
    pub(crate) levels: Vec<SvnLevel>,
}

/// A level of a platform.
#[derive(Clone, Debug)]
pub(crate) struct TcbLevel {
    pub(crate) sgx: [u8; 16],
    pub(crate) pce_svn: u16,
    pub(crate) tdx: Option<[u8; 16]>,
    pub(crate) status: TcbStatus,
    pub(crate) date: u64,
    pub(crate) date_text: String,
    pub(crate) advisories: Vec<String>,
}

/// A level of an enclave or module.
#[derive(Clone, Debug)]
pub(crate) struct SvnLevel {
    pub(crate) isv_svn: u16,
    pub(crate) status: TcbStatus,
    /// `u64::MAX` when the format has no date.
    pub(crate) date: u64,
    pub(crate) advisories: Vec<String>,
}

/// The identity of a quoting enclave, version 1 (SGX) or 2.
#[derive(Clone, Debug)]
pub(crate) struct QeIdentity {
    /// The kind of TEE whose quotes it signs: `QE` or `TD_QE`.
    pub(crate) tee: Tee,
    pub(crate) window: Window,
    pub(crate) evaluation_number: u32,
    pub(crate) misc_select: [u8; 4],
    pub(crate) misc_select_mask: [u8; 4],
    pub(crate) attributes: [u8; 16],
    pub(crate) attributes_mask: [u8; 16],
    pub(crate) mr_signer: [u8; 32],
    pub(crate) isv_prod_id: u16,
    pub(crate) levels: Vec<SvnLevel>,
}

impl TcbInfo {
    /// Reads the body of a signed document.
    pub(crate) fn parse(body: &str) -> Result<Self, Finding> {
        let object = Object::parse("tcbInfo", body)?;
        let version: u64 = object.number("version")?;
        let tee = match (version, object.optional_text("id")?) {
            (2, None) | (3, Some("SGX")) => Tee::Sgx,
            (3, Some("TDX")) => Tee::Tdx,
            (version, id) => {
                return Err(invalid(
                    "tcbInfo.version",
                    "2, or 3 for SGX or TDX",
                    format!("{version} for {id:?}"),
                ));
            }
        };
        // 0 is the only type that exists: components compared one by one.
        if object.number::<u64>("tcbType")? != 0 {
            return Err(invalid("tcbInfo.tcbType", "0", "another"));
        }
        let module = match object.get("tdxModule") {
            Some(value) if tee == Tee::Tdx => Some(Module::read(&Object::of("tdxModule", value)?)?),
            _ => None,
        };
        let module_identities = match object.get("tdxModuleIdentities") {
            Some(_) if tee == Tee::Tdx => object
                .list("tdxModuleIdentities")?
                .iter()
                .map(ModuleIdentity::read)
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        let levels = object.list("tcbLevels")?;
        Ok(Self {
            tee,
            version,
            window: object.window()?,
            fmspc: object.bytes("fmspc")?,
            pce_id: object.bytes("pceId")?,
            evaluation_number: object.number("tcbEvaluationDataNumber")?,
            module,
            module_identities,
            levels: levels.iter().map(|l| TcbLevel::read(l, version, tee)).collect::<Result<_, _>>()?,
        })
    }

    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self {
            tee: Tee::Tdx,
            version: 3,
            window: Window::ALWAYS,
            fmspc: [0; 6],
            pce_id: [0; 2],
            evaluation_number: 0,
            module: None,
            module_identities: Vec::new(),
            levels: Vec::new(),
        }
    }
}

impl Module {
    fn read(object: &Object<'_>) -> Result<Self, Finding> {
        Ok(Self {
            mr_signer: object.bytes("mrsigner")?,
            attributes: object.bytes("attributes")?,
            attributes_mask: object.bytes("attributesMask")?,
        })
    }
}

impl ModuleIdentity {
    fn read(object: &Object<'_>) -> Result<Self, Finding> {
        let id = object.text("id")?;
        let version = id
            .strip_prefix("TDX_")
            .and_then(|v| u8::from_str_radix(v, 16).ok())
            .ok_or_else(|| invalid("tdxModuleIdentities.id", "TDX_nn", id))?;
        Ok(Self {
            version,
            mr_signer: object.bytes("mrsigner")?,
            attributes: object.bytes("attributes")?,
            attributes_mask: object.bytes("attributesMask")?,
            levels: object.list("tcbLevels")?.iter().map(SvnLevel::read).collect::<Result<_, _>>()?,
        })
    }
}

impl TcbLevel {
    fn read(object: &Object<'_>, version: u64, tee: Tee) -> Result<Self, Finding> {
        let tcb = object.object("tcb")?;
        let sgx = if version == 2 {
            let mut sgx = [0; 16];
            for (svn, n) in sgx.iter_mut().zip(1..) {
                *svn = tcb.number(&format!("sgxtcbcomp{n:02}svn"))?;
            }
            sgx
        } else {
            tcb.components("sgxtcbcomponents")?
        };
        Ok(Self {
            sgx,
            pce_svn: tcb.number("pcesvn")?,
            tdx: (tee == Tee::Tdx).then(|| tcb.components("tdxtcbcomponents")).transpose()?,
            status: object.status(PLATFORM)?,
            date: object.date("tcbDate")?,
            date_text: object.text("tcbDate")?.to_owned(),
            advisories: object.advisories()?,
        })
    }
}

impl SvnLevel {
    fn read(object: &Object<'_>) -> Result<Self, Finding> {
        Ok(Self {
            isv_svn: object.object("tcb")?.number("isvsvn")?,
            status: object.status(PART)?,
            date: object.date("tcbDate")?,
            advisories: object.advisories()?,
        })
    }
}

impl QeIdentity {
    /// Reads the body of a signed document.
    pub(crate) fn parse(body: &str) -> Result<Self, Finding> {
        let object = Object::parse("enclaveIdentity", body)?;
        let version: u64 = object.number("version")?;
        let (tee, levels) = match (version, object.optional_text("id")?) {
            // Version 1 knows one minimum and neither statuses nor dates.
            (1, None | Some("QE")) => {
                let level =
                    |isv_svn, status| SvnLevel { isv_svn, status, date: u64::MAX, advisories: Vec::new() };
                let minimum = object.number("isvsvn")?;
                (Tee::Sgx, vec![level(minimum, TcbStatus::UpToDate), level(0, TcbStatus::OutOfDate)])
            }
            (2, Some(id @ ("QE" | "TD_QE"))) => {
                let levels =
                    object.list("tcbLevels")?.iter().map(SvnLevel::read).collect::<Result<_, _>>()?;
                (if id == "QE" { Tee::Sgx } else { Tee::Tdx }, levels)
            }
            (version, id) => {
                return Err(invalid(
                    "enclaveIdentity.id",
                    "QE or TD_QE, version 1 or 2",
                    format!("{id:?}, version {version}"),
                ));
            }
        };
        Ok(Self {
            tee,
            window: object.window()?,
            evaluation_number: if version == 1 { 0 } else { object.number("tcbEvaluationDataNumber")? },
            misc_select: object.bytes("miscselect")?,
            misc_select_mask: object.bytes("miscselectMask")?,
            attributes: object.bytes("attributes")?,
            attributes_mask: object.bytes("attributesMask")?,
            mr_signer: object.bytes("mrsigner")?,
            isv_prod_id: object.number("isvprodid")?,
            levels,
        })
    }
}

/// A JSON object with typed access that names what is wrong.
struct Object<'v> {
    name: &'static str,
    fields: std::borrow::Cow<'v, Map<String, Value>>,
}

impl<'v> Object<'v> {
    fn parse(name: &'static str, body: &str) -> Result<Self, Finding> {
        let fields = serde_json::from_str(body).map_err(|e| invalid(name, "a JSON object", e.to_string()))?;
        Ok(Self { name, fields: std::borrow::Cow::Owned(fields) })
    }

    fn of(name: &'static str, value: &'v Value) -> Result<Self, Finding> {
        let fields = value.as_object().ok_or_else(|| invalid(name, "an object", "something else"))?;
        Ok(Self { name, fields: std::borrow::Cow::Borrowed(fields) })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    fn wrong(&self, key: &str, expected: &str) -> Finding {
        let presented =
            self.get(key).map_or_else(|| "nothing".to_owned(), |v| v.to_string().chars().take(80).collect());
        invalid(&format!("{}.{key}", self.name), expected, presented)
    }

    fn text(&self, key: &str) -> Result<&str, Finding> {
        self.get(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a string"))
    }

    fn optional_text(&self, key: &str) -> Result<Option<&str>, Finding> {
        self.get(key).map(|_| self.text(key)).transpose()
    }

    fn number<T: TryFrom<u64>>(&self, key: &str) -> Result<T, Finding> {
        self.get(key)
            .and_then(Value::as_u64)
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| self.wrong(key, "an integer in range"))
    }

    fn bytes<const N: usize>(&self, key: &str) -> Result<[u8; N], Finding> {
        let mut out = [0; N];
        hex::decode_to_slice(self.text(key)?, &mut out)
            .map_err(|_| self.wrong(key, &format!("{N} bytes in hexadecimal")))?;
        Ok(out)
    }

    fn date(&self, key: &str) -> Result<u64, Finding> {
        OffsetDateTime::parse(self.text(key)?, &Rfc3339)
            .ok()
            .and_then(|date| u64::try_from(date.unix_timestamp()).ok())
            .ok_or_else(|| self.wrong(key, "a date (RFC 3339)"))
    }

    fn window(&self) -> Result<Window, Finding> {
        Ok(Window { from: self.date("issueDate")?, until: self.date("nextUpdate")? })
    }

    fn object(&self, key: &'static str) -> Result<Object<'_>, Finding> {
        Object::of(key, self.get(key).ok_or_else(|| self.wrong(key, "an object"))?)
    }

    /// A list of objects that is not empty.
    fn list(&self, key: &'static str) -> Result<Vec<Object<'_>>, Finding> {
        match self.get(key).and_then(Value::as_array) {
            Some(list) if !list.is_empty() => list.iter().map(|v| Object::of(key, v)).collect(),
            _ => Err(self.wrong(key, "a list that is not empty")),
        }
    }

    fn components(&self, key: &'static str) -> Result<[u8; 16], Finding> {
        let svns = self.list(key)?.iter().map(|c| c.number("svn")).collect::<Result<Vec<u8>, _>>()?;
        svns.try_into().map_err(|_| self.wrong(key, "16 components"))
    }

    fn status(&self, known: &[TcbStatus]) -> Result<TcbStatus, Finding> {
        TcbStatus::from_name(self.text("tcbStatus")?)
            .filter(|status| known.contains(status))
            .ok_or_else(|| self.wrong("tcbStatus", "a known status"))
    }

    fn advisories(&self) -> Result<Vec<String>, Finding> {
        let Some(list) = self.get("advisoryIDs") else { return Ok(Vec::new()) };
        let texts = list.as_array().and_then(|l| l.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        texts.ok_or_else(|| self.wrong("advisoryIDs", "a list of strings"))
    }
}

pub(crate) fn invalid(field: &str, expected: &str, presented: impl Into<String>) -> Finding {
    Finding::new(Reason::CollateralInvalid, field, expected, presented)
}
