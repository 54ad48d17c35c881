//! TLS 1.2 and 1.3, with a certificate that can be renewed while the service runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Largest file of a certificate or key in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where certificate and key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The service's certificate and those that lead to its root, in this order.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Reads certificate and key.
///
/// # Errors
/// A file cannot be read, has no certificate or key, or the two do not fit.
pub fn load(settings: &TlsSettings) -> anyhow::Result<ServerConfig> {
    let bytes = read(&settings.certificate)?;
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let what = || format!("{}: no certificate in PEM", settings.certificate.display());
        chain.push(certificate.with_context(what)?);
    }
    if chain.is_empty() {
        bail!("{}: no certificate in PEM", settings.certificate.display());
    }
    let what = || format!("{}: no private key in PEM", settings.key.display());
    let key = PrivateKeyDer::from_pem_slice(&read(&settings.key)?).with_context(what)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth();
    let what = || {
        let (certificate, key) = (settings.certificate.display(), settings.key.display());
        format!("{certificate} and {key} do not go together")
    };
    let mut config = builder.with_single_cert(chain, key).with_context(what)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    if size > MAX_FILE {
        bail!("{}: {size} bytes are too many for PEM", path.display());
    }
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// The certificate that is used now; it is read again at SIGHUP and when a file changes. A new one
/// that cannot be used changes nothing.
///
/// # Errors
/// As [`load`].
pub fn watch(settings: TlsSettings) -> anyhow::Result<RustlsConfig> {
    warn_if_others_can_read(&settings.key);
    let before = changed(&settings);
    let config = RustlsConfig::from_config(Arc::new(load(&settings)?));
    let used = config.clone();
    tokio::spawn(async move { keep_fresh(&settings, &used, before).await });
    Ok(config)
}

async fn keep_fresh(settings: &TlsSettings, used: &RustlsConfig, mut before: Stamps) {
    let mut hangups = hangups();
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep(LOOK) => false,
            () = next(&mut hangups) => true,
        };
        let now = changed(settings);
        if now == before && !asked {
            continue;
        }
        before = now;
        match load(settings) {
            Ok(config) => {
                used.reload_from_config(Arc::new(config));
                info!("the certificate was read again");
            }
            Err(error) => warn!(
                error = format!("{error:#}"),
                "the certificate stays as it was"
            ),
        }
    }
}

/// Size and time of last change of both files.
type Stamps = [Option<(u64, SystemTime)>; 2];

fn changed(settings: &TlsSettings) -> Stamps {
    [&settings.certificate, &settings.key].map(|path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.len(), about.modified().ok()?))
    })
}

#[cfg(unix)]
type Hangups = Option<tokio::signal::unix::Signal>;
#[cfg(not(unix))]
type Hangups = Option<()>;

#[cfg(unix)]
fn hangups() -> Hangups {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::hangup()).ok()
}

#[cfg(not(unix))]
fn hangups() -> Hangups {
    None
}

#[cfg(unix)]
async fn next(hangups: &mut Hangups) {
    let came = match hangups {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if came.is_none() {
        std::future::pending::<()>().await;
    }
}

#[cfg(not(unix))]
async fn next(_hangups: &mut Hangups) {
    std::future::pending().await
}

#[cfg(unix)]
fn warn_if_others_can_read(key: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(about) = std::fs::metadata(key) else {
        return;
    };
    if about.permissions().mode() & 0o007 != 0 {
        warn!(file = %key.display(), "everybody on this machine can read the private key");
    }
}

#[cfg(not(unix))]
fn warn_if_others_can_read(_key: &Path) {}
