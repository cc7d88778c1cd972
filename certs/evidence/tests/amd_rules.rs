//! The rules of SEV-SNP verification that no captured report breaks: each case
//! changes one thing under a locally made vendor hierarchy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384};
use countersign_evidence::amd::{CertificateKind, encode_table};
use countersign_evidence::anchors::RootKind;
use countersign_evidence::cache::Cache;
use countersign_evidence::claims::{Body, SnpClaims, SnpSigningKey};
use countersign_evidence::collateral::{Item, Marks};
use countersign_evidence::observe::Tree;
use countersign_evidence::{
    Anchors, Claims, Collateral, Evidence, Finding, Fingerprint, Reason, UnixTime, verify,
};
use yasna::models::ObjectIdentifier;
use yasna::tags::TAG_GENERALIZEDTIME;
use yasna::{DERWriter, DERWriterSeq, Tag};

const NOW: i64 = 1_800_000_000;
const YEAR: i64 = 365 * 86_400;
const RSASSA_PSS: &[u64] = &[1, 2, 840, 113_549, 1, 1, 10];
const CHIP: [u8; 64] = [0x77; 64];

struct Keys {
    ark: RsaKeyPair,
    ask: RsaKeyPair,
    vek: EcdsaKeyPair,
    other: EcdsaKeyPair,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    ark: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    ask: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    vek: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    other: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
});

fn oid(arcs: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(arcs)
}

fn amd(arcs: &[u64]) -> Vec<u64> {
    [&[1, 3, 6, 1, 4, 1, 3704, 1], arcs].concat()
}

fn name(writer: DERWriter<'_>, common_name: &str) {
    writer.write_sequence(|w| {
        w.next().write_set(|w| {
            w.next().write_sequence(|w| {
                w.next().write_oid(&oid(&[2, 5, 4, 3]));
                w.next().write_utf8_string(common_name);
            });
        });
    });
}

fn pss(writer: DERWriter<'_>) {
    let sha384 = |w: DERWriter<'_>| {
        w.write_sequence(|w| {
            w.next().write_oid(&oid(&[2, 16, 840, 1, 101, 3, 4, 2, 2]));
            w.next().write_null();
        });
    };
    writer.write_sequence(|w| {
        w.next().write_oid(&oid(RSASSA_PSS));
        w.next().write_sequence(|w| {
            w.next().write_tagged(Tag::context(0), sha384);
            w.next().write_tagged(Tag::context(1), |w| {
                w.write_sequence(|w| {
                    w.next().write_oid(&oid(&[1, 2, 840, 113_549, 1, 1, 8]));
                    sha384(w.next());
                });
            });
            w.next().write_tagged(Tag::context(2), |w| w.write_u8(48));
        });
    });
}

fn time(writer: DERWriter<'_>, second: i64) {
    let time = time::OffsetDateTime::from_unix_timestamp(second).unwrap();
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
    let text = time.format(&format).unwrap();
    writer.write_tagged_implicit(TAG_GENERALIZEDTIME, |w| w.write_bytes(text.as_bytes()));
}

fn signed(key: &RsaKeyPair, to_be_signed: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), to_be_signed, &mut signature).unwrap();
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_der(to_be_signed);
            pss(w.next());
            w.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    })
}

fn extension(w: &mut DERWriterSeq<'_>, arcs: &[u64], critical: bool, value: &[u8]) {
    w.next().write_sequence(|w| {
        w.next().write_oid(&oid(arcs));
        if critical {
            w.next().write_bool(true);
        }
        w.next().write_bytes(value);
    });
}

struct Certificate<'a> {
    serial: u8,
    issuer: &'a str,
    subject: &'a str,
    from: i64,
    until: i64,
    spki: Vec<u8>,
    extensions: Vec<(Vec<u64>, bool, Vec<u8>)>,
}

impl Certificate<'_> {
    fn sign(&self, key: &RsaKeyPair) -> Vec<u8> {
        let to_be_signed = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
                w.next().write_u8(self.serial);
                pss(w.next());
                name(w.next(), self.issuer);
                w.next().write_sequence(|w| {
                    time(w.next(), self.from);
                    time(w.next(), self.until);
                });
                name(w.next(), self.subject);
                w.next().write_der(&self.spki);
                w.next().write_tagged(Tag::context(3), |w| {
                    w.write_sequence(|w| {
                        for (arcs, critical, value) in &self.extensions {
                            extension(w, arcs, *critical, value);
                        }
                    });
                });
            });
        });
        signed(key, &to_be_signed)
    }
}

fn authority(
    serial: u8,
    issuer: &str,
    subject: &str,
    key: &RsaKeyPair,
    until: i64,
    signer: &RsaKeyPair,
) -> Vec<u8> {
    let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    Certificate {
        serial,
        issuer,
        subject,
        from: NOW - YEAR,
        until,
        spki: spki.as_ref().to_vec(),
        extensions: vec![
            (vec![2, 5, 29, 19], true, vec![0x30, 3, 1, 1, 0xff]),
            (vec![2, 5, 29, 15], true, vec![3, 2, 1, 6]),
        ],
    }
    .sign(signer)
}

fn crl(key: &RsaKeyPair, revoked: &[u8], from: i64, until: i64) -> Vec<u8> {
    numbered_crl(key, None, revoked, from, until)
}

fn numbered_crl(key: &RsaKeyPair, number: Option<u8>, revoked: &[u8], from: i64, until: i64) -> Vec<u8> {
    let to_be_signed = yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_u8(1);
            pss(w.next());
            name(w.next(), "ARK-Test");
            time(w.next(), from);
            time(w.next(), until);
            if !revoked.is_empty() {
                w.next().write_sequence(|w| {
                    for serial in revoked {
                        w.next().write_sequence(|w| {
                            w.next().write_u8(*serial);
                            time(w.next(), from);
                        });
                    }
                });
            }
            if let Some(number) = number {
                w.next().write_tagged(yasna::Tag::context(0), |w| {
                    w.write_sequence_of(|w| {
                        w.next().write_sequence(|w| {
                            w.next().write_oid(&oid(&[2, 5, 29, 20]));
                            w.next().write_bytes(&[2, 1, number]);
                        });
                    });
                });
            }
        });
    });
    signed(key, &to_be_signed)
}

/// Everything that a case can change.
struct World {
    /// Extensions of the endorsement key's certificate.
    extensions: Vec<(Vec<u64>, bool, Vec<u8>)>,
    vek_until: i64,
    ask_until: i64,
    crl: Option<Vec<u8>>,
    /// More lists of the same issuer.
    more_crls: Vec<Vec<u8>>,
    /// The name of who signs the endorsement key's certificate.
    authority: &'static str,
    report: Vec<u8>,
    kind: CertificateKind,
    other_key_signs: bool,
}

fn level(arc: u64, value: u8) -> (Vec<u64>, bool, Vec<u8>) {
    (amd(&[3, arc]), false, if value < 0x80 { vec![2, 1, value] } else { vec![2, 2, 0, value] })
}

fn product(name: &str) -> (Vec<u64>, bool, Vec<u8>) {
    let length = u8::try_from(name.len()).unwrap();
    (amd(&[2]), false, [&[0x16, length], name.as_bytes()].concat())
}

impl World {
    fn genoa() -> Self {
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[8..16].copy_from_slice(&(1_u64 << 17).to_le_bytes());
        report[0x34] = 1;
        report[0x180..0x188].copy_from_slice(&[10, 1, 0, 0, 0, 0, 23, 200]);
        report[0x188..0x18b].copy_from_slice(&[0x19, 0x11, 1]);
        report[0x1a0..0x1e0].copy_from_slice(&CHIP);
        Self {
            extensions: vec![
                product("Genoa"),
                level(1, 10),
                level(2, 1),
                level(3, 23),
                level(8, 200),
                (amd(&[4]), false, CHIP.to_vec()),
            ],
            vek_until: NOW + YEAR,
            ask_until: NOW + YEAR,
            crl: Some(crl(&KEYS.ark, &[], NOW - 100, NOW + 1000)),
            more_crls: Vec::new(),
            authority: "SEV-Test",
            report,
            kind: CertificateKind::Vcek,
            other_key_signs: false,
        }
    }

    fn turin() -> Self {
        let mut world = Self::genoa();
        world.report[0] = 5;
        world.report[0x188..0x18b].copy_from_slice(&[0x1a, 0x02, 1]);
        world.report[0x180..0x188].copy_from_slice(&[4, 10, 1, 23, 0, 0, 0, 200]);
        world.report[0x1a8..0x1e0].fill(0);
        world.extensions[0] = product("Turin");
        world.extensions[5] = (amd(&[4]), false, CHIP[..8].to_vec());
        world.extensions.push(level(9, 4));
        world
    }

    fn vlek() -> Self {
        let mut world = Self::genoa();
        world.report[0x48] = 1 << 2;
        world.report[0x1a0..0x1e0].fill(0);
        world.extensions[5] = (amd(&[5]), false, [&[0x16, 3], &b"aws"[..]].concat());
        world.kind = CertificateKind::Vlek;
        world.authority = "SEV-VLEK-Test";
        world
    }

    fn ark() -> Vec<u8> {
        static ARK: LazyLock<Vec<u8>> =
            LazyLock::new(|| authority(1, "ARK-Test", "ARK-Test", &KEYS.ark, NOW + YEAR, &KEYS.ark));
        ARK.clone()
    }

    fn vek(&self) -> Vec<u8> {
        let spki = yasna::construct_der(|w| {
            w.write_sequence(|w| {
                w.next().write_sequence(|w| {
                    w.next().write_oid(&oid(&[1, 2, 840, 10_045, 2, 1]));
                    w.next().write_oid(&oid(&[1, 3, 132, 0, 34]));
                });
                let point = KEYS.vek.public_key().as_ref();
                w.next().write_bitvec_bytes(point, point.len() * 8);
            });
        });
        Certificate {
            serial: 0,
            issuer: self.authority,
            subject: if self.kind == CertificateKind::Vlek { "SEV-VLEK" } else { "SEV-VCEK" },
            from: NOW - YEAR,
            until: self.vek_until,
            spki,
            extensions: self.extensions.clone(),
        }
        .sign(&KEYS.ask)
    }

    fn report(&self) -> Vec<u8> {
        let mut report = self.report.clone();
        let key = if self.other_key_signs { &KEYS.other } else { &KEYS.vek };
        let signature = key.sign(&SystemRandom::new(), &report[..0x2a0]).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        for (at, number) in [(0x2a0, r), (0x2e8, s)] {
            let little: Vec<u8> = number.iter().rev().copied().collect();
            report[at..at + 48].copy_from_slice(&little);
        }
        report
    }

    fn authorities(&self) -> [Vec<u8>; 2] {
        [authority(7, "ARK-Test", self.authority, &KEYS.ask, self.ask_until, &KEYS.ark), Self::ark()]
    }

    /// With `stapled`, the endorsement key comes with the report and the rest
    /// from the collateral; otherwise everything from the collateral.
    fn stage(&self, stapled: bool) -> Stage {
        let anchors = Anchors::new(vec![], vec![Fingerprint::of(&Self::ark())]);
        let vek = self.vek();
        let mut items: Vec<Vec<u8>> = self.authorities().to_vec();
        items.extend(self.crl.clone().into_iter().chain(self.more_crls.clone()));
        let table = if stapled {
            encode_table(&[(self.kind, &vek)])
        } else {
            items.push(vek);
            Vec::new()
        };
        let items: Vec<Item> =
            items.into_iter().map(|bytes| Item { name: "item".to_owned(), bytes }).collect();
        let collateral = Collateral::appraise(&items, &anchors, &mut Marks::default(), at(NOW)).collateral;
        Stage { bytes: [self.report(), table].concat(), collateral, anchors }
    }

    fn verify_at(&self, now: i64, stapled: bool, cache: Option<&Cache>) -> Result<Claims, Finding> {
        self.stage(stapled).verify(now, cache)
    }

    fn verify(&self) -> Result<Claims, Finding> {
        let stapled = self.verify_at(NOW, true, None);
        let pooled = self.verify_at(NOW, false, None);
        assert_eq!(stapled.is_ok(), pooled.is_ok(), "{stapled:?} {pooled:?}");
        stapled
    }

    fn refusal(&self) -> (Reason, String) {
        let finding = self.verify().unwrap_err();
        (finding.reason, finding.field)
    }
}

/// Signatures are random: what must be the same twice is made once.
struct Stage {
    bytes: Vec<u8>,
    collateral: Collateral,
    anchors: Anchors,
}

impl Stage {
    fn verify(&self, now: i64, cache: Option<&Cache>) -> Result<Claims, Finding> {
        let evidence = Evidence::sniff(&self.bytes)?;
        let mut tree = Tree::default();
        let outcome = verify(&evidence, &self.collateral, &self.anchors, at(now), cache, &mut tree);
        let explained = format!("{:?}", tree.finish());
        assert_eq!(explained.contains("failure: Some"), outcome.is_err(), "the tree shows the failure");
        outcome.map(|claims| (*claims).clone())
    }
}

fn at(second: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(second.try_into().unwrap()))
}

fn snp(claims: &Claims) -> &SnpClaims {
    let Body::SevSnp(body) = &claims.body else { panic!("not SEV-SNP") };
    body
}

fn mismatch(field: &str) -> (Reason, String) {
    (Reason::CertificateMismatch, field.to_owned())
}

#[test]
fn genuine_reports_of_each_kind_verify() {
    for world in [World::genoa(), World::turin()] {
        let claims = world.verify().unwrap();
        assert!(claims.emulated, "{:?}", RootKind::Emulated);
        assert!(snp(&claims).crl_checked);
        assert_eq!(snp(&claims).reported_tcb.snp, 23);
        assert_eq!(snp(&claims).reported_tcb.microcode, 200);
        assert_eq!(claims.window.until, u64::try_from(NOW + 1000).unwrap(), "the CRL ends first");
    }
    let vlek = World::vlek().verify().unwrap();
    assert_eq!(snp(&vlek).signing_key, SnpSigningKey::Vlek);
    assert_eq!(snp(&vlek).csp_id.as_deref(), Some("aws"));
    assert_eq!(vlek.platform(), None);
}

#[test]
fn a_hardware_id_may_be_an_octet_string() {
    let mut world = World::genoa();
    world.extensions[5].2 = [&[4, 64], &CHIP[..]].concat();
    assert!(world.verify().is_ok());
}

#[test]
fn the_certificate_must_be_of_the_reported_tcb_byte_by_byte() {
    for byte in 0..8 {
        let mut world = World::genoa();
        world.report[0x180 + byte] ^= 1;
        assert_eq!(world.refusal(), mismatch("reportedTcb"), "byte {byte}");
    }
    let mut turin = World::turin();
    turin.extensions.pop();
    assert_eq!(turin.refusal(), mismatch("reportedTcb"), "a Turin certificate has an FMC");
    let mut genoa = World::genoa();
    genoa.extensions.push(level(9, 0));
    assert_eq!(genoa.refusal(), mismatch("reportedTcb"), "a Genoa certificate has none");
}

#[test]
fn the_certificate_must_be_of_the_chip() {
    let mut world = World::genoa();
    world.report[0x1a0] ^= 1;
    assert_eq!(world.refusal(), mismatch("chipId"));
    let mut masked = World::genoa();
    masked.report[0x1a0..0x1e0].fill(0);
    assert_eq!(masked.refusal(), mismatch("chipId"));
    let mut tail = World::turin();
    tail.report[0x1df] = 1;
    assert_eq!(tail.refusal(), mismatch("chipId"), "behind a Turin's eight bytes is nothing");
    let mut short = World::genoa();
    short.report[0x1a8..0x1e0].fill(0);
    short.extensions[5].2.truncate(8);
    assert_eq!(short.refusal(), mismatch("chipId"), "only Turin has short hardware IDs");
}

#[test]
fn the_certificate_must_be_of_the_product_and_kind() {
    let mut world = World::genoa();
    world.extensions[0] = product("Milan-B0");
    assert_eq!(world.refusal(), mismatch("product"));
    let mut nameless = World::genoa();
    nameless.extensions.remove(0);
    assert_eq!(nameless.refusal(), mismatch("product"));
    let mut both = World::genoa();
    both.extensions.push((amd(&[5]), false, [&[0x16, 3], &b"aws"[..]].concat()));
    assert_eq!(both.verify_at(NOW, true, None).unwrap_err().reason, Reason::Malformed);
    let mut neither = World::genoa();
    neither.extensions.remove(5);
    assert_eq!(neither.verify_at(NOW, true, None).unwrap_err().reason, Reason::Malformed);
    let mut vlek_in_the_place_of_a_vcek = World::vlek();
    vlek_in_the_place_of_a_vcek.kind = CertificateKind::Vcek;
    vlek_in_the_place_of_a_vcek.report[0x48] = 0;
    assert_eq!(vlek_in_the_place_of_a_vcek.refusal(), mismatch("signing_key"));
    let mut unsigned = World::genoa();
    unsigned.report[0x48] = 7 << 2;
    assert_eq!(unsigned.refusal().0, Reason::BadSignature);
}

#[test]
fn another_key_or_processor_or_version_is_refused() {
    let mut world = World::genoa();
    world.other_key_signs = true;
    assert_eq!(world.refusal(), (Reason::BadSignature, "report signature".to_owned()));
    let mut old = World::genoa();
    old.report[0] = 2;
    assert_eq!(old.refusal(), (Reason::UnsupportedVersion, "version".to_owned()));
    let mut venice = World::genoa();
    venice.report[0x188..0x18a].copy_from_slice(&[0x1a, 0x50]);
    assert_eq!(venice.refusal(), (Reason::UnsupportedFormat, "cpuid".to_owned()));
}

#[test]
fn each_certificate_ends() {
    let mut vek = World::genoa();
    vek.vek_until = NOW - 1;
    assert_eq!(vek.refusal().0, Reason::CertificateExpired);
    let mut ask = World::genoa();
    ask.ask_until = NOW - 1;
    assert_eq!(ask.refusal().0, Reason::CertificateExpired);
    let early = World { crl: None, ..World::genoa() }.verify_at(NOW - YEAR - 1, true, None);
    assert_eq!(early.unwrap_err().reason, Reason::CertificateNotYetValid);
}

#[test]
fn a_revocation_list_is_honoured_when_it_is_there() {
    let with = |crl| World { crl, ..World::genoa() };
    let absent = with(None).verify().unwrap();
    assert!(!snp(&absent).crl_checked);
    let revoked = with(Some(crl(&KEYS.ark, &[3, 7], NOW - 100, NOW + 1000)));
    assert_eq!(revoked.refusal().0, Reason::CertificateRevoked);
    let expired = with(Some(crl(&KEYS.ark, &[], NOW - 100, NOW - 1)));
    assert_eq!(expired.refusal().0, Reason::CollateralExpired);
    let forged = with(Some(crl(&KEYS.ask, &[], NOW - 100, NOW + 1000))).verify().unwrap();
    assert!(!snp(&forged).crl_checked, "a list of somebody else is none");
}

#[test]
fn a_cached_chain_ends_with_its_certificates_and_lists() {
    let cache = Cache::new(8);
    for stapled in [true, false] {
        let stage = World::genoa().stage(stapled);
        let first = stage.verify(NOW, Some(&cache)).unwrap();
        assert_eq!(stage.verify(NOW + 1000, Some(&cache)).as_ref(), Ok(&first));
        let late = stage.verify(NOW + 1001, Some(&cache)).unwrap_err();
        assert_eq!(late.reason, Reason::CollateralExpired);
        let nobody = Stage { anchors: Anchors::built_in(), ..stage };
        assert_eq!(nobody.verify(NOW, Some(&cache)).unwrap_err().reason, Reason::UntrustedRoot);
    }
    let revoked = World { crl: Some(crl(&KEYS.ark, &[7], NOW - 100, NOW + 1000)), ..World::genoa() };
    let refused = revoked.verify_at(NOW, true, Some(&cache)).unwrap_err();
    assert_eq!(refused.reason, Reason::CertificateRevoked, "other collateral, another entry");
}

#[test]
fn a_cached_chain_is_not_used_under_a_list_that_the_same_items_came_to_later() {
    let cache = Cache::new(8);
    let world = World::genoa();
    // Two lists, both valid later; the second is not yet issued, and revokes the ASK.
    let lists = [crl(&KEYS.ark, &[], NOW - 100, NOW + 1000), crl(&KEYS.ark, &[7], NOW + 500, NOW + 1500)];
    let items: Vec<Item> = [world.vek()]
        .into_iter()
        .chain(world.authorities())
        .chain(lists)
        .map(|bytes| Item { name: "item".to_owned(), bytes })
        .collect();
    let bytes = world.report();
    let anchors = Anchors::new(vec![], vec![Fingerprint::of(&World::ark())]);
    let judge = |made: i64, now: i64| {
        let collateral = Collateral::appraise(&items, &anchors, &mut Marks::default(), at(made)).collateral;
        let evidence = Evidence::sniff(&bytes).unwrap();
        verify(&evidence, &collateral, &anchors, at(now), Some(&cache), &mut ()).map_err(|f| f.reason)
    };
    assert!(judge(NOW, NOW).is_ok());
    assert_eq!(judge(NOW + 600, NOW + 600).err(), Some(Reason::CertificateRevoked));
}

#[test]
fn a_list_is_missed_where_the_root_was_no_anchor_when_the_collateral_was_appraised() {
    let cache = Cache::new(8);
    let stage = World::genoa().stage(false);
    let items: Vec<Item> = World::genoa()
        .authorities()
        .into_iter()
        .chain([World::genoa().vek(), crl(&KEYS.ark, &[7], NOW - 100, NOW + 1000)])
        .map(|bytes| Item { name: "item".to_owned(), bytes })
        .collect();
    let judge = |appraised_under: &Anchors| {
        let collateral =
            Collateral::appraise(&items, appraised_under, &mut Marks::default(), at(NOW)).collateral;
        let stage = Stage { bytes: stage.bytes.clone(), collateral, anchors: stage.anchors.clone() };
        stage.verify(NOW, Some(&cache)).map(|claims| snp(&claims).crl_checked).map_err(|f| f.reason)
    };
    assert_eq!(judge(&Anchors::built_in()), Ok(false));
    assert_eq!(judge(&stage.anchors), Err(Reason::CertificateRevoked), "the same items, other collateral");
}

#[test]
fn missing_certificates_are_named() {
    let anchors = Anchors::new(vec![], vec![Fingerprint::of(&World::ark())]);
    let world = World::genoa();
    let [ask, ark] = world.authorities();
    let vek = world.vek();
    let missing = |table: &[(CertificateKind, &[u8])]| {
        let bytes = [world.report(), encode_table(table)].concat();
        let evidence = Evidence::sniff(&bytes).unwrap();
        verify(&evidence, &Collateral::default(), &anchors, at(NOW), None, &mut ())
            .map_err(|f| (f.reason, f.field))
    };
    let named = |field: &str| Some((Reason::CollateralMissing, field.to_owned()));
    assert_eq!(missing(&[]).err(), named("VCEK certificate"));
    assert_eq!(missing(&[(CertificateKind::Vcek, &vek)]).err(), named("ASK certificate"));
    let without_root = [(CertificateKind::Vcek, &*vek), (CertificateKind::Ask, &*ask)];
    assert_eq!(missing(&without_root).err(), named("ARK certificate"));
    let complete =
        [(CertificateKind::Vcek, &*vek), (CertificateKind::Ask, &*ask), (CertificateKind::Ark, &*ark)];
    assert!(missing(&complete).is_ok(), "a host may hand out all of them");
}

#[test]
fn an_authority_of_cloud_providers_speaks_for_no_chip_and_the_other_way_round() {
    for mut world in [World::genoa(), World::vlek()] {
        world.authority = if world.authority == "SEV-Test" { "SEV-VLEK-Test" } else { "SEV-Test" };
        let (reason, field) = world.refusal();
        assert_eq!(reason, Reason::BadChain, "{field}");
        assert!(field.starts_with("issuer of the V"), "{field}");
    }
}

/// The ARK signs one list about keys of chips and another about keys of cloud
/// providers. Neither says which it is.
#[test]
fn two_lists_of_one_issuer_do_not_displace_each_other() {
    let list = |number, revoked: &[u8], from, until| {
        numbered_crl(&KEYS.ark, Some(number), revoked, NOW + from, NOW + until)
    };
    let revoking = list(3, &[7], -100, 1000);
    for other in [list(9, &[], -50, 2000), list(1, &[], -500, 2000), list(3, &[8], -10, 10)] {
        for (first, second) in [(&revoking, &other), (&other, &revoking)] {
            let mut world = World::genoa();
            (world.crl, world.more_crls) = (Some(first.clone()), vec![second.clone()]);
            assert_eq!(world.refusal().0, Reason::CertificateRevoked);
        }
    }
    // What both say lasts as long as both do: who withholds the newer of one
    // does not live on the other.
    let both = [list(3, &[9], -100, 10), list(1, &[8], -500, 500)];
    for (first, second) in [(0, 1), (1, 0)] {
        let mut world = World::genoa();
        (world.crl, world.more_crls) = (Some(both[first].clone()), vec![both[second].clone()]);
        assert_eq!(world.verify().unwrap().window.until, u64::try_from(NOW + 10).unwrap());
        let late = world.verify_at(NOW + 11, true, None).unwrap_err();
        assert_eq!(late.reason, Reason::CollateralExpired);
    }
}

#[test]
fn a_list_that_goes_back_behind_all_that_were_seen_is_refused() {
    let item = |name: &str, bytes| Item { name: name.to_owned(), bytes };
    let list = |number, from| numbered_crl(&KEYS.ark, Some(number), &[], NOW + from, NOW + 1000);
    let authorities = World::genoa().authorities();
    let anchors = Anchors::new(vec![], vec![Fingerprint::of(&World::ark())]);
    let mut marks = Marks::default();
    let mut appraise = |lists: &[(&str, Vec<u8>)]| {
        let mut items: Vec<_> = authorities.iter().map(|der| item("authority", der.clone())).collect();
        items.extend(lists.iter().map(|(name, der)| item(name, der.clone())));
        let refused = Collateral::appraise(&items, &anchors, &mut marks, at(NOW)).refused;
        refused.into_iter().map(|(name, finding)| (name, finding.reason)).collect::<Vec<_>>()
    };
    assert_eq!(appraise(&[("chips", list(5, -100)), ("providers", list(2, -300))]), []);
    assert_eq!(appraise(&[("providers", list(2, -300)), ("chips", list(6, -50))]), []);
    // An older one alone, or beside one from the future, is not enough.
    let rollback = |name: &str| vec![(name.to_owned(), Reason::CollateralRollback)];
    assert_eq!(appraise(&[("chips", list(5, -100))]), rollback("chips"));
    assert_eq!(appraise(&[("chips", list(5, -100)), ("ahead", list(7, 100))]), rollback("chips"));
}
