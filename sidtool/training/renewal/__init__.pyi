from .last_training import RefreshOptions as RefreshOptions
from .last_training import training_settings as training_settings
from .refresh import RefreshPlan as RefreshPlan
from .refresh import plan_refresh as plan_refresh
from .refresh import refresh as refresh
from .refresh import run_refresh as run_refresh
