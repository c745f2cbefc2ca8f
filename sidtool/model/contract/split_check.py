"""Which splits a model may have learned from, and whether it may be combined with another one."""

from collections.abc import Iterable, Iterator

from sidtool.data import EventColumns
from sidtool.data.split import SplitReference, check_split
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.stage_record import RlParams, TrainParams
from sidtool.tokenizer.bundle import Bundle


def splits_of(contract: Contract) -> Iterator[SplitReference]:
    """The splits that a model may have learned from, by its training examples, the codebooks of its
    bundles, teachers, rewards, and the tuning of its memory; oldest first."""
    for record in contract.stages:
        if isinstance(record.params, TrainParams | RlParams):
            yield from record.params.learned_from
            yield record.params.split
    if contract.memory is not None and contract.memory.split is not None:
        yield contract.memory.split


def further_splits(
    bundle: Bundle, contracts: Iterable[Contract], *others: SplitReference
) -> tuple[SplitReference, ...]:
    """The splits that a bundle's codebook and models may have learned from, and others, without
    repeats."""
    of_models = (reference for contract in contracts for reference in splits_of(contract))
    references = (bundle.manifest.made_from.split, *of_models, *others)
    return tuple(dict.fromkeys(reference for reference in references if reference))


def event_columns(contract: Contract, bundle: Bundle) -> EventColumns | None:
    """The columns of the events that a model was trained on last, or that its bundle was built
    from; None if neither records them."""
    references = [bundle.manifest.made_from.split, *splits_of(contract)]
    columns = (reference.columns for reference in reversed(references) if reference)
    return next((each for each in columns if each is not None), None)


def targets_repeat(contract: Contract) -> bool | None:
    """Whether a held-out target of the model's newest split that records it repeats an item of its
    history; None if no split does."""
    facts = [reference.targets_repeat for reference in splits_of(contract)]
    return next((fact for fact in reversed(facts) if fact is not None), None)


def check_bundle_split(bundle: Bundle, label: str, split: SplitReference | None) -> None:
    """Raise CompatibilityError if the bundle's codebook may have learned from events that `split`
    holds out. `label` names the input with this split in the message."""
    made = f"the codebook of bundle {bundle.manifest.name!r}"
    check_split(made, bundle.manifest.made_from.split, label, split)


def check_model_split(
    contract: Contract,
    bundle: Bundle,
    label: str,
    split: SplitReference | None,
    *,
    model: str = "the model",
) -> None:
    """Raise CompatibilityError if a model or its bundle may have learned from events that `split`
    holds out. `label` names the input with this split in the message."""
    check_bundle_split(bundle, label, split)
    for reference in splits_of(contract):
        check_split(model, reference, label, split)
