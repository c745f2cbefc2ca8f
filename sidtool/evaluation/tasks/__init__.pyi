from .answer_scores import SharedPrompt as SharedPrompt
from .answer_scores import answer_losses as answer_losses
from .answer_scores import answer_probabilities as answer_probabilities
from .answer_scores import perplexity as perplexity
from .questions import QuestionOptions as QuestionOptions
from .questions import TaskEvaluationOptions as TaskEvaluationOptions
from .task_evaluation import TaskEvaluation as TaskEvaluation
from .task_evaluation import evaluate_task as evaluate_task
