"""Detached signatures over named objects, by OpenSSF Model Signing: offline, with elliptic-curve
keys or certificates, or with Sigstore, by an identity and without a key. A signature lists the
SHA-256 of every object."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from sidtool.base.documents import parse_json, read_document
from sidtool.base.errors import DataError, IntegrityError, UsageError, first_line, raised_as
from sidtool.base.extras import require

SIGNATURE = ".sig"
"""The suffix of a signature, which is beside what it signs."""
MAX_SIGNATURE = 1 << 26
"""Bytes of the largest signature that is read: about 300,000 objects."""
MAX_PEM = 1 << 16
"""Bytes of the largest file of keys or certificates."""
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


KEYLESS = "keyless"
"""In place of a key: Sigstore signs for an identity, such as an account or a job of CI."""
PASSWORD = "SIDTOOL_SIGN_PASSWORD"
"""Has the password of an encrypted private key."""
TOKEN = "SIGSTORE_IDENTITY_TOKEN"
"""Has the OpenID Connect token of an identity, by Sigstore's own name."""
SIGNED_BY = "SIDTOOL_SIGNED_BY"
"""Names signers that everything published must have, whatever its registry says."""
_KEYS = "openssl ecparam -genkey -name prime256v1 -noout -out key.pem makes a private key"
_OFFLINE = "it needs a network and Sigstore's public servers; a key works offline"


@dataclass(frozen=True)
class Signer:
    """What signs: a private key, or an identity."""

    name: str
    configured: Callable[[], Any]
    """what signs by the library, as it is just before it signs"""

    @classmethod
    def of(cls, key: str | Path) -> "Signer":
        """A file with a private key in PEM, whose password is in SIDTOOL_SIGN_PASSWORD if it is
        encrypted, or "keyless". If the file also has certificates, that of the key first, they are
        part of the signature.

        Raises UsageError if the file is not such a key or there is no identity, DataError if it
        cannot be read or Sigstore cannot be reached."""
        require("sign")
        from model_signing import signing

        if str(key) != KEYLESS:
            config = _key_config(Path(key))
            return cls(str(key), lambda: config)
        _reach_sigstore("sign")
        token = cache(_identity_token)  # of minutes, so it is asked for late, and once
        return cls(
            "the identity", lambda: signing.Config().use_sigstore_signer(identity_token=token())
        )

    def sign(self, name: str, digests: Mapping[str, str]) -> bytes:
        """The signature over objects with these SHA-256 digests. Raises UsageError if the library
        does not sign."""
        with TemporaryDirectory() as work:
            out = Path(work) / "signature"
            with raised_as(UsageError, f"{self.name} cannot sign"):
                config = self.configured()
                config.set_hashing_config(_given(name, digests)).sign(name, out)
            return out.read_bytes()


def _key_config(key: Path) -> Any:
    from model_signing import signing

    text = _read_pem(key)
    config = signing.Config()
    with raised_as(UsageError, f"{key} cannot sign", _KEYS), _decrypted(key, text) as private_key:
        if "CERTIFICATE" in dict(_blocks(text)):
            return config.use_certificate_signer(
                private_key=private_key, signing_certificate=key, certificate_chain=[key]
            )
        return config.use_elliptic_key_signer(private_key=private_key)


@contextmanager
def _decrypted(key: Path, text: str) -> Iterator[Path]:
    """Where the library reads a private key: in its file, or decrypted from a pipe."""
    if "ENCRYPTED" not in text:
        yield key
        return
    password = os.environ.get(PASSWORD)
    if not password:
        raise UsageError(f"{key} is encrypted", hint=f"put its password into {PASSWORD}")
    from cryptography.hazmat.primitives import serialization

    private_key = serialization.load_pem_private_key(text.encode(), password.encode())
    plain = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    reader, writer = os.pipe()  # so that no decrypted key is on a disk
    try:
        with os.fdopen(writer, "wb") as stream:
            stream.write(plain)
        yield Path(f"/dev/fd/{reader}")
    finally:
        os.close(reader)


def _reach_sigstore(verb: str) -> None:
    """Raise DataError unless Sigstore's roots of trust can be fetched."""
    from sigstore.models import ClientTrustConfig

    with raised_as(DataError, f"cannot {verb} keyless", _OFFLINE):
        ClientTrustConfig.production()


def _identity_token() -> str:
    """The token of the identity that signs: given, of a job of CI, or by a browser."""
    from sigstore import models, oidc

    token = os.environ.get(TOKEN) or oidc.detect_credential()
    if token:
        return token
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no identity to sign by: this is neither a job of CI nor a terminal",
            hint=f"{TOKEN} may have an OpenID Connect token",
        )
    url = models.ClientTrustConfig.production().signing_config.get_oidc_url()
    return str(oidc.Issuer(url).identity_token())


@dataclass(frozen=True)
class Signers:
    """Who may sign: public keys and certificates that others lead to, in PEM, and identities, a
    line `keyless:IDENTITY@ISSUER` each."""

    text: str

    @classmethod
    def read(cls, signed_by: str | Path) -> "Signers":
        """Those in a file, or `keyless:IDENTITY@ISSUER` itself. Raises DataError if the file cannot
        be read, UsageError if a key, certificate or identity is damaged, or there is none."""
        spelled = str(signed_by)
        is_identity = spelled.startswith(f"{KEYLESS}:")
        signers = cls(spelled if is_identity else _read_pem(Path(signed_by)))
        try:
            signers.check()
        except ValueError as error:
            if is_identity:
                raise UsageError(str(error)) from error
            raise UsageError(
                f"{signed_by} is not a file of public keys or certificates: {error}",
                hint="openssl ec -in key.pem -pubout -out key.pub makes the public key",
            ) from error
        return signers

    def check(self) -> None:
        """Raise ValueError unless every key, certificate and identity can be used, and there is
        one."""
        require("sign")
        identities = list(_identities(self.text))
        with _verifiers(self.text) as verifiers:
            if not verifiers and not identities:
                raise ValueError("it has no PEM block")

    def verify(self, what: str, digests: Mapping[str, str], signature: bytes | None) -> None:
        """Raise IntegrityError unless one of the signers signed exactly these objects: their names
        and SHA-256. The error calls them `what`. Raises DataError if Sigstore cannot be reached,
        which verifies the signature of an identity."""
        require("sign")
        if signature is None:
            raise IntegrityError(f"{what} is not signed")
        reason = ""
        try:
            # a signature of the first versions names no key: the library would print a warning
            material = parse_json(signature)["verificationMaterial"]
            is_keyless = "certificate" in material
            if not (
                is_keyless or material.get("x509CertificateChain") or material["publicKey"]["hint"]
            ):
                raise ValueError("it names no key")
            with _verifiers(self.text, is_keyless) as verifiers, TemporaryDirectory() as work:
                path = Path(work) / "signature"
                path.write_bytes(signature)
                for verifier in verifiers:
                    verifier.set_hashing_config(_given(what, digests))
                    try:
                        return verifier.verify(what, path)
                    except Exception as error:
                        reason = reason or first_line(error)
            reason = reason or f"it is by {'an identity' if is_keyless else 'a key'}"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = first_line(error)
        raise IntegrityError(f"the signature of {what} is not valid: {reason}")


def published_signers(signed_by: str | Path | None = None) -> list[Signers]:
    """Who must have signed what is published: those that are given, and those of
    SIDTOOL_SIGNED_BY. Raises as `Signers.read`."""
    return [Signers.read(source) for source in (signed_by, os.environ.get(SIGNED_BY)) if source]


def _identities(text: str) -> Iterator[tuple[str, str]]:
    """Each identity and who vouches for it. Raises ValueError for one without an issuer."""
    for line in text.splitlines():
        if line.startswith(f"{KEYLESS}:"):
            identity, _, issuer = line.removeprefix(f"{KEYLESS}:").strip().rpartition("@")
            if not identity or not issuer.startswith("https://") or not line.isascii():
                raise ValueError(f"{line!r} is not {KEYLESS}:IDENTITY@https://ISSUER")
            yield identity, issuer


def _given(name: str, digests: Mapping[str, str]) -> Any:
    """What hashes nothing and gives these digests, which were computed before."""
    from model_signing import hashing, manifest

    files = manifest.SerializationType.from_args(
        {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    )
    as_digest = manifest.hashing.Digest
    items = [
        files.new_item(key, as_digest("sha256", bytes.fromhex(digest)))
        for key, digest in digests.items()
    ]

    class Given(hashing.Config):
        def hash(self, *_: object, **__: object) -> Any:
            return manifest.Manifest(PurePosixPath(name).name, items, files)

    return Given()


@contextmanager
def _verifiers(text: str, is_keyless: bool = False) -> Iterator[list[Any]]:
    """What verifies a signature by each identity, or else by each public key, and by all
    certificates together. Raises ValueError if a block of the text is neither, or damaged."""
    from model_signing import verifying

    if is_keyless:
        identities = list(_identities(text))
        if identities:
            _reach_sigstore("verify")
        yield [
            verifying.Config().use_sigstore_verifier(identity=identity, oidc_issuer=issuer)
            for identity, issuer in identities
        ]
        return
    blocks = list(_blocks(text))
    certificates = "\n".join(block for kind, block in blocks if kind == "CERTIFICATE")
    verifiers = []
    with TemporaryDirectory() as work:
        path = Path(work) / "block.pem"
        try:
            for kind, block in blocks:
                path.write_text(f"{block}\n")
                if kind == "PUBLIC KEY":
                    verifiers.append(verifying.Config().use_elliptic_key_verifier(public_key=path))
                elif kind != "CERTIFICATE":
                    raise ValueError(f"it has a {kind.lower()}")
            if certificates:
                path.write_text(f"{certificates}\n")
                config = verifying.Config().use_certificate_verifier(certificate_chain=[path])
                verifiers.append(config)
        except Exception as error:
            raise ValueError(first_line(error)) from error
        yield verifiers


def _blocks(pem: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of each PEM block. Raises ValueError for a block without an end."""
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(pem)]
    if len(blocks) != pem.count("-----BEGIN"):
        raise ValueError("it has a PEM block without an end")
    yield from blocks


def _read_pem(path: Path) -> str:
    try:
        return read_document(path, MAX_PEM).decode("ascii")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not in PEM", hint=_KEYS) from error
