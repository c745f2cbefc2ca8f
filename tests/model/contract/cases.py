"""A model as a training writes it, without a training."""

from pathlib import Path

from sidtool.data.split import SplitReference
from sidtool.data.split.record import Cuts
from sidtool.model import ExtendOptions, extend_model
from sidtool.model.contract import (
    Forgetting,
    ModelReference,
    Selection,
    StageRecord,
    TrainParams,
    write_contract,
)
from sidtool.model.prompt import HistoryPrompt
from sidtool.tokenizer.bundle import Bundle

HISTORY = HistoryPrompt("sequence", 'Seen "é":\n{history}\nNext: ', 20, 256)
TEACHER = ModelReference("/home/someone/teacher", {"model.safetensors": "ee" * 32})
TRAINED = TrainParams(
    examples="ab" * 32,
    split=SplitReference("temporal", "12" * 32, Cuts(3.0, 5.0)),
    task_weights={"sequence": 1.0, "title-to-sid": 0.5},
    example_format="plain",
    options={"dropout": 0.1, "softmax_over": "trie", "metric_k": None},
    sft_fields={"learning_rate": 0.002},
    run="cd" * 32,
    teachers=(TEACHER,),
    best=Selection("ndcg@10", 0.0713, 400),
    forgetting=Forgetting(12, 20.5, 21.25),
)


def trained_model(base: Path, bundle: Bundle, out: Path) -> Path:
    """A base model with SID tokens, a contract of two stages and a prompt for histories."""
    contract = extend_model(base, bundle, out, ExtendOptions(license="cc-by-4.0"))
    stage = StageRecord("full", TRAINED)
    contract = contract.with_stage(stage, history_prompt=HISTORY, normalize="trie")
    write_contract(out, contract, bundle)
    return out
