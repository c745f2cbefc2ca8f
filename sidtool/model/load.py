"""A model that is ready to recommend: weights, tokenizer, contract and bundle, checked against each
other.

Knows the order of the checks: what can refuse without reading a weight does so first.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.bundle.bundle import Bundle
from sidtool.errors import SidtoolWarning
from sidtool.model.adapter import load_weights
from sidtool.model.compat import Verdict, check
from sidtool.model.contract import Contract, open_bundle_copy, read_contract
from sidtool.model.pretrained import Checkpoint, check_device, check_dtype, load_tokenizer
from sidtool.model.vocabulary import check_embedding_rows, check_token_ids
from sidtool.prompt.tokens import SidTokens


@dataclass(frozen=True)
class LoadedModel:
    """A model with all that it takes to ask it. `bundle` is the one that answers are looked up in."""

    model: Any
    tokenizer: Any
    contract: Contract
    bundle: Bundle
    verdict: Verdict
    """how `bundle` stands to the one that the model was made for; its message is a notice for the
    user"""

    @property
    def tokens(self) -> SidTokens:
        """The token block."""
        return self.contract.tokens


def check_model_folder(
    folder: Path, bundle: Bundle | None = None
) -> tuple[Contract, Bundle, Verdict]:
    """The contract of a model's folder, the bundle to use with it, and the verdict on that bundle;
    reads no weight.

    The bundle is the copy inside unless another is given. Raises CompatibilityError or
    IntegrityError if they do not belong together; an aligned bundle is a SidtoolWarning."""
    contract = read_contract(folder)
    own = open_bundle_copy(folder, contract)
    verdict = check(contract, own, bundle) if bundle is not None else Verdict("same")
    if verdict.kind == "aligned":
        warnings.warn(verdict.message, SidtoolWarning, stacklevel=2)
    return contract, bundle or own, verdict


def load_model_folder(
    folder: str | Path,
    *,
    bundle: Bundle | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model that `extend-model` or a later stage wrote, in eval mode.

    `device` is the GPU where there is one; `dtype` is float32 on a CPU and bfloat16 elsewhere.
    Raises UsageError for a device or dtype that there is not, CompatibilityError unless bundle,
    contract, tokenizer and weights belong together (exit 3)."""
    import torch

    check_dtype(dtype)
    check_device(device)
    folder = Path(folder)
    contract, bundle, verdict = check_model_folder(folder, bundle)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if torch.device(device).type == "cpu" else "bfloat16")
    tokenizer = load_tokenizer(Checkpoint(folder), trust_remote_code=trust_remote_code)
    check_token_ids(tokenizer, contract.tokens)
    model = load_weights(folder, contract, dtype=dtype, trust_remote_code=trust_remote_code)
    check_embedding_rows(model, contract.tokens)
    return LoadedModel(model.to(device), tokenizer, contract, bundle, verdict)
