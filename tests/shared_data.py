"""The folder of the real data sets that the benchmarks use: SIDTOOL_SHARED_DATA or
../shared/data."""

import os
from pathlib import Path

DATA = Path(os.environ.get("SIDTOOL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
