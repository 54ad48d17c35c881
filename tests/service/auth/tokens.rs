//! Bearer tokens of somebody else: signatures by OpenSSL (`tests/oracle/jwt/make.py`) and by the
//! library, and all that can be wrong with a token.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mtmc::service::auth::Unknown;
use mtmc::service::auth::access::Role;
use mtmc::service::auth::jwt::{JwtAlgorithm, JwtKey, JwtSettings, JwtVerifier};
use mtmc::service::auth::secret::Secret;
use mtmc::service::settings::ServiceSettings;
use serde_json::{Value, json};

use super::server::{assert_problem, open};

const ISSUER: &str = "https://id.example";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn settings(algorithm: JwtAlgorithm, key: JwtKey) -> JwtSettings {
    JwtSettings {
        algorithm,
        key,
        issuer: ISSUER.to_string(),
        audience: "mtmc".to_string(),
        role_claim: "role".to_string(),
    }
}

fn hs256() -> JwtSettings {
    settings(JwtAlgorithm::Hs256, JwtKey::Secret(Secret::new(SECRET)))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs() as i64
}

/// Claims that are all right, with some changed; null takes one away.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": "mtmc", "sub": "ada", "exp": now() + 600, "role": "viewer",
    });
    let all = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => all.remove(name),
            value => all.insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn signed(algorithm: Algorithm, claims: &Value, key: &[u8]) -> String {
    let header = Header::new(algorithm);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(key)).unwrap()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("../../goldens/jwt.json")).unwrap()
}

#[test]
fn signatures_of_openssl_are_understood() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let kinds = [
        ("RS256", JwtAlgorithm::Rs256),
        ("ES256", JwtAlgorithm::Es256),
        ("EdDSA", JwtAlgorithm::EdDsa),
    ];
    let set: Vec<Value> = kinds
        .iter()
        .map(|(name, _)| golden[name]["jwk"].clone())
        .collect();
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, json!({ "keys": set }).to_string()).unwrap();
    for (name, algorithm) in kinds {
        let pem = folder.path().join(format!("{name}.pem"));
        std::fs::write(&pem, golden[name]["public_key"].as_str().unwrap()).unwrap();
        let token = golden[name]["token"].as_str().unwrap();
        for key in [JwtKey::PublicKey(pem), JwtKey::KeySet(jwks.clone())] {
            let verifier = JwtVerifier::new(settings(algorithm, key)).unwrap();
            let caller = verifier.verify(token).unwrap();
            assert_eq!(
                (caller.id.as_str(), caller.role),
                ("jwt:ada", Role::Operator),
                "{name}"
            );
            // Any other byte of the signature is wrong.
            let (text, signature) = token.rsplit_once('.').unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
            bytes[7] ^= 1;
            let forged = format!("{text}.{}", URL_SAFE_NO_PAD.encode(bytes));
            assert_eq!(verifier.verify(&forged), Err(Unknown::Invalid), "{name}");
            for (other, _) in kinds.iter().filter(|(other, _)| *other != name) {
                let token = golden[other]["token"].as_str().unwrap();
                assert_eq!(
                    verifier.verify(token),
                    Err(Unknown::Invalid),
                    "{other} at {name}"
                );
            }
        }
    }
}

#[test]
fn tokens_that_are_not_right_are_refused() {
    let verifier = JwtVerifier::new(hs256()).unwrap();
    let sign = |changes: Value| signed(Algorithm::HS256, &claims(&changes), SECRET.as_bytes());
    assert!(verifier.verify(&sign(json!({}))).is_ok());
    // Clocks may differ by 30 s.
    assert!(verifier.verify(&sign(json!({"exp": now() - 5}))).is_ok());
    assert!(verifier.verify(&sign(json!({"nbf": now() + 5}))).is_ok());
    let wrong = [
        json!({"exp": now() - 60}),
        json!({"exp": null}),
        json!({"exp": "tomorrow"}),
        json!({"nbf": now() + 120}),
        json!({"iss": "https://evil.example"}),
        json!({"iss": null}),
        json!({"aud": "other"}),
        json!({"aud": ["other"]}),
        json!({"aud": null}),
        json!({"sub": "x".repeat(201)}),
    ];
    for changes in wrong {
        let refused = verifier.verify(&sign(changes.clone()));
        assert_eq!(refused, Err(Unknown::Invalid), "{changes}");
    }
    for role in [json!(null), json!("root"), json!(7), json!([])] {
        let refused = verifier.verify(&sign(json!({"role": role})));
        assert_eq!(refused, Err(Unknown::NoRole), "{role}");
    }
}

#[test]
fn the_algorithm_is_not_the_tokens_choice() {
    let verifier = JwtVerifier::new(hs256()).unwrap();
    let good = claims(&json!({}));
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed(algorithm, &good, SECRET.as_bytes());
        assert_eq!(
            verifier.verify(&token),
            Err(Unknown::Invalid),
            "{algorithm:?}"
        );
    }
    let other_secret = signed(Algorithm::HS256, &good, b"fedcba9876543210fedcba9876543210");
    assert_eq!(verifier.verify(&other_secret), Err(Unknown::Invalid));
    // `none`, in the ways that others have fallen for.
    let body = URL_SAFE_NO_PAD.encode(good.to_string());
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let head = URL_SAFE_NO_PAD.encode(json!({"alg": name, "typ": "JWT"}).to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{head}.{body}.{signature}");
            assert_eq!(verifier.verify(&token), Err(Unknown::Invalid), "{name}");
        }
        assert_eq!(
            verifier.verify(&format!("{head}.{body}")),
            Err(Unknown::Invalid)
        );
    }
    // The public key as a shared secret.
    let pem = golden()["RS256"]["public_key"]
        .as_str()
        .unwrap()
        .to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    std::fs::write(&file, &pem).unwrap();
    let key = JwtKey::PublicKey(file);
    let verifier = JwtVerifier::new(settings(JwtAlgorithm::Rs256, key)).unwrap();
    let confused = signed(Algorithm::HS256, &good, pem.as_bytes());
    assert_eq!(verifier.verify(&confused), Err(Unknown::Invalid));
    for nonsense in ["", ".", "..", "a.b.c", "eyJ.eyJ.x", &"x".repeat(10_000)] {
        assert_eq!(verifier.verify(nonsense), Err(Unknown::Invalid));
    }
}

#[test]
fn a_set_of_keys_is_read_again() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let write = |name: &str, seconds: u64| {
        std::fs::write(&file, json!({"keys": [golden[name]["jwk"]]}).to_string()).unwrap();
        // File systems' clocks are coarse.
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    write("EdDSA", 1_000);
    let key = JwtKey::KeySet(file.clone());
    let verifier = JwtVerifier::new(settings(JwtAlgorithm::EdDsa, key)).unwrap();
    let token = golden["EdDSA"]["token"].as_str().unwrap();
    assert!(verifier.verify(token).is_ok());
    // A set without a key for the algorithm is a mistake: who was known stays known.
    write("RS256", 2_000);
    verifier.reload_if_changed();
    assert!(verifier.verify(token).is_ok());
    let mut other = golden["EdDSA"]["jwk"].clone();
    other["kid"] = json!("another");
    let set = json!({"keys": [other, golden["ES256"]["jwk"], {"kty": "new", "x": 1}]});
    std::fs::write(&file, set.to_string()).unwrap();
    verifier.reload_if_changed();
    // One key is left, by another name: the token names the one that is gone.
    assert_eq!(verifier.verify(token), Err(Unknown::Invalid));
}

#[test]
fn the_service_takes_tokens() {
    let mut service = ServiceSettings::default();
    service.auth.jwt = Some(hs256());
    let server = open(service);
    let token = |changes: Value| signed(Algorithm::HS256, &claims(&changes), SECRET.as_bytes());
    let path = "/api/v1/processing-tasks";
    assert_problem(&server.ask("", "GET", path, ""), 401, "unauthorized");
    let viewer = token(json!({}));
    assert_eq!(server.ask(&viewer, "GET", path, "").status, 200);
    assert_problem(
        &server.ask(&viewer, "GET", "/api/v1/keys", ""),
        403,
        "forbidden",
    );
    let admin = token(json!({"role": ["viewer", "admin"]}));
    assert_eq!(server.ask(&admin, "GET", "/api/v1/keys", "").status, 200);
    let late = token(json!({"exp": now() - 60}));
    assert_problem(&server.ask(&late, "GET", path, ""), 401, "unauthorized");
    let nobody = token(json!({"role": null}));
    assert_problem(&server.ask(&nobody, "GET", path, ""), 403, "forbidden");
    let ticket = server.ask(&viewer, "POST", "/api/v1/tickets", "").json();
    let ticket = ticket["ticket"].as_str().unwrap();
    let socket = "/ws/detection-tracking/00000000-0000-4000-8000-000000000000";
    let opened = server.get(&format!("{socket}?token={ticket}"), &[]);
    assert_problem(&opened, 404, "task-not-found");
}
