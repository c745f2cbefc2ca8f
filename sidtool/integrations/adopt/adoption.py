"""Gives a model that another system trained a contract and a copy of its map: from then on it is a
model of sidtool. Its weights are copied, not changed."""

import shutil
import warnings
from pathlib import Path
from typing import Any

from sidtool.base.artifact import describe
from sidtool.base.checkpoint.files import model_digests
from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.base.extras import require
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.integrations.adopt.adopt_options import AdoptOptions
from sidtool.integrations.adopt.find_tokens import find_tokens, level_sizes
from sidtool.integrations.adopt.prompts import adopted_prompt, worked_prompt
from sidtool.integrations.adopt.report import Adoption, equal_rows, sampling_settings
from sidtool.integrations.formats.convert import SUFFIXES, read_map
from sidtool.model.contract.card import check_license
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.stage_record import AdoptParams, StageRecord
from sidtool.model.contract.write import write_contract
from sidtool.model.extend import locate_base
from sidtool.model.load import usable_items
from sidtool.model.pretrained import (
    Checkpoint,
    file_digests,
    load_model,
    load_tokenizer,
    weight_digests,
)
from sidtool.model.prompt.tokens import SidTokens
from sidtool.model.structure import model_kind, vocabulary_weights
from sidtool.model.vocabulary import check_embedding_rows
from sidtool.registry.references import open_source
from sidtool.tokenizer.bundle.bundle import Bundle


def adopt(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    options: AdoptOptions,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Adoption:
    """Write `model`, which has SID tokens already, to folder `out` with a contract and its map.

    `model` is a folder or `hf://ORG/NAME`; `source` a bundle, or a map that `import_map` reads. All
    is checked before the first file is written. Raises UsageError if `out` exists without `force`
    or no prompt is given, DataError if model or map cannot be read, CompatibilityError if the
    tokenizer or the weights lack tokens, or the model has a contract already.

    Examples:
        >>> options = sidtool.AdoptOptions(preset="minionerec")
        >>> adoption = sidtool.adopt("foreign", "foreign-maps/index.json", "adopted", options)
        >>> adoption.items_without_token, adoption.contract.stages[0].stage
        (0, 'adopt')
    """
    out = Path(out)
    checkpoint, adoption = _inspect(model, source, out, options, trust_remote_code, force)
    with new_dir(out, force=force) as folder:
        _copy(checkpoint, folder)
        write_contract(folder, adoption.contract, adoption.bundle)
    return adoption


def check_adoption(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    options: AdoptOptions,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Adoption:
    """All that `adopt` checks before it writes. Raises as it does."""
    return _inspect(model, source, Path(out), options, trust_remote_code, force)[1]


def _inspect(
    model: str | Path,
    source: str | Path,
    out: Path,
    options: AdoptOptions,
    trust_remote_code: bool,
    force: bool,
) -> tuple[Checkpoint, Adoption]:
    """Locate a model, and check it with its map."""
    refuse_existing(out, force, FOLDER)
    require("models")
    check_license(options.license or "unknown")
    checkpoint = locate_base(
        str(model), revision=options.revision, trust_remote_code=trust_remote_code
    )
    if checkpoint.gguf:
        raise UsageError(f"{model} is a GGUF file: adopt copies a folder of safetensors")
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    bundle = _open_map(source, tokenizer)
    tokens = find_tokens(tokenizer, bundle.space)
    network = load_model(checkpoint, trust_remote_code=trust_remote_code)
    check_embedding_rows(network, tokens.stop)
    kind = model_kind(network.config)
    prompt = adopted_prompt(
        tokenizer,
        kind,
        preset=options.preset,
        template_file=None if options.template_file is None else Path(options.template_file),
        history_length=options.history_length,
        max_length=options.max_length,
    )
    usable, items_without_token = _usable(bundle, tokens)
    codes_without_token = len(tokens.token_ids) - tokens.number
    params = AdoptParams(options.preset, codes_without_token, items_without_token)
    contract = Contract(
        identity=bundle.identity,
        space=bundle.space,
        token_start=tokens.start,
        token_table=tokens.table,
        base_model=str(model),
        base_revision=checkpoint.revision,
        base_weights=weight_digests(checkpoint),
        base_files=file_digests(checkpoint),
        kind=kind,
        stages=(StageRecord("adopt", params),),
        history_prompt=prompt,
        license=options.license,
    )
    n_rows = min(len(weight) for weight in vocabulary_weights(network))
    adoption = Adoption(
        contract=contract,
        bundle=bundle,
        prompt=worked_prompt(prompt, tokenizer, tokens, usable),
        codes_without_token=codes_without_token,
        items_without_token=items_without_token,
        items=len(bundle.active),
        embedding_rows=n_rows,
        padding_rows=max(0, n_rows - max(len(tokenizer), tokens.stop)),
        equal_rows=equal_rows(network, tokens),
        sampling=sampling_settings(network),
    )
    return checkpoint, adoption


def _open_map(source: str | Path, tokenizer: Any) -> Bundle:
    """A bundle, or the bundle of another system's map, whose levels have every code that the
    tokenizer has a token for."""
    path = Path(source)
    if path.suffix not in SUFFIXES or describe(path) != "a file":
        return open_source(source)
    imported = read_map(path, name=path.stem)
    sizes = level_sizes(tokenizer, imported)
    if sizes == imported.space.sizes:
        return imported
    return read_map(path, name=path.stem, sizes=sizes)


def _usable(bundle: Bundle, tokens: SidTokens) -> tuple[Bundle, int]:
    """The bundle without the items that the model has no tokens for, and their number."""
    with warnings.catch_warnings():
        # the report has the number
        warnings.simplefilter("ignore", SidtoolWarning)
        usable = usable_items(bundle, tokens)
    return usable, len(bundle.active) - len(usable.active)


def _copy(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the files of a model that libraries read, and its license, byte for byte."""
    names = set(model_digests(checkpoint.folder))
    if any(name.endswith(".safetensors") for name in names):
        names = {name for name in names if not name.endswith(".bin")}
    names |= {path.name for path in checkpoint.folder.glob("LICENSE*") if path.is_file()}
    for name in sorted(names):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint.folder / name, target)
