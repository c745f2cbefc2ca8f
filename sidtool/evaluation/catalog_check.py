"""Whether two models recommend from the same catalog, so that their metrics compare."""

import numpy as np

from sidtool.base.errors import CompatibilityError
from sidtool.model.contract.compat import matching_rows
from sidtool.tokenizer.bundle.bundle import Bundle


def check_same_catalog(one: Bundle, other: Bundle) -> None:
    """Raise CompatibilityError unless two bundles have the same active items; their SIDs may
    differ."""
    for bundle, without in ((one, other), (other, one)):
        rows = matching_rows(bundle.items, without.items)[bundle.active]  # (active,)
        is_missing = (rows < 0) | ~without.is_active[rows]
        if is_missing.any():
            first = bundle.items.ids[int(bundle.active[np.argmax(is_missing)])]
            raise CompatibilityError(
                f"the models recommend from different catalogs: bundle {bundle.manifest.name!r} "
                f"({bundle.identity.digest[:12]}) has {is_missing.sum()} active items that bundle "
                f"{without.manifest.name!r} ({without.identity.digest[:12]}) lacks, the first is "
                f"{first!r}",
                hint="only models of the same items compare: --bundle gives MODEL another bundle",
            )
