"""The codebook report that a bundle has."""

from sidtool.base.errors import IntegrityError
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.codes.report import CodebookReport


def read_report(bundle: Bundle) -> CodebookReport | None:
    """The report of a bundle; None for an imported map, or a version after the built one.

    Raises IntegrityError if it is malformed.
    """
    stored = bundle.manifest.report
    try:
        return CodebookReport.from_json(stored) if stored else None
    except TypeError as error:
        raise IntegrityError(
            f"the report of bundle {bundle.manifest.name!r} is malformed: {error}"
        ) from error
