from .codebook import Codebook as Codebook
from .codebook import QuantizerParams as QuantizerParams
from .fusion import FusionOptions as FusionOptions
from .kmeans import cluster as cluster
from .methods import METHODS as METHODS
from .mlp import unit as unit
