//! Who may do what: API keys and signed tokens, roles, and the guard before every route.
//!
//! A request names itself by `Authorization: Bearer …` or `X-API-Key: …`; a WebSocket may also use a
//! [ticket](tickets) in its address or the subprotocol `bearer.…`, since browsers cannot set headers
//! there. [`access`] says which role a route takes, [`guard`] lets nobody else in. A request without
//! rights is answered before any of its body is read.

pub mod access;
mod credential;
pub mod guard;
pub mod jwt;
pub mod keys;
mod origin;
pub mod secret;
pub mod tickets;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tracing::warn;

use crate::store::{ApiKeyRecord, Store};
use access::{OpenRoutes, Role};
use credential::Credential;
use jwt::{JwtSettings, JwtVerifier};
use keys::Keys;
use secret::Secret;
use tickets::Tickets;

/// How often keys are read again from the store, so that one made or revoked by `mtmc keys` counts.
const REFRESH: Duration = Duration::from_secs(5);

/// Shortest admin key that is taken from outside, in bytes: keys are hashed without a salt, which
/// only suits what cannot be guessed.
const MIN_ADMIN_KEY_BYTES: usize = 32;

/// How callers are recognised.
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    /// An admin key from outside (`MTMC_ADMIN_KEY`), for containers.
    pub admin_key: Option<Secret>,
    /// Signed tokens of somebody else, if they are taken.
    pub jwt: Option<JwtSettings>,
    /// Routes that anybody may read besides the health checks.
    pub open: OpenRoutes,
    /// Whether everybody may do everything, wherever the service listens. Default false.
    pub insecure_no_auth: bool,
}

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `key:` and the key's ID, `jwt:` and the token's subject, or `anonymous`.
    pub id: String,
    /// For people.
    pub name: String,
    /// What the caller may do.
    pub role: Role,
}

impl Caller {
    /// Whoever comes while no authentication is asked for.
    fn anonymous() -> Self {
        Self {
            id: "anonymous".to_string(),
            name: "anonymous".to_string(),
            role: Role::Admin,
        }
    }
}

/// Why a caller was not recognised. What is wrong with a credential is told to the log alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// There is no credential.
    #[error("this needs a key: send `Authorization: Bearer …` or `X-API-Key: …`")]
    Missing,
    /// The credential is not valid, or not any more.
    #[error("the key, token or ticket is not valid, or not any more")]
    Invalid,
    /// The token is valid and names no role.
    #[error("the token names no role: viewer, operator or admin")]
    NoRole,
}

/// Recognises callers.
pub struct Auth {
    settings: AuthSettings,
    keys: Keys,
    jwt: Option<JwtVerifier>,
    tickets: Tickets,
    store: OnceLock<Store>,
}

impl Auth {
    /// Without a store: the admin key and tokens alone.
    ///
    /// # Errors
    /// The admin key is too short; the tokens' key cannot be read.
    pub fn new(settings: AuthSettings) -> anyhow::Result<Self> {
        let keys = Keys::default();
        if let Some(key) = &settings.admin_key {
            if key.expose().len() < MIN_ADMIN_KEY_BYTES {
                bail!(
                    "MTMC_ADMIN_KEY must have at least {MIN_ADMIN_KEY_BYTES} characters: make one \
                     with `openssl rand -base64 32`"
                );
            }
            keys.add_fixed(ApiKeyRecord {
                id: "env".to_string(),
                name: "MTMC_ADMIN_KEY".to_string(),
                role: Role::Admin.name().to_string(),
                hash: keys::hash_text(key.expose()),
                created_ms: 0,
                revoked_ms: None,
            });
        }
        let jwt = settings.jwt.clone().map(JwtVerifier::new).transpose()?;
        Ok(Self {
            settings,
            keys,
            jwt,
            tickets: Tickets::default(),
            store: OnceLock::new(),
        })
    }

    /// Takes keys from a store, now and whenever they change there.
    ///
    /// # Errors
    /// They cannot be read, or there is a store already.
    pub async fn use_store(self: &Arc<Self>, store: Store) -> anyhow::Result<()> {
        let records = store.api_keys().await.context("API keys")?;
        self.keys.replace(records);
        if self.store.set(store).is_err() {
            bail!("the keys have a store already");
        }
        let auth = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(REFRESH).await;
                let Some(auth) = auth.upgrade() else { return };
                // While the database is away, who was known stays known.
                if let Err(error) = auth.refresh().await {
                    warn!(%error, "the keys could not be read again");
                }
                if let Some(jwt) = &auth.jwt {
                    jwt.reload_if_changed();
                }
            }
        });
        Ok(())
    }

    /// Reads the keys again.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn refresh(&self) -> Result<(), crate::store::StoreError> {
        let Some(store) = self.store.get() else {
            return Ok(());
        };
        self.keys.replace(store.api_keys().await?);
        Ok(())
    }

    /// The store of keys, if there is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.get()
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Tickets for sockets.
    pub fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// Whether callers must name themselves: as soon as a key was ever made, or tokens are taken.
    /// Revoking the last key opens nothing.
    pub fn is_required(&self) -> bool {
        !self.settings.insecure_no_auth && (self.keys.any_ever() || self.jwt.is_some())
    }

    /// Routes that anybody may read.
    pub fn open_routes(&self) -> OpenRoutes {
        self.settings.open
    }

    /// Whether pages of other sites must be kept from using this service through the browser of
    /// somebody on this machine.
    fn keeps_strangers_pages_out(&self) -> bool {
        !self.is_required() && !self.settings.insecure_no_auth
    }

    /// Whether the service may listen there.
    ///
    /// # Errors
    /// It would be open to others, and nobody said that it should be.
    pub fn check_address(&self, address: SocketAddr) -> anyhow::Result<()> {
        if self.settings.insecure_no_auth {
            warn!(%address, "no authentication: whoever reaches this address may do everything");
            return Ok(());
        }
        if self.is_required() || address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        bail!(
            "{address} can be reached from other machines, and there is no key yet. Make one with \
             `mtmc keys create --name NAME --role admin --data-dir DIR`, or set MTMC_ADMIN_KEY, or \
             take signed tokens (--jwt-algorithm); listen on 127.0.0.1 to serve this machine alone; \
             or let everybody do everything with --insecure-no-auth"
        )
    }

    /// Who sends this credential.
    ///
    /// # Errors
    /// Nobody who is known.
    fn identify(&self, credential: &Credential) -> Result<Caller, Unknown> {
        match credential {
            Credential::Missing => Err(Unknown::Missing),
            Credential::Malformed => Err(Unknown::Invalid),
            Credential::Ticket(ticket) => {
                let caller = self.tickets.redeem(ticket).ok_or(Unknown::Invalid)?;
                let revoked = caller.id.strip_prefix("key:");
                if revoked.is_some_and(|id| !self.keys.is_active(id)) {
                    return Err(Unknown::Invalid);
                }
                Ok(caller)
            }
            Credential::Token(token) => {
                if let Some(caller) = self.keys.find(token.expose()) {
                    return Ok(caller);
                }
                let jwt = self.jwt.as_ref().ok_or(Unknown::Invalid)?;
                jwt.verify(token.expose())
            }
        }
    }
}
