"""The metrics of a model on each example of a split, measured once."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from reinforce_table import Values

from sidtool.data.split.values import Example
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.options import EvaluationOptions
from sidtool.model.contract.stage_record import ModelReference
from sidtool.model.load import load_model_folder


def model_values(
    model: Path, examples: Sequence[Example], part: str, *, exclude_seen: bool
) -> Values:
    """The metrics of a model on each example of a part. They are stored beside the model, and
    measured again if its weights change."""
    path = model.with_name(f"values-{part}.npz")
    weights = json.dumps(ModelReference.of(model).weights, sort_keys=True)
    if path.exists():
        with np.load(path) as stored:
            if str(stored["weights"]) == weights:
                return Values(tuple(stored["names"].tolist()), stored["values"])
    options = EvaluationOptions(exclude_seen=exclude_seen, baselines=False)
    measured = evaluate_examples(load_model_folder(model), examples, None, options).values
    np.savez(path, names=measured.names, values=measured.values, weights=weights)
    return Values(measured.names, measured.values)
