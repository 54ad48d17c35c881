//! API keys: `mtmc_` and 32 random bytes in base64url, shown once when they are made.
//!
//! What is kept is their SHA-256. A slow, salted hash is for passwords, which can be guessed; 256
//! random bits cannot, with or without the hash, and a fast hash keeps requests cheap. A key that is
//! presented is hashed and compared with every stored hash in constant time, without an early end: how
//! long that takes says nothing about any key.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tracing::warn;

use super::Caller;
use super::access::Role;
use super::secret::Secret;
use crate::store::ApiKeyRecord;

/// What every key begins with, so that one that got somewhere by mistake is recognised.
pub const PREFIX: &str = "mtmc_";

/// Most keys that a service knows; each request is compared with all of them.
pub const MAX_KEYS: usize = 10_000;

/// Longest name of a key in characters.
pub const MAX_NAME_CHARS: usize = 100;

/// A key that was just made: the only moment when its secret is known.
#[derive(Debug)]
pub struct NewKey {
    /// What is to be stored.
    pub record: ApiKeyRecord,
    /// What the caller gets.
    pub secret: Secret,
}

/// Why no key can be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The name is empty, too long or has characters that do not print.
    #[error("name: must have 1 to {MAX_NAME_CHARS} characters that print")]
    Name,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

impl NewKey {
    /// A new key for somebody.
    ///
    /// # Errors
    /// The name cannot be one; no random numbers.
    pub fn make(name: &str, role: Role, now_ms: i64) -> Result<Self, KeyError> {
        let length = name.chars().count();
        if name.trim().is_empty() || length > MAX_NAME_CHARS || name.chars().any(char::is_control) {
            return Err(KeyError::Name);
        }
        let secret = Secret::new(format!("{PREFIX}{}", random_text::<32>()?));
        let record = ApiKeyRecord {
            id: random_text::<9>()?.replace(['-', '_'], "0"),
            name: name.to_string(),
            role: role.name().to_string(),
            hash: hash_text(secret.expose()),
            created_ms: now_ms,
            revoked_ms: None,
        };
        Ok(Self { record, secret })
    }
}

/// `N` random bytes in base64url.
pub(super) fn random_text<const N: usize>() -> Result<String, KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The hash of a key, as it is stored: SHA-256 in base64url.
pub fn hash_text(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(hash(key))
}

pub(super) fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// A key that is known.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    name: String,
    role: Role,
    hash: [u8; 32],
    active: bool,
}

impl Known {
    /// `None`, with a word in the log, for a record that makes no sense.
    fn of(record: ApiKeyRecord) -> Option<Self> {
        let hash = URL_SAFE_NO_PAD.decode(&record.hash).ok();
        let hash = hash.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let (Some(role), Some(hash)) = (Role::of(&record.role), hash) else {
            warn!(
                key = record.id,
                "a stored key makes no sense and is left out"
            );
            return None;
        };
        Some(Self {
            id: record.id,
            name: record.name,
            role,
            hash,
            active: record.revoked_ms.is_none(),
        })
    }
}

/// The keys that are known.
#[derive(Debug, Default)]
pub struct Keys {
    stored: RwLock<Arc<Vec<Known>>>,
    /// From outside the store.
    fixed: RwLock<Vec<Known>>,
}

impl Keys {
    /// Knows these keys, besides those added by [`add_fixed`](Self::add_fixed), and no other.
    pub fn replace(&self, records: Vec<ApiKeyRecord>) {
        if records.len() > MAX_KEYS {
            warn!(
                keys = records.len(),
                "only the newest {MAX_KEYS} keys are known"
            );
        }
        let surplus = records.len().saturating_sub(MAX_KEYS);
        let known = records.into_iter().skip(surplus).filter_map(Known::of);
        let known = Arc::new(known.collect());
        *self.stored.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Knows one key more, whatever the store says.
    pub fn add_fixed(&self, record: ApiKeyRecord) {
        let mut fixed = self.fixed.write().unwrap_or_else(PoisonError::into_inner);
        fixed.extend(Known::of(record));
    }

    /// All keys at this moment.
    fn all(&self) -> (Vec<Known>, Arc<Vec<Known>>) {
        let fixed = self.fixed.read().unwrap_or_else(PoisonError::into_inner);
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        (fixed.clone(), stored.clone())
    }

    /// Whose key this is.
    pub fn find(&self, key: &str) -> Option<Caller> {
        let presented = hash(key);
        let (fixed, stored) = self.all();
        let known: Vec<&Known> = fixed.iter().chain(stored.iter()).collect();
        // The place of the match, plus one; 0 for none.
        let mut found = 0_u32;
        for (index, key) in known.iter().enumerate() {
            let usable = Choice::from(u8::from(key.active));
            let matches = presented.ct_eq(&key.hash) & usable;
            found.conditional_assign(&(index as u32 + 1), matches);
        }
        let key = known.get((found as usize).checked_sub(1)?)?;
        Some(Caller {
            id: format!("key:{}", key.id),
            name: key.name.clone(),
            role: key.role,
        })
    }

    /// Whether a key of this ID can be used.
    pub fn is_active(&self, id: &str) -> bool {
        let (fixed, stored) = self.all();
        let mut known = fixed.iter().chain(stored.iter());
        known.any(|key| key.id == id && key.active)
    }

    /// Whether there ever was a key, revoked ones included.
    pub fn any_ever(&self) -> bool {
        let (fixed, stored) = self.all();
        !fixed.is_empty() || !stored.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_form_and_are_stored_as_hash() {
        let key = NewKey::make("front desk", Role::Viewer, 5).unwrap();
        let text = key.secret.expose();
        assert_eq!(text.len(), 5 + 43);
        assert!(text.starts_with("mtmc_"));
        assert!(!format!("{key:?}").contains(text));
        let record = key.record;
        assert_eq!(
            (record.name.as_str(), record.role.as_str()),
            ("front desk", "viewer")
        );
        assert_eq!(record.id.len(), 12);
        let other = NewKey::make("front desk", Role::Viewer, 5).unwrap();
        assert_ne!(other.secret, key.secret);
        assert_ne!(other.record.id, record.id);
        // `printf abc | openssl dgst -sha256 -binary | basenc --base64url`.
        assert_eq!(
            hash_text("abc"),
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
        );
    }

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(MAX_NAME_CHARS + 1);
        for name in ["", "  ", "a\nb", "a\u{0}", long.as_str()] {
            assert!(NewKey::make(name, Role::Viewer, 0).is_err(), "{name:?}");
        }
        assert!(NewKey::make("Größe 東京", Role::Viewer, 0).is_ok());
    }

    #[test]
    fn only_active_keys_are_found() {
        let keys = Keys::default();
        assert!(!keys.any_ever());
        let viewer = NewKey::make("v", Role::Viewer, 0).unwrap();
        let mut admin = NewKey::make("a", Role::Admin, 0).unwrap();
        keys.replace(vec![viewer.record.clone(), admin.record.clone()]);
        let found = keys.find(admin.secret.expose()).unwrap();
        assert_eq!(
            (found.role, found.id),
            (Role::Admin, format!("key:{}", admin.record.id))
        );
        assert_eq!(
            keys.find(viewer.secret.expose()).unwrap().role,
            Role::Viewer
        );
        for wrong in [
            "",
            "mtmc_",
            &viewer.record.hash,
            &viewer.secret.expose()[..47],
        ] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        admin.record.revoked_ms = Some(9);
        let mut broken = viewer.record.clone();
        broken.role = "root".to_string();
        keys.replace(vec![admin.record.clone(), broken]);
        assert_eq!(keys.find(admin.secret.expose()), None);
        assert_eq!(keys.find(viewer.secret.expose()), None);
        assert!(!keys.is_active(&admin.record.id));
        assert!(keys.any_ever(), "revoked keys still ask for a key");
    }

    #[test]
    fn keys_from_outside_stay() {
        let keys = Keys::default();
        let fixed = NewKey::make("env", Role::Admin, 0).unwrap();
        keys.add_fixed(fixed.record);
        keys.replace(Vec::new());
        assert!(keys.find(fixed.secret.expose()).is_some());
    }
}
