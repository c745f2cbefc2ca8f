"""sidtool: the semantic-ID tokenizer of a generative recommender as a versioned, verified artifact.

Every command of the command line is a function here, and its options are a dataclass. A name is
imported when it is first used: `import sidtool` loads neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidtool.base.errors import SidtoolError as SidtoolError
    from sidtool.cli.reports.report import report as report
    from sidtool.cli.setting_list import list_settings as list_settings
    from sidtool.data.fields.field_columns import FieldName as FieldName
    from sidtool.data.fields.field_columns import FieldOptions as FieldOptions
    from sidtool.data.fields.fields import Fields as Fields
    from sidtool.data.general_text import GeneralOptions as GeneralOptions
    from sidtool.data.interactions import EventNames as EventNames
    from sidtool.data.items import read_items as read_items
    from sidtool.data.prepare.check import check as check
    from sidtool.data.prepare.filters import FilterOptions as FilterOptions
    from sidtool.data.prepare.preparation import PrepareOptions as PrepareOptions
    from sidtool.data.prepare.preparation import prepare as prepare
    from sidtool.data.split.files import SplitOptions as SplitOptions
    from sidtool.data.split.files import open_split as open_split
    from sidtool.data.split.files import split_events as split_events
    from sidtool.data.split.list_targets import ListTargets as ListTargets
    from sidtool.data.split.sessions import SessionRule as SessionRule
    from sidtool.evaluation.evaluation import evaluate as evaluate
    from sidtool.evaluation.lists.list_evaluation import evaluate_lists as evaluate_lists
    from sidtool.evaluation.memory_tuning import tune_memory as tune_memory
    from sidtool.evaluation.options import EvaluationOptions as EvaluationOptions
    from sidtool.evaluation.options import ListEvaluationOptions as ListEvaluationOptions
    from sidtool.evaluation.options import TaskEvaluationOptions as TaskEvaluationOptions
    from sidtool.evaluation.options import TuneMemoryOptions as TuneMemoryOptions
    from sidtool.evaluation.similarity_tuning import TuneSimilarityOptions as TuneSimilarityOptions
    from sidtool.evaluation.similarity_tuning import tune_similarity as tune_similarity
    from sidtool.evaluation.tasks.task_evaluation import evaluate_task as evaluate_task
    from sidtool.examples.event_weights import WeightOptions as WeightOptions
    from sidtool.examples.examples_run import SftInputs as SftInputs
    from sidtool.examples.examples_run import make_sft as make_sft
    from sidtool.examples.sft_options import SftOptions as SftOptions
    from sidtool.integrations.adopt.adopt_options import AdoptOptions as AdoptOptions
    from sidtool.integrations.adopt.adoption import adopt as adopt
    from sidtool.integrations.formats.convert import CatalogFile as CatalogFile
    from sidtool.integrations.formats.convert import export_map as export_map
    from sidtool.integrations.formats.convert import import_map as import_map
    from sidtool.integrations.formats.imported_codebook import CodebookFile as CodebookFile
    from sidtool.integrations.formats.token_ids import model_tokens as model_tokens
    from sidtool.integrations.ray.models import ModelSource as ModelSource
    from sidtool.integrations.ray.rankings import ClusterRanker as ClusterRanker
    from sidtool.integrations.ray.ray_service import serve_on_ray as serve_on_ray
    from sidtool.integrations.ray.recommendations import recommend_folder as recommend_folder
    from sidtool.integrations.ray.run import RunOptions as RunOptions
    from sidtool.integrations.ray.training_examples import ClusterExamples as ClusterExamples
    from sidtool.integrations.ray.vectors import ItemColumns as ItemColumns
    from sidtool.integrations.ray.vectors import embed_folder as embed_folder
    from sidtool.integrations.ray.vectors import encode_folder as encode_folder
    from sidtool.memory.build import build_memory as build_memory
    from sidtool.memory.content import ItemContent as ItemContent
    from sidtool.memory.memory import Memory as Memory
    from sidtool.memory.similarity import KnnSettings as KnnSettings
    from sidtool.model.copies import merge as merge
    from sidtool.model.copies import rebind as rebind
    from sidtool.model.extend import extend_model as extend_model
    from sidtool.model.extend_options import ExtendOptions as ExtendOptions
    from sidtool.model.load import load_model_folder as load_model_folder
    from sidtool.model.presets.init_model import init_model as init_model
    from sidtool.model.prompt.frames import Templates as Templates
    from sidtool.recommendation.recommend_options import RecommendOptions as RecommendOptions
    from sidtool.recommendation.recommendations import recommend as recommend
    from sidtool.recommendation.requests import Request as Request
    from sidtool.recommendation.search.constraint import SidLogitsProcessor as SidLogitsProcessor
    from sidtool.recommendation.search.list_options import ListOptions as ListOptions
    from sidtool.recommendation.serve.serve_options import Listening as Listening
    from sidtool.recommendation.serve.serve_options import ServeLimits as ServeLimits
    from sidtool.recommendation.serve.serve_options import ServeOptions as ServeOptions
    from sidtool.recommendation.serve.start import serve as serve
    from sidtool.registry.publish import pull as pull
    from sidtool.registry.publish import push as push
    from sidtool.registry.publish import tag as tag
    from sidtool.registry.references import open_bundle as open_bundle
    from sidtool.registry.version_log import log as log
    from sidtool.tokenizer.bundle.bundle import Bundle as Bundle
    from sidtool.tokenizer.bundle.integrity import verify as verify
    from sidtool.tokenizer.bundle.sid_text import decode as decode
    from sidtool.tokenizer.encoder.settings import Encoder as Encoder
    from sidtool.tokenizer.make.add import add_items as add_items
    from sidtool.tokenizer.make.align import align as align
    from sidtool.tokenizer.make.build import build_codebook as build_codebook
    from sidtool.tokenizer.make.build_options import BuildOptions as BuildOptions
    from sidtool.tokenizer.make.compare import compare_bundles as compare_bundles
    from sidtool.tokenizer.make.diff import diff as diff
    from sidtool.tokenizer.make.encode import encode as encode
    from sidtool.tokenizer.make.explain import explain as explain
    from sidtool.tokenizer.sid import SidSpace as SidSpace
    from sidtool.training.reinforcement.run import rl as rl
    from sidtool.training.reinforcement.settings import RlOptions as RlOptions
    from sidtool.training.renewal.refresh import refresh as refresh
    from sidtool.training.run import train as train
    from sidtool.training.run import train_stages as train_stages
    from sidtool.training.settings import StageSettings as StageSettings
    from sidtool.training.settings import TrainOptions as TrainOptions

__version__ = "0.2.0"

_MODULES = {
    "AdoptOptions": "integrations.adopt.adopt_options",
    "BuildOptions": "tokenizer.make.build_options",
    "Bundle": "tokenizer.bundle.bundle",
    "CatalogFile": "integrations.formats.convert",
    "ClusterExamples": "integrations.ray.training_examples",
    "ClusterRanker": "integrations.ray.rankings",
    "CodebookFile": "integrations.formats.imported_codebook",
    "Encoder": "tokenizer.encoder.settings",
    "EvaluationOptions": "evaluation.options",
    "EventNames": "data.interactions",
    "ExtendOptions": "model.extend_options",
    "FieldName": "data.fields.field_columns",
    "FieldOptions": "data.fields.field_columns",
    "Fields": "data.fields.fields",
    "FilterOptions": "data.prepare.filters",
    "GeneralOptions": "data.general_text",
    "ItemColumns": "integrations.ray.vectors",
    "ItemContent": "memory.content",
    "KnnSettings": "memory.similarity",
    "ListEvaluationOptions": "evaluation.options",
    "ListOptions": "recommendation.search.list_options",
    "ListTargets": "data.split.list_targets",
    "Listening": "recommendation.serve.serve_options",
    "Memory": "memory.memory",
    "ModelSource": "integrations.ray.models",
    "PrepareOptions": "data.prepare.preparation",
    "RecommendOptions": "recommendation.recommend_options",
    "Request": "recommendation.requests",
    "RlOptions": "training.reinforcement.settings",
    "RunOptions": "integrations.ray.run",
    "ServeLimits": "recommendation.serve.serve_options",
    "ServeOptions": "recommendation.serve.serve_options",
    "SessionRule": "data.split.sessions",
    "SftInputs": "examples.examples_run",
    "SftOptions": "examples.sft_options",
    "SidLogitsProcessor": "recommendation.search.constraint",
    "SidSpace": "tokenizer.sid",
    "SidtoolError": "base.errors",
    "SplitOptions": "data.split.files",
    "StageSettings": "training.settings",
    "TaskEvaluationOptions": "evaluation.options",
    "Templates": "model.prompt.frames",
    "TrainOptions": "training.settings",
    "TuneMemoryOptions": "evaluation.options",
    "TuneSimilarityOptions": "evaluation.similarity_tuning",
    "WeightOptions": "examples.event_weights",
    "add_items": "tokenizer.make.add",
    "adopt": "integrations.adopt.adoption",
    "align": "tokenizer.make.align",
    "build_codebook": "tokenizer.make.build",
    "build_memory": "memory.build",
    "check": "data.prepare.check",
    "compare_bundles": "tokenizer.make.compare",
    "decode": "tokenizer.bundle.sid_text",
    "diff": "tokenizer.make.diff",
    "embed_folder": "integrations.ray.vectors",
    "encode": "tokenizer.make.encode",
    "encode_folder": "integrations.ray.vectors",
    "evaluate": "evaluation.evaluation",
    "evaluate_lists": "evaluation.lists.list_evaluation",
    "evaluate_task": "evaluation.tasks.task_evaluation",
    "explain": "tokenizer.make.explain",
    "export_map": "integrations.formats.convert",
    "extend_model": "model.extend",
    "import_map": "integrations.formats.convert",
    "init_model": "model.presets.init_model",
    "list_settings": "cli.setting_list",
    "load_model_folder": "model.load",
    "log": "registry.version_log",
    "make_sft": "examples.examples_run",
    "merge": "model.copies",
    "model_tokens": "integrations.formats.token_ids",
    "open_bundle": "registry.references",
    "open_split": "data.split.files",
    "prepare": "data.prepare.preparation",
    "pull": "registry.publish",
    "push": "registry.publish",
    "read_items": "data.items",
    "rebind": "model.copies",
    "recommend": "recommendation.recommendations",
    "recommend_folder": "integrations.ray.recommendations",
    "refresh": "training.renewal.refresh",
    "report": "cli.reports.report",
    "rl": "training.reinforcement.run",
    "serve": "recommendation.serve.start",
    "serve_on_ray": "integrations.ray.ray_service",
    "split_events": "data.split.files",
    "tag": "registry.publish",
    "train": "training.run",
    "train_stages": "training.run",
    "tune_memory": "evaluation.memory_tuning",
    "tune_similarity": "evaluation.similarity_tuning",
    "verify": "tokenizer.bundle.integrity",
}
"""The module of each public name, below `sidtool`."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises MissingPackageError if its module needs a package of an extra."""
    if name not in _MODULES:
        raise AttributeError(f"module 'sidtool' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"sidtool.{_MODULES[name]}")
    except ImportError as error:
        from sidtool.base.extras import missing_package

        raise missing_package(error) or error from error
    return getattr(module, name)
