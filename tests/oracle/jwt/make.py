"""Tokens signed by OpenSSL, for the verifier of the service: tests/goldens/jwt.json.

    python3 tests/oracle/jwt/make.py > tests/goldens/jwt.json

Made with Python 3.11 and OpenSSL 3.0.19. The private keys are thrown away: tokens and public keys are
new in each run. They are valid until the year 2100.
"""

import base64
import json
import pathlib
import re
import subprocess
import tempfile

HEAD = {"typ": "JWT", "kid": "test"}
CLAIMS = {
    "iss": "https://id.example",
    "aud": ["other", "mtmc"],
    "sub": "ada",
    "exp": 4102444800,
    "nbf": 1700000000,
    "role": "operator",
}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value):
    return b64(json.dumps(value, separators=(",", ":")).encode())


def openssl(*arguments, stdin=None):
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


def raw_signature(der):
    """r and s, 32 bytes each, of an ECDSA signature in DER (RFC 7518, section 3.4)."""
    out, at = b"", 2
    for _ in range(2):
        length = der[at + 1]
        out += int.from_bytes(der[at + 2 : at + 2 + length], "big").to_bytes(32, "big")
        at += 2 + length
    return out


def number(text):
    return bytes.fromhex(re.sub(r"[^0-9A-Fa-f]", "", text))


def jwk(algorithm, public, folder):
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    about = {"kid": f"{algorithm}-1", "use": "sig", "alg": algorithm}
    if algorithm == "EdDSA":
        return about | {"kty": "OKP", "crv": "Ed25519", "x": b64(der[-32:])}
    if algorithm == "ES256":
        return about | {"kty": "EC", "crv": "P-256", "x": b64(der[-64:-32]), "y": b64(der[-32:])}
    modulus = openssl("rsa", "-pubin", "-in", public, "-noout", "-modulus").decode().split("=")[1]
    return about | {"kty": "RSA", "n": b64(bytes.fromhex(modulus.strip())), "e": "AQAB"}


def make(algorithm, how, folder):
    private, public = folder / f"{algorithm}.pem", folder / f"{algorithm}.pub"
    openssl("genpkey", *how, "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    text = f"{part(HEAD | {'alg': algorithm, 'kid': algorithm + '-1'})}.{part(CLAIMS)}"
    message = folder / "message"
    message.write_bytes(text.encode())
    if algorithm == "EdDSA":
        signature = openssl("pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", message)
    else:
        signature = openssl("dgst", "-sha256", "-sign", private, message)
    if algorithm == "ES256":
        signature = raw_signature(signature)
    return {
        "public_key": public.read_text(),
        "jwk": jwk(algorithm, public, folder),
        "token": f"{text}.{b64(signature)}",
    }


def main():
    kinds = {
        "RS256": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "ES256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "EdDSA": ["-algorithm", "ED25519"],
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        made = {name: make(name, how, folder) for name, how in kinds.items()}
    print(json.dumps(made, indent=1))


main()
