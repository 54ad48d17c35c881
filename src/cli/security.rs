//! Options for who may use the service, how much, and what they may see.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use axum::http::{HeaderValue, Uri};
use clap::{Args, ValueEnum};

use crate::annotate::privacy::Privacy;
use crate::service::auth::access::OpenRoutes;
use crate::service::auth::jwt::{JwtAlgorithm, JwtKey, JwtSettings};
use crate::service::auth::secret::Secret;
use crate::service::settings::ServiceSettings;
use crate::service::tls::TlsSettings;

/// Largest file with a secret, in bytes.
const MAX_SECRET_FILE: u64 = 64 << 10;

/// Who may read a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Readers {
    /// Everybody
    Everybody,
    /// Whoever has a key or token
    Known,
}

/// Who may use the service, how much, and what they may see.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
pub struct SecurityArgs {
    /// Let everybody do everything, even if the address can be reached from other machines
    #[arg(long, env = "MTMC_INSECURE_NO_AUTH")]
    insecure_no_auth: bool,

    /// An admin key of at least 32 characters, for containers; others are made by `mtmc keys create`
    #[arg(
        long,
        env = "MTMC_ADMIN_KEY",
        hide_env_values = true,
        hide = true,
        value_name = "KEY"
    )]
    admin_key: Option<Secret>,

    /// Take bearer tokens (JWT) that are signed so
    #[arg(long, env = "MTMC_JWT_ALGORITHM", value_name = "ALGORITHM")]
    jwt_algorithm: Option<JwtAlgorithm>,

    /// File with the secret of tokens (HS256); MTMC_JWT_SECRET can hold the secret itself
    #[arg(long, env = "MTMC_JWT_SECRET_FILE", value_name = "FILE")]
    jwt_secret_file: Option<PathBuf>,

    /// The secret of tokens
    #[arg(
        long,
        env = "MTMC_JWT_SECRET",
        hide_env_values = true,
        hide = true,
        value_name = "SECRET"
    )]
    jwt_secret: Option<Secret>,

    /// PEM file with the public key of tokens (RS256, ES256, EdDSA)
    #[arg(long, env = "MTMC_JWT_PUBLIC_KEY", value_name = "FILE")]
    jwt_public_key: Option<PathBuf>,

    /// File with a set of public keys of tokens (JWKS)
    #[arg(long, env = "MTMC_JWT_JWKS", value_name = "FILE")]
    jwt_jwks: Option<PathBuf>,

    /// What a token's `iss` must be
    #[arg(long, env = "MTMC_JWT_ISSUER", value_name = "TEXT")]
    jwt_issuer: Option<String>,

    /// What a token's `aud` must have
    #[arg(long, env = "MTMC_JWT_AUDIENCE", value_name = "TEXT")]
    jwt_audience: Option<String>,

    /// The claim of tokens that names the role, such as `realm_access.roles`
    #[arg(
        long,
        env = "MTMC_JWT_ROLE_CLAIM",
        value_name = "CLAIM",
        default_value = "role"
    )]
    jwt_role_claim: String,

    /// Who may read /docs, /openapi.json and /asyncapi.json
    #[arg(
        long,
        env = "MTMC_DOCS_READERS",
        value_name = "WHO",
        default_value = "everybody"
    )]
    docs_readers: Readers,

    /// Who may read /metrics
    #[arg(
        long,
        env = "MTMC_METRICS_READERS",
        value_name = "WHO",
        default_value = "known"
    )]
    metrics_readers: Readers,

    /// Origin whose pages may use the service, such as https://ui.example, or `*`; may be repeated
    #[arg(
        long = "cors-origin",
        env = "MTMC_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    cors_origins: Vec<String>,

    /// PEM file with the certificate and those that lead to its root: serve HTTPS
    #[arg(long, env = "MTMC_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// PEM file with the certificate's private key
    #[arg(long, env = "MTMC_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Requests a second of one caller; 0 for no limit
    #[arg(
        long,
        env = "MTMC_RATE_LIMIT",
        value_name = "REQUESTS",
        default_value_t = 100
    )]
    rate_limit: u32,

    /// Most connections at once, sockets included
    #[arg(long, env = "MTMC_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// What is hidden of people in every picture that leaves
    #[arg(
        long,
        env = "MTMC_PRIVACY",
        value_name = "WHAT",
        default_value = "none"
    )]
    privacy: Privacy,
}

impl SecurityArgs {
    /// Lays them into the settings.
    ///
    /// # Errors
    /// They contradict each other, or a file cannot be read.
    pub fn apply(&self, settings: &mut ServiceSettings) -> anyhow::Result<()> {
        settings.auth.insecure_no_auth = self.insecure_no_auth;
        settings.auth.admin_key = self
            .admin_key
            .clone()
            .filter(|key| !key.expose().is_empty());
        settings.auth.jwt = self.jwt()?;
        settings.auth.open = OpenRoutes {
            docs: self.docs_readers == Readers::Everybody,
            metrics: self.metrics_readers == Readers::Everybody,
        };
        let limits = &mut settings.limits;
        limits.rate = NonZeroU32::new(self.rate_limit);
        if let Some(rate) = limits.rate {
            limits.burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        }
        limits.max_connections = self.max_connections as usize;
        limits.cors_origins = Vec::new();
        for origin in &self.cors_origins {
            limits.cors_origins.push(checked_origin(origin)?);
        }
        settings.tls = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsSettings {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ => None,
        };
        settings.privacy = self.privacy;
        Ok(())
    }

    fn jwt(&self) -> anyhow::Result<Option<JwtSettings>> {
        let Some(algorithm) = self.jwt_algorithm else {
            let key = self.jwt_secret.is_some()
                || self.jwt_secret_file.is_some()
                || self.jwt_public_key.is_some()
                || self.jwt_jwks.is_some();
            if key {
                bail!("name the algorithm of tokens with --jwt-algorithm");
            }
            return Ok(None);
        };
        let mut keys = Vec::new();
        keys.extend(self.jwt_secret.clone().map(JwtKey::Secret));
        if let Some(file) = &self.jwt_secret_file {
            keys.push(JwtKey::Secret(secret_in(file)?));
        }
        keys.extend(self.jwt_public_key.clone().map(JwtKey::PublicKey));
        keys.extend(self.jwt_jwks.clone().map(JwtKey::KeySet));
        let key = match (keys.pop(), keys.is_empty()) {
            (Some(key), true) => key,
            _ => bail!(
                "tokens need one key: --jwt-secret-file (HS256), --jwt-public-key or --jwt-jwks"
            ),
        };
        let (Some(issuer), Some(audience)) = (&self.jwt_issuer, &self.jwt_audience) else {
            bail!("tokens need --jwt-issuer and --jwt-audience");
        };
        Ok(Some(JwtSettings {
            algorithm,
            key,
            issuer: issuer.clone(),
            audience: audience.clone(),
            role_claim: self.jwt_role_claim.clone(),
        }))
    }
}

/// What a file holds, without the white space around it.
fn secret_in(file: &Path) -> anyhow::Result<Secret> {
    let size = std::fs::metadata(file)
        .with_context(|| file.display().to_string())?
        .len();
    if size > MAX_SECRET_FILE {
        bail!("{}: {size} bytes are too many for a secret", file.display());
    }
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(Secret::new(text.trim()))
}

/// An origin as browsers send it: a scheme, a host and perhaps a port, and no more.
fn checked_origin(text: &str) -> anyhow::Result<HeaderValue> {
    let wrong = || {
        format!("--cors-origin {text}: must be like https://ui.example or http://host:8080, or *")
    };
    if text == "*" {
        return Ok(HeaderValue::from_static("*"));
    }
    let uri: Uri = text.parse().with_context(wrong)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!(wrong());
    };
    let exact = format!("{scheme}://{authority}").to_lowercase();
    if exact != text || !matches!(scheme, "http" | "https") || authority.as_str().contains('@') {
        bail!(wrong());
    }
    HeaderValue::from_str(text).with_context(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact() {
        for good in [
            "*",
            "https://ui.example",
            "http://localhost:8080",
            "https://[::1]:1",
        ] {
            assert_eq!(checked_origin(good).unwrap(), good);
        }
        let wrong = [
            "",
            "ui.example",
            "https://ui.example/",
            "https://ui.example/app",
            "https://UI.example",
            "https://*.example",
            "https://user@ui.example",
            "ftp://ui.example",
            "null",
        ];
        for origin in wrong {
            let found = checked_origin(origin);
            // A star within a name is no wildcard to browsers or to us: it just never matches.
            assert!(found.is_err() || origin.contains('*'), "{origin}");
        }
    }
}
