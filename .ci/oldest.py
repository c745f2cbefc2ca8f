"""Print a constraint for each dependency of pyproject.toml with an upper bound: its lower bound."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({each for group in groups for each in group}):
    bounded = re.fullmatch(r"([a-z0-9-]+)>=([0-9.]+),<[0-9.]+", requirement)
    if bounded:
        sys.stdout.write(f"{bounded[1]}=={bounded[2]}\n")
