"""The contract `sid.json`: which bundle a model was made for, where its SID tokens lie, and how it
is served.

It stands in the model's folder beside a copy of the bundle, `sid.zarr`, and every later stage
writes both again, in every checkpoint. Knows the two files; knows nothing of weights. What a newer
bundle may be is compat.py's."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.identity import Identity
from sidtool.bundle.integrity import verify
from sidtool.errors import CompatibilityError, IntegrityError
from sidtool.output import new_file
from sidtool.prompt.prompts import HistoryPrompt, TextPrompt
from sidtool.prompt.tokens import SidTokens
from sidtool.sid import SidSpace

FORMAT = 1
"""The newest contract format that this version reads and the one that it writes."""
CONTRACT = "sid.json"
BUNDLE_COPY = "sid.zarr"


@dataclass(frozen=True)
class Contract:
    """What a model knows of its tokenizer. Mappings hold JSON values only."""

    identity: Identity
    """of the bundle that the model was made for"""
    space: SidSpace
    token_start: int
    """id of the first level's code 0"""
    base_model: str
    """as the user named it: a hub id or a path"""
    base_revision: str | None
    """the hub's commit"""
    base_weights: Mapping[str, str]
    """file -> SHA-256 of the base's weights"""
    stage: str
    """extended, tuned, polished ..."""
    parents: tuple[Mapping[str, Any], ...] = ()
    """facts of the earlier stages, oldest first"""
    params: Mapping[str, Any] = field(default_factory=dict)
    """how this stage was made: initialization and seed, rows, training arguments ..."""
    history_prompt: HistoryPrompt | None = None
    """None until a stage has taught the model a task"""
    base_folder: Mapping[str, Any] | None = None
    """of an adapter: path and weights (file -> SHA-256) of the folder that it changes; None for a
    whole model"""
    text_prompt: TextPrompt | None = None
    """how the model is asked in words; None until a stage has taught it that"""
    normalize: Literal["level", "trie"] = "level"
    """what its scores are normalized over: the codes of a level, or those that the catalog goes on
    with"""

    @property
    def tokens(self) -> SidTokens:
        """The token block."""
        return SidTokens(self.space, self.token_start)

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored; `token_stop` is there for other readers."""
        return {
            "format": FORMAT,
            "identity": asdict(self.identity),
            "space": self.space.to_json(),
            "token_start": self.token_start,
            "token_stop": self.tokens.stop,
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            "base_weights": dict(self.base_weights),
            "stage": self.stage,
            "parents": [dict(parent) for parent in self.parents],
            "params": dict(self.params),
            "history_prompt": self.history_prompt.to_json() if self.history_prompt else None,
            **({"base_folder": dict(self.base_folder)} if self.base_folder else {}),
            "text_prompt": self.text_prompt.to_json() if self.text_prompt else None,
            "normalize": self.normalize,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Contract":
        """Read a stored contract; keys that this version does not know are ignored.

        Raises CompatibilityError on a newer format, IntegrityError on a missing or malformed key.
        """
        try:
            if value["format"] > FORMAT:
                raise CompatibilityError(
                    f"the model's contract has format {value['format']}, this sidtool reads up "
                    f"to {FORMAT}",
                    hint="upgrade sidtool",
                )
            return cls(
                identity=Identity(
                    *(value["identity"][part] for part in ("space", "codebook", "items"))
                ),
                space=SidSpace.from_json(value["space"]),
                token_start=int(value["token_start"]),
                base_model=value["base_model"],
                base_revision=value["base_revision"],
                base_weights=dict(value["base_weights"]),
                stage=value["stage"],
                parents=tuple(value["parents"]),
                params=dict(value["params"]),
                history_prompt=HistoryPrompt.from_json(value["history_prompt"])
                if value["history_prompt"]
                else None,
                base_folder=dict(value["base_folder"]) if value.get("base_folder") else None,
                text_prompt=TextPrompt.from_json(value["text_prompt"])
                if value.get("text_prompt")
                else None,
                normalize=_normalize(value),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(
                f"the model's contract is malformed: {type(error).__name__} {error}"
            ) from error


def _normalize(value: Mapping[str, Any]) -> Literal["level", "trie"]:
    """Format 0 knew of nothing but the level."""
    found = value["normalize"] if value["format"] > 0 else "level"
    if found not in ("level", "trie"):
        raise ValueError(f"normalize {found!r}")
    return "trie" if found == "trie" else "level"


def write_contract(folder: Path, contract: Contract, bundle: Bundle) -> None:
    """Write the bundle's copy, then sid.json: a folder with a contract has its bundle."""
    bundle.save(folder / BUNDLE_COPY, force=True)
    with new_file(folder / CONTRACT, force=True) as path:
        path.write_text(
            json.dumps(contract.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def read_contract(folder: Path) -> Contract:
    """The contract of a model's folder.

    Raises CompatibilityError if it has none or a newer one, IntegrityError if it is damaged.
    """
    path = folder / CONTRACT
    if not path.is_file():
        raise CompatibilityError(
            f"{folder} has no {CONTRACT}: it is no model that speaks semantic IDs",
            hint=f"sidtool extend-model {folder} BUNDLE -o NEW makes one",
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{path} is damaged: it holds no JSON object")
    return Contract.from_json(value)


def open_bundle_copy(folder: Path, contract: Contract) -> Bundle:
    """The bundle inside a model's folder, every byte of it checked.

    Raises IntegrityError if it is damaged, CompatibilityError if it is not the contract's.
    """
    broken = verify(folder / BUNDLE_COPY)
    if broken:
        name, reason = broken[0]
        raise IntegrityError(
            f"{folder / BUNDLE_COPY}: {name}: {reason}",
            hint="make the model again, or copy its bundle",
        )
    bundle = Bundle.open(folder / BUNDLE_COPY)
    inside, meant = bundle.identity.digest[:12], contract.identity.digest[:12]
    if inside != meant:
        raise CompatibilityError(
            f"{folder / BUNDLE_COPY} is bundle {inside}, {CONTRACT} says {meant}"
        )
    return bundle
