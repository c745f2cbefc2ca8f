"""The model, bundles and requests of `serve.py`: random ones, of which the shapes matter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.data.split.record import SplitReference
from sidtool.model.contract.folder import write_contract
from sidtool.model.contract.stage_record import StageRecord, TrainParams
from sidtool.model.extend import ExtendOptions, extend_model
from sidtool.model.presets import init_model
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.registry.publish import push
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import SidSpace

SPACE = SidSpace((256, 256, 256))
VERSIONS = ((0, "1.0"), (100, "1.1"))
"""Items beyond those of the model's bundle, and the version of the bundle that has them."""
HISTORY = 20
"""Items of the longest history."""
N_HISTORIES = 500
"""Different histories."""
PROMPT = HistoryPrompt("sequence", "{history}", HISTORY, 128)
TRAINED = TrainParams(
    "00" * 32, SplitReference("leave-one-out", "00" * 32), {}, "plain", {}, {}, ""
)


@dataclass(frozen=True)
class Shop:
    """A model on disk, and two versions of its bundle in a registry."""

    model: Path
    registry: str
    ids: tuple[str, ...]
    n_parameters: int
    n_histories: int = N_HISTORIES

    def bodies(self, n: int) -> list[dict[str, Any]]:
        """n requests with histories of 5 to 20 items, of which N_HISTORIES are different."""
        rng = np.random.default_rng(0)
        lengths = rng.integers(5, HISTORY + 1, N_HISTORIES).tolist()
        histories = [
            [self.ids[row] for row in rng.integers(len(self.ids), size=length)]
            for length in lengths
        ]
        return [{"user": str(row), "history": histories[row % N_HISTORIES]} for row in range(n)]


def make_shop(folder: Path, n_items: int, dim: int, layers: int) -> Shop:
    """Write a model of `layers` layers of width `dim`, and push two bundles."""
    first, second = (_bundle(n_items + added, version) for added, version in VERSIONS)
    registry = str(folder / "registry" / "shop")
    for bundle in (first, second):
        path = folder / f"shop-{bundle.manifest.version}.zarr"
        bundle.save(path)
        push(str(path), registry)
    texts = [f"item {row}" for row in range(1000)]
    shape = {"hidden_size": dim, "intermediate_size": 4 * dim, "num_hidden_layers": layers}
    heads = {"num_attention_heads": dim // 32, "num_key_value_heads": dim // 32}
    base = folder / "base"
    n_parameters = init_model(
        texts, base, preset="llama-tiny", vocab_size=512, overrides={**shape, **heads}
    )
    model = folder / "model"
    contract = extend_model(base, first, model, ExtendOptions(init="random"))
    stage = StageRecord("full", TRAINED)
    trained = contract.with_stage(stage, history_prompt=PROMPT, normalize="trie")
    write_contract(model, trained, first)
    return Shop(model, registry, tuple(first.items.ids), n_parameters)


def _bundle(n_items: int, version: str) -> Bundle:
    """A bundle of n items on random SIDs; more items change no SID of the others."""
    rng = np.random.default_rng(0)
    keys = rng.permutation(SPACE.capacity)[:n_items]
    codes = np.stack(np.unravel_index(keys, SPACE.sizes), axis=1).astype(np.uint16)
    ids = [f"B{row:07d}" for row in range(n_items)]
    items = ItemMap.of(SPACE, ids, codes, ids)
    return Bundle.of(items, None, "reassign", name="shop", version=version)
