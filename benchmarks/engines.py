"""Compare the decoder with `generate` and with vLLM's beam search, constrained and not. vLLM's own
constraint is a grammar of all SIDs (`structured_outputs`), which its beam search applies to the
tokens that the engine reports.

    make test-engines   # makes the environment
    OMP_NUM_THREADS=1 .venv-engines/bin/python benchmarks/engines.py -o WORK [--dtypes float32]
        [--widths 10,20,50] [--batches 1,8] [--repeats 5] [--sides NAME,...] [--quick]

Random Qwen3 (25 M parameters beside its embeddings), vocabulary 152,960, prompts of 128 tokens,
four levels of 256 codes, 10^5 items; one thread per side. In each setting all sides run in turns on
the same prompts, which are new in each turn, so that vLLM's prefix cache helps it within a request
only. The first turn does not count; `generate` is timed in the last turn only. Settings that are
done are not run again.

With VLLM_ENABLE_V1_MULTIPROCESSING=0 an engine runs in this process, and CPU seconds are measured,
which other work on the machine hardly changes. One process holds one engine: give `--sides` one."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from decoder_cases import LEVELS, PROMPT, catalog, qwen3
from decoder_sides import prefix_function, run_beam, run_generate
from environment import environment
from table import markdown

SIDES = {
    "level": "tree, over levels",
    "vocabulary": "tree, over the vocabulary",
    "generate": "`generate`, prefix function",
    "vllm": "vLLM, unconstrained",
    "vllm-constrained": "vLLM, constrained",
    "vllm-recommend": "vLLM, by `engine_model`",
    "vllm-structured": "vLLM, structured outputs",
}
FASTEST = "level"

Sids = list[list[tuple[int, ...]]]
"""The SIDs of each prompt, as codes, best first; codes outside their level are invalid."""


@dataclass(frozen=True)
class Scale:
    """The sizes of model and catalog."""

    hidden: int
    layers: int
    text: int
    vocabulary: int
    items: int


FULL = Scale(512, 8, 151_900, 152_960, 100_000)
QUICK = Scale(128, 1, 500, 1_600, 2_000)


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    dtype: str
    batch: int
    width: int

    @property
    def name(self) -> str:
        """The key in the results."""
        return f"{self.dtype} {self.batch}x{self.width}"


class Model:
    """A model folder with its contract and bundle, and what runs on it."""

    def __init__(self, work: Path, scale: Scale, dtype: str, widest: int) -> None:
        from sidtool.model.vocabulary.tokens import SidTokens

        self.scale = scale
        self.dtype = dtype
        self.widest = widest
        self.codes = catalog(scale.items)
        self.folder = work / f"model-{scale.hidden}x{scale.layers}"
        self.tokens = SidTokens(_space(), scale.text)
        self.valid = set(map(tuple, self.codes.tolist()))
        if not self.folder.exists():
            write_model(self.folder, scale, self.codes)

    @cached_property
    def network(self) -> Any:
        """The network in this process."""
        import torch

        model = qwen3(self.scale.hidden, self.scale.layers, self.scale.vocabulary)
        return model.to(getattr(torch, self.dtype))

    @cached_property
    def trie(self) -> Any:
        """The trie of the catalog."""
        from sidtool.tokenizer.bundle.trie import Trie

        return Trie.from_codes(self.codes, LEVELS)

    @cached_property
    def allowed(self) -> Any:
        """The prefix function of `generate`."""
        return prefix_function(self.codes, self.scale.text)

    @cached_property
    def constrained(self) -> Any:
        """An engine with the constraint, normalized as `generate` is."""
        from sidtool.integrations.vllm.engine import engine_arguments

        arguments = engine_arguments(self.folder, num_beams=self.widest, normalize="vocabulary")
        return self._engine(**arguments)

    @cached_property
    def search(self) -> Any:
        """The beam search of `engine_model` on that engine: made once, as its tokenizer is read."""
        from sidtool.integrations.vllm.engine import engine_model

        return engine_model(self.constrained).beam_search

    @cached_property
    def unconstrained(self) -> Any:
        """An engine without it."""
        return self._engine(max_logprobs=2 * self.widest, generation_config="vllm")

    @cached_property
    def structured(self) -> Any:
        """An engine without it that compiles grammars."""
        return self._engine(
            max_logprobs=2 * self.widest,
            generation_config="vllm",
            structured_outputs_config={"backend": "xgrammar"},
        )

    @cached_property
    def grammar(self) -> str:
        """The SIDs of the catalog as alternatives of a grammar."""
        from vllm.v1.structured_output.utils import choice_as_grammar

        space = _space()
        return choice_as_grammar([space.spell(codes) for codes in self.codes.tolist()])

    def _engine(self, **arguments: Any) -> Any:
        from vllm import LLM

        return LLM(
            str(self.folder),
            dtype=self.dtype,
            max_model_len=2 * PROMPT,
            max_num_seqs=8 * self.widest,
            max_num_batched_tokens=8 * self.widest + 8 * PROMPT,
            seed=0,
            enforce_eager=self.scale is QUICK,  # no compilation, which takes a minute
            **arguments,
        )

    def side(self, name: str) -> Callable[[list[list[int]], int], Sids]:
        """What a side does with prompts and a width."""
        return {
            "level": lambda prompts, width: self._tree(prompts, width, "level"),
            "vocabulary": lambda prompts, width: self._tree(prompts, width, "vocabulary"),
            "generate": self._generate,
            "vllm": lambda prompts, width: self._vllm(self.unconstrained, prompts, width),
            "vllm-constrained": lambda prompts, width: self._vllm(self.constrained, prompts, width),
            "vllm-recommend": self._search,
            "vllm-structured": self._structured,
        }[name]

    def _tree(self, prompts: list[list[int]], width: int, normalize: str) -> Sids:
        results = run_beam(self.network, prompts, width, self.trie, self.tokens, normalize)
        return self._sids([result.leaves for result in results])

    def _generate(self, prompts: list[list[int]], width: int) -> Sids:
        ids = run_generate(self.network, prompts, width, self.allowed)
        codes = np.asarray(ids, dtype=np.int64) - self.tokens.level_starts
        return [[tuple(sid) for sid in rows] for rows in codes.tolist()]

    def _vllm(
        self, llm: Any, prompts: list[list[int]], width: int, grammar: str | None = None
    ) -> Sids:
        from vllm.sampling_params import BeamSearchParams, StructuredOutputsParams

        params = BeamSearchParams(
            beam_width=width,
            max_tokens=len(LEVELS),
            ignore_eos=True,
            structured_outputs=grammar and StructuredOutputsParams(grammar=grammar),
        )
        outputs = llm.beam_search([{"prompt_token_ids": prompt} for prompt in prompts], params)
        starts = self.tokens.level_starts
        return [
            [
                tuple((beam.tokens[-len(LEVELS) :] - starts).tolist())
                for beam in output.sequences
                if len(beam.tokens) == len(prompt) + len(LEVELS)
            ]
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    def _structured(self, prompts: list[list[int]], width: int) -> Sids:
        """A beam ends where none of its most probable tokens is allowed: () for each missing."""
        answers = self._vllm(self.structured, prompts, width, self.grammar)
        return [[*sids, *[()] * (width - len(sids))] for sids in answers]

    def _search(self, prompts: list[list[int]], width: int) -> Sids:
        results = self.search(
            None, prompts, self.trie, self.tokens, num_beams=width, k=width, normalize="vocabulary"
        )
        return self._sids([result.leaves for result in results])

    def _sids(self, leaves: Sequence[Any]) -> Sids:
        return [
            list(map(tuple, self.trie.leaf_codes(prompt_leaves).tolist()))
            for prompt_leaves in leaves
        ]

    def illegal_share(self, sids: Sids) -> float:
        """The share of answers that are no SID of the catalog, or missing."""
        flat = [sid for prompt_sids in sids for sid in prompt_sids]
        return sum(sid not in self.valid for sid in flat) / len(flat)


def _space() -> Any:
    from sidtool.tokenizer.sid import SidSpace

    return SidSpace(LEVELS, begin=None, end=None)


def write_model(folder: Path, scale: Scale, codes: Any) -> None:
    """Write the random model, a tokenizer of words and SID tokens, the contract and the bundle."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from sidtool.base.output import new_dir
    from sidtool.model.contract.contract import Contract
    from sidtool.model.contract.folder import write_contract
    from sidtool.model.contract.stage_record import ExtendParams, StageRecord
    from sidtool.model.vocabulary.tokenizer import add_sid_tokens
    from sidtool.tokenizer.bundle.bundle import Bundle
    from sidtool.tokenizer.bundle.item_map import ItemMap

    space = _space()
    words = ["<unk>", "<eos>", *[f"w{number}" for number in range(2, scale.text)]]
    vocabulary = {token: number for number, token in enumerate(words)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")),
        unk_token="<unk>",
        eos_token="<eos>",
    )
    add_sid_tokens(tokenizer, space)
    ids = [str(row) for row in range(len(codes))]
    bundle = Bundle.of(ItemMap.of(space, ids, codes), None, "reassign", name="items")
    stages = (StageRecord("extend", ExtendParams("random", 0)),)
    contract = Contract(bundle.identity, space, scale.text, "random", None, {}, stages)
    with new_dir(folder) as target:
        qwen3(scale.hidden, scale.layers, scale.vocabulary).save_pretrained(target)
        tokenizer.save_pretrained(target)
        write_contract(target, contract, bundle)


def measure(model: Model, setting: Setting, sides: Sequence[str], repeats: int) -> dict[str, Any]:
    """Median seconds and the illegal share of each side, and the share of answers that are, at the
    same place, those of the tree over the vocabulary."""
    in_one_process = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"
    clock = time.process_time if in_one_process else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, Sids] = {}
    for turn in range(repeats + 1):
        rng = np.random.default_rng([setting.batch, setting.width, turn])
        prompts = rng.integers(10, model.scale.text, (setting.batch, PROMPT)).tolist()
        for name in sides:
            if name == "generate" and turn < repeats:
                continue
            start = clock()
            answers[name] = model.side(name)(prompts, setting.width)
            if turn:
                times[name].append(clock() - start)
    measured = {}
    for name in sides:
        measured[name] = {
            "seconds": float(np.median(times[name])),
            "illegal_share": model.illegal_share(answers[name]),
        }
        if "vocabulary" in answers:
            measured[name]["agreement"] = agreement(answers[name], answers["vocabulary"])
    return measured


def agreement(answers: Sids, others: Sids) -> float:
    """The share of places at which two lists of SIDs agree."""
    pairs = [
        (first, second)
        for prompt_sids, other_sids in zip(answers, others, strict=True)
        for first, second in zip(prompt_sids, other_sids, strict=True)
    ]
    return sum(first == second for first, second in pairs) / len(pairs)


def result_table(settings: Mapping[str, Any], sides: Sequence[str]) -> str:
    """Seconds per request batch, with the ratio to the tree over levels, and illegal shares."""
    rows = []
    for name, measured in settings.items():
        row: list[object] = [name]
        for side in sides:
            seconds = measured[side]["seconds"]
            ratio = ""
            if FASTEST in measured and side != FASTEST:
                ratio = f" ({seconds / measured[FASTEST]['seconds']:.1f}x)"
            row.append(f"{seconds:.3f}{ratio}")
        row.append(", ".join(f"{measured[side]['illegal_share']:.0%}" for side in sides))
        row.append(", ".join(f"{measured[side].get('agreement', 0):.0%}" for side in sides))
        rows.append(row)
    header = ["batch x beams", *[SIDES[side] for side in sides], "illegal", "as `generate`"]
    return markdown(header, rows)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--widths", default="10,20,50")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--repeats", type=int, default=5)
    # a grammar of 10^5 SIDs takes longer to compile than all else
    sides = [side for side in SIDES if side != "vllm-structured"]
    parser.add_argument("--sides", default=",".join(sides))
    parser.add_argument("--quick", action="store_true", help="a small model and catalog")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not done, write WORK/result.json, print the table."""
    args = parse_arguments(arguments)
    sides = args.sides.split(",")
    if unknown := sorted(set(sides) - set(SIDES)):
        print(f"error: no side {unknown[0]!r}: choose from {', '.join(SIDES)}", file=sys.stderr)
        return 1
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    import torch

    torch.set_num_threads(1)
    widths = [int(width) for width in args.widths.split(",")]
    batches = [int(batch) for batch in args.batches.split(",")]
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "result.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"settings": {}}
    for dtype in args.dtypes.split(","):
        model = Model(args.out, QUICK if args.quick else FULL, dtype, max(widths))
        for batch in batches:
            for width in widths:
                setting = Setting(dtype, batch, width)
                done = stored["settings"].setdefault(setting.name, {})
                missing = [side for side in sides if side not in done]
                if missing:
                    # sides are compared, so all of a setting run in one process
                    done |= measure(model, setting, sides, args.repeats)
                    stored |= environment()
                    path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
                    print(setting.name, done, file=sys.stderr, flush=True)
    print(result_table(stored["settings"], sides))
    return 0


if __name__ == "__main__":
    sys.exit(main())
