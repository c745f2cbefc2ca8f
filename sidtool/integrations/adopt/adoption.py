"""Gives a model that another system trained a contract and a copy of its map: from then on it is a
model of sidtool. Its weights are copied, not changed."""

import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.artifact import describe
from sidtool.base.checkpoint import model_digests
from sidtool.base.errors import CompatibilityError, SidtoolWarning, UsageError
from sidtool.base.extras import require
from sidtool.base.options import options_from
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.integrations.adopt.known_prompts import AdoptOptions
from sidtool.integrations.adopt.prompts import adopted_prompt, worked_prompt
from sidtool.integrations.adopt.report import Adoption, equal_rows, sampling_settings
from sidtool.integrations.formats.convert import map_suffixes, read_map
from sidtool.model import Checkpoint, load_model, load_tokenizer, locate_base
from sidtool.model.contract import (
    AdoptParams,
    Contract,
    StageRecord,
    check_license,
    usable_items,
    write_contract,
)
from sidtool.model.network import check_embedding_rows, model_kind, vocabulary_weights
from sidtool.model.prompt import METASPACE
from sidtool.model.vocabulary import NO_TOKEN, SidTokens
from sidtool.registry import open_source
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import LETTERS, MAX_CODES, SidSpace


def adopt(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    options: AdoptOptions | None = None,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
    **given: Any,
) -> Adoption:
    """Write `model`, which has SID tokens already, to folder `out` with a contract and its map. The
    options may also be given as keywords.

    `model` is a folder or `hf://ORG/NAME`; `source` a bundle, or a map that `import_map` reads. All
    is checked before the first file is written. Raises UsageError if `out` exists without `force`
    or no prompt is given, DataError if model or map cannot be read, CompatibilityError if the
    tokenizer or the weights lack tokens, or the model has a contract already.

    Examples:
        >>> index = "foreign-maps/index.json"
        >>> adoption = sidtool.adopt("foreign", index, "adopted", preset="minionerec")
        >>> adoption.items_without_token, adoption.contract.stages[0].stage
        (0, 'adopt')
    """
    out = Path(out)
    options = options_from(AdoptOptions, options, given)
    adoption = check_adoption(
        model, source, out, options, trust_remote_code=trust_remote_code, force=force
    )
    with new_dir(out, force=force) as folder:
        _copy(adoption.checkpoint, folder)
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
    refuse_existing(Path(out), force, FOLDER)
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
    prompt = adopted_prompt(tokenizer, kind, options)
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
        base_weights=checkpoint.weight_digests(),
        base_files=checkpoint.file_digests(),
        kind=kind,
        stages=(StageRecord("adopt", params),),
        history_prompt=prompt,
        license=options.license,
    )
    n_rows = min(len(weight) for weight in vocabulary_weights(network))
    return Adoption(
        checkpoint=checkpoint,
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


def _open_map(source: str | Path, tokenizer: Any) -> Bundle:
    """A bundle, or the bundle of another system's map, whose levels have every code that the
    tokenizer has a token for."""
    path = Path(source)
    if path.suffix not in map_suffixes() or describe(path) != "a file":
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


def find_tokens(tokenizer: Any, space: SidSpace) -> SidTokens:
    """The ids of the tokens of a space in a tokenizer; codes may lack one.

    Raises CompatibilityError if there are none, if a whole level, the begin or the end token has
    none, or if the tokenizer reads the text of one as something else."""
    added = tokenizer.get_added_vocab()
    ids = [added.get(token, NO_TOKEN) for token in space.tokens]
    if set(ids) == {NO_TOKEN}:
        raise CompatibilityError(
            f"the tokenizer has none of the {len(ids)} SID tokens, like {space.tokens[0]}",
            hint="sidtool extend-model adds them; a map of another spelling than the model's finds "
            "none, either",
        )
    for token, token_id in zip(space.tokens[space.n_codes :], ids[space.n_codes :], strict=True):
        if token_id == NO_TOKEN:
            raise CompatibilityError(
                f"the tokenizer has tokens of SIDs like {space.example}, but not {token}",
                hint="use a map without begin and end tokens: an index.json has none",
            )
    present = [(token, token_id) for token, token_id in zip(space.tokens, ids, strict=True)]
    _check_one_token(tokenizer, {token: n for token, n in present if n != NO_TOKEN})
    try:
        return SidTokens.of_ids(space, ids)
    except ValueError as error:
        raise CompatibilityError(f"the tokenizer cannot spell SIDs: {error}") from error


def _check_one_token(tokenizer: Any, ids: Mapping[str, int]) -> None:
    """Raise CompatibilityError unless each text is read as one token."""
    texts = list(ids)
    read = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for text, text_ids in zip(texts, read, strict=True):
        names = tokenizer.convert_ids_to_tokens(text_ids)
        # some tokenizers put a space before every text
        if names[:1] == [METASPACE]:
            text_ids = text_ids[1:]
        if list(text_ids) != [ids[text]]:
            raise CompatibilityError(
                f"the tokenizer reads {text} as {len(text_ids)} tokens ({', '.join(names)[:80]}), "
                f"not as id {ids[text]}"
            )


def level_sizes(tokenizer: Any, bundle: Bundle) -> tuple[int, ...]:
    """The level sizes that hold the codes of a map and every code that the tokenizer has a token
    for: a map may use only some of them.

    A level whose codes 0 to n - 1 all have tokens, and no other, has n codes; another one the next
    power of two, as an imported map has."""
    largest_used = bundle.items.codes.max(axis=0).tolist()
    spelled = _codes_with_tokens(tokenizer, bundle.space)
    sizes = []
    for used, codes in zip(largest_used, spelled, strict=True):
        largest = max(codes, default=0)
        is_dense = len(codes) == largest + 1
        if is_dense and used <= largest:
            sizes.append(largest + 1)
        else:
            sizes.append(1 << max(used, largest).bit_length())
    return tuple(sizes)


def _codes_with_tokens(tokenizer: Any, space: SidSpace) -> list[set[int]]:
    """For each level the codes that the tokenizer has a token for, whatever the level's size."""
    pattern = re.escape(space.template).replace(r"\{level\}", "(?P<level>[a-z])")
    pattern = pattern.replace(r"\{code\}", "(?P<code>0|[1-9][0-9]{0,4})")
    codes: list[set[int]] = [set() for _ in space.sizes]
    for text in tokenizer.get_added_vocab():
        match = re.fullmatch(pattern, text)
        level = LETTERS.index(match["level"]) if match else space.levels
        if match and level < space.levels and int(match["code"]) < MAX_CODES:
            codes[level].add(int(match["code"]))
    return codes
