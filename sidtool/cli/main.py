"""The console script: every command by name, grouped by purpose."""

import sys
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.markup import escape

from sidtool.cli.command import SHARED, Command
from sidtool.cli.groups import with_flags
from sidtool.cli.terminal.console import Commands

PANELS: dict[str, dict[str, str]] = {
    "Start here": {"fit.fit": "items.csv events.csv -o shop", "fit.example": "movielens -o data"},
    "Data": {
        "data.prepare": "ml-1m --from movielens --k-core 5 -o data",
        "data.check": "items.csv events.csv --fix cleaned",
        "data.split": "events.csv -o split",
    },
    "Tokenizer": {
        "codebook.build_codebook": "items.csv --encoder hf://ORG/NAME -o shop.zarr",
        "bundles.inspect": "shop.zarr --prefix '<s_a_12>'",
        "bundles.verify": "shop.zarr",
        "bundles.embed": "items.parquet --encoder hf://ORG/NAME -o vectors",
        "bundles.encode": "shop.zarr 'red desk lamp'",
        "bundles.decode": "shop.zarr '<s_a_12><s_b_200><s_c_7>'",
        "compare.compare": "shop.zarr other.zarr --embeddings vectors.npy",
        "interop.import_": "pid2sid.parquet --items items.csv -o shop.zarr",
        "interop.export": "shop.zarr --to minionerec -o maps",
    },
    "Model": {
        "models.init_model": "items.csv -o base",
        "models.extend_model": "base shop.zarr -o base+sid",
        "models.adopt": "hf://ORG/NAME shop.index.json --preset minionerec -o adopted",
        "models.merge": "tuned-lora -o tuned",
    },
    "Training": {
        "sft.make_sft": "shop.zarr items.csv split --model base+sid -o sft/train.jsonl",
        "train.train": "base+sid sft/train.jsonl --set num_train_epochs=20 -o tuned",
        "train.rl": "tuned sft/train.jsonl --reward exact=1,rank=1 -o rewarded",
        "train.refresh": "tuned shop-2.zarr split-2 -o tuned-2",
        "train.settings": "train",
    },
    "Memory": {
        "memory.build_memory": "split shop.zarr -o memory.zarr",
        "memory.tune_memory": "tuned split memory.zarr -o mixed",
    },
    "Inference": {
        "recommend.recommend": "tuned --history B01,B02 -k 10",
        "serve.serve": "tuned --port 8000",
        "evaluate.evaluate": "tuned split --fail-under ndcg@10=0.03",
        "evaluate.evaluate_lists": "lists split --length 5",
        "evaluate.evaluate_task": "tuned title-to-sid --items items.csv",
        "evaluate.report": "shop.zarr -o page.html",
    },
    "Life cycle": {
        "lifecycle.add_items": "shop.zarr new.csv --remove gone.txt -o shop-2.zarr",
        "lifecycle.diff": "shop.zarr shop-2.zarr",
        "lifecycle.align": "retrained.zarr --to shop.zarr -o aligned.zarr",
        "lifecycle.rebind": "tuned shop-2.zarr -o tuned-2",
        "registry.log": "s3://bucket/shop",
        "registry.push": "shop.zarr s3://bucket/shop --tag stable",
        "registry.pull": "s3://bucket/shop@stable -o shop.zarr",
        "registry.tag": "s3://bucket/shop@1.2 stable",
        "registry.policy": "s3://bucket/shop --signed-by key.pub",
    },
}
"""Commands, by module and function, by the panel of `sidtool --help` that lists them, each with the
words of an example."""
COMMANDS = {
    function.partition(".")[2].rstrip("_").replace("_", "-"): (panel, function, words)
    for panel, functions in PANELS.items()
    for function, words in functions.items()
}
"""The same by the names of the commands."""


@cache
def make_app(*names: str) -> typer.Typer:
    """The command line with these commands only, whose modules alone are loaded."""
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={
            "help_option_names": ["-h", "--help"],
            "auto_envvar_prefix": "SIDTOOL",
            "max_content_width": 110,
        },
    )
    app.callback()(root)
    for name in names:
        panel, function, words = COMMANDS[name]
        module, _, attribute = function.partition(".")
        command = getattr(import_module(f"sidtool.cli.{module}"), attribute)
        register = app.command(
            name,
            cls=Command,
            rich_help_panel=panel,
            epilog=f"Example: sidtool {name} {escape(words)}",
        )
        register(with_flags(command, SHARED))
    return app


def _print_version(requested: bool) -> None:
    if requested:
        from sidtool import __version__

        typer.echo(f"sidtool {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Semantic IDs as a portable, versioned, verified tokenizer for generative recommendation.

    Every long option is also a variable: SIDTOOL_EVALUATE_NUM_BEAMS is that of `sidtool evaluate
    --num-beams`."""


def called_command() -> Any:
    """The command line of this process, to be called. One that begins with the name of a command
    loads no other, and one that asks for the version loads none."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    names = [] if name == "--version" else [name] if name in COMMANDS else COMMANDS
    return typer.main.get_command(make_app(*names))


def __getattr__(name: str) -> Any:
    """`app` has every command."""
    if name == "app":
        return make_app(*COMMANDS)
    raise AttributeError(name)
