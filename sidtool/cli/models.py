"""The commands that make a model ready: init-model, extend-model and merge."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, say, say_json
from sidtool.errors import UsageError
from sidtool.output import refuse_existing


def init_model(
    items: Annotated[Path, typer.Argument(help="Catalog whose text the tokenizer is trained on.")],
    out: options.Out,
    preset: Annotated[
        str,
        typer.Option(
            help="Shape of the model: gpt2-tiny, gpt2-mini, neox-tiny, qwen3-tiny, llama-tiny."
        ),
    ] = "gpt2-tiny",
    vocab_size: Annotated[
        int, typer.Option(help="Text tokens; 512 do where a model only sees semantic IDs.")
    ] = 4096,
    text: Annotated[
        str | None, typer.Option(help='Text of an item, like "{title}. {description}".')
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="SIDTOOL_INIT_MODEL_SET",
            help="Field of the model's configuration, key=value.",
        ),
    ] = None,
    seed: options.Seed = 0,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make a small untrained model with a tokenizer of its own, for training from scratch."""
    from sidtool.data.items import read_items
    from sidtool.model.scratch import init_model as init
    from sidtool.model.scratch import shape_of

    catalog = read_items(items, text_template=text)
    overrides = assignments(set_)
    if dry_run:
        refuse_existing(out, force)
        shape_of(preset, overrides)
        return note(
            f"would make {preset} with at most {vocab_size} text tokens from {len(catalog)} "
            f"items at {out}"
        )
    parameters = init(
        out,
        texts=catalog.texts,
        preset=preset,
        vocab_size=vocab_size,
        overrides=overrides,
        seed=seed,
        force=force,
    )
    if json:
        say_json({"model": str(out), "preset": preset, "parameters": parameters})
    else:
        say(f"{out}: {preset}, {parameters:,} parameters")
    return next_step(f"sidtool extend-model {out} BUNDLE -o {out}+sid")


def extend_model(
    model: Annotated[
        str, typer.Argument(help="Causal language model: hub id, folder or .gguf file.")
    ],
    bundle: options.Bundle,
    out: options.Out,
    init: Annotated[
        str, typer.Option(help="First values of the new rows: codebook, mean or random.")
    ] = "codebook",
    revision: Annotated[str | None, typer.Option(help="Revision of the model.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Precision to store: float32, bfloat16; the checkpoint's if not given."),
    ] = None,
    seed: options.Seed = 0,
    trust_remote_code: options.Trust = False,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Give a language model the tokens of a bundle, and keep the bundle inside it."""
    from sidtool.model.extend import check_request, extend
    from sidtool.registry.references import open_bundle

    opened = open_bundle(bundle)
    if dry_run:
        refuse_existing(out, force)
        check_request(opened, init, dtype)  # type: ignore[arg-type]
        return note(f"would add {len(opened.space.tokens)} tokens of {bundle} to {model} at {out}")
    contract = extend(
        model,
        opened,
        out,
        init=init,  # type: ignore[arg-type]
        seed=seed,
        revision=revision,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        force=force,
    )
    tokens = contract.tokens
    if json:
        say_json(
            {
                "model": str(out),
                "token_start": tokens.start,
                "token_stop": tokens.stop,
                "bundle": contract.identity.digest,
            }
        )
    else:
        say(f"{out}: {tokens.stop - tokens.start} tokens at {tokens.start}, rows by {init}")
    return next_step(f"sidtool make-sft {bundle} ITEMS INTERACTIONS -o train.jsonl --model {out}")


def merge(
    model: options.Model,
    out: options.Out,
    dtype: Annotated[
        str,
        typer.Option(help="Precision to store: float32, bfloat16. Adapters are merged in float32."),
    ] = "float32",
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make a plain model of one that `train --stage lora` made, which is adapters over the model
    before it."""
    from sidtool.model.adapter import merge as merge_adapter
    from sidtool.model.contract import read_contract

    if dry_run:
        refuse_existing(out, force)
        read_contract(model)
        return note(f"would merge the adapters of {model} into a model at {out}")
    contract = merge_adapter(model, out, dtype=dtype, force=force)
    base = contract.params["path"]
    if json:
        say_json({"model": str(out), "base": base, "dtype": dtype})
    else:
        say(f"{out}: a plain model of {model} and {base}, {dtype}")
    return next_step(f"sidtool recommend {out} --history ITEM,ITEM -k 10")


def assignments(pairs: list[str] | None, *, option: str = "--set") -> dict[str, Any]:
    """`key=value` pairs as a mapping; a value is read as YAML, so that numbers are numbers."""
    import yaml

    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"{option} takes key=value, not {pair!r}")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[key] = value
    return found


def numbers(pairs: list[str] | None, *, option: str) -> dict[str, float]:
    """`key=number` pairs as a mapping. Raises UsageError for a value that is no number."""
    found = {}
    for key, value in assignments(pairs, option=option).items():
        try:  # YAML takes 1e-3 for a text
            found[key] = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            found[key] = math.nan
        if not math.isfinite(found[key]):
            raise UsageError(f"{option} takes a number for {key}, not {value!r}")
    return found
