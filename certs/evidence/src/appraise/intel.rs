//! Rules about TDX guests and SGX enclaves.

use super::checks::{Checks, list};
use crate::claims::{IntelPlatform, SgxClaims, TcbStatus, TdxClaims};
use crate::finding::timestamp;
use crate::policy::{IntelTcbRule, SgxRule, TdxRule};
use crate::reason::Reason;

const SEPT_VE_DISABLE: u32 = 28;
const MIGRATABLE: u32 = 29;

pub(super) fn check_tdx(checks: &mut Checks, body: &TdxClaims, rule: &TdxRule) {
    if body.debug() {
        // The whole byte: bits 1 to 7 of TUD are reserved for the same purpose.
        let presented = format!("{:#04x}", body.td_attributes.first().copied().unwrap_or_default());
        checks.refuse(Reason::Debug, "tdAttributes.TUD", "0x00", presented);
    }
    if let Some(exact) = &rule.td_attributes {
        checks.exact("tdAttributes", Some(exact), &body.td_attributes);
    } else {
        if body.attribute(MIGRATABLE) {
            checks.refuse(Reason::Migratable, "tdAttributes.MIGRATABLE", "0", "1");
        }
        if !body.attribute(SEPT_VE_DISABLE) {
            // Without it the host can make any private page fault, and so watch and confuse the guest.
            checks.refuse(Reason::AttributeMismatch, "tdAttributes.SEPT_VE_DISABLE", "1", "0");
        }
    }
    checks.exact("xfam", rule.xfam.as_ref(), &body.xfam);
    checks.exact("mrConfigId", rule.mr_config_id.as_ref(), &body.mr_config_id);
    checks.exact("mrOwner", rule.mr_owner.as_ref(), &body.mr_owner);
    checks.exact("mrOwnerConfig", rule.mr_owner_config.as_ref(), &body.mr_owner_config);
    if let Some(service) = body.mr_service_td.filter(|s| *s != [0; 48] && !rule.service_tds.contains(s)) {
        let accepted: Vec<_> = rule.service_tds.iter().map(hex::encode).collect();
        checks.refuse(
            Reason::Migratable,
            "mrServiceTd",
            list(&accepted, "no service TD"),
            hex::encode(service),
        );
    }
    check_tcb(checks, &body.platform, &rule.tcb);
}

pub(super) fn check_sgx(checks: &mut Checks, body: &SgxClaims, rule: &SgxRule) {
    // ATTRIBUTES.FLAGS, Intel SDM volume 3D, table 36-3.
    const FLAGS: [&str; 6] = ["INIT", "DEBUG", "MODE64BIT", "", "PROVISION_KEY", "EINITTOKEN_KEY"];
    const INIT: u64 = 1;
    const KEYS: u64 = 1 << 4 | 1 << 5;
    if body.debug() {
        checks.refuse(Reason::Debug, "attributes.DEBUG", "0", "1");
    }
    let flags = body.attributes.first_chunk().map_or(0, |f| u64::from_le_bytes(*f));
    checks.bits("attributes", INIT & !flags, &FLAGS, true);
    checks.bits("attributes", KEYS & flags, &FLAGS, false);
    checks.exact("configId", rule.config_id.as_ref(), &body.config_id);
    check_tcb(checks, &body.platform, &rule.tcb);
}

fn check_tcb(checks: &mut Checks, platform: &IntelPlatform, rule: &IntelTcbRule) {
    check_status(checks, platform, rule);
    if let Some(least) = rule.min_evaluation_data_number
        && platform.tcb_evaluation_data_number < least
    {
        checks.refuse(
            Reason::CollateralRollback,
            "tcbEvaluationDataNumber",
            format!("at least {least}"),
            platform.tcb_evaluation_data_number.to_string(),
        );
    }
}

fn check_status(checks: &mut Checks, platform: &IntelPlatform, rule: &IntelTcbRule) {
    let status = platform.tcb_status;
    let presented = format!("{status:?}");
    let accepted: Vec<_> = rule.accepted.iter().filter(|s| **s != TcbStatus::Revoked).collect();
    let expected = list(&accepted.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>(), "no status");
    match status {
        TcbStatus::Revoked => checks.refuse(Reason::TcbRevoked, "tcbStatus", expected, presented),
        _ if accepted.contains(&&status) => check_advisories(checks, platform, rule),
        TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded => {
            // Not from the issue of the TCB info: that is issued anew every
            // day, and the period would never end.
            let end = platform.superseded.unwrap_or(0).saturating_add(rule.grace_period);
            if rule.grace_period > 0 && checks.now() <= end {
                checks.holds_until(end);
                check_advisories(checks, platform, rule);
            } else {
                let (expected, presented) = if rule.grace_period > 0 {
                    (
                        format!("{expected}, or until {}", timestamp(end)),
                        format!("{presented} at {}", timestamp(checks.now())),
                    )
                } else {
                    (expected, presented)
                };
                checks.refuse(Reason::TcbOutOfDate, "tcbStatus", expected, presented);
            }
        }
        _ => checks.refuse(Reason::TcbStatusNotAccepted, "tcbStatus", expected, presented),
    }
}

/// Every advisory that applies to the platform must be one that the operator knows.
fn check_advisories(checks: &mut Checks, platform: &IntelPlatform, rule: &IntelTcbRule) {
    let Some(accepted) = &rule.advisories else { return };
    if platform.tcb_status == TcbStatus::UpToDate {
        return;
    }
    for advisory in platform.advisory_ids.iter().filter(|a| !accepted.contains(a)) {
        checks.refuse(Reason::TcbStatusNotAccepted, "advisoryIds", list(accepted, "no advisory"), advisory);
    }
}
