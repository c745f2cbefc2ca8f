from .reinforcement import check_rl as check_rl
from .reinforcement import rl as rl
from .rl_run import plan_rl as plan_rl
from .settings import ALGORITHM_DEFAULTS as ALGORITHM_DEFAULTS
from .settings import RL_DEFAULTS as RL_DEFAULTS
from .settings import RL_SETTINGS as RL_SETTINGS
from .settings import ObjectiveOptions as ObjectiveOptions
from .settings import RlOptions as RlOptions
