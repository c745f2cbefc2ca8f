from .list_evaluation import LISTS as LISTS
from .list_evaluation import ListEvaluation as ListEvaluation
from .list_evaluation import ListEvaluationOptions as ListEvaluationOptions
from .list_evaluation import Mean as Mean
from .list_evaluation import evaluate_lists as evaluate_lists
from .list_metrics import list_metric_names as list_metric_names
from .list_metrics import recommendable_rows as recommendable_rows
