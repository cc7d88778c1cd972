//! Rules about SEV-SNP guests.

use super::checks::{Checks, list};
use crate::claims::{Product, SnpClaims, SnpSigningKey};
use crate::policy::SnpRule;
use crate::reason::Reason;

// SEV-SNP Firmware ABI specification: GUEST_POLICY and PLATFORM_INFO, by bit.
const POLICY: [&str; 26] = [
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "SMT",
    "",
    "MIGRATE_MA",
    "DEBUG",
    "SINGLE_SOCKET",
    "CXL_ALLOW",
    "MEM_AES_256_XTS",
    "RAPL_DIS",
    "CIPHERTEXT_HIDING",
    "PAGE_SWAP_DISABLE",
];
const PLATFORM_INFO: [&str; 8] =
    ["SMT_EN", "TSME_EN", "ECC_EN", "RAPL_DIS", "CIPHERTEXT_HIDING_EN", "ALIAS_CHECK_COMPLETE", "", "TIO_EN"];

pub(super) fn check(checks: &mut Checks, body: &SnpClaims, rule: &SnpRule) {
    if body.debug() {
        checks.refuse(Reason::Debug, "policy.DEBUG", "0", "1");
    }
    if body.migratable() {
        checks.refuse(Reason::Migratable, "policy.MIGRATE_MA", "0", "1");
    }
    check_product(checks, body.product, &rule.products);
    check_signer(checks, body, rule);
    if let Some(least) = rule.min_tcb {
        for ((name, is), (_, least)) in body.reported_tcb.components().into_iter().zip(least.components()) {
            if is < least {
                let field = format!("reportedTcb.{name}");
                checks.refuse(Reason::TcbBelowMinimum, field, format!("at least {least}"), is.to_string());
            }
        }
    }
    if body.vmpl != rule.vmpl {
        checks.refuse(Reason::AttributeMismatch, "vmpl", rule.vmpl.to_string(), body.vmpl.to_string());
    }
    if body.guest_svn < rule.min_guest_svn {
        let expected = format!("at least {}", rule.min_guest_svn);
        checks.refuse(Reason::AttributeMismatch, "guestSvn", expected, body.guest_svn.to_string());
    }
    checks.exact("hostData", rule.host_data.as_ref(), &body.host_data);
    if let Some(accepted) = &rule.id_key_digests {
        checks.one_of("idKeyDigest", accepted, &body.id_key_digest);
    }
    if let Some(accepted) = &rule.author_key_digests {
        if body.author_key_en {
            checks.one_of("authorKeyDigest", accepted, &body.author_key_digest);
        } else {
            checks.refuse(Reason::AttributeMismatch, "authorKeyEn", "1", "0");
        }
    }
    checks.bits("platformInfo", rule.platform_info_set & !body.platform_info, &PLATFORM_INFO, true);
    checks.bits("platformInfo", rule.platform_info_clear & body.platform_info, &PLATFORM_INFO, false);
    checks.bits("policy", rule.policy_set & !body.policy, &POLICY, true);
    checks.bits("policy", rule.policy_clear & body.policy, &POLICY, false);
    if !body.crl_checked && !rule.crl_optional {
        checks.refuse(Reason::CrlMissing, "crl", "a current CRL of the ARK", "none");
    }
}

/// All products but Milan by default: software alone can extract the seed of a
/// Milan's VCEK, and with it forge any report of that chip.
fn check_product(checks: &mut Checks, product: Product, named: &[Product]) {
    let default: Vec<_> = Product::ALL.into_iter().filter(|p| *p != Product::Milan).collect();
    let accepted = if named.is_empty() { &default } else { named };
    if !accepted.contains(&product) {
        checks.refuse(Reason::TeeNotAccepted, "product", list(accepted, "no product"), product.name());
    }
}

/// A VLEK stands for a cloud provider instead of a chip: it must be named.
fn check_signer(checks: &mut Checks, body: &SnpClaims, rule: &SnpRule) {
    if body.signing_key == SnpSigningKey::Vlek && (rule.csp_id.is_none() || rule.csp_id != body.csp_id) {
        checks.refuse(
            Reason::AttributeMismatch,
            "cspId",
            rule.csp_id
                .as_ref()
                .map_or_else(|| "a report signed by a VCEK".to_owned(), |id| format!("'{id}'")),
            body.csp_id.as_ref().map_or_else(|| "none".to_owned(), |id| format!("a VLEK of '{id}'")),
        );
    }
}
