from .memory_tuning import TunedSimilarity as TunedSimilarity
from .memory_tuning import TuneMemoryOptions as TuneMemoryOptions
from .memory_tuning import TuneSimilarityOptions as TuneSimilarityOptions
from .memory_tuning import plan_tune_memory as plan_tune_memory
from .memory_tuning import tune_memory as tune_memory
from .memory_tuning import tune_similarity as tune_similarity
