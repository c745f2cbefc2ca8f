"""What a refresh needs, checked before anything is read at length or written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.extras import require
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.data.split.files import open_split
from sidtool.data.split.split import Split
from sidtool.model.contract.compat import Verdict, check_bundle
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.split_check import check_model_split, event_columns
from sidtool.model.contract.stage_record import TrainParams
from sidtool.model.load import check_model_folder
from sidtool.registry.references import open_source
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.make.align import align
from sidtool.training.renewal.last_training import (
    RefreshOptions,
    check_fields,
    last_training,
    shows_text,
)


@dataclass(frozen=True)
class RefreshPlan:
    """A refresh with its inputs checked."""

    model_dir: Path
    contract: Contract
    bundle: Bundle
    """the newer bundle, aligned if the model cannot use it as it is"""
    verdict: Verdict
    """how it relates to the model's own"""
    split: Split | None
    last: TrainParams | None
    """the model's last training stage; None without a split"""


def plan_refresh(
    model_dir: str | Path,
    bundle: Bundle | str | Path,
    out: str | Path,
    *,
    split: Split | str | Path | None = None,
    items: str | Path | None = None,
    embeddings: Sequence[str | Path] = (),
    options: RefreshOptions | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
) -> RefreshPlan:
    """Check what `refresh` checks before it reads weights, a catalog or vectors; writes nothing.
    Raises as `refresh`."""
    refuse_existing(Path(out), force, FOLDER)
    require("models" if split is None else "train")
    model_dir = model_folder(model_dir, trust_remote_code=trust_remote_code)
    contract, own_bundle, _ = check_model_folder(model_dir)
    if not isinstance(bundle, Bundle):
        bundle = open_source(str(bundle))
    bundle = usable_bundle(bundle, own_bundle)
    verdict = check_bundle(own_bundle, bundle)
    if split is None:
        _refuse_without_split(items, embeddings, options or RefreshOptions())
        return RefreshPlan(model_dir, contract, bundle, verdict, None, None)
    if embeddings and contract.memory is None:
        raise UsageError(f"{model_dir} has no memory, which --embeddings are for")
    if not isinstance(split, Split):
        split = open_split(split, recorded=event_columns(contract, own_bundle))
    check_model_split(contract, bundle, "the split", split.reference, model=f"model {model_dir}")
    last = last_training(contract, model_dir)
    check_fields(last, split.fields)
    if items is None and (task := shows_text(last)) is not None:
        raise UsageError(f"task {task} shows text of items", hint="--items CATALOG")
    return RefreshPlan(model_dir, contract, bundle, verdict, split, last)


def _refuse_without_split(
    items: str | Path | None, embeddings: Sequence[str | Path], options: RefreshOptions
) -> None:
    """Raise UsageError for options of the training stage, which there is none of without a
    split."""
    given = {
        "--items": items is not None,
        "--embeddings": bool(embeddings),
        "--share": options.share != RefreshOptions.share,
        "--learning-rate": options.learning_rate is not None,
    }
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option} has no effect without a split: nothing is trained")


def usable_bundle(bundle: Bundle, own_bundle: Bundle) -> Bundle:
    """`bundle`, aligned with the model's own if the model cannot use it as it is.

    Raises RefusedError if it cannot be aligned."""
    try:
        check_bundle(own_bundle, bundle)
    except CompatibilityError:
        return align(bundle, own_bundle)
    return bundle
