//! Intel's TCB statuses and levels.

use std::fmt;

use super::collateral::{ModuleIdentity, SvnLevel, TcbInfo, TcbLevel};
use super::pck::PckFacts;
use crate::finding::Finding;
use crate::reason::Reason;

/// The status of a TCB level, in Intel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[allow(missing_docs, reason = "the names are Intel's")]
pub enum TcbStatus {
    UpToDate,
    SWHardeningNeeded,
    ConfigurationNeeded,
    ConfigurationAndSWHardeningNeeded,
    OutOfDate,
    OutOfDateConfigurationNeeded,
    Revoked,
    TDRelaunchAdvised,
    TDRelaunchAdvisedConfigurationNeeded,
}

impl TcbStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::UpToDate,
        Self::SWHardeningNeeded,
        Self::ConfigurationNeeded,
        Self::ConfigurationAndSWHardeningNeeded,
        Self::OutOfDate,
        Self::OutOfDateConfigurationNeeded,
        Self::Revoked,
        Self::TDRelaunchAdvised,
        Self::TDRelaunchAdvisedConfigurationNeeded,
    ];

    /// The name as Intel writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
            Self::TDRelaunchAdvised => "TDRelaunchAdvised",
            Self::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
        }
    }

    /// The status with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    const fn configuration_needed(self) -> bool {
        matches!(
            self,
            Self::ConfigurationNeeded
                | Self::ConfigurationAndSWHardeningNeeded
                | Self::OutOfDateConfigurationNeeded
                | Self::TDRelaunchAdvisedConfigurationNeeded
        )
    }

    pub(crate) const fn out_of_date(self) -> bool {
        matches!(self, Self::OutOfDate | Self::OutOfDateConfigurationNeeded)
    }

    /// The status of a whole with a part of this status.
    #[must_use]
    pub const fn converge(self, part: Self) -> Self {
        match (part, self) {
            (Self::Revoked, _) => Self::Revoked,
            (Self::OutOfDate, Self::UpToDate | Self::SWHardeningNeeded) => Self::OutOfDate,
            (Self::OutOfDate, Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded) => {
                Self::OutOfDateConfigurationNeeded
            }
            _ => self,
        }
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the TCB info says about a platform.
pub(crate) struct Evaluation<'c> {
    /// The converged status of the TCB that is in force now.
    pub(crate) status: TcbStatus,
    /// The platform's own level.
    pub(crate) platform: &'c TcbLevel,
    /// The TDX module's level, when the TCB info lists the module.
    pub(crate) module: Option<&'c SvnLevel>,
}

/// Evaluates an SGX platform (Intel QVL 4.1.2.5.1).
pub(crate) fn evaluate_sgx<'c>(
    info: &'c TcbInfo,
    pck: &PckFacts,
    qe: TcbStatus,
) -> Result<Evaluation<'c>, Finding> {
    let platform = level(info, pck, None)?;
    Ok(Evaluation { status: platform.status.converge(qe), platform, module: None })
}

/// Evaluates a TDX platform (Intel QVL 4.1.2.5.2), at launch and, when the body
/// is of TDX 1.5, as it is now: a module that was updated under a running TD
/// makes a relaunch advisable where the launch TCB alone is out of date. The
/// present TCB must be known as well, and not revoked.
pub(crate) fn evaluate_tdx<'c>(
    info: &'c TcbInfo,
    pck: &PckFacts,
    svn: &[u8; 16],
    svn2: Option<&[u8; 16]>,
    qe: TcbStatus,
) -> Result<Evaluation<'c>, Finding> {
    let mut launch = evaluate_tdx_once(info, pck, svn, qe)?;
    if let Some(svn2) = svn2 {
        let current = evaluate_tdx_once(info, pck, svn2, qe)?;
        launch.status = combine(launch.status, current.status);
    }
    Ok(launch)
}

fn combine(launch: TcbStatus, current: TcbStatus) -> TcbStatus {
    if current == TcbStatus::Revoked {
        return TcbStatus::Revoked;
    }
    if !launch.out_of_date() || current.out_of_date() {
        return launch;
    }
    if launch.configuration_needed() || current.configuration_needed() {
        TcbStatus::TDRelaunchAdvisedConfigurationNeeded
    } else {
        TcbStatus::TDRelaunchAdvised
    }
}

fn evaluate_tdx_once<'c>(
    info: &'c TcbInfo,
    pck: &PckFacts,
    svn: &[u8; 16],
    qe: TcbStatus,
) -> Result<Evaluation<'c>, Finding> {
    let platform = level(info, pck, Some(svn))?;
    let [minor, version, ..] = *svn;
    let module = if version > 0 { Some(module_level(module_identity(info, version)?, minor)?) } else { None };
    let status = module.map_or(platform.status, |m| platform.status.converge(m.status)).converge(qe);
    Ok(Evaluation { status, platform, module })
}

/// The first level, from the newest, whose every component the platform reaches.
///
/// The first two TDX components are the module's; when the module has a
/// version of its own it is looked up in the module identities instead.
fn level<'c>(info: &'c TcbInfo, pck: &PckFacts, tdx: Option<&[u8; 16]>) -> Result<&'c TcbLevel, Finding> {
    let reached = |level: &&TcbLevel| {
        let sgx = pck.components.iter().zip(&level.sgx).all(|(has, needs)| has >= needs);
        let tdx = match (tdx, &level.tdx) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(svn), Some(needs)) => {
                let [_, version, ..] = *svn;
                let skip = if version > 0 { 2 } else { 0 };
                svn.iter().zip(needs).skip(skip).all(|(has, needs)| has >= needs)
            }
        };
        sgx && pck.pce_svn >= level.pce_svn && tdx
    };
    info.levels.iter().find(reached).ok_or_else(|| {
        Finding::new(
            Reason::TcbNotSupported,
            "TCB level",
            "a level of the TCB info",
            format!(
                "components {}, PCESVN {}{}",
                hex::encode(pck.components),
                pck.pce_svn,
                tdx.map(|svn| format!(", TEE_TCB_SVN {}", hex::encode(svn))).unwrap_or_default()
            ),
        )
    })
}

/// The identity of the TDX module with this major version.
pub(crate) fn module_identity(info: &TcbInfo, version: u8) -> Result<&ModuleIdentity, Finding> {
    info.module_identities.iter().find(|m| m.version == version).ok_or_else(|| {
        Finding::new(
            Reason::ModuleMismatch,
            "TDX module",
            "one that the TCB info lists",
            format!("TDX_{version:02X}"),
        )
    })
}

fn module_level(identity: &ModuleIdentity, svn: u8) -> Result<&SvnLevel, Finding> {
    identity.levels.iter().find(|l| l.isv_svn <= u16::from(svn)).ok_or_else(|| {
        Finding::new(
            Reason::TcbNotSupported,
            "TDX module",
            "a level of its identity",
            format!("TDX_{:02X} ISVSVN {svn}", identity.version),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::TcbStatus::*;
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        for status in TcbStatus::ALL {
            assert_eq!(TcbStatus::from_name(status.name()), Some(status));
        }
        assert_eq!(TcbStatus::from_name("uptodate"), None);
        assert_eq!(TcbStatus::from_name("Unknown"), None);
    }

    #[test]
    fn only_out_of_date_and_revoked_parts_change_the_whole() {
        assert_eq!(UpToDate.converge(OutOfDate), OutOfDate);
        assert_eq!(SWHardeningNeeded.converge(OutOfDate), OutOfDate);
        assert_eq!(ConfigurationNeeded.converge(OutOfDate), OutOfDateConfigurationNeeded);
        assert_eq!(ConfigurationAndSWHardeningNeeded.converge(OutOfDate), OutOfDateConfigurationNeeded);
        for status in TcbStatus::ALL {
            assert_eq!(status.converge(UpToDate), status);
            assert_eq!(status.converge(Revoked), Revoked);
        }
    }

    #[test]
    fn a_relaunch_is_advised_only_when_the_present_tcb_is_better() {
        assert_eq!(combine(OutOfDate, UpToDate), TDRelaunchAdvised);
        assert_eq!(combine(OutOfDate, SWHardeningNeeded), TDRelaunchAdvised);
        assert_eq!(combine(OutOfDate, ConfigurationNeeded), TDRelaunchAdvisedConfigurationNeeded);
        assert_eq!(combine(OutOfDateConfigurationNeeded, UpToDate), TDRelaunchAdvisedConfigurationNeeded);
        assert_eq!(combine(OutOfDate, OutOfDate), OutOfDate);
        assert_eq!(combine(UpToDate, OutOfDate), UpToDate);
        assert_eq!(combine(UpToDate, Revoked), Revoked);
        assert_eq!(combine(Revoked, UpToDate), Revoked);
    }

    fn info(levels: Vec<TcbLevel>) -> TcbInfo {
        TcbInfo { levels, ..TcbInfo::empty() }
    }

    fn tcb_level(sgx: u8, pce_svn: u16, tdx: [u8; 16], status: TcbStatus) -> TcbLevel {
        TcbLevel {
            sgx: [sgx; 16],
            pce_svn,
            tdx: Some(tdx),
            status,
            date: 0,
            date_text: String::new(),
            advisories: Vec::new(),
        }
    }

    fn pck(components: [u8; 16], pce_svn: u16) -> PckFacts {
        PckFacts {
            ppid: [0; 16],
            components,
            pce_svn,
            cpu_svn: [0; 16],
            pce_id: [0; 2],
            fmspc: [0; 6],
            sgx_type: 0,
            piid: None,
        }
    }

    #[test]
    fn a_level_needs_every_component() {
        let info = info(vec![tcb_level(5, 3, [0; 16], UpToDate), tcb_level(2, 3, [0; 16], OutOfDate)]);
        assert_eq!(level(&info, &pck([5; 16], 3), None).unwrap().status, UpToDate);
        for i in 0..16 {
            let mut low = [9; 16];
            low[i] = 4;
            assert_eq!(level(&info, &pck(low, 3), None).unwrap().status, OutOfDate, "component {i}");
            low[i] = 1;
            let none = level(&info, &pck(low, 3), None).unwrap_err();
            assert_eq!(none.reason, Reason::TcbNotSupported);
        }
        assert!(level(&info, &pck([9; 16], 2), None).is_err(), "PCESVN counts");
    }

    #[test]
    fn the_modules_components_count_only_without_a_module_version() {
        let mut needs = [0; 16];
        needs[0] = 7;
        needs[2] = 1;
        let mut info = info(vec![tcb_level(0, 0, needs, UpToDate)]);
        info.module_identities = vec![ModuleIdentity {
            version: 1,
            mr_signer: [0; 48],
            attributes: [0; 8],
            attributes_mask: [0xff; 8],
            levels: vec![SvnLevel { isv_svn: 2, status: UpToDate, date: 0, advisories: Vec::new() }],
        }];
        let pck = pck([0; 16], 0);
        let svn = |minor, version, seamldr| {
            let mut svn = [0; 16];
            (svn[0], svn[1], svn[2]) = (minor, version, seamldr);
            svn
        };
        assert!(evaluate_tdx(&info, &pck, &svn(3, 1, 1), None, UpToDate).is_ok());
        assert!(evaluate_tdx(&info, &pck, &svn(3, 0, 1), None, UpToDate).is_err());
        assert!(evaluate_tdx(&info, &pck, &svn(7, 0, 1), None, UpToDate).is_ok());
        assert!(evaluate_tdx(&info, &pck, &svn(3, 1, 0), None, UpToDate).is_err());
        let reason = |svn| evaluate_tdx(&info, &pck, &svn, None, UpToDate).err().map(|f| f.reason);
        assert_eq!(reason(svn(1, 1, 1)), Some(Reason::TcbNotSupported));
        assert_eq!(reason(svn(1, 2, 1)), Some(Reason::ModuleMismatch));
    }
}
