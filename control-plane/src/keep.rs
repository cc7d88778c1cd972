//! What the control plane keeps in the store besides resources: the generation,
//! the collateral marks, and what was issued to whom.

use std::sync::Arc;

use countersign_evidence::collateral::{Item, Marks};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::{Change, Store, StoreError, Stored};

const GENERATION: &str = "state/generation";
const MARKS: &str = "state/collateral-marks";
const COLLATERAL: &str = "state/collateral/";
const ISSUED: &str = "issued/";

/// The last generation that may have been shown to anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    /// Hexadecimal SHA-256 of what it holds: the same content keeps its number over a restart.
    pub(crate) content: String,
}

/// One certificate that was issued: enough to revoke by platform, and to answer
/// who had which identity under which policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// Hexadecimal serial number.
    pub serial: String,
    /// SHA-256 of the certificate.
    pub fingerprint: String,
    /// The SPIFFE ID.
    pub id: String,
    /// The WorkloadIdentity that was asked for; empty for our own.
    pub workload: String,
    /// `tdx`, `sgx`, `sevSnp`.
    pub tee: String,
    /// Whether the platform is emulated.
    pub emulated: bool,
    /// The platform's identity, for example `ppid:…`; empty when it has none.
    pub platform: String,
    /// The policy that was met, with its generation.
    pub policy: String,
    /// Seconds since the epoch.
    pub issued: u64,
    /// Seconds since the epoch.
    pub not_after: u64,
}

/// Typed access to the store.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    store: Arc<dyn Store>,
}

impl Keep {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    pub(crate) fn generation(&self) -> Result<Generation, StoreError> {
        Ok(self.read(GENERATION)?.map(|(_, value)| value).unwrap_or_default())
    }

    /// The number for `content`: the last one if it had this content, else the
    /// next. It is on disk before anybody sees it.
    pub(crate) fn number(&self, content: &str) -> Result<u64, StoreError> {
        let (revision, last) = self.read::<Generation>(GENERATION)?.unwrap_or_default();
        if last.content == content {
            return Ok(last.number);
        }
        let number = last.number + 1;
        self.write(GENERATION, &Generation { number, content: content.to_owned() }, Some(revision))?;
        Ok(number)
    }

    /// The next generation will be greater than `above`. For a store that was
    /// restored from a backup: proxies have seen newer generations and refuse older ones.
    pub(crate) fn raise_generation(&self, above: u64) -> Result<u64, StoreError> {
        let (revision, last) = self.read::<Generation>(GENERATION)?.unwrap_or_default();
        let number = last.number.max(above);
        self.write(GENERATION, &Generation { number, content: String::new() }, Some(revision))?;
        Ok(number)
    }

    pub(crate) fn marks(&self) -> Result<Marks, StoreError> {
        Ok(self.read(MARKS)?.map(|(_, value)| value).unwrap_or_default())
    }

    pub(crate) fn set_marks(&self, marks: &Marks) -> Result<(), StoreError> {
        self.write(MARKS, marks, None)
    }

    /// The collateral that was in use last.
    pub(crate) fn collateral(&self) -> Result<Vec<Item>, StoreError> {
        let name = |key: &str| key.strip_prefix(COLLATERAL).unwrap_or(key).to_owned();
        let items = self.store.list(COLLATERAL)?.items.into_iter();
        Ok(items.map(|Stored { key, body, .. }| Item { name: name(&key), bytes: body.to_vec() }).collect())
    }

    /// Replaces the collateral that is in use; what did not change is not written again.
    pub(crate) fn set_collateral(&self, items: &[Item]) -> Result<(), StoreError> {
        let stored = self.store.list(COLLATERAL)?.items;
        let key = |item: &Item| format!("{COLLATERAL}{}", item.name);
        let puts = items.iter().filter(|item| {
            let key = key(item);
            !stored.iter().any(|old| old.key == key && old.body.as_ref() == item.bytes.as_slice())
        });
        let puts = puts.map(|item| Change::put(key(item), item.bytes.clone(), None));
        let gone = stored.iter().filter(|old| !items.iter().any(|item| key(item) == old.key));
        let changes: Vec<_> = puts.chain(gone.map(|old| Change::delete(&*old.key))).collect();
        if changes.is_empty() { Ok(()) } else { self.store.commit(&changes).map(|_| ()) }
    }

    /// What writes down an issuance. Those that expired are forgotten, so that the
    /// log is as long as the lifetime of certificates.
    pub(crate) fn record(issued: &Issued) -> Result<Change, StoreError> {
        let key = format!("{ISSUED}{:020}/{}", issued.not_after, issued.serial);
        let body = encode(&key, issued)?;
        Ok(Change::put(key, body, None))
    }

    /// Forgets issuances that expired before `now`. Returns how many.
    pub(crate) fn forget_expired(&self, now: u64) -> Result<usize, StoreError> {
        let changes: Vec<Change> = self
            .store
            .list(ISSUED)?
            .items
            .into_iter()
            .map_while(|Stored { key, .. }| {
                let not_after: u64 = key.strip_prefix(ISSUED)?.split('/').next()?.parse().ok()?;
                (not_after < now).then(|| Change::delete(key))
            })
            .collect();
        if !changes.is_empty() {
            self.store.commit(&changes)?;
        }
        Ok(changes.len())
    }

    /// Every issuance that has not been forgotten, the next to expire first.
    pub(crate) fn issued(&self) -> Result<Vec<Issued>, StoreError> {
        self.store.list(ISSUED)?.items.iter().map(decode).collect()
    }

    fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(u64, T)>, StoreError> {
        let Some(stored) = self.store.get(key)? else { return Ok(None) };
        Ok(Some((stored.revision, decode(&stored)?)))
    }

    fn write<T: Serialize>(&self, key: &str, value: &T, expect: Option<u64>) -> Result<(), StoreError> {
        self.store.commit(&[Change::put(key, encode(key, value)?, expect)]).map(|_| ())
    }
}

pub(crate) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|e| StoreError::Damaged { key: key.to_owned(), why: format!("cannot be written: {e}") })
}

pub(crate) fn decode<T: DeserializeOwned>(stored: &Stored) -> Result<T, StoreError> {
    serde_json::from_slice(&stored.body)
        .map_err(|e| StoreError::Damaged { key: stored.key.clone(), why: e.to_string() })
}
