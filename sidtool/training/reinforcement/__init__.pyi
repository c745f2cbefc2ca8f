from .plan import plan_rl as plan_rl
from .reinforcement import rl as rl
from .settings import RL_DEFAULTS as RL_DEFAULTS
from .settings import RL_SETTINGS as RL_SETTINGS
from .settings import ObjectiveOptions as ObjectiveOptions
from .settings import RlOptions as RlOptions
