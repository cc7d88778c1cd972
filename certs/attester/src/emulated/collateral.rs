//! What the emulated vendor publishes about its machines.

use countersign_evidence::UnixTime;
use countersign_evidence::claims::Window;
use countersign_evidence::collateral::Item;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use super::spec::{CPU_SVN, FMSPC, PCE_SVN, QE_MR_SIGNER, TEE_TCB_SVN};
use super::vendor::Vendor;
use super::x509::{Crl, Serial, date_time, pem};
use super::{DRIVER, amd, intel};
use crate::Error;

const DAY: u64 = 24 * 60 * 60;

/// What the vendor publishes. The default calls a default machine up to date and
/// revokes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollateralSpec {
    /// The issue number of TCB info and QE identities.
    pub tcb_evaluation_data_number: u32,
    /// When everything is issued, seconds since the epoch; `None` for now.
    pub issued: Option<u64>,
    /// Until when everything may be used; `None` for 30 days.
    pub next_update: Option<u64>,
    /// The platforms to speak of: one TCB info each for SGX and TDX.
    pub fmspcs: Vec<[u8; 6]>,
    /// The PCE that the TCB info is about.
    pub pce_id: [u8; 2],
    /// TCB levels, best first.
    pub tcb_levels: Vec<TcbLevel>,
    /// Levels of the TDX module of version 1, best first.
    pub module_levels: Vec<SvnLevel>,
    /// Levels of the quoting enclaves, best first.
    pub qe_levels: Vec<SvnLevel>,
    /// The number of every revocation list.
    pub crl_number: u64,
    /// Revoked PCK certificates.
    pub revoked_pck: Vec<Serial>,
    /// Certificates revoked by the Intel-like root: PCK CA, TCB signing.
    pub revoked_by_intel_root: Vec<Serial>,
    /// Certificates revoked by the ARK: ASK, ASVK.
    pub revoked_by_ark: Vec<Serial>,
    /// Leave all revocation lists out.
    pub without_crls: bool,
}

/// One TCB level, of SGX and of TDX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcbLevel {
    /// SGX components.
    pub cpu_svn: [u8; 16],
    /// PCESVN.
    pub pce_svn: u16,
    /// TDX components.
    pub tee_tcb_svn: [u8; 16],
    /// The date, seconds since the epoch.
    pub date: u64,
    /// The status in Intel's words (or others, to be refused).
    pub status: String,
    /// Security advisories.
    pub advisory_ids: Vec<String>,
}

/// One level of an enclave or of the TDX module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvnLevel {
    /// ISVSVN.
    pub isv_svn: u16,
    /// The date, seconds since the epoch.
    pub date: u64,
    /// The status in Intel's words (or others, to be refused).
    pub status: String,
    /// Security advisories.
    pub advisory_ids: Vec<String>,
}

impl SvnLevel {
    /// A level without advisories, of 2025-05-14.
    #[must_use]
    pub fn new(isv_svn: u16, status: &str) -> Self {
        Self { isv_svn, date: 1_747_180_800, status: status.to_owned(), advisory_ids: Vec::new() }
    }
}

impl TcbLevel {
    /// The level of a default machine with another PCESVN, of 2025-05-14.
    #[must_use]
    pub fn new(pce_svn: u16, status: &str, advisory_ids: &[&str]) -> Self {
        // The version of the TDX module is not a component: its identity is chosen by it.
        let mut tee_tcb_svn = TEE_TCB_SVN;
        tee_tcb_svn.iter_mut().skip(1).take(1).for_each(|version| *version = 0);
        Self {
            cpu_svn: CPU_SVN,
            pce_svn,
            tee_tcb_svn,
            date: 1_747_180_800,
            status: status.to_owned(),
            advisory_ids: advisory_ids.iter().map(|&id| id.to_owned()).collect(),
        }
    }
}

impl Default for CollateralSpec {
    /// By PCESVN: 13 is up to date, 12 needs software hardening, 11 a
    /// configuration, 10 both, 5 is out of date, 1 is revoked, 0 unknown. By
    /// ISVSVN of the TDX module: 5 is up to date, 3 out of date. By that of the
    /// quoting enclaves: 4 is up to date, 2 out of date.
    fn default() -> Self {
        let mut revoked = TcbLevel::new(1, "Revoked", &["EMULATED-SA-00005"]);
        revoked.cpu_svn = [0; 16];
        revoked.tee_tcb_svn = [0; 16];
        Self {
            tcb_evaluation_data_number: 17,
            issued: None,
            next_update: None,
            fmspcs: vec![FMSPC],
            pce_id: [0; 2],
            tcb_levels: vec![
                TcbLevel::new(PCE_SVN, "UpToDate", &[]),
                TcbLevel::new(12, "SWHardeningNeeded", &["EMULATED-SA-00001"]),
                TcbLevel::new(11, "ConfigurationNeeded", &["EMULATED-SA-00002"]),
                TcbLevel::new(10, "ConfigurationAndSWHardeningNeeded", &["EMULATED-SA-00003"]),
                TcbLevel::new(5, "OutOfDate", &["EMULATED-SA-00004"]),
                revoked,
            ],
            module_levels: vec![SvnLevel::new(5, "UpToDate"), SvnLevel::new(3, "OutOfDate")],
            qe_levels: vec![SvnLevel::new(4, "UpToDate"), SvnLevel::new(2, "OutOfDate")],
            crl_number: 1,
            revoked_pck: Vec::new(),
            revoked_by_intel_root: Vec::new(),
            revoked_by_ark: Vec::new(),
            without_crls: false,
        }
    }
}

pub(super) fn issue(vendor: &Vendor, spec: &CollateralSpec, now: UnixTime) -> Result<Vec<Item>, Error> {
    let from = spec.issued.unwrap_or(now.as_secs());
    let window = Window { from, until: spec.next_update.unwrap_or(from.saturating_add(30 * DAY)) };
    let mut items = Vec::new();
    intel_items(&vendor.intel, spec, window, &mut items)?;
    if let Some(authority) = vendor.amd_if_made() {
        amd_items(&authority, spec, window, &mut items)?;
    }
    Ok(items)
}

fn intel_items(
    authority: &intel::Authority,
    spec: &CollateralSpec,
    window: Window,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    let mut add = |name: &str, bytes: Vec<u8>| items.push(Item { name: format!("emulated/{name}"), bytes });
    for (name, signer) in [
        ("intel-root-ca.pem", &authority.root),
        ("intel-pck-platform-ca.pem", &authority.platform_ca),
        ("intel-tcb-signing.pem", &authority.tcb_signing),
    ] {
        add(name, pem("CERTIFICATE", &signer.certificate).as_bytes().to_vec());
    }
    if !spec.without_crls {
        for (name, signer, issuer, revoked) in [
            ("intel-root-ca.crl", &authority.root, intel::ROOT, &spec.revoked_by_intel_root),
            ("intel-pck-platform.crl", &authority.platform_ca, intel::PLATFORM_CA, &spec.revoked_pck),
        ] {
            let issuer_spki = &signer.key.spki()?;
            add(
                name,
                Crl { issuer, issuer_spki, number: spec.crl_number, window, revoked }.sign(&signer.key)?,
            );
        }
    }
    for fmspc in &spec.fmspcs {
        for id in ["SGX", "TDX"] {
            let name = format!("intel-tcb-info-{}-{}.json", id.to_lowercase(), hex::encode(fmspc));
            add(&name, signed(authority, "tcbInfo", &tcb_info(id, fmspc, spec, window))?);
        }
    }
    for (id, isv_prod_id) in [("QE", 1), ("TD_QE", 2)] {
        let name = format!("intel-{}-identity.json", id.to_lowercase());
        add(&name, signed(authority, "enclaveIdentity", &qe_identity(id, isv_prod_id, spec, window))?);
    }
    Ok(())
}

fn amd_items(
    authority: &amd::Authority,
    spec: &CollateralSpec,
    window: Window,
    items: &mut Vec<Item>,
) -> Result<(), Error> {
    let mut add = |name: &str, bytes: Vec<u8>| items.push(Item { name: format!("emulated/{name}"), bytes });
    for (name, certificate) in [
        ("amd-ark.pem", &authority.ark.certificate),
        ("amd-ask.pem", &authority.ask.certificate),
        ("amd-asvk.pem", &authority.asvk),
    ] {
        add(name, pem("CERTIFICATE", certificate).as_bytes().to_vec());
    }
    if !spec.without_crls {
        let (key, revoked) = (&authority.ark.key, &spec.revoked_by_ark);
        let issuer_spki = &key.spki()?;
        let crl = Crl { issuer: amd::ARK, issuer_spki, number: spec.crl_number, window, revoked };
        add("amd.crl", crl.sign(key)?);
    }
    Ok(())
}

/// `{"tcbInfo":…,"signature":…}`: the signature is over the bytes of the value.
fn signed(authority: &intel::Authority, key: &str, value: &impl Serialize) -> Result<Vec<u8>, Error> {
    let value = serde_json::to_string(value).map_err(|e| Error::Protocol(e.to_string(), DRIVER))?;
    let signature = hex::encode(authority.tcb_signing.key.sign(value.as_bytes())?);
    Ok(format!("{{\"{key}\":{value},\"signature\":\"{signature}\"}}").into_bytes())
}

// Intel PCS API v4: TCB info version 3, enclave identity version 2. The order
// of the fields is Intel's.

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TcbInfo {
    id: &'static str,
    version: u32,
    issue_date: String,
    next_update: String,
    fmspc: String,
    pce_id: String,
    tcb_type: u32,
    tcb_evaluation_data_number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tdx_module: Option<Module>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tdx_module_identities: Option<Vec<ModuleIdentity>>,
    tcb_levels: Vec<Level<Tcb>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Module {
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModuleIdentity {
    id: &'static str,
    #[serde(flatten)]
    module: Module,
    tcb_levels: Vec<Level<IsvSvn>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Level<T> {
    tcb: T,
    tcb_date: String,
    tcb_status: String,
    #[serde(rename = "advisoryIDs", skip_serializing_if = "Vec::is_empty")]
    advisory_ids: Vec<String>,
}

#[derive(Serialize)]
struct Tcb {
    sgxtcbcomponents: Vec<Component>,
    pcesvn: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    tdxtcbcomponents: Option<Vec<Component>>,
}

#[derive(Serialize)]
struct Component {
    svn: u8,
}

#[derive(Serialize)]
struct IsvSvn {
    isvsvn: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnclaveIdentity {
    id: &'static str,
    version: u32,
    issue_date: String,
    next_update: String,
    tcb_evaluation_data_number: u32,
    miscselect: String,
    miscselect_mask: String,
    attributes: String,
    attributes_mask: String,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: Vec<Level<IsvSvn>>,
}

fn tcb_info(id: &'static str, fmspc: &[u8; 6], spec: &CollateralSpec, window: Window) -> TcbInfo {
    let tdx = id == "TDX";
    let module = || Module {
        mrsigner: hex::encode_upper([0; 48]),
        attributes: hex::encode_upper([0; 8]),
        attributes_mask: hex::encode_upper([0xff; 8]),
    };
    let identity = || ModuleIdentity {
        id: "TDX_01",
        module: module(),
        tcb_levels: spec.module_levels.iter().map(svn_level).collect(),
    };
    let level = |level: &TcbLevel| Level {
        tcb: Tcb {
            sgxtcbcomponents: components(&level.cpu_svn),
            pcesvn: level.pce_svn,
            tdxtcbcomponents: tdx.then(|| components(&level.tee_tcb_svn)),
        },
        tcb_date: moment(level.date),
        tcb_status: level.status.clone(),
        advisory_ids: level.advisory_ids.clone(),
    };
    TcbInfo {
        id,
        version: 3,
        issue_date: moment(window.from),
        next_update: moment(window.until),
        fmspc: hex::encode_upper(fmspc),
        pce_id: hex::encode_upper(spec.pce_id),
        tcb_type: 0,
        tcb_evaluation_data_number: spec.tcb_evaluation_data_number,
        tdx_module: tdx.then(module),
        tdx_module_identities: tdx.then(|| vec![identity()]),
        tcb_levels: spec.tcb_levels.iter().map(level).collect(),
    }
}

fn qe_identity(id: &'static str, isv_prod_id: u16, spec: &CollateralSpec, window: Window) -> EnclaveIdentity {
    EnclaveIdentity {
        id,
        version: 2,
        issue_date: moment(window.from),
        next_update: moment(window.until),
        tcb_evaluation_data_number: spec.tcb_evaluation_data_number,
        miscselect: "00000000".to_owned(),
        miscselect_mask: "FFFFFFFF".to_owned(),
        // INIT and PROVISION_KEY; the mask leaves MODE64BIT and XFRM open.
        attributes: "11000000000000000000000000000000".to_owned(),
        attributes_mask: "FBFFFFFFFFFFFFFF0000000000000000".to_owned(),
        mrsigner: hex::encode_upper(QE_MR_SIGNER),
        isvprodid: isv_prod_id,
        tcb_levels: spec.qe_levels.iter().map(svn_level).collect(),
    }
}

fn svn_level(level: &SvnLevel) -> Level<IsvSvn> {
    Level {
        tcb: IsvSvn { isvsvn: level.isv_svn },
        tcb_date: moment(level.date),
        tcb_status: level.status.clone(),
        advisory_ids: level.advisory_ids.clone(),
    }
}

fn components(svns: &[u8; 16]) -> Vec<Component> {
    svns.iter().map(|&svn| Component { svn }).collect()
}

/// `2026-11-21T00:00:00Z`.
fn moment(seconds: u64) -> String {
    date_time(seconds).format(&Rfc3339).unwrap_or_default()
}
