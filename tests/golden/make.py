"""Write tests/golden/format-N.zarr.zip, once per bundle format; what is there is never written again.

python -m tests.golden.make
"""

from pathlib import Path

from sidtool.bundle.manifest import FORMAT
from tests.bundles import small_bundle

if __name__ == "__main__":
    small_bundle(items=12, name="golden").save(Path(__file__).with_name(f"format-{FORMAT}.zarr.zip"))
