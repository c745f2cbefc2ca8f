"""Gives a model that another system trained a contract and a copy of its map: from then on it is a
model of sidtool. Its weights are copied, not changed."""

import shutil
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint import model_digests
from sidtool.base.errors import CompatibilityError, SidtoolWarning, UsageError
from sidtool.base.extras import require
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import options_from
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.integrations.adopt.prompts import (
    AdoptOptions,
    WorkedPrompt,
    adopted_prompt,
    worked_prompt,
)
from sidtool.integrations.formats.convert import map_format, read_map
from sidtool.model import Checkpoint, load_model, load_tokenizer, locate_base
from sidtool.model.contract import (
    AdoptParams,
    Contract,
    StageRecord,
    check_license,
    usable_items,
    write_contract,
)
from sidtool.model.network import (
    check_embedding_rows,
    decoder_start_id,
    model_kind,
    vocabulary_weights,
)
from sidtool.model.prompt import fit_prompt
from sidtool.model.vocabulary import NO_TOKEN, SidTokens
from sidtool.registry import open_source
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import LETTERS, MAX_CODES, SidSpace

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


@dataclass(frozen=True)
class Adoption:
    """What is known of a model before anything is written."""

    checkpoint: Checkpoint
    """the model's files"""
    contract: Contract
    bundle: Bundle
    prompt: WorkedPrompt
    codes_without_token: int
    items_without_token: int
    """active items that can never be recommended, as one of their codes has no token"""
    items: int
    """active items"""
    embedding_rows: int
    padding_rows: int
    """rows behind the last token of the tokenizer"""
    equal_rows: int
    """SID tokens whose embedding row another SID token has, too: they were never trained"""
    sampling: tuple[str, ...]
    """settings of its generation_config.json that prune valid SIDs in other programs"""

    @property
    def tokens(self) -> SidTokens:
        """The ids of the SID tokens."""
        return self.contract.tokens

    @property
    def warnings(self) -> list[str]:
        """What may make the model recommend worse than it does in the system that made it."""
        messages = []
        if self.items_without_token:
            messages.append(
                f"{self.items_without_token} of {self.items} items have a code without a token and "
                "are never recommended"
            )
        prompt = self.contract.history_prompt
        if prompt and prompt.history_as == "title" and self.bundle.items.titles is None:
            messages.append(
                "the prompt shows titles, and the map has none, so all histories look the same: "
                "`import MAP --items ITEMS` makes a bundle with titles"
            )
        if self.equal_rows:
            messages.append(
                f"{self.equal_rows} SID tokens have the embedding row of another one: they were "
                "never trained"
            )
        if not self.prompt.as_text:
            messages.append(
                "the tokenizer reads the text of the prompt as other tokens: it puts spaces where "
                "texts meet SIDs"
            )
        if self.sampling:
            messages.append(
                f"generation_config.json has {', '.join(self.sampling)}: `recommend` ignores them, "
                "`generate` may lose valid SIDs by them"
            )
        return messages

    def to_json(self) -> dict[str, Any]:
        """The figures of the checks, and the prompt."""
        tokens = self.tokens
        return {
            "bundle": self.contract.identity.digest,
            "items": self.items,
            "items_without_token": self.items_without_token,
            "tokens": tokens.number,
            "token_start": tokens.start,
            "token_stop": tokens.stop,
            "layout": "block" if tokens.table is None else "table",
            "codes_without_token": self.codes_without_token,
            "embedding_rows": self.embedding_rows,
            "padding_rows": self.padding_rows,
            "equal_rows": self.equal_rows,
            "prompt": asdict(self.prompt),
            "warnings": self.warnings,
        }


@keeps_inputs("a model")
def adopt(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    options: AdoptOptions | None = None,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
    **keywords: Any,
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
    options = options_from(AdoptOptions, options, keywords)
    adoption = check_adoption(
        model, source, out, options, trust_remote_code=trust_remote_code, force=force
    )
    source_folder = adoption.checkpoint.folder
    names = set(model_digests(source_folder))
    if any(name.endswith(".safetensors") for name in names):
        names = {name for name in names if not name.endswith(".bin")}
    names |= {path.name for path in source_folder.glob("LICENSE*") if path.is_file()}
    with new_dir(out, force=force) as folder:
        for name in sorted(names):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source_folder / name, target)
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
    bundle = _open_map(source)  # before a model is downloaded
    checkpoint = locate_base(
        str(model), revision=options.revision, trust_remote_code=trust_remote_code
    )
    if checkpoint.gguf:
        raise UsageError(f"{model} is a GGUF file: adopt copies a folder of safetensors")
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    is_map = bundle.location is None  # its levels get every code that the tokenizer has a token for
    if is_map and (sizes := level_sizes(tokenizer, bundle)) != bundle.space.sizes:
        bundle = read_map(Path(source), name=bundle.manifest.name, sizes=sizes)
    tokens = find_tokens(tokenizer, bundle.space)
    network = load_model(checkpoint, trust_remote_code=trust_remote_code)
    check_embedding_rows(network, tokens.stop)
    kind = model_kind(network.config)
    if kind == "encoder-decoder":
        decoder_start_id(network)  # raises DataError if there is none
    prompt = adopted_prompt(tokenizer, kind, options)
    # what is left of it where the model has fewer positions
    fitted = fit_prompt(prompt, network, bundle.space.levels - 1) or prompt
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SidtoolWarning)  # the report has the number
        usable = usable_items(bundle, tokens)
    items_without_token = len(bundle.active) - len(usable.active)
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
        license=options.license or None,
    )
    n_rows = min(len(weight) for weight in vocabulary_weights(network))
    return Adoption(
        checkpoint=checkpoint,
        contract=contract,
        bundle=bundle,
        prompt=worked_prompt(fitted, tokenizer, tokens, usable),
        codes_without_token=codes_without_token,
        items_without_token=items_without_token,
        items=len(bundle.active),
        embedding_rows=n_rows,
        padding_rows=max(0, n_rows - max(len(tokenizer), tokens.stop)),
        equal_rows=_equal_rows(network, tokens),
        sampling=_sampling_settings(network),
    )


def _open_map(source: str | Path) -> Bundle:
    """A bundle, or that of another system's map, in memory."""
    path = Path(source)
    if map_format(path) is None or not path.exists():
        return open_source(source)
    return read_map(path, name=path.stem)


def find_tokens(tokenizer: Any, space: SidSpace) -> SidTokens:
    """The ids of the tokens of a space in a tokenizer; codes may lack one.

    Raises CompatibilityError if there are none, if a whole level, the begin or the end token has
    none, if one is no added token, or if the tokenizer reads the text of one as something else."""
    added = tokenizer.get_added_vocab()
    vocabulary = tokenizer.get_vocab()
    plain = [token for token in space.tokens if token in vocabulary and token not in added]
    if plain:
        raise CompatibilityError(
            f"{len(plain)} SID tokens, like {plain[0]}, are words of the tokenizer's base "
            "vocabulary, not added tokens",
            hint="tokenizer.add_tokens(SID_TOKENS) adds them with the ids that they have",
        )
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
    present = {
        token: token_id
        for token, token_id in zip(space.tokens, ids, strict=True)
        if token_id != NO_TOKEN
    }
    read = tokenizer(list(present), add_special_tokens=False)["input_ids"]
    for (text, token_id), text_ids in zip(present.items(), read, strict=True):
        if list(text_ids) != [token_id]:
            names = tokenizer.convert_ids_to_tokens(text_ids)
            raise CompatibilityError(
                f"the tokenizer reads {text} as {len(text_ids)} tokens ({', '.join(names)[:80]}), "
                f"not as id {token_id}"
            )
    try:
        return SidTokens.of_ids(space, ids)
    except ValueError as error:
        raise CompatibilityError(f"the tokenizer cannot spell SIDs: {error}") from error


def level_sizes(tokenizer: Any, bundle: Bundle) -> tuple[int, ...]:
    """The level sizes that hold the codes of a map and every code that the tokenizer has a token
    for: a map may use only some of them.

    A level whose codes 0 to n - 1 all have tokens, and no other, has n codes; another one the next
    power of two, as an imported map has."""
    space = bundle.space
    spelled: list[set[int]] = [set() for _ in space.sizes]
    for text in tokenizer.get_added_vocab():
        if match := space.pattern.fullmatch(text):
            level, code = LETTERS.index(match["level"]), int(match["code"])
            if level < space.levels and code < MAX_CODES and space.token(level, code) == text:
                spelled[level].add(code)
    sizes = []
    for used, codes in zip(bundle.items.codes.max(axis=0).tolist(), spelled, strict=True):
        largest = max(codes, default=0)
        is_dense = len(codes) == largest + 1
        if is_dense and used <= largest:
            sizes.append(largest + 1)
        else:
            sizes.append(1 << max(used, largest).bit_length())
    return tuple(sizes)


def _equal_rows(network: Any, tokens: SidTokens) -> int:
    """The number of SID tokens that share their embedding row with another one."""
    ids = tokens.token_ids[tokens.token_ids != NO_TOKEN]
    rows = network.get_input_embeddings().weight[ids].detach().float().numpy()
    counts = Counter(row.tobytes() for row in rows)
    return sum(count for count in counts.values() if count > 1)


def _sampling_settings(network: Any) -> tuple[str, ...]:
    """What of the model's generation settings removes or reweights tokens, as "top_k=20"."""
    settings = network.generation_config  # None for a model of its own code
    neutral = {"temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0, "typical_p": 1.0}
    values = {"do_sample": getattr(settings, "do_sample", False) or None}
    for name in _SAMPLING:
        value = getattr(settings, name, None)
        values[name] = None if value == neutral.get(name) else value
    return tuple(f"{name}={value}" for name, value in values.items() if value is not None)
