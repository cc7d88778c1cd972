//! Writes a corpus to start from: one genuine example of everything that the
//! targets read. A target itself, so that it is built with their flags.
#![no_main]

use std::fs;
use std::path::Path;

use countersign_attester::Attester;
use countersign_attester::emulated::{SgxSpec, SnpSpec, TdxSpec};
use countersign_evidence::Evidence;
use countersign_evidence::event_log::native::Record;
use countersign_fuzz::{TRUST_DOMAIN, VENDOR, now};
use countersign_proxy::opaque::record::{Answer, Connect, Kind, head};
use countersign_quoting::Subject;
use countersign_quoting::broker::{Code, Request, Response};
use countersign_ratls::binding::{KeyContext, SessionCore};
use countersign_ratls::ca::Leaf;
use countersign_ratls::csr::{AttestedRequest, Pending};
use countersign_ratls::key::{KeyType, PrivateKey};
use countersign_ratls::{Authority, Bundle, SpiffeId, TrustDomain};
use countersign_wire::proto::{ControlMessage, ProxyMessage, Update, control_message};
use countersign_wire::snapshot::{Entries, Entry};
use countersign_wire::{Snapshot, SnapshotKey};
use prost::Message;

type Outcome = Result<(), Box<dyn std::error::Error>>;

libfuzzer_sys::fuzz_target!(init: write().expect("a corpus"), |_data: &[u8]| {});

fn seed(target: &str, name: &str, bytes: &[u8]) -> Outcome {
    let directory = Path::new("corpus").join(target);
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join(format!("seed-{name}")), bytes)?)
}

fn write() -> Outcome {
    for item in VENDOR.collateral(now())? {
        seed("collateral", &item.name.replace('/', "-"), &item.bytes)?;
    }
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
    let authority = Authority::create(&trust_domain, 86_400, now())?;
    let snapshot_key = SnapshotKey::generate()?;
    let bundle = Bundle {
        trust_domain,
        x509_authorities: vec![authority.certificate.clone()],
        snapshot_keys: vec![snapshot_key.public()],
        sequence: 1,
        refresh_hint: Some(60),
    };
    seed("bundle", "json", bundle.to_json().as_bytes())?;
    let machines: [(&str, std::sync::Arc<dyn Attester>); 5] = [
        ("tdx4", VENDOR.tdx(TdxSpec { quote_version: 4, ..TdxSpec::default() })?),
        ("tdx5", VENDOR.tdx(TdxSpec { quote_version: 5, ..TdxSpec::default() })?),
        ("sgx", VENDOR.sgx(SgxSpec::default())?),
        ("snp3", VENDOR.snp(SnpSpec { version: 3, ..SnpSpec::default() })?),
        ("snp5", VENDOR.snp(SnpSpec { version: 5, ..SnpSpec::default() })?),
    ];
    for (name, machine) in machines {
        attested(name, &*machine, &authority)?;
    }
    for (name, authority) in
        [("name", "ledger.payments:8080"), ("ipv4", "10.0.0.1:1"), ("ipv6", "[::1]:65535")]
    {
        seed("authority", name, authority.as_bytes())?;
    }
    for (name, request) in [
        ("socks5-name", &b"\x05\x01\x00\x05\x01\x00\x03\x0fledger.payments\x1f\x90"[..]),
        ("socks5-ipv4", b"\x05\x02\x02\x00\x05\x01\x00\x01\x0a\x60\x00\x0a\x1f\x90"),
        ("connect", b"CONNECT ledger.payments:8080 HTTP/1.1\r\nHost: ledger.payments:8080\r\n\r\nrest"),
        ("get", b"GET http://ledger/ HTTP/1.1\r\nHost: ledger\r\n\r\n"),
    ] {
        seed("explicit", name, request)?;
    }
    event_logs()?;
    broker()?;
    seed("cmw", "json", br#"{"__cmwc_t":"tag:x","a":["application/x","AQID",4]}"#)?;
    let mut entries = Entries::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    for example in fs::read_dir(examples)? {
        let path = example?.path();
        let text = fs::read_to_string(&path)?;
        seed("yaml", &path.file_name().unwrap_or_default().to_string_lossy(), text.as_bytes())?;
        for resource in countersign_config::parse("", &text).unwrap_or_default() {
            let key = resource.key();
            let name = format!("resource/{}/{}/{}", key.kind.name(), key.namespace, key.name);
            entries.insert(name.into(), Entry::new(resource.to_json().into()));
        }
    }
    let snapshot = Snapshot::sign(bundle.trust_domain.clone(), 7, entries, &snapshot_key)?;
    seed("snapshot", "signed", &snapshot.encode())?;
    session()?;
    records()?;
    messages(bundle)
}

/// A whole stream of each side of a dedicated hop.
fn records() -> Outcome {
    let record = |kind: Kind, payload: &[u8]| [&head(kind, payload.len()), payload].concat();
    let connect = Connect {
        window: 4 << 20,
        authority: "ledger:8443".to_owned(),
        forwarded: Some("for=\"10.0.0.1:5\"".to_owned()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    };
    let answer = Answer { status: 403, window: 0, reason: Some("port-not-offered".to_owned()) };
    let rest = [
        record(Kind::Attest, b"frames"),
        record(Kind::Data, b"hello"),
        record(Kind::Credit, &5_u32.to_be_bytes()),
        record(Kind::End, &[]),
        record(Kind::Reset, &[]),
    ]
    .concat();
    seed("records", "client", &[record(Kind::Connect, &connect.encode()), rest.clone()].concat())?;
    seed("records", "server", &[record(Kind::Answer, &answer.encode()), rest].concat())
}

/// The frames of an honest hop, one by one and all together; and scripts for the
/// target of the machine that lead through the gate and into the rounds.
fn session() -> Outcome {
    let mut all = Vec::new();
    for (at, (kind, payload)) in countersign_fuzz::session::transcript().into_iter().enumerate() {
        let frame = countersign_ratls::session::frame::encode(kind, &payload);
        seed("frames", &format!("{at}-{kind}"), &frame)?;
        all.extend(frame);
    }
    seed("frames", "all", &all)?;
    // Passes a frame, makes the quote, accepts the evidence; at last time passes.
    let gate = [2, 7, 1, 6, 0].repeat(12);
    let rounds = [gate.as_slice(), &[5, 255].repeat(30), &gate, &[5, 255].repeat(30), &gate].concat();
    for level in 0..16 {
        seed("session", &format!("gate-{level}"), &[&[level], gate.as_slice()].concat())?;
        seed("session", &format!("rounds-{level}"), &[&[level], rounds.as_slice()].concat())?;
    }
    Ok(())
}

fn attested(name: &str, machine: &dyn Attester, authority: &Authority) -> Outcome {
    let key = PrivateKey::generate(KeyType::EcP256)?;
    let pending = Pending::new(&key, &[7; 32])?;
    let produced = machine.evidence(&pending.report_data)?;
    Evidence::sniff(&produced.value)?;
    seed("evidence", name, &produced.value)?;
    let request = pending.finish(&key, produced.media_type, &produced.value)?;
    seed("request", name, &request)?;
    seed("broker", name, &Response::Evidence(produced).encode())?;
    let request = AttestedRequest::parse(&request)?;
    seed("cmw", name, &request.cmw)?;
    let id = SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/{name}"))?;
    let leaf = Leaf { spki: &request.spki, id: &id, lifetime: 3600, cmw: Some(&request.cmw) };
    for certificate in authority.issue(&leaf, now())? {
        seed("certificate", name, &certificate)?;
    }
    Ok(())
}

fn event_logs() -> Outcome {
    let machine = VENDOR.tdx(TdxSpec::default())?;
    for content in ["/usr/bin/ledger", "", "7"] {
        machine.extend(&Record::new("exec", content.as_bytes())?)?;
    }
    let log = machine.evidence(&[0; 64])?.event_log.ok_or("no log")?;
    seed("event_log", "runtime", &log.record(0).ok_or("no entries")?)?;
    let item = r#"[{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"01"}]"#;
    seed("event_log", "dstack", item.as_bytes())?;
    let mut ccel = vec![1, 0, 0, 0, 3, 0, 0, 0];
    ccel.extend([0; 20]);
    ccel.extend([33, 0, 0, 0]);
    ccel.extend(b"Spec ID Event03\0");
    ccel.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
    ccel.extend([4, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0x0c, 0]);
    ccel.extend([7; 48]);
    ccel.extend([1, 0, 0, 0, b'x']);
    seed("event_log", "ccel", &ccel)
}

fn broker() -> Outcome {
    seed("broker", "status", &Request::Status.encode())?;
    let context = KeyContext { spki_sha256: [3; 32], challenge: (&[7; 32]).into(), id: None }.encode();
    seed("broker", "key", &Request::Evidence(Subject::key(&context)?).encode())?;
    for count in [1, 3] {
        let cores = vec![SessionCore::from_bytes([9; 64]); count];
        seed("broker", &format!("sessions{count}"), &Request::Evidence(Subject::sessions(cores)?).encode())?;
    }
    seed("broker", "refused", &Response::Refused(Code::Overloaded, "too many".to_owned()).encode())
}

fn messages(bundle: Bundle) -> Outcome {
    let mut subscription = countersign_wire::client::Subscription::new(bundle, None);
    let hello = subscription.hello("proxy", "default/ledger", "fuzz");
    let in_use = countersign_wire::client::Subscription::in_use(7, 1, 2);
    let update = ControlMessage {
        message: Some(control_message::Message::Update(Update { generation: 7, ..Update::default() })),
    };
    let framed = |message: Vec<u8>| {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        [&length.to_le_bytes()[..], &message].concat()
    };
    let encode = |message: &ProxyMessage| framed(message.encode_to_vec());
    let stream = [encode(&hello), encode(&in_use), framed(update.encode_to_vec())].concat();
    seed("messages", "stream", &stream)
}
