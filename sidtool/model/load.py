"""Loads a model folder: weights, tokenizer, contract, bundle and memory, checked against each other
before any weight is read."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sidtool.base.checkpoint import check_finite
from sidtool.base.errors import (
    CompatibilityError,
    IntegrityError,
    SidtoolError,
    SidtoolWarning,
    UsageError,
)
from sidtool.base.extras import require
from sidtool.base.hub import HubAccess, HubCommit, HubPush, Pushable, folder_or_url
from sidtool.base.locations import opened
from sidtool.base.options import argument_options, check_options, option
from sidtool.memory import Memory
from sidtool.memory.mixture import DEFAULT_NEW_ITEM_FACTOR, MemoryOptions, WeightedMemory
from sidtool.model.contract.compat import Verdict, check_bundle, usable_items
from sidtool.model.contract.contract import MEMORY_COPY, Contract, MemoryBinding
from sidtool.model.contract.folder import (
    check_files,
    model_folder,
    open_bundle_copy,
    push_model,
    read_contract,
    verify_model,
    with_bases,
)
from sidtool.model.network.adapter import merge_adapter
from sidtool.model.network.structure import check_embedding_rows, model_kind
from sidtool.model.pretrained import (
    Checkpoint,
    Dtype,
    check_device,
    load_config,
    load_model,
    load_tokenizer,
    locate,
)
from sidtool.model.vocabulary.tokenizer import check_token_ids
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.bundle import Bundle


def choose_memory(
    folder: Path, binding: MemoryBinding | None, bundle: Bundle, options: MemoryOptions
) -> WeightedMemory | None:
    """The memory to use with a model folder, None for the model alone: that of the contract is not
    read for a weight of 0. Raises UsageError for a weight or power without a memory, IntegrityError
    if the memory is damaged, CompatibilityError if it is not the contract's, belongs to another
    bundle, or has other settings than the re-ranker was fitted with."""
    if options.location is None and binding is None:
        if options.weight or options.power is not None:
            raise UsageError(
                f"{folder} has no memory, so it takes no weight or power",
                hint="give --memory, or bind one with tune-memory",
            )
        return None
    if options.location is None and options.weight == 0:
        return None
    memory: Memory = opened(options.location or folder / MEMORY_COPY, "open_memory")
    if options.location is None and binding is not None and memory.digest != binding.digest:
        raise CompatibilityError(
            f"{folder / MEMORY_COPY} is memory {memory.digest[:12]}, the contract says "
            f"{binding.digest[:12]}"
        )
    memory.check_bundle(bundle)
    weighted = WeightedMemory(memory, new_item_factor=DEFAULT_NEW_ITEM_FACTOR)
    if binding is not None:
        weighted = WeightedMemory(
            memory,
            binding.weight,
            binding.power,
            binding.gate,
            binding.new_item_factor,
            binding.reranker if options.rerank else None,
        )
    # the re-ranker was fitted to another mixture than these options make
    if options.weight is not None:
        weighted = replace(weighted, weight=options.weight, gate=None, reranker=None)
    if options.power is not None:
        weighted = replace(weighted, power=options.power, reranker=None)
    if weighted.reranker is not None:
        weighted.reranker.check_memory(memory.manifest)
    return weighted


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a model is used with, and what it runs on."""

    bundle: str | None = option(None)
    """A newer, compatible bundle in place of the model's own."""
    device: str | None = option(None)
    """Device that the model runs on, like cpu or cuda; the GPU if there is one."""
    dtype: Dtype | None = option(None)
    """Precision of inference. Default: float32 on a CPU, else bfloat16."""
    trust_remote_code: bool = option(False)
    """Run a model's own code and load pickled weights."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class LoadedModel(Pushable):
    """A model with everything that inference needs."""

    model: Any
    """the network, in eval mode on its device"""
    tokenizer: Any
    contract: Contract
    bundle: Bundle
    """the bundle in which recommended SIDs are looked up"""
    verdict: Verdict
    """how `bundle` relates to the bundle that the model was made for"""
    memory: WeightedMemory | None = None
    """the memory that its recommendations are mixed with"""
    beam_search: Callable[..., list[Any]] | None = None
    """what searches in the place of sidtool's decoder, called as
    `recommendation.search.beam.beam_search` is: an engine that has the weights"""
    name: str = ""
    """the last part of the path or reference that it was loaded from"""
    folder: Path | None = None
    """where its files are"""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        signed_by: str | Path | None = None,
        device: str | None = None,
        dtype: Dtype | None = None,
        trust_remote_code: bool = False,
    ) -> "LoadedModel":
        """Load a model of the Hugging Face hub, `ORG/NAME`, or a folder, with its bundle and
        memory, all checked. As `load_model_folder`, which takes another bundle or memory.
        `signed_by` is a file of public keys or certificates in PEM, or `keyless:IDENTITY@ISSUER`.
        Raises IntegrityError, too, unless a model of the hub is signed so."""
        access = HubAccess(revision, token, cache_dir, local_files_only, signed_by)
        source = folder_or_url(name_or_path)
        folder = model_folder(source, access, trust_remote_code=trust_remote_code)
        return load_model_folder(
            folder, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )

    def upload_to(self, url: str, license: str | None, push: HubPush) -> HubCommit:
        """As `push_to_hub`, to the URL of a repository."""
        loaded_digest = None if self.memory is None else self.memory.memory.digest
        recorded = self.contract.memory
        has_other_memory = loaded_digest != (recorded and recorded.digest)
        if self.folder is None or self.verdict.kind != "same" or has_other_memory:
            raise UsageError(
                "the model has another bundle or memory than its folder",
                hint="rebind or tune-memory writes a folder with it",
            )
        for name, reason in verify_model(str(self.folder)):
            raise IntegrityError(f"{self.folder}: {name}: {reason}")
        if read_contract(self.folder) != self.contract:
            raise CompatibilityError(
                f"{self.folder} has another model than the one that was loaded"
            )
        return push_model(self.folder, url, license, push)

    def with_bundle(
        self, folder: str | Path, bundle: Bundle | None, memory: MemoryOptions | None
    ) -> "LoadedModel":
        """The model with another bundle and memory, or those in its folder, after the checks of
        `load_model_folder`; no weight is read. Raises as it does, CompatibilityError if the folder
        has another model now."""
        folder = model_folder(folder)
        contract, bundle, verdict = check_model_folder(folder, bundle)
        if contract != self.contract:
            raise CompatibilityError(f"{folder} has another model than the one that was loaded")
        weighted = choose_memory(folder, contract.memory, bundle, memory or MemoryOptions())
        return replace(self, bundle=bundle, verdict=verdict, memory=weighted)

    def __repr__(self) -> str:
        """Base model, network, number of weights, and the bundle; reads no array."""
        count = getattr(self.model, "num_parameters", None)
        size = "" if count is None else f", {count():,} parameters"
        return (
            f"<LoadedModel of {self.contract.base_model!r}: {type(self.model).__name__}{size}, "
            f"{self.bundle!r}>"
        )

    @property
    def tokens(self) -> SidTokens:
        """The token ids of the SID vocabulary."""
        return self.contract.tokens


def check_model_folder(
    folder: str | Path, bundle: Bundle | None = None
) -> tuple[Contract, Bundle, Verdict]:
    """The contract of a model folder, the bundle to use with it and the verdict on that bundle.

    The bundle is the folder's copy unless another is given. Loads no weights. Raises as
    `model_folder` does, IntegrityError if a file of the folder is not the one that the contract
    records, CompatibilityError or IntegrityError if bundle and model do not belong together; an
    aligned bundle is a SidtoolWarning."""
    folder = model_folder(folder)
    contract = read_contract(folder)
    copy = open_bundle_copy(folder, contract)
    verdict = check_bundle(copy, bundle) if bundle is not None else Verdict("same")
    if verdict.kind == "aligned":
        warnings.warn(verdict.message, SidtoolWarning, stacklevel=2)
    check_files(folder, contract)
    return contract, usable_items(bundle or copy, contract.tokens), verdict


def load_model_folder(
    folder: str | Path,
    *,
    bundle: Bundle | str | Path | None = None,
    device: str | None = None,
    dtype: Dtype | None = None,
    trust_remote_code: bool = False,
    memory: MemoryOptions | str | Path | None = None,
    contract: Contract | None = None,
) -> LoadedModel:
    """Load a model that `extend-model` or a later stage wrote, a folder, `hf://ORG/NAME` or a
    published one, URL/NAME[@VERSION|@TAG], with the memory that its contract or `memory` names;
    `sidtool.MemoryOptions(weight=0)` leaves it out.
    `bundle` may be a value, a path, a URL or a reference, `memory` where one is.

    `device` defaults to the GPU if there is one, `dtype` to float32 on a CPU and bfloat16
    elsewhere. A folder that is replaced meanwhile is loaded again, once; `contract` is the one that
    it must still have. Raises UsageError for an unavailable device, IntegrityError if a file is not
    the one that the contract records, CompatibilityError unless bundle, contract, tokenizer,
    weights and memory belong together."""
    require("models")
    import torch

    check_device(device)
    memory = argument_options(MemoryOptions, memory, {})
    bundle = opened(bundle, "open_bundle")
    name = str(folder).rstrip("/").rpartition("/")[2]
    location: str | Path = opened(folder, "locate_model")
    folder = model_folder(location, trust_remote_code=trust_remote_code)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        dtype = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    before = contract or read_contract(folder)
    load = partial(_load, folder, bundle, device, dtype, trust_remote_code, memory)
    try:
        loaded = load()
    except SidtoolError:
        if read_contract(folder) == before:
            raise
        loaded = load()
    if contract is not None and loaded.contract != contract:
        raise CompatibilityError(f"{folder} has another model now than when the command began")
    return replace(loaded, name=name, folder=folder.absolute())


def loaded_model(
    model: LoadedModel | str | Path,
    bundle: Bundle | str | Path | None = None,
    memory: MemoryOptions | str | Path | None = None,
    options: ModelOptions | None = None,
) -> LoadedModel:
    """A model, or that of a folder, with another bundle and memory, and with `options` beside
    them, if they are given. Raises as `load_model_folder`, and UsageError for a loaded model,
    which has its own."""
    if isinstance(model, str | Path):
        loading = options or ModelOptions()
        return load_model_folder(
            model,
            bundle=bundle,
            device=loading.device,
            dtype=loading.dtype,
            trust_remote_code=loading.trust_remote_code,
            memory=memory,
        )
    if any(value is not None for value in (bundle, memory, options)):
        raise UsageError(
            "a bundle, a memory and a device are for a model that is given by its path",
            hint="sidtool.load_model_folder takes them, too",
        )
    return model


def _load(
    folder: Path,
    bundle: Bundle | None,
    device: str,
    dtype: Dtype,
    trust_remote_code: bool,
    memory: MemoryOptions | None,
) -> LoadedModel:
    contract, bundle, verdict = check_model_folder(folder, bundle)
    weighted = choose_memory(folder, contract.memory, bundle, memory or MemoryOptions())
    tokenizer = _load_tokenizer(folder, contract, trust_remote_code)
    bases = with_bases(folder, contract)
    model = load_weights(bases, dtype=dtype, trust_remote_code=trust_remote_code)
    if model_kind(model.config) != contract.kind:
        raise CompatibilityError(
            f"{folder} has {model_kind(model.config)} weights, its contract says {contract.kind}"
        )
    check_embedding_rows(model, contract.ids_stop)
    # the libraries open the files by their paths: those that were checked, if they are there still
    check_files(folder, contract)
    if read_contract(folder) != contract:
        raise CompatibilityError(f"{folder} was replaced while it was loaded", hint="load it again")
    return LoadedModel(model.to(device), tokenizer, contract, bundle, verdict, weighted)


def load_without_weights(
    folder: Path, contract: Contract, bundle: Bundle, *, trust_remote_code: bool = False
) -> LoadedModel:
    """A checked model folder whose network has nothing but its configuration. Raises as
    `load_model_folder` does before it reads weights."""
    tokenizer = _load_tokenizer(folder, contract, trust_remote_code)
    whole, _ = with_bases(folder, contract)[0]
    checkpoint = locate(str(whole), trust_remote_code=trust_remote_code)
    config = load_config(checkpoint, trust_remote_code=trust_remote_code)
    network = SimpleNamespace(config=config)
    return LoadedModel(network, tokenizer, contract, bundle, Verdict("same"))


def _load_tokenizer(folder: Path, contract: Contract, trust_remote_code: bool) -> Any:
    tokenizer = load_tokenizer(Checkpoint(folder), trust_remote_code=trust_remote_code)
    check_token_ids(tokenizer, *contract.vocabularies)
    return tokenizer


def load_weights(
    bases: list[tuple[Path, Contract]], *, dtype: Dtype, trust_remote_code: bool
) -> Any:
    """The last model of `with_bases`, as `load_model` returns it, with the weights that its
    contract records; adapters are merged in float32. Raises as `load_model` and
    `merge_adapter`."""
    (whole, whole_contract), *adapters = bases
    model = load_model(
        locate(str(whole), trust_remote_code=trust_remote_code),
        dtype="float32" if adapters else dtype,
        trust_remote_code=trust_remote_code,
        digests=whole_contract.files,
    )
    for folder, contract in adapters:
        model = merge_adapter(model, folder, contract.added_ids, contract.files)
    if adapters:
        import torch

        model = model.to(dtype=getattr(torch, dtype)).eval()
        check_finite(model, adapters[-1][0])
    return model
