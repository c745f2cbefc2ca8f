import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from model_signing import verifying

import sidtool
from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    IntegrityError,
    RefusedError,
    UsageError,
)
from sidtool.base.hub import HubPush
from sidtool.base.storage import Storage
from sidtool.memory.memory import Memory
from sidtool.registry import open_bundle, open_memory, push
from sidtool.registry.transfer import broken_parts, check_source, push_to_hub
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.zarr_group import spell_root
from tests.bundles import small_bundle
from tests.cli.road import done, refused, tree
from tests.doc_blocks import blocks, page
from tests.hub import COMMIT, FakeHub, serve_hub
from tests.memory.cases import small_memory
from tests.registry.test_models import changed, made, model
from tests.registry.test_signing import write_key

__all__ = ["made", "model"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeHub]:
    with serve_hub(tmp_path / "cache") as server:
        yield server


def test_a_pushed_bundle_is_loaded_by_name(server: FakeHub) -> None:
    bundle = small_bundle()
    commit = bundle.push_to_hub("org/shop", license="mit", token="hf_mine")
    assert commit.is_new
    assert commit.url == f"hf://org/shop@{commit.id}"
    loaded = Bundle.from_pretrained("org/shop", token="hf_mine")
    assert (loaded.identity, loaded.sids()) == (bundle.identity, bundle.sids())
    assert "Bearer hf_mine" in server.tokens
    names = set(tree(server.files("org/shop", commit.id)))
    objects = {"zarr.json", *loaded.manifest.objects}
    assert names == {"README.md", *(f"bundle.zarr/{name}" for name in objects)}
    assert "README.md" not in server.downloads
    again = bundle.push_to_hub("org/shop", license="mit")
    assert (again.id, again.is_new) == (commit.id, False)
    assert server.large  # the vectors of the codebook went by Git LFS


def test_a_push_replaces_the_bundle_and_keeps_other_files(server: FakeHub) -> None:
    first = small_bundle().push_to_hub("org/shop", tag="prod")
    (server.files("org/shop", first.id) / "photo.png").write_bytes(b"of the shop")
    smaller = small_bundle(codebook=False)
    second = smaller.push_to_hub("hf://org/shop", revision="main")
    names = set(tree(server.files("org/shop", second.id)))
    assert "photo.png" in names
    assert not any(name.startswith("bundle.zarr/codebook/") for name in names)
    assert Bundle.from_pretrained("org/shop").identity == smaller.identity
    assert Bundle.from_pretrained("org/shop", revision="prod").digest == small_bundle().digest
    assert Bundle.from_pretrained("org/shop", revision=first.id).digest == small_bundle().digest
    smaller.push_to_hub("org/shop", revision="next", tag="prod")
    assert Bundle.from_pretrained("org/shop", revision="prod").digest == smaller.digest


def test_what_is_in_the_cache_needs_no_server(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle()
    bundle.push_to_hub("org/shop")
    mine = tmp_path / "mine"
    Bundle.from_pretrained("org/shop", cache_dir=mine)
    server.repositories.clear()
    local = Bundle.from_pretrained("org/shop", cache_dir=mine, local_files_only=True)
    assert local.digest == bundle.digest
    with pytest.raises(DataError, match="is not in the hub's cache"):
        Bundle.from_pretrained("org/shop", local_files_only=True)
    with pytest.raises(DataError, match="cannot be downloaded from the hub"):
        Bundle.from_pretrained("org/other", cache_dir=mine)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Bundle.from_pretrained("org/shop", cache_dir=mine).digest == bundle.digest


def test_bundle_and_memory_may_share_one_repository(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_bundle()
    memory = small_memory()
    bundle.save(tmp_path / "repo/tokenizer.zarr")
    memory.save(tmp_path / "repo/nightly.zarr")
    (tmp_path / "repo/weights.safetensors").write_bytes(b"of another system")
    server.repositories["org/both"] = tmp_path / "repo"
    for name in ("org/both", tmp_path / "repo"):
        assert Bundle.from_pretrained(name).digest == bundle.digest
        assert Memory.from_pretrained(name).digest == memory.digest
    assert "weights.safetensors" not in server.downloads
    shutil.copytree(tmp_path / "repo/tokenizer.zarr", tmp_path / "repo/older.zarr")
    with pytest.raises(DataError, match=r"each of the folders older\.zarr, tokenizer\.zarr"):
        Bundle.from_pretrained(tmp_path / "repo")
    shutil.rmtree(tmp_path / "repo/older.zarr")
    monkeypatch.chdir(tmp_path / "repo")
    assert Bundle.from_pretrained(".").digest == bundle.digest
    with pytest.raises(UsageError, match="is not a hub model"):
        Bundle.from_pretrained("")
    shutil.rmtree(tmp_path / "repo/nightly.zarr")
    with pytest.raises(DataError, match="has no memory"):
        Memory.from_pretrained(tmp_path / "repo")


def test_a_repository_may_be_the_bundle_itself(server: FakeHub, tmp_path: Path) -> None:
    bundle = small_bundle()
    bundle.save(tmp_path / "repo")
    (tmp_path / "repo/README.md").write_text("my card")
    server.repositories["org/flat"] = tmp_path / "repo"
    for name in ("org/flat", tmp_path / "repo"):
        assert Bundle.from_pretrained(name).digest == bundle.digest
    assert open_bundle("hf://org/flat").digest == bundle.digest
    with pytest.raises(RefusedError, match=r"is a Zarr group: it has zarr\.json"):
        bundle.push_to_hub("org/flat")


def test_the_names_in_a_repository_are_no_patterns(
    server: FakeHub, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "repo/tuned [1]")
    server.repositories["org/nested"] = tmp_path / "repo"
    loaded = sidtool.LoadedModel.from_pretrained("org/nested")
    loaded.bundle.save(tmp_path / "other/shop [1].zarr")
    (tmp_path / "other/weights.bin2").write_bytes(b"of another system")
    root = tmp_path / "other/shop [1].zarr/zarr.json"
    manifest = loaded.bundle.manifest
    server.repositories["org/other"] = tmp_path / "other"
    assert Bundle.from_pretrained("org/other").digest == manifest.digest
    shutil.move(root.parent, tmp_path / "flat")
    objects = {**Bundle.open(tmp_path / "flat").manifest.objects, "*": "0" * 64}
    (tmp_path / "flat/zarr.json").write_bytes(spell_root(manifest.to_json() | {"objects": objects}))
    (tmp_path / "flat/weights.bin2").write_bytes(b"of another system")
    server.repositories["org/flat"] = tmp_path / "flat"
    with pytest.raises(IntegrityError, match=r"\*: missing"):
        Bundle.from_pretrained("org/flat")
    assert "weights.bin2" not in server.downloads


def test_a_pushed_memory_is_loaded_by_name(server: FakeHub) -> None:
    bundle = small_bundle()
    memory = small_memory()
    memory.push_to_hub("org/nightly")
    assert Memory.from_pretrained("org/nightly").digest == memory.digest
    assert open_memory("hf://org/nightly").digest == memory.digest
    bundle.push_to_hub("org/nightly")
    assert Memory.from_pretrained("org/nightly").digest == memory.digest
    assert Bundle.from_pretrained("org/nightly").digest == bundle.digest


def test_a_pushed_model_is_loaded_by_name(server: FakeHub, model: Path) -> None:
    pushed = push(str(model), "hf://org/model", tag="v1")
    assert pushed.url == f"hf://org/model@{pushed.version}"
    stored = server.files("org/model", pushed.version)
    assert broken_parts(str(stored)) == []
    assert not (stored / "training.jsonl").exists()
    loaded = sidtool.LoadedModel.from_pretrained("org/model", revision="v1", dtype="float32")
    assert Bundle.from_pretrained("org/model").digest == loaded.bundle.digest
    assert Memory.from_pretrained("org/model").digest == loaded.memory.memory.digest
    assert done("inspect", "hf://org/model@v1").out == done("inspect", model).out
    second = push(str(changed(model)), "hf://org/model")
    assert second.digest != pushed.digest
    assert server.references["org/model", "v1"] == pushed.version
    with pytest.raises(RefusedError, match="is a model with a SID vocabulary: it has"):
        loaded.bundle.push_to_hub("org/model")
    newest = sidtool.LoadedModel.from_pretrained("org/model")
    assert newest.contract == sidtool.LoadedModel.from_pretrained(model).contract
    for artifact, name in ((loaded.bundle, "org/bundle"), (loaded.memory.memory, "org/memory")):
        artifact.push_to_hub(name)
        with pytest.raises(RefusedError, match="is a bundle or memory: it has"):
            push(str(model), f"hf://{name}")


def test_a_pushed_model_replaces_what_would_be_loaded_with_it(server: FakeHub, model: Path) -> None:
    first = push(str(model), "hf://org/model")
    stored = server.files("org/model", first.version)
    (stored / "special_tokens_map.json").write_text('{"eos_token": "<pad>"}')
    templates = model / "additional_chat_templates"
    templates.mkdir()
    shutil.copy(model / "chat_template.jinja", templates / "tools.jinja")
    push(str(changed(model)), "hf://org/model")
    loaded = sidtool.LoadedModel.from_pretrained("org/model")
    assert loaded.tokenizer.eos_token == "<eos>"
    assert loaded.tokenizer.chat_template.keys() == {"default", "tools"}


def test_a_model_may_be_one_folder_of_a_repository(
    server: FakeHub, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(model, tmp_path / "repo/tuned")
    (tmp_path / "repo/other.safetensors").write_bytes(b"of another system")
    server.repositories["org/nested"] = tmp_path / "repo"
    loaded = sidtool.LoadedModel.from_pretrained("org/nested")
    assert loaded.contract == sidtool.LoadedModel.from_pretrained(model).contract
    assert "other.safetensors" not in server.downloads


def test_the_card_is_read_by_the_hub(server: FakeHub, model: Path) -> None:
    ids = [f"i{n}" for n in range(40)]
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    bundle = Bundle.from_vectors(ids, vectors, name="shop", levels=(4, 4, 4))
    commit = bundle.push_to_hub("org/shop", license="mit", dataset="org/sales")
    pushed = push(str(model), "hf://org/model", dataset="org/sales")
    for name, sha in (("org/shop", commit.id), ("org/model", pushed.version)):
        card = ModelCard.load(server.files(name, sha) / "README.md")
        assert card.data.library_name == "sidtool"
        assert "semantic-ids" in card.data.tags
        assert card.data.license in ("mit", "cc-by-4.0")
        assert card.data.datasets == ["org/sales"]
        results = card.data.eval_results
        assert results
        assert all(isinstance(result.metric_value, int | float) for result in results)
        assert f'from_pretrained("{name}")' in card.content
    values = {result.metric_type: result.metric_value for result in results}
    assert values["ndcg@10"] == 0.0713


def test_a_signed_repository_is_read_by_its_signers(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path / "key.pem")
    write_key(tmp_path / "other.pem")
    signers, others = tmp_path / "key.pub", tmp_path / "other.pub"
    bundle = small_bundle()
    memory = small_memory()
    commit = bundle.push_to_hub("org/shop", sign=tmp_path / "key.pem")
    memory.save(tmp_path / "nightly.zarr")
    done("push", tmp_path / "nightly.zarr", "hf://org/nightly", "--sign", tmp_path / "key.pem")
    assert Bundle.from_pretrained("org/shop", signed_by=signers).digest == bundle.digest
    assert Memory.from_pretrained("org/nightly", signed_by=signers).digest == memory.digest
    copy = server.files("org/shop", commit.id)
    assert Bundle.from_pretrained(copy, signed_by=signers).digest == bundle.digest
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=signers)
    verifier.verify(copy / "bundle.zarr", copy / "bundle.zarr.sig")  # without sidtool
    done("verify", "hf://org/shop", "--signed-by", signers)
    assert "Key mismatch" in refused(3, "verify", "hf://org/shop", "--signed-by", others)
    with pytest.raises(IntegrityError, match="Key mismatch"):
        Bundle.from_pretrained("org/shop", signed_by=others)
    server.commits["org/shop", "changed"] = Path(shutil.copytree(copy, tmp_path / "changed"))
    small_bundle(codebook=False).save(tmp_path / "changed/bundle.zarr", force=True)
    with pytest.raises(IntegrityError, match=r"signature of bundle\.zarr .* is not valid"):
        Bundle.from_pretrained("org/shop", revision="changed", signed_by=signers)
    Bundle.from_pretrained("org/shop", revision="changed")  # it is whole, but another one
    monkeypatch.setenv("SIDTOOL_SIGNED_BY", str(signers))
    assert open_bundle("hf://org/shop").digest == bundle.digest
    bundle.push_to_hub("org/shop", license="mit")  # a push without a key removes the signature
    with pytest.raises(IntegrityError, match="is not signed"):
        open_bundle("hf://org/shop")
    assert Bundle.from_pretrained(copy).digest == bundle.digest  # nobody published a folder


def test_a_loaded_model_is_pushed_and_signed(server: FakeHub, model: Path, tmp_path: Path) -> None:
    write_key(tmp_path / "key.pem")
    write_key(tmp_path / "other.pem")
    loaded = sidtool.LoadedModel.from_pretrained(model)
    commit = loaded.push_to_hub("org/model", license="mit", sign=tmp_path / "key.pem")
    stored = server.files("org/model", commit.id)
    assert broken_parts(str(stored)) == []
    assert "license: mit" in (stored / "README.md").read_text()
    signers = tmp_path / "key.pub"
    for name in ("org/model", stored):
        again = sidtool.LoadedModel.from_pretrained(name, signed_by=signers)
        assert again.contract == loaded.contract
        with pytest.raises(IntegrityError, match="Key mismatch"):
            sidtool.LoadedModel.from_pretrained(name, signed_by=tmp_path / "other.pub")
    assert Bundle.from_pretrained("org/model", signed_by=signers).digest == loaded.bundle.digest
    done("verify", "hf://org/model", "--signed-by", signers)
    done("verify", stored, "--signed-by", signers)
    request = ("recommend", "hf://org/model", "--history", "item1")
    by_another = {"SIDTOOL_SIGNED_BY": str(tmp_path / "other.pub")}
    assert "Key mismatch" in refused(3, *request, env=by_another)
    done(*request, env={"SIDTOOL_SIGNED_BY": str(signers)})
    remote = replace(check_source(str(model), None), storage=Storage("memory://model"))
    with pytest.raises(UsageError, match="memory://model is not a folder of this machine"):
        push_to_hub(remote, "hf://org/model", HubPush())
    changed(model)
    with pytest.raises(CompatibilityError, match="another model than the one that was loaded"):
        loaded.push_to_hub("org/model")
    without = sidtool.LoadedModel.from_pretrained(stored)
    with pytest.raises(UsageError, match="another bundle or memory than its folder"):
        replace(without, memory=None).push_to_hub("org/model")


def test_the_example_of_the_page_runs(
    server: FakeHub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = sidtool.LoadedModel.from_pretrained(model)
    loaded.bundle.push_to_hub("org/shop")
    push(str(model), "hf://org/shop-model")
    section = page("registry.md").partition("## Hugging Face hub\n")[2]
    (program,) = blocks(section, "python")
    assert len([line for line in program.splitlines() if line]) == 5
    exec(program, {})
    assert len(eval(capsys.readouterr().out)) == 10


def test_the_commands_know_repositories(server: FakeHub, tmp_path: Path) -> None:
    bundle = small_bundle()
    bundle.save(tmp_path / "shop.zarr")
    plan = done("push", tmp_path / "shop.zarr", "hf://org/shop", "--dry-run", "--json").json
    assert plan["objects"] == len(Bundle.open(tmp_path / "shop.zarr").manifest.objects) + 1
    assert not server.repositories
    ran = done("push", tmp_path / "shop.zarr", "hf://org/shop", "--tag", "v1", "--license", "mit")
    commit = server.references["org/shop", "v1"]
    assert ran.last == f"next: sidtool verify hf://org/shop@{commit}"
    assert "LFS" not in ran.err  # no bars of the hub's client outside of a terminal
    again = done("push", tmp_path / "shop.zarr", "hf://org/shop", "--license", "mit")
    assert "already published" in again.out
    done("verify", f"hf://org/shop@{commit}")
    assert open_bundle("hf://org/shop").digest == bundle.digest
    assert "is not a hub model" in refused(2, "push", tmp_path / "shop.zarr", "hf://org/..")
    for words in (("pull", "hf://org/shop", "-o", tmp_path), ("tag", "hf://org/shop@v1", "b")):
        assert "hf://org/shop has commits of the hub, not versions" in refused(1, *words)
    assert "hint: SIDTOOL_SIGNED_BY" in refused(2, "policy", "hf://org/shop", "--allow-unsigned")
    missing = refused(1, "pull", "hf://org/none", "-o", tmp_path)
    assert "'hf://org/none' cannot be downloaded from the hub" in missing


def test_a_registry_on_the_hub_stays_one(server: FakeHub, tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    push(str(tmp_path / "shop.zarr"), str(tmp_path / "registry"), tag="prod")
    server.repositories["org/old"] = tmp_path / "registry"
    assert open_bundle("hf://org/old@prod").digest == small_bundle().digest
    with pytest.raises(RefusedError, match="is a registry: it has refs"):
        small_bundle().push_to_hub("org/old")


def test_a_path_that_may_be_a_repository_is_told_so() -> None:
    for opened in (sidtool.open_bundle, sidtool.load_model_folder):
        with pytest.raises(DataError) as caught:
            opened("org/shop")
        assert caught.value.hint == "a repository of the hub is named hf://org/shop"
    with pytest.raises(DataError) as caught:
        sidtool.open_bundle("./org")
    assert "is a .zarr folder" in str(caught.value.hint)


def test_names_that_are_no_repository_are_refused(server: FakeHub) -> None:
    for name in ("org/..", "", "a/b/c"):
        with pytest.raises(UsageError, match="is not a hub model"):
            Bundle.from_pretrained(f"hf://{name}")
    server.repositories["org/empty"] = server.work / "empty"
    (server.work / "empty").mkdir(parents=True)
    (server.work / "empty/README.md").write_text("nothing yet")
    with pytest.raises(DataError, match="has no bundle"):
        Bundle.from_pretrained("org/empty")
    assert COMMIT not in server.references.values()
