"""What every command has beside its own options: a help in panels, -q, -v and --config."""

import glob
import inspect
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from sidtool.base.errors import EXIT_INTERRUPTED, UsageError
from sidtool.base.inputs import check_read_files
from sidtool.base.options import variable_name
from sidtool.base.work_folder import RUN_FILE
from sidtool.cli.groups import flag_meanings
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import detail, joined_lines, note, set_verbosity

PANELS: Mapping[str, tuple[str, ...]] = {
    "Data": (
        *("items", "id_column", "title_column", "text_template", "field"),
        *("embeddings", "by_row", "interactions", "queries", "query_text"),
        *("only_items", "hide_text_of"),
        *("user_column", "item_column", "order_column", "rating_column", "order", "info", "keys"),
    ),
    "Quantizer": ("balanced", "collisions"),
    "Encoder": (),
    "Tokens": ("begin_end_tokens",),
    "Model": ("model", "bundle", "encoder", "revision", "device", "dtype", "trust_remote_code"),
    "Memory": ("memory", "memory_weight", "memory_power", "explain"),
    "Training": ("stage", "set_", "valid", "teacher", "share", "learning_rate"),
    "Output": ("out", "force", "resume", "dry_run", "json"),
    "General": ("config", "quiet", "verbose", "help"),
}
"""Options that many commands share, by their panel in the help; others come before, under their own
panel or "Options"."""

_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
_TEXTS = ("history", "prompt", "query", "texts")
"""Parameters that may be empty."""


class Command(TyperCommand):
    """A command whose help has panels."""

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.help = joined_lines(self.help)
        parameters: list[Any] = self.params
        for parameter in parameters:
            # the names of variables do not fit into the table; `sidtool --help` has their rule
            parameter.show_envvar = False
            # by the long flag; click goes by the name that it has in Python
            flag = next((name for name in parameter.opts if name.startswith("--")), None)
            if flag is None or self.name is None:
                parameter.envvar = None
            else:
                parameter.envvar = variable_name(self.name, flag)
            if parameter.param_type_name == "argument":
                parameter.metavar = parameter.metavar or parameter.name.upper()
            elif not parameter.rich_help_panel:
                parameter.rich_help_panel = _PANEL_OF.get(parameter.name)
        order = {panel: number for number, panel in enumerate(PANELS)}
        parameters.sort(key=lambda parameter: order.get(parameter.rich_help_panel, -1))

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the words of the command line. Raises UsageError for a value of it or of --config
        that is used and empty, as that of an unset variable: a path would be the working directory,
        a bundle the model's own."""
        words: dict[str, Any] = {}
        if not ctx.resilient_parsing:
            words, *_ = self.make_parser(ctx).parse_args(args=list(args))
        rest = super().parse_args(ctx, args)
        parameters: list[Any] = self.params
        for parameter in parameters:
            source = ctx.get_parameter_source(parameter.name)
            is_of_file = source is not None and source.name == "DEFAULT_MAP"
            value = (ctx.default_map if is_of_file else words).get(parameter.name)
            values = value if isinstance(value, list | tuple) else [value]
            if "" in values and parameter.name not in _TEXTS:
                is_argument = parameter.param_type_name == "argument"
                name = parameter.metavar if is_argument else parameter.opts[0]
                place = f"{ctx.params['config']}: " if is_of_file else ""
                raise UsageError(f"{place}{name} is empty")
        return rest

    def describe(self, spell: Callable[[str], str] = str) -> None:
        """Give options of groups their help, as `spell` spells it: in rich's markup, [minilm] would
        be a style."""
        texts = flag_meanings(self.callback) if self.callback is not None else {}
        for parameter in self.params:
            if parameter.name in texts:
                parameter.help = spell(texts[parameter.name])  # type: ignore[attr-defined]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        self.describe(escape if typer.core.HAS_RICH else str)
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What a shell offers."""
        self.describe(escape)
        return super().shell_complete(ctx, incomplete)

    def get_help_option(self, ctx: Any) -> Any:
        """The option --help, in the last panel."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = _PANEL_OF["help"]
        return option

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        parameters = ctx.params
        set_verbosity(
            quiet=parameters.get("quiet", False), verbose=parameters.get("verbose", False)
        )
        out = parameters.get("out")
        if out is not None and parameters.get("force"):
            check_read_files(Path(out), parameters)
        start = time.monotonic()
        try:
            result = super().invoke(ctx)
        except KeyboardInterrupt:
            note(f"interrupted{_resumption(out, by_option='resume' in parameters)}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        detail(f"{ctx.info_name} took {time.monotonic() - start:.1f} s")
        return result


def _resumption(out: Any, *, by_option: bool) -> str:
    """What an interrupted command says of its unfinished work beside its output, if there is
    any; `by_option` if it resumes with --resume only."""
    if out is None:
        return ""
    command = "the same command with --resume" if by_option else "the same command"
    folder = Path(out)
    works = [
        path
        for path in folder.parent.glob(f"{glob.escape(folder.name)}[.-]*partial")
        # of stage 2: OUT-2-lora.partial; OUT-2.partial is of another output
        if re.fullmatch(r"(\.[a-z]+|-\d+-\w+)?\.partial", path.name.removeprefix(folder.name))
        # without it --resume starts again, and one process of make-sft refuses --resume
        and (not by_option or (path / RUN_FILE).is_file())
    ]
    checkpoints = [path for work in works for path in work.glob("checkpoint-*")]
    if checkpoints:
        newest = max(checkpoints, key=lambda path: path.stat().st_mtime)
        return f": {command} continues from {newest}"
    return f": {works[0]} has the unfinished work; {command} continues it" if works else ""


SHARED = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("config", None, options.Config),
        ("quiet", False, options.Quiet),
        ("verbose", False, options.Verbose),
    )
)
"""The options of every command, which it does not see; a command may have its own --config."""
