"""The folders that an adapter folder needs, which its own output must not replace."""

from collections.abc import Iterator
from pathlib import Path

from sidtool.base.errors import SidtoolError, UsageError
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.read import read_contract


def bases_of(contract: Contract) -> Iterator[Path]:
    """The recorded folder that an adapter model changes, that which this one changes, and so on."""
    seen: set[Path] = set()
    while contract.base_folder is not None:
        base = Path(contract.base_folder.path).resolve()
        if base in seen:
            return
        seen.add(base)
        yield base
        try:
            contract = read_contract(base)
        except SidtoolError:
            return  # a base that was moved or removed cannot be replaced


def refuse_base_as_output(out: Path, contract: Contract, *bases: Path) -> None:
    """Raise UsageError if a model with the bases of `contract`, and with `bases`, would replace one
    of them: nothing could load it then."""
    if any(out.resolve() == base for base in (*map(Path.resolve, bases), *bases_of(contract))):
        raise UsageError(
            f"{out} is the base of the adapters that would replace it", hint="write to another path"
        )
