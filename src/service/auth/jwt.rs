//! Bearer tokens that somebody else signs (JWT, RFC 7519).
//!
//! The algorithm is the one of the settings, whatever a token says of itself: `none`, or a public key
//! used as a shared secret, cannot happen. Issuer, audience and end must be in the token and fit; a
//! beginning (`nbf`) must have passed; the role is read from a claim.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use jsonwebtoken::jwk::{JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use tracing::{debug, info, warn};

use super::access::Role;
use super::secret::Secret;
use super::{Caller, Unknown};

/// How much the clocks of issuer and service may differ, in seconds.
const LEEWAY: u64 = 30;

/// Shortest shared secret in bytes: as long as the hash (RFC 7518, section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// Largest file of keys in bytes.
const MAX_KEY_FILE: u64 = 1 << 20;

/// Longest subject that is taken as a caller's name, in bytes.
const MAX_SUBJECT: usize = 200;

/// Algorithms of signatures that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256 and a shared secret
    #[value(name = "HS256", alias = "hs256")]
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256
    #[value(name = "RS256", alias = "rs256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256
    #[value(name = "ES256", alias = "es256")]
    Es256,
    /// Ed25519
    #[value(name = "EdDSA", alias = "eddsa")]
    EdDsa,
}

impl JwtAlgorithm {
    fn algorithm(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// What signatures are checked with.
#[derive(Debug, Clone)]
pub enum JwtKey {
    /// A shared secret, for HS256.
    Secret(Secret),
    /// A file with a public key in PEM.
    PublicKey(PathBuf),
    /// A file with a set of keys (JWKS, RFC 7517); read again when it changes.
    KeySet(PathBuf),
}

/// Which tokens are taken.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// Algorithm of the signature.
    pub algorithm: JwtAlgorithm,
    /// What it is checked with.
    pub key: JwtKey,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or have.
    pub audience: String,
    /// The claim that names the role, or a list of roles of which the highest counts; parts behind
    /// each other with dots between them, such as `realm_access.roles`. Default `role`.
    pub role_claim: String,
}

/// A key with its ID, if it has one.
type NamedKey = (Option<String>, DecodingKey);

/// Checks tokens.
pub struct JwtVerifier {
    settings: JwtSettings,
    validation: Validation,
    keys: RwLock<Arc<Vec<NamedKey>>>,
    /// When the file of keys was changed last.
    changed: Mutex<Option<SystemTime>>,
}

impl JwtVerifier {
    /// With the keys as they are now.
    ///
    /// # Errors
    /// The key does not suit the algorithm or cannot be read; issuer or audience are empty.
    pub fn new(settings: JwtSettings) -> anyhow::Result<Self> {
        if settings.issuer.is_empty() || settings.audience.is_empty() {
            bail!("signed tokens need an issuer and an audience that they must be of");
        }
        if settings.role_claim.is_empty() {
            bail!("signed tokens need a claim that names the role");
        }
        let mut validation = Validation::new(settings.algorithm.algorithm());
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let changed = Mutex::new(changed(&settings.key));
        let keys = read_keys(&settings)?;
        Ok(Self {
            settings,
            validation,
            keys: RwLock::new(Arc::new(keys)),
            changed,
        })
    }

    /// Reads the file of keys again if it is another one than before; wrong ones change nothing.
    pub fn reload_if_changed(&self) {
        let now = changed(&self.settings.key);
        let mut before = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        if now == *before || now.is_none() {
            return;
        }
        *before = now;
        match read_keys(&self.settings) {
            Ok(keys) => {
                info!(keys = keys.len(), "the keys of tokens were read again");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(error) => warn!(
                error = format!("{error:#}"),
                "the keys of tokens stay as they were"
            ),
        }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// It is not valid, or names no role.
    pub fn verify(&self, token: &str) -> Result<Caller, Unknown> {
        let claims = self.claims(token).map_err(|reason| {
            debug!(reason, "a token was refused");
            Unknown::Invalid
        })?;
        let role = role_of(&claims, &self.settings.role_claim).ok_or(Unknown::NoRole)?;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or("-");
        if subject.len() > MAX_SUBJECT {
            return Err(Unknown::Invalid);
        }
        Ok(Caller {
            id: format!("jwt:{subject}"),
            name: subject.to_string(),
            role,
        })
    }

    fn claims(&self, token: &str) -> Result<Map<String, Value>, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let keys = keys.clone();
        let named = |key: &&NamedKey| header.kid.is_some() && key.0 == header.kid;
        let key = match keys.as_slice() {
            [(None, only)] => Some(only),
            [(_, only)] if header.kid.is_none() => Some(only),
            several => several.iter().find(named).map(|(_, key)| key),
        };
        let key = key.ok_or("it names no key that is known")?;
        let found = jsonwebtoken::decode(token, key, &self.validation);
        found
            .map(|found| found.claims)
            .map_err(|error| error.to_string())
    }
}

/// The highest role that the claim names.
fn role_of(claims: &Map<String, Value>, claim: &str) -> Option<Role> {
    // A claim whose name has dots, such as a URL, comes before parts behind each other.
    let value = match claims.get(claim) {
        Some(value) => value,
        None => {
            let mut parts = claim.split('.');
            let first = claims.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.get(part))?
        }
    };
    match value {
        Value::String(name) => name.split(' ').filter_map(Role::of).max(),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str);
            names.filter_map(Role::of).max()
        }
        _ => None,
    }
}

fn changed(key: &JwtKey) -> Option<SystemTime> {
    match key {
        JwtKey::Secret(_) => None,
        JwtKey::PublicKey(path) | JwtKey::KeySet(path) => std::fs::metadata(path)
            .and_then(|about| about.modified())
            .ok(),
    }
}

fn read_keys(settings: &JwtSettings) -> anyhow::Result<Vec<NamedKey>> {
    match &settings.key {
        JwtKey::Secret(secret) => {
            if settings.algorithm != JwtAlgorithm::Hs256 {
                bail!("a shared secret is for HS256: name the issuer's public key");
            }
            let secret = secret.expose().as_bytes();
            if secret.len() < MIN_SECRET_BYTES {
                bail!("the secret of tokens must have at least {MIN_SECRET_BYTES} bytes");
            }
            Ok(vec![(None, DecodingKey::from_secret(secret))])
        }
        JwtKey::PublicKey(path) => {
            let pem = read_bounded(path)?;
            let key = match settings.algorithm {
                JwtAlgorithm::Hs256 => bail!("HS256 takes a shared secret, not a public key"),
                JwtAlgorithm::Rs256 => DecodingKey::from_rsa_pem(&pem),
                JwtAlgorithm::Es256 => DecodingKey::from_ec_pem(&pem),
                JwtAlgorithm::EdDsa => DecodingKey::from_ed_pem(&pem),
            };
            let what = || format!("{}: no public key for the algorithm", path.display());
            Ok(vec![(None, key.with_context(what)?)])
        }
        JwtKey::KeySet(path) => {
            if settings.algorithm == JwtAlgorithm::Hs256 {
                bail!("HS256 takes a shared secret, not a set of keys");
            }
            let bytes = read_bounded(path)?;
            let what = || format!("{}: no set of keys (JWKS)", path.display());
            let set: JwkSet = serde_json::from_slice(&bytes).with_context(what)?;
            let keys = keys_of_set(&set, settings.algorithm);
            if keys.is_empty() {
                bail!("{}: no key is for the algorithm", path.display());
            }
            Ok(keys)
        }
    }
}

/// Keys of the set that can check signatures of this algorithm.
fn keys_of_set(set: &JwkSet, algorithm: JwtAlgorithm) -> Vec<NamedKey> {
    let mut keys = Vec::new();
    for key in &set.keys {
        let about = &key.common;
        let other_use = about
            .public_key_use
            .as_ref()
            .is_some_and(|purpose| *purpose != PublicKeyUse::Signature);
        let other_algorithm = about
            .key_algorithm
            .is_some_and(|found| found != algorithm.algorithm().into());
        if other_use || other_algorithm {
            continue;
        }
        let Ok(decoding) = DecodingKey::from_jwk(key) else {
            continue;
        };
        if decoding.family() == algorithm.algorithm().family() {
            keys.push((about.key_id.clone(), decoding));
        }
    }
    keys
}

fn read_bounded(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    if size > MAX_KEY_FILE {
        bail!("{}: {size} bytes are too many for keys", path.display());
    }
    std::fs::read(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn roles_are_found_in_claims() {
        let cases = [
            (r#"{"role":"viewer"}"#, "role", Some(Role::Viewer)),
            (
                r#"{"role":["x","admin","viewer"]}"#,
                "role",
                Some(Role::Admin),
            ),
            (
                r#"{"scope":"openid operator viewer"}"#,
                "scope",
                Some(Role::Operator),
            ),
            (
                r#"{"a":{"roles":["operator"]}}"#,
                "a.roles",
                Some(Role::Operator),
            ),
            (
                r#"{"https://x.org/role":"admin"}"#,
                "https://x.org/role",
                Some(Role::Admin),
            ),
            (r#"{"role":"Admin"}"#, "role", None),
            (r#"{"role":true}"#, "role", None),
            (r#"{"role":[1,{"admin":1}]}"#, "role", None),
            (r#"{"a":"admin"}"#, "a.b", None),
            ("{}", "role", None),
        ];
        for (text, claim, expected) in cases {
            assert_eq!(role_of(&claims(text), claim), expected, "{text}");
        }
    }

    #[test]
    fn weak_or_unfit_keys_are_refused() {
        let settings = |algorithm, key, issuer: &str| JwtSettings {
            algorithm,
            key,
            issuer: issuer.to_string(),
            audience: "mtmc".to_string(),
            role_claim: "role".to_string(),
        };
        let secret = |text: &str| JwtKey::Secret(Secret::new(text));
        let long = "x".repeat(32);
        assert!(JwtVerifier::new(settings(JwtAlgorithm::Hs256, secret(&long), "i")).is_ok());
        let wrong = [
            settings(JwtAlgorithm::Hs256, secret("short"), "i"),
            settings(JwtAlgorithm::Hs256, secret(&long), ""),
            settings(JwtAlgorithm::Rs256, secret(&long), "i"),
            settings(
                JwtAlgorithm::Hs256,
                JwtKey::PublicKey("Cargo.toml".into()),
                "i",
            ),
            settings(
                JwtAlgorithm::EdDsa,
                JwtKey::PublicKey("Cargo.toml".into()),
                "i",
            ),
            settings(
                JwtAlgorithm::Es256,
                JwtKey::KeySet("Cargo.toml".into()),
                "i",
            ),
            settings(
                JwtAlgorithm::Es256,
                JwtKey::KeySet("missing.json".into()),
                "i",
            ),
        ];
        for settings in wrong {
            let text = format!("{settings:?}");
            assert!(JwtVerifier::new(settings).is_err(), "{text}");
        }
    }
}
