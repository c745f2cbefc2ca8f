"""Training examples of general text."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.data.general_text import GeneralOptions, GeneralText, pieces
from sidtool.examples.example_context import TrainingExample
from sidtool.examples.example_file import example_json
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.task_mix import copies_within, task_rng
from sidtool.examples.tasks import GENERAL_TASK
from sidtool.examples.training_examples import ExampleMaker
from sidtool.model.prompt.frames import begin_text, end_text
from sidtool.model.prompt.segments import catalog, template
from sidtool.tokenizer.sid import SidSpace


class GeneralExamples:
    """The documents of a general corpus as examples of at most `max_length` tokens, in pieces if
    they are longer. Raises UsageError without a tokenizer, and as `GeneralText.read`."""

    def __init__(
        self,
        general: GeneralOptions,
        maker: ExampleMaker,
        tokenizer: Any | None,
        options: SftOptions,
    ) -> None:
        if tokenizer is None:
            raise UsageError("general text needs a tokenizer", hint="--model MODEL")
        self._options = options
        self._general = general
        self._maker = maker
        self._begin = begin_text(tokenizer)
        self._end = end_text(tokenizer)
        text = GeneralText.read(general.path)
        self.record = text.record(general.share)
        self._train = self._examples(text.train)
        self._held_out = self._examples(text.held_out)

    def mixed(self, other_tokens: int) -> Iterator[TrainingExample]:
        """Examples drawn at random, all equally often, whose tokens have the given share beside
        the tokens of the other examples."""
        lengths = [self._length(example) for example in self._train]
        rng = task_rng(GENERAL_TASK, self._options.seed)
        copies = copies_within(lengths, self._general.budget(other_tokens), rng)
        for example, n_copies in zip(self._train, copies, strict=True):
            yield from [example] * n_copies

    def write_held_out(self, path: Path, space: SidSpace) -> None:
        """Write the held-out documents as a file of examples."""
        with path.open("w", encoding="utf-8") as stream:
            for example in self._held_out:
                stream.write(json.dumps(example_json(space, example), ensure_ascii=False) + "\n")

    def _examples(self, documents: Sequence[str]) -> list[TrainingExample]:
        return [
            self._example(piece) for document in documents for piece in pieces(document, self._fits)
        ]

    def _example(self, text: str) -> TrainingExample:
        segments = (template(self._begin), catalog(text), template(self._end))
        return TrainingExample(GENERAL_TASK, (), tuple(each for each in segments if each.text))

    def _length(self, example: TrainingExample) -> int:
        return self._maker.length(example.segments) or 0

    def _fits(self, text: str) -> bool:
        return self._length(self._example(text)) <= self._options.max_length
