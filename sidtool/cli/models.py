"""The commands that prepare a model: init-model, extend-model, adopt and merge."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from sidtool import data, registry
from sidtool import model as models
from sidtool.base.hub import is_hub_url
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import MAX_SEED, assignments, option
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, say, say_json, warn
from sidtool.data import TextNames
from sidtool.integrations import adopt as adopting
from sidtool.integrations.adopt import AdoptOptions
from sidtool.model import DEFAULT_PRESET, MIN_VOCABULARY, Dtype, ExtendOptions, Preset


@dataclass(frozen=True)
class ModelDesign:
    """The shape of an untrained model, and of its tokenizer."""

    preset: Preset = option(DEFAULT_PRESET)
    """Shape of the model."""
    vocab_size: int = option(4096, minimum=MIN_VOCABULARY)
    """Maximum text tokens; 512 suffice for a model that sees only SIDs."""
    bundle: str | None = option(None)
    """Bundle of this catalog, which records its columns and its text."""
    settings: tuple[str, ...] = option(
        (), flag="--set", panel="Options", completes=lambda: options.setting_pairs("init-model")
    )
    """Field of the model's configuration, key=value; `sidtool settings init-model` lists them."""
    seed: int = option(0, minimum=0, maximum=MAX_SEED)
    """Seed of all random numbers."""


@keeps_inputs("a model")
def init_model(
    items: Annotated[Path, "Catalog on whose text the tokenizer is trained."],
    out: options.Out,
    columns: TextNames,
    design: ModelDesign,
    writing: options.Writing = options.Writing(),
) -> None:
    """Create an untrained model and its tokenizer, for training from scratch."""
    recorded = None
    if design.bundle is not None:
        manifest = registry.open_bundle(design.bundle).manifest
        template = columns.text_template or manifest.made_by.text_template
        columns = replace(columns, text_template=template)
        recorded = manifest.made_from.columns
    catalog = data.read_items(items, **asdict(columns), recorded=recorded)
    overrides = assignments(list(design.settings))
    if writing.dry_run:
        refuse_existing(out, writing.force, FOLDER)
        return writing.plan(
            f"would create {design.preset} with at most {design.vocab_size} text tokens at {out}",
            model=str(out),
            vocab_size=design.vocab_size,
            configuration=models.model_shape(design.preset, overrides, design.vocab_size),
        )
    parameters = models.init_model(
        catalog.texts,
        out,
        preset=design.preset,
        vocab_size=design.vocab_size,
        overrides=overrides,
        seed=design.seed,
        force=writing.force,
    )
    writing.say(
        {"model": str(out), "preset": design.preset, "parameters": parameters},
        f"{out}: {design.preset}, {parameters:,} parameters",
    )
    bundle = design.bundle or "BUNDLE"
    return next_step("sidtool extend-model {out} {bundle} -o {out}+sid", out=out, bundle=bundle)


@keeps_inputs("a model")
def extend_model(
    model: Annotated[str, "Causal or encoder-decoder model: folder, .gguf file or hf://ORG/NAME."],
    bundle: options.Bundle,
    out: options.Out,
    extension: ExtendOptions,
    trust_remote_code: options.Trust = False,
    writing: options.Writing = options.Writing(),
) -> None:
    """Add a bundle's SID tokens to a language model."""
    opened = registry.open_source(bundle)
    if writing.dry_run:
        models.check_extension(opened, out, extension, force=writing.force)
        if not is_hub_url(model):
            revision = extension.revision
            models.locate_base(model, revision=revision, trust_remote_code=trust_remote_code)
        n_tokens = len(opened.space.tokens)
        return writing.plan(
            f"would add {n_tokens} tokens of {bundle} to {model} at {out}",
            model=str(out),
            base=model,
            bundle=opened.identity.digest,
            tokens=n_tokens,
            user_tokens=extension.user_tokens,
            field_tokens=extension.field_tokens,
            init=extension.init,
        )
    contract = models.extend_model(
        model, opened, out, extension, trust_remote_code=trust_remote_code, force=writing.force
    )
    tokens = contract.tokens
    token_range = {"token_start": tokens.start, "token_stop": tokens.stop}
    if writing.json:
        say_json({"model": str(out)} | token_range | {"bundle": contract.identity.digest})
    else:
        n_tokens = tokens.stop - tokens.start
        say(f"{out}: {n_tokens} tokens from id {tokens.start}, {extension.init} rows")
    return next_step(
        "sidtool make-sft {bundle} ITEMS SPLIT -o sft/train.jsonl --model {out}",
        bundle=bundle,
        out=out,
    )


@keeps_inputs("a model")
def adopt(
    model: Annotated[str, "Model that has SID tokens already: folder or hf://ORG/NAME."],
    source: Annotated[str, "Its map of items: a bundle, or a file that `import` reads.", "MAP"],
    out: options.Out,
    origin: AdoptOptions,
    trust_remote_code: options.Trust = False,
    writing: options.Writing = options.Writing(),
) -> None:
    """Take over a model that another system trained, with its map of items.

    Checks that each SID token is one token with an embedding row, and shows a prompt."""
    run = adopting.check_adoption if writing.dry_run else adopting.adopt
    adoption = run(
        model, source, out, origin, trust_remote_code=trust_remote_code, force=writing.force
    )
    if not writing.json:
        tokens = adoption.tokens
        layout = "a table" if tokens.table else "one block"
        prompt = adoption.prompt
        say(
            f"SID tokens: {tokens.number}, ids {tokens.start} to {tokens.stop - 1}, {layout}; "
            f"{adoption.codes_without_token} codes have no token",
            "items that cannot be recommended for lack of a token: "
            f"{adoption.items_without_token} of {adoption.items}",
            f"embedding rows: {adoption.embedding_rows}, {adoption.padding_rows} of them padding; "
            f"{adoption.equal_rows} SID tokens share a row with another",
            f"prompt of {', '.join(prompt.history)}: {prompt.text!r}",
            f"its {len(prompt.ids)} tokens: {' '.join(prompt.tokens)}",
        )
        for warning in adoption.warnings:
            warn(warning)
    if writing.dry_run:
        return writing.plan(
            f"would copy {model} to {out} with the {adoption.items} items of {source}",
            model=str(out),
            **adoption.to_json(),
        )
    writing.say(
        {"model": str(out), **adoption.to_json()},
        f"{out}: {model} with the {adoption.items} items of {source}",
    )
    history = ",".join(adoption.prompt.history)
    return next_step("sidtool recommend {out} --history {history} -k 10", out=out, history=history)


def merge(
    model: options.Model,
    out: options.Out,
    dtype: Annotated[Dtype, "Precision to store; the merge itself is in float32."] = "float32",
    writing: options.Writing = options.Writing(),
) -> None:
    """Merge LoRA adapters into their base model."""
    base = models.merge(model, out, dtype=dtype, dry_run=writing.dry_run, force=writing.force)
    if writing.dry_run:
        return writing.plan(
            f"would merge the adapters of {model} into {base.path} at {out}",
            model=str(out),
            base=base.path,
            dtype=dtype,
        )
    writing.say(
        {"model": str(out), "base": base.path, "dtype": dtype},
        f"{out}: adapters of {model} merged into {base.path}, {dtype}",
    )
    return next_step("sidtool recommend {out} --history ITEM,ITEM -k 10", out=out)
