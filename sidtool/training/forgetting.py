"""How much a training forgets of what the model was pretrained on: its perplexity on general text
that the training examples held out, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidtool.examples import (
    Lineage,
    checked_side_file,
    prompt_and_completion,
    read_training_examples,
)
from sidtool.model.contract import Forgetting
from sidtool.model.prompt import Segment, SidTokens


@dataclass
class ForgettingCheck:
    """Measures a model before and after its training."""

    texts: Sequence[Sequence[Segment]]
    """the held-out texts"""
    tokens: SidTokens
    before: float | None = field(default=None, init=False)
    result: Forgetting | None = field(default=None, init=False)
    """None until `measure_after`"""

    @classmethod
    def read(cls, examples: Path, lineage: Lineage, tokens: SidTokens) -> "ForgettingCheck | None":
        """The check on the file that `make-sft --general` wrote beside training examples; None
        without general text among them. Raises DataError if the file is missing or was changed."""
        if lineage.general is None:
            return None
        path = checked_side_file(examples, lineage, "general", "the held-out general text")
        rows = read_training_examples(path)
        return cls([prompt_and_completion(row, tokens.space)[1] for row in rows], tokens)

    def measure_before(self, trainer: Any) -> None:
        """Measure the model that a trainer starts from."""
        self.before = self._perplexity(trainer)

    def measure_after(self, trainer: Any) -> None:
        """Measure the model that a trainer has trained."""
        assert self.before is not None
        self.result = Forgetting(len(self.texts), self.before, self._perplexity(trainer))

    def _perplexity(self, trainer: Any) -> float:
        from sidtool.evaluation import answer_losses, perplexity
        from sidtool.model.prompt import prompt_encoder

        encoder = prompt_encoder(trainer.processing_class, self.tokens)
        ids = [encoder.ids(text) for text in self.texts]
        with trainer.evaluated_model() as model:
            return perplexity(*answer_losses(model, [[]] * len(ids), ids))
