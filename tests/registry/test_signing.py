import base64
import datetime
import hashlib
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from model_signing import signing, verifying
from sigstore.models import ClientTrustConfig

from sidtool.base.errors import DataError, IntegrityError, RefusedError, UsageError
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.mixture.index import MemoryOptions
from sidtool.recommendation.serve.serve_options import ServeOptions
from sidtool.recommendation.serve.service import Sources
from sidtool.registry import (
    check_signed,
    open_bundle,
    open_memory,
    open_parent,
    policy,
    pull,
    push,
    verify,
)
from sidtool.registry.references import located
from sidtool.registry.transfer import upload
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.make.add import add_items
from tests.bundles import small_bundle
from tests.cli.road import done, refused, tree
from tests.memory.cases import small_memory
from tests.registry.test_models import made, model

__all__ = ["made", "model"]
PEM = serialization.Encoding.PEM
UPLOAD = "sidtool.registry.publish.upload"
Key = ec.EllipticCurvePrivateKey


def write_key(path: Path) -> Key:
    """Write a private key to `path`, and its public key beside it with the suffix `.pub`."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(private_text(key))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(PEM, public))
    return key


def private_text(key: Key, password: bytes = b"") -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)


def certificate(name: str, key: Key, issuer: str, issuer_key: Key, *, ca: bool) -> bytes:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = x509.KeyUsage(True, False, False, False, False, ca, ca, False, False)
    builder = x509.CertificateBuilder(named(issuer), named(name), key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(datetime.datetime(2026, 1, 1))
    builder = builder.not_valid_after(datetime.datetime(2046, 1, 1))
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(PEM)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, whose public key is beside it."""
    write_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def bundle_path(tmp_path: Path) -> str:
    small_bundle().save(tmp_path / "shop.zarr")
    return str(tmp_path / "shop.zarr")


def test_a_signed_version_is_pulled_with_its_signature(
    shop: str, key: Path, bundle_path: str, tmp_path: Path
) -> None:
    assert policy(shop, key.with_suffix(".pub")) == key.with_suffix(".pub").read_text()
    with pytest.raises(RefusedError, match="must be signed"):
        push(bundle_path, shop)
    push(bundle_path, shop, sign=str(key))
    assert open_bundle(shop).digest == small_bundle().digest
    pull(shop, tmp_path / "out.zarr")
    for signed in (shop, str(tmp_path / "out.zarr")):
        assert verify(signed, signed_by=key.with_suffix(".pub")) == []
    with pytest.raises(IntegrityError, match="not signed"):
        verify(bundle_path, signed_by=key.with_suffix(".pub"))
    # by the files themselves, without sidtool
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=key.with_suffix(".pub"))
    verifier.verify(tmp_path / "out.zarr", tmp_path / "out.zarr.sig")
    with pytest.raises(RefusedError, match="published with another root document or license"):
        push(bundle_path, shop, sign=str(key), license="mit")
    push(bundle_path, shop, tag="prod")  # it is signed already
    pull(f"{shop}@prod", tmp_path / "out.zarr.zip")
    check_signed(str(tmp_path / "out.zarr.zip"), key.with_suffix(".pub"))


def test_a_signed_version_that_was_built_again_keeps_its_signature(
    shop: str, key: Path, tmp_path: Path
) -> None:
    """As a night without events does it, or one that was interrupted."""
    bundle, again = (tmp_path / f"{name}.zarr" for name in ("shop", "again"))
    for path, created in ((bundle, "2026-01-01"), (again, "2026-01-02")):
        made = small_bundle()
        Bundle(replace(made.manifest, created=created), made.arrays).save(path)
    push(bundle, shop, sign=str(key))
    with pytest.raises(RefusedError, match="published with another root document or license"):
        push(again, shop, sign=str(key))  # nobody says who has to sign
    policy(shop, key.with_suffix(".pub"))
    before = tree(Path(shop) / "versions")
    assert "already published, it is signed" in done("push", again, shop, "--sign", key).out
    assert push(again, shop, tag="prod", sign=str(key)).sent == 0
    assert tree(Path(shop) / "versions") == before
    assert open_bundle(f"{shop}@prod").manifest.created == "2026-01-01"
    write_key(tmp_path / "other.pem")
    policy(shop, tmp_path / "other.pub")
    with pytest.raises(IntegrityError, match=r"signature of version 1\.0 .* is not valid"):
        push(again, shop, sign=str(tmp_path / "other.pem"))


def test_unsigned_and_wrongly_signed_versions_are_refused(
    tmp_path: Path, key: Path, bundle_path: str
) -> None:
    shop = str(tmp_path / "registry/shop")
    write_key(tmp_path / "other.pem")
    push(bundle_path, shop)
    with pytest.raises(IntegrityError, match="is not signed"):
        check_signed(shop, key.with_suffix(".pub"))
    policy(shop, key.with_suffix(".pub"))
    for refuse in (open_bundle, lambda name: pull(name, tmp_path / "out.zarr")):
        with pytest.raises(IntegrityError, match=r"version 1\.0 of .* is not signed"):
            refuse(shop)
    with pytest.raises(IntegrityError, match="Key mismatch"):
        push(bundle_path, shop, sign=str(tmp_path / "other.pem"))
    empty = tmp_path / "registry/empty"
    policy(empty, key.with_suffix(".pub"))
    with pytest.raises(IntegrityError, match="Key mismatch"):
        push(bundle_path, empty, sign=str(tmp_path / "other.pem"))
    assert [path.name for path in empty.rglob("*")] == ["signed-by.pem"]
    push(bundle_path, shop, sign=str(key))
    open_bundle(shop)
    record = tmp_path / "registry/shop/versions/1.0.json"
    spelled = record.read_text()
    record.write_text(spelled + "\n")
    with pytest.raises(IntegrityError, match="is not spelled as this version spells it"):
        open_bundle(shop)
    record.write_text(spelled)
    policy(shop, tmp_path / "other.pub")
    with pytest.raises(IntegrityError, match=r"signature of version 1\.0 .* is not valid"):
        open_bundle(shop)
    both = tmp_path / "both.pub"
    both.write_text((tmp_path / "other.pub").read_text() + key.with_suffix(".pub").read_text())
    policy(shop, both)  # one of them
    open_bundle(shop)
    assert not (tmp_path / "out.zarr").exists()
    assert policy(shop, allow_unsigned=True) is None
    open_bundle(shop)


def test_a_push_that_fails_or_loses_leaves_no_signature_and_no_card(
    tmp_path: Path, key: Path, bundle_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path / "shop"
    policy(shop, key.with_suffix(".pub"))

    def send_while_others_push(*arguments: Any) -> int:
        monkeypatch.setattr(UPLOAD, Mock(side_effect=DataError("the disk is full")))
        with pytest.raises(DataError, match="the disk is full"):
            push(bundle_path, shop, sign=str(key), license="mit")
        assert not list(shop.rglob("*.sig")) + list(shop.rglob("README.md"))
        monkeypatch.setattr(UPLOAD, upload)
        push(bundle_path, shop, sign=str(key), license="apache-2.0")
        return upload(*arguments)

    monkeypatch.setattr(UPLOAD, send_while_others_push)
    with pytest.raises(RefusedError, match="published with another root document or license"):
        push(bundle_path, shop, sign=str(key), license="mit")
    open_bundle(shop)
    (card,) = shop.rglob("README.md")
    assert "license: apache-2.0" in card.read_text()


def test_a_certificate_that_leads_to_a_trusted_one_signs(tmp_path: Path, bundle_path: str) -> None:
    root, leaf, stranger = (write_key(tmp_path / f"{name}.pem") for name in ("r", "l", "s"))
    signed = certificate("leaf", leaf, "root", root, ca=False)
    (tmp_path / "leaf.pem").write_bytes(private_text(leaf) + signed)
    (tmp_path / "root.crt").write_bytes(certificate("root", root, "root", root, ca=True))
    other = certificate("root", stranger, "root", stranger, ca=True)
    (tmp_path / "other.crt").write_bytes(other)
    shop = str(tmp_path / "shop")
    push(bundle_path, shop, sign=str(tmp_path / "leaf.pem"))
    check_signed(shop, tmp_path / "root.crt")
    with pytest.raises(IntegrityError, match="is not valid"):
        check_signed(shop, tmp_path / "other.crt")


@pytest.mark.parametrize("with_certificate", [False, True])
def test_the_key_may_be_encrypted(tmp_path: Path, bundle_path: str, with_certificate: bool) -> None:
    private_key = write_key(tmp_path / "key.pem")
    signers = tmp_path / "key.pub"
    text = private_text(private_key, b"of the shop")
    if with_certificate:
        text += certificate("shop", private_key, "shop", private_key, ca=True)
        signers = tmp_path / "shop.crt"
        signers.write_bytes(text.partition(b"-----END ENCRYPTED PRIVATE KEY-----\n")[2])
    (tmp_path / "key.pem").write_bytes(text)
    push_signed = ("push", bundle_path, tmp_path / "shop", "--sign", tmp_path / "key.pem")
    for words in ((), ("--dry-run",)):
        error = refused(2, *push_signed, *words)
        assert "key.pem is encrypted" in error
        assert "SIDTOOL_SIGN_PASSWORD" in error
    wrong = {"SIDTOOL_SIGN_PASSWORD": "of another shop"}
    assert "cannot sign" in refused(2, *push_signed, env=wrong)
    assert not (tmp_path / "shop").exists()
    done("push", bundle_path, tmp_path / "shop")
    signed = done(*push_signed, env={"SIDTOOL_SIGN_PASSWORD": "of the shop"})
    assert "already published, it is signed" in signed.out
    check_signed(str(tmp_path / "shop"), signers)


class FakeSigstore:
    """Signs with a key of its own for the identity of a token, and names both in a certificate, in
    place of the services that the library calls."""

    def __init__(self, work: Path) -> None:
        self.key = work / "sigstore.pem"
        write_key(self.key)
        self.tokens: list[str | None] = []

    def use_signer(self, config: Any, *, identity_token: str | None = None) -> Any:
        self.tokens.append(identity_token)
        config.use_elliptic_key_signer(private_key=self.key)
        inner = config._signer.sign

        def sign(payload: Any) -> Any:
            signature = inner(payload)
            bundle = json.loads(signature.bundle.to_json())
            vouched = base64.b64encode(str(identity_token).encode()).decode()
            bundle["verificationMaterial"] = {"certificate": {"rawBytes": vouched}}
            return SimpleNamespace(write=lambda path: path.write_text(json.dumps(bundle)))

        config._signer = SimpleNamespace(sign=sign)
        return config

    def use_verifier(self, config: Any, *, identity: str, oidc_issuer: str) -> Any:
        public = self.key.with_suffix(".pub")
        config.use_elliptic_key_verifier(public_key=public)
        verify = config.verify

        def verify_identity(what: str, path: Path) -> None:
            bundle = json.loads(path.read_text())
            certificate = bundle["verificationMaterial"]["certificate"]["rawBytes"]
            vouched = base64.b64decode(certificate).decode()
            if vouched != f"{identity} of {oidc_issuer}":
                raise ValueError(f"the certificate is of {vouched}")
            hint = hashlib.sha256(public.read_bytes()).hexdigest()
            bundle["verificationMaterial"] = {"publicKey": {"hint": hint}, "tlogEntries": []}
            path.write_text(json.dumps(bundle))
            verify(what, path)

        return SimpleNamespace(set_hashing_config=config.set_hashing_config, verify=verify_identity)


@pytest.fixture
def sigstore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSigstore:
    """Sigstore in this process; the identity is that of a release job."""
    fake = FakeSigstore(tmp_path)
    monkeypatch.setattr(ClientTrustConfig, "production", lambda: None)
    monkeypatch.setenv("SIGSTORE_IDENTITY_TOKEN", f"{JOB} of {ISSUER}")
    monkeypatch.setattr(
        signing.Config, "use_sigstore_signer", lambda self, **named: fake.use_signer(self, **named)
    )
    monkeypatch.setattr(
        verifying.Config,
        "use_sigstore_verifier",
        lambda self, **named: fake.use_verifier(self, **named),
    )
    return fake


JOB = "https://ci.example/shop/release.yml@refs/heads/main"
ISSUER = "https://token.ci.example"


def test_an_identity_signs_without_a_key(
    tmp_path: Path,
    key: Path,
    bundle_path: str,
    sigstore: FakeSigstore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = tmp_path / "shop"
    done("policy", shop, "--signed-by", f"keyless:{JOB}@{ISSUER}")
    done("push", bundle_path, shop, "--sign", "keyless")
    assert sigstore.tokens == [f"{JOB} of {ISSUER}"] * 2  # of the record and of the objects
    done("pull", shop, "-o", tmp_path / "out.zarr")
    done("verify", tmp_path / "out.zarr", "--signed-by", f"keyless:{JOB}@{ISSUER}")
    out = str(tmp_path / "out.zarr")
    for other in (f"keyless:someone@example.com@{ISSUER}", f"keyless:{JOB}@https://example.com"):
        with pytest.raises(IntegrityError, match="the certificate is of"):
            check_signed(out, other)
    with pytest.raises(IntegrityError, match="it is by an identity"):
        check_signed(out, key.with_suffix(".pub"))
    both = tmp_path / "both.txt"
    both.write_bytes(key.with_suffix(".pub").read_bytes() + f"keyless:{JOB}@{ISSUER}\n".encode())
    check_signed(out, both)
    with pytest.raises(IntegrityError, match="it is by a key"):
        push(bundle_path, str(shop), sign=str(key))
    monkeypatch.setenv("SIDTOOL_SIGNED_BY", f"keyless:someone@example.com@{ISSUER}")
    with pytest.raises(IntegrityError, match="the certificate is of"):
        open_bundle(str(shop))
    monkeypatch.delenv("SIDTOOL_SIGNED_BY")
    push(bundle_path, str(tmp_path / "by-key"), sign=str(key))
    with pytest.raises(IntegrityError, match="it is by a key"):
        check_signed(str(tmp_path / "by-key"), f"keyless:{JOB}@{ISSUER}")


@pytest.mark.parametrize("signers", ["keyless:", "keyless:me@example.com", "keyless:@https://x"])
def test_an_identity_needs_an_issuer(bundle_path: str, signers: str) -> None:
    error = refused(2, "verify", bundle_path, "--signed-by", signers)
    assert "is not keyless:IDENTITY@https://ISSUER" in error


def test_keyless_needs_a_network_and_an_identity(
    tmp_path: Path, bundle_path: str, sigstore: FakeSigstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path / "shop"
    done("push", bundle_path, shop, "--sign", "keyless")
    monkeypatch.delenv("SIGSTORE_IDENTITY_TOKEN")
    monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: None)
    error = refused(2, "push", bundle_path, tmp_path / "other", "--sign", "keyless")
    assert "there is no identity to sign by" in error
    assert not list((tmp_path / "other").glob("versions/*.json"))
    not_permitted = RuntimeError("insufficient permissions")
    monkeypatch.setattr("sigstore.oidc.detect_credential", Mock(side_effect=not_permitted))
    error = refused(2, "push", bundle_path, tmp_path / "other", "--sign", "keyless")
    assert "the identity cannot sign: insufficient permissions" in error
    unreachable = OSError("Failed to refresh TUF metadata")
    monkeypatch.setattr(ClientTrustConfig, "production", Mock(side_effect=unreachable))
    error = refused(1, "push", bundle_path, tmp_path / "third", "--sign", "keyless")
    assert "cannot sign keyless: Failed to refresh TUF metadata" in error
    assert not (tmp_path / "third").exists()
    with pytest.raises(DataError, match="cannot verify keyless"):
        check_signed(str(shop), f"keyless:{JOB}@{ISSUER}")


def test_a_reader_can_require_signers_itself(
    tmp_path: Path, key: Path, bundle_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = str(tmp_path / "shop")
    push(bundle_path, shop)
    monkeypatch.setenv("SIDTOOL_SIGNED_BY", str(key.with_suffix(".pub")))
    with pytest.raises(IntegrityError, match="is not signed"):
        open_bundle(shop)
    push(bundle_path, shop, sign=str(key))
    open_bundle(shop)
    policy(shop, allow_unsigned=True)
    (record,) = Path(shop).glob("versions/1.0-*/record.sig")
    record.unlink()
    with pytest.raises(IntegrityError, match="is not signed"):
        open_bundle(shop)


def test_recommend_and_serve_refuse_unsigned_models_and_memories(
    tmp_path: Path, key: Path, model: Path
) -> None:
    models, nightly = str(tmp_path / "models"), str(tmp_path / "nightly")
    small_memory().save(tmp_path / "memory.zarr")
    push(str(model), models)
    push(str(tmp_path / "memory.zarr"), nightly)
    for name in (models, nightly):
        policy(name, key.with_suffix(".pub"))
    with pytest.raises(IntegrityError, match="is not signed"):
        Sources(ServeOptions(models), tmp_path / "copies").check()
    with pytest.raises(IntegrityError, match="is not signed"):
        located(MemoryOptions(nightly))
    request = ("recommend", model, "--memory", nightly, "--history", "item1")
    assert "is not signed" in refused(3, *request)
    assert "is not signed" in refused(3, "recommend", model, "--bundle", nightly, "--history", "a")
    push(str(model), models, sign=str(key))
    push(str(tmp_path / "memory.zarr"), nightly, sign=str(key))
    Sources(ServeOptions(models), tmp_path / "copies").check()
    open_memory(nightly)
    pull(models, tmp_path / "out")
    check_signed(str(tmp_path / "out"), key.with_suffix(".pub"))
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=key.with_suffix(".pub"))
    verifier.set_ignore_unsigned_files(True)  # the card
    verifier.verify(tmp_path / "out", tmp_path / "out.sig")


def test_an_older_version_is_signed_as_such(tmp_path: Path, key: Path) -> None:
    """The record of a signed version cannot take the place of another one."""
    shop = tmp_path / "nightly"
    for number in range(2):
        path = tmp_path / f"{number}.zarr"
        small_memory(settings=KnnSettings(neighbors=5 + number)).save(path)
        push(path, shop, sign=str(key))
    policy(shop, key.with_suffix(".pub"))
    (old,) = shop.glob("versions/1.0-*")
    record = json.loads((shop / "versions/1.0.json").read_text())
    shutil.copytree(old, shop / f"versions/1.2-{record['root'][:12]}")
    text = json.dumps(record | {"version": "1.2"}, indent=1, sort_keys=True)
    (shop / "versions/1.2.json").write_text(f"{text}\n")
    with pytest.raises(IntegrityError, match=r"signature of version 1\.2"):
        open_memory(f"{shop}@1.2")


def test_what_is_no_key_is_refused(tmp_path: Path, key: Path, bundle_path: str) -> None:
    shop = str(tmp_path / "shop")
    (tmp_path / "empty.pem").write_text("")
    for path in (tmp_path / "empty.pem", key.with_suffix(".pub")):
        with pytest.raises(UsageError, match="cannot sign"):
            push(bundle_path, shop, sign=str(path))
    (tmp_path / "cut.pub").write_bytes(key.with_suffix(".pub").read_bytes()[:60])
    shutil.copy(Path(bundle_path) / "zarr.json", tmp_path / "x.json")
    for path in (*(tmp_path / name for name in ("empty.pem", "cut.pub", "x.json")), key):
        with pytest.raises(UsageError, match="is not a file of public keys"):
            policy(shop, path)
    (tmp_path / "many.pub").write_bytes(key.with_suffix(".pub").read_bytes() * 400)
    (tmp_path / "key.der").write_bytes(b"\x30\x82")
    with pytest.raises(UsageError, match=r"key\.der is not in PEM"):
        policy(shop, tmp_path / "key.der")
    with pytest.raises(DataError, match=r"many\.pub cannot be read: it has more than 65536 bytes"):
        policy(shop, tmp_path / "many.pub")
    assert not (tmp_path / "shop/signed-by.pem").exists()


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"{}",
        b'{"verificationMaterial": []}',
        b"[" * 100_000,
        b'{"verificationMaterial": {"publicKey": {"hint": ""}}}',
    ],
    ids=["empty", "no material", "a list", "nested", "no key"],
)
def test_a_signature_of_another_form_is_not_valid(
    signature: bytes, key: Path, bundle_path: str
) -> None:
    Path(f"{bundle_path}.sig").write_bytes(signature)
    with pytest.raises(IntegrityError, match=r"the signature of .* is not valid: ") as caught:
        check_signed(bundle_path, key.with_suffix(".pub"))
    assert "\n" not in str(caught.value)


def test_the_commands_sign_and_check(tmp_path: Path, key: Path, bundle_path: str) -> None:
    shop = tmp_path / "shop"
    public = key.with_suffix(".pub")
    assert "need no signature" in done("policy", shop, "--allow-unsigned").out
    assert not shop.exists()
    both = refused(2, "policy", shop, "--signed-by", public, "--allow-unsigned")
    assert "give one of the two" in both
    assert done("policy", shop, "--signed-by", public, "--json").json["signed_by"]
    for more in ((), ("--dry-run",)):
        assert "must be signed" in refused(3, "push", bundle_path, shop, *more)
    done("push", bundle_path, shop, "--sign", key)
    done("pull", shop, "-o", tmp_path / "out.zarr")
    done("verify", tmp_path / "out.zarr", "--signed-by", public)
    write_key(tmp_path / "other.pem")
    error = refused(3, "verify", tmp_path / "out.zarr", "--signed-by", tmp_path / "other.pub")
    assert "Key mismatch" in error
    (tmp_path / "out.zarr.sig").unlink()
    assert "is not signed" in refused(3, "verify", tmp_path / "out.zarr", "--signed-by", public)
    done("verify", tmp_path / "out.zarr")
    done("policy", shop, "--allow-unsigned")
    larger = add_items(small_bundle(), remove=["i3"])
    larger.save(tmp_path / "next.zarr")
    done("push", tmp_path / "next.zarr", shop)
    done("pull", f"{shop}@1.0", "-o", tmp_path / "out.zarr", "--force")
    assert (tmp_path / "out.zarr.sig").exists()
    done("pull", f"{shop}@1.1", "-o", tmp_path / "out.zarr", "--force")
    assert not (tmp_path / "out.zarr.sig").exists()  # it was that of the version before
    done("policy", shop, "--signed-by", public)
    again = ("push", tmp_path / "next.zarr", shop, "--tag", "prod")
    assert "is not signed" in refused(3, *again)
    done(*again, "--sign", key)
    (retired,) = shop.glob("versions/1.0-*/bundle.zarr/items/retired/c/0")
    retired.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="items/retired"):
        open_parent(shop, larger)


def flip(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ draw.randrange(1, 256)]) + data[at + 1 :]


def cut(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randrange(1, 9) :]


def grow(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.randbytes(draw.randrange(1, 9)) + data[at:]


def change_base64(text: bytes, draw: random.Random) -> bytes:
    """The text of base64 with another character among those that all count."""
    at = draw.randrange(len(text) - 4)
    if text[at : at + 1] == b"\n":
        return text[:at] + text[at + 2 :]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = draw.choice([byte for byte in alphabet if byte != text[at]])
    return text[:at] + bytes([other]) + text[at + 1 :]


def change_key(data: bytes, draw: random.Random) -> bytes:
    head, body, tail = data.partition(b"-----\n")[0], *data.partition(b"-----\n")[2].split(b"\n-")
    return head + b"-----\n" + change_base64(body, draw) + b"\n-" + tail


def change_signature(data: bytes, draw: random.Random) -> bytes:
    envelope = json.loads(data)["dsseEnvelope"]
    text = draw.choice([envelope["payload"], envelope["signatures"][0]["sig"]]).encode()
    assert base64.b64decode(text)
    return data.replace(text, change_base64(text, draw))


CHANGES = (flip, cut, grow)


@pytest.fixture(params=["bundle", "memory", "model"])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A bundle, a memory or a model."""
    if request.param == "model":
        return str(request.getfixturevalue("model"))
    if request.param == "bundle":
        return str(request.getfixturevalue("bundle_path"))
    small_memory().save(tmp_path / "memory.zarr")
    return str(tmp_path / "memory.zarr")


@pytest.mark.parametrize(
    "count", [20, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "thousand"]
)
def test_random_changes_of_what_is_signed_are_refused(
    count: int, tmp_path: Path, key: Path, artifact: str
) -> None:
    """Of files, records, keys and signatures; the card is not signed."""
    shop = tmp_path / "shop"
    push(artifact, str(shop), sign=str(key))
    policy(str(shop), key.with_suffix(".pub"))
    changes = {name: CHANGES for name in tree(shop) if name.count("/") > 2}
    objects = [name for name in changes if not name.endswith(".sig")]
    changes |= {"signed-by.pem": (change_key,), "versions/1.0.json": CHANGES}
    changes |= {name: (change_signature,) for name in tree(shop) if name.endswith(".sig")}
    assert len(objects) > 5
    draw = random.Random(20261128)
    groups = [[n for n in changes if n.endswith(kind)] for kind in (".sig", ".pem", "1.0.json")]
    groups.append(objects)
    out = tmp_path / "pulled"
    n_refused = 0
    for number in range(count):
        name = draw.choice(groups[number % len(groups)])
        path = shop / name
        before = path.read_bytes()
        changed = draw.choice(changes[name])(before, draw)
        if changed == before:
            continue
        path.write_bytes(changed)
        with pytest.raises(RefusedError):
            pull(str(shop), out)
        assert not out.exists()
        shutil.rmtree(tmp_path / "pulled.partial", ignore_errors=True)
        path.write_bytes(before)
        n_refused += 1
    assert n_refused > count * 0.9
    pull(str(shop), out)
    check_signed(str(out), key.with_suffix(".pub"))
