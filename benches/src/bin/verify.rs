//! Evidence verification against the signatures that it cannot do without.

use std::cell::Cell;

use countersign_benches::fixture::{Fixture, Floor};
use countersign_benches::measure::{alone, compare, heading, line};
use countersign_evidence::cache::Cache;

fn main() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let (p256, p384, rsa) = (Floor::p256(), Floor::p384(), Floor::rsa4096());
    let warm = Cache::new(64);
    for evidence in [&fixture.tdx, &fixture.sgx, &fixture.snp] {
        let _ = fixture.verify(evidence, Some(&warm));
    }
    // "First seen": nothing of this machine is cached. For AMD the vendor's ASK
    // is known, as it is after the first machine of a product: a cache for one
    // machine, and two machines that take turns.
    let first = |evidence| drop(fixture.verify(evidence, Some(&Cache::new(64))));
    let small = Cache::new(1);
    let turns = Cell::new(false);
    let first_snp = || {
        let evidence = if turns.replace(!turns.get()) { &fixture.snp } else { &fixture.other_snp };
        drop(fixture.verify(evidence, Some(&small)));
    };

    heading();
    let two = || (0..2).for_each(|_| p256.verify());
    let four = || (0..4).for_each(|_| p256.verify());
    line(
        "TDX v4, chain cached / 2 x P-256",
        &compare(two, || drop(fixture.verify(&fixture.tdx, Some(&warm)))),
        1.2,
    );
    line("TDX v4, first seen / 4 x P-256", &compare(four, || first(&fixture.tdx)), 1.3);
    line(
        "SGX v3, chain cached / 2 x P-256",
        &compare(two, || drop(fixture.verify(&fixture.sgx, Some(&warm)))),
        1.2,
    );
    line("SGX v3, first seen / 4 x P-256", &compare(four, || first(&fixture.sgx)), 1.3);
    line(
        "SNP, VCEK cached / 1 x P-384",
        &compare(|| p384.verify(), || drop(fixture.verify(&fixture.snp, Some(&warm)))),
        1.15,
    );
    let both = || {
        rsa.verify();
        p384.verify();
    };
    line("SNP, first seen / RSA-4096 + P-384", &compare(both, first_snp), 1.2);
    let hash = alone(|| {
        std::hint::black_box(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &fixture.tdx.value));
    });
    println!("{:<44} {:>10} {:>10.1}", "SHA-256 of the TDX evidence alone", "", hash.as_secs_f64() * 1e6);
    Ok(())
}
