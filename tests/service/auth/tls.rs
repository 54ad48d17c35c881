//! HTTPS: handshakes, versions, and a certificate that is renewed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mtmc::service::settings::ServiceSettings;
use mtmc::service::tls::{TlsSettings, load};
use rcgen::CertifiedKey;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::server::open;

/// A certificate of its own for `localhost`, written to the files of the settings.
fn write(folder: &Path) -> (TlsSettings, CertificateDer<'static>) {
    let names = vec!["localhost".to_string()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let settings = TlsSettings {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&settings.certificate, cert.pem()).unwrap();
    std::fs::write(&settings.key, signing_key.serialize_pem()).unwrap();
    (settings, cert.der().clone())
}

/// Asks for the health over TLS: the answer, the protocol that was agreed on, the certificate.
fn ask(
    address: &str,
    root: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<(String, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.flush()?;
    let agreed = stream.conn.alpn_protocol().unwrap_or_default().to_vec();
    if agreed == b"h2" {
        return Ok((String::new(), agreed));
    }
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(error);
    }
    Ok((String::from_utf8_lossy(&answer).into_owned(), agreed))
}

#[test]
fn the_service_speaks_tls_and_takes_a_new_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, first) = write(folder.path());
    let server = open(ServiceSettings {
        tls: Some(tls.clone()),
        ..ServiceSettings::default()
    });
    let (answer, agreed) = ask(&server.address, &first, &["http/1.1"]).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("strict-transport-security"), "{answer}");
    assert_eq!(agreed, b"http/1.1");
    let (_, agreed) = ask(&server.address, &first, &["h2", "http/1.1"]).unwrap();
    assert_eq!(agreed, b"h2");

    // One that cannot be used changes nothing.
    std::fs::write(&tls.key, "no key").unwrap();
    let (_, second) = write(folder.path());
    let begun = Instant::now();
    while ask(&server.address, &second, &["http/1.1"]).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the new certificate is not used"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(ask(&server.address, &first, &["http/1.1"]).is_err());
}

/// What a server answers to a greeting of TLS 1.`minor - 1` (RFC 5246, section 7.4.1.2): one suite, with
/// what it takes.
fn greet(address: &str, minor: u8) -> Vec<u8> {
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    // ECDHE-ECDSA-AES128-GCM-SHA256, no compression.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    // Signatures (ECDSA with SHA-256), groups (P-256), point formats, extended master secret.
    let extensions = [
        0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 23, 0, 0,
    ];
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let length = hello.len() as u8;
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut socket = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(30));
    socket.set_read_timeout(patience).unwrap();
    socket.write_all(&record).unwrap();
    let mut answer = vec![0; 7];
    socket.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn old_versions_and_plain_text_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = write(folder.path());
    let server = open(ServiceSettings {
        tls: Some(tls),
        ..ServiceSettings::default()
    });
    // The same greeting is taken for TLS 1.2, and for 1.1 answered by a fatal alert.
    assert_eq!(greet(&server.address, 3)[0], 0x16);
    let refused = greet(&server.address, 2);
    assert_eq!((refused[0], refused[5]), (0x15, 2), "{refused:?}");

    let mut socket = TcpStream::connect(&server.address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = write(folder.path());
    load(&tls).unwrap();
    let other = tempfile::tempdir().unwrap();
    let (strange, _) = write(other.path());
    let mixed = TlsSettings {
        key: strange.key,
        ..tls.clone()
    };
    let cases = [
        (mixed, "do not go together"),
        (
            TlsSettings {
                key: tls.certificate.clone(),
                ..tls.clone()
            },
            "no private key",
        ),
        (
            TlsSettings {
                certificate: tls.key.clone(),
                ..tls.clone()
            },
            "no certificate",
        ),
        (
            TlsSettings {
                key: "missing.pem".into(),
                ..tls.clone()
            },
            "missing.pem",
        ),
    ];
    for (settings, expected) in cases {
        let error = format!("{:#}", load(&settings).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}
