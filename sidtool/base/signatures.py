"""Detached signatures over named objects, by OpenSSF Model Signing: offline, with elliptic-curve
keys or certificates. A signature lists the SHA-256 of every object."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from sidtool.base.errors import DataError, IntegrityError, UsageError, first_line
from sidtool.base.extras import require

SIGNATURE = ".sig"
"""The suffix of a signature, which is beside what it signs."""
MAX_SIGNATURE = 1 << 26
"""Bytes of the largest signature that is read: about 300,000 objects."""
MAX_PEM = 1 << 16
"""Bytes of the largest file of keys or certificates."""
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def sign(name: str, digests: Mapping[str, str], key: str | Path) -> bytes:
    """The signature over objects with these SHA-256 digests, by a file with a private key in PEM.
    If it also has certificates, that of the key first, they are part of the signature. Raises
    UsageError if the file is not such a key, DataError if it cannot be read."""
    require("sign")
    from model_signing import signing

    is_certified = "CERTIFICATE" in dict(_blocks(_read_pem(Path(key))))
    config = signing.Config().set_hashing_config(_given(name, digests))
    with TemporaryDirectory() as work:
        out = Path(work) / "signature"
        try:
            if is_certified:
                config.use_certificate_signer(
                    private_key=key, signing_certificate=key, certificate_chain=[key]
                )
            else:
                config.use_elliptic_key_signer(private_key=key)
            config.sign(name, out)
        except Exception as error:  # the errors of cryptography have no common class
            raise UsageError(f"{key} cannot sign: {first_line(error)}", hint=_KEYS) from error
        return out.read_bytes()


_KEYS = "openssl ecparam -genkey -name prime256v1 -noout -out key.pem makes a private key"


@dataclass(frozen=True)
class Signers:
    """Who may sign: the PEM text of public keys, and of certificates that others lead to."""

    pem: str

    @classmethod
    def read(cls, path: str | Path) -> "Signers":
        """Those in a file. Raises DataError if it cannot be read, UsageError if a key or
        certificate in it is damaged, or there is none."""
        signers = cls(_read_pem(Path(path)))
        try:
            signers.check()
        except ValueError as error:
            raise UsageError(
                f"{path} is not a file of public keys or certificates: {error}",
                hint="openssl ec -in key.pem -pubout -out key.pub makes the public key",
            ) from error
        return signers

    def check(self) -> None:
        """Raise ValueError unless every key and certificate can be used, and there is one."""
        require("sign")
        with _verifiers(self.pem):
            pass

    def verify(self, what: str, digests: Mapping[str, str], signature: bytes | None) -> None:
        """Raise IntegrityError unless one of the signers signed exactly these objects: their names
        and SHA-256. The error calls them `what`."""
        require("sign")
        if signature is None:
            raise IntegrityError(f"{what} is not signed")
        reason = ""
        try:
            # a signature of the first versions names no key: the library would print a warning
            material = json.loads(signature)["verificationMaterial"]
            if not (material.get("x509CertificateChain") or material["publicKey"]["hint"]):
                raise ValueError("it names no key")
            with _verifiers(self.pem) as verifiers, TemporaryDirectory() as work:
                path = Path(work) / "signature"
                path.write_bytes(signature)
                for verifier in verifiers:
                    verifier.set_hashing_config(_given(what, digests))
                    try:
                        return verifier.verify(what, path)
                    except Exception as error:
                        reason = reason or first_line(error)
        except (ValueError, KeyError, TypeError) as error:
            reason = first_line(error)
        raise IntegrityError(f"the signature of {what} is not valid: {reason}")


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
def _verifiers(pem: str) -> Iterator[list[Any]]:
    """What verifies a signature by each public key, and by all certificates together. Raises
    ValueError if a block of the text is neither, or damaged."""
    from model_signing import verifying

    blocks = list(_blocks(pem))
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
        if not verifiers:
            raise ValueError("it has no PEM block")
        yield verifiers


def _blocks(pem: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of each PEM block. Raises ValueError for a block without an end."""
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(pem)]
    if len(blocks) != pem.count("-----BEGIN"):
        raise ValueError("it has a PEM block without an end")
    yield from blocks


def _read_pem(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_PEM).decode("ascii")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not in PEM", hint=_KEYS) from error
