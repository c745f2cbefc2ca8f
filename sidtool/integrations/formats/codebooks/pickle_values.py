"""The values of a pickle, without running it.

A pickle is a program: it names functions and calls them with arguments. Here its operations are
read by `pickletools`, which executes nothing, and a call becomes a record of what was called with
what. No name is looked up and no module is imported, so a hostile pickle can only be malformed.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 1 << 18
"""The pickle of a checkpoint with its optimizer has some 50,000 bytes; tensors are stored apart."""
ORDERED_DICT = "collections.OrderedDict"

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    # a list, because nothing that a pickle makes is hashed
    "EMPTY_SET": list,
}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING"),
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names, like `torch.FloatStorage`."""

    name: str


@dataclass(frozen=True)
class Stored:
    """An object that is stored outside of the pickle."""

    identifier: Any


@dataclass(eq=False)
class Call:
    """An object as the call that would make it."""

    what: Any
    args: Any
    items: dict[Any, Any] = field(default_factory=dict)
    """what is set by key afterwards"""
    state: Any = None


def read_pickle(data: bytes) -> Any:
    """The value of a pickle, in which objects are `Name`, `Call` and `Stored`.

    Pairs of a mapping are kept if their key is a text or a number. Raises ValueError for a pickle
    that is malformed, larger than MAX_BYTES, or has operations that PyTorch does not write."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"its pickle has {len(data)} bytes, the limit is {MAX_BYTES}")
    reader = _Reader()
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "STOP":
                return reader.stack.pop()
            reader.apply(operation.name, argument)
    except IndexError as error:
        raise ValueError("its pickle takes values that are not there") from error
    raise ValueError("its pickle has no end")


class _Reader:
    """The stack and the memo of a pickle that is read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._outer: list[list[Any]] = []
        """the stacks below each mark"""
        self._memo: dict[int, Any] = {}

    def apply(self, name: str, argument: Any) -> None:
        """One operation. Raises ValueError for an unknown one, IndexError if values are missing."""
        if name in ("PROTO", "FRAME"):
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(self._take(_TUPLES[name]))
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        else:
            raise ValueError(f"its pickle has the operation {name}, which PyTorch does not write")

    def _take(self, count: int) -> tuple[Any, ...]:
        """The last values of the stack."""
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def mark(self, _: Any) -> None:
        self._outer.append(self.stack)
        self.stack = []

    def _above_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self._outer.pop()
        return values

    def end_tuple(self, _: Any) -> None:
        values = tuple(self._above_mark())  # changes the stack
        self.stack.append(values)

    def memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise IndexError
        self.stack.append(self._memo[index])

    def push_name(self, argument: str) -> None:
        self.stack.append(Name(argument.replace(" ", ".", 1)))

    def push_stacked_name(self, _: Any) -> None:
        module, name = self._take(2)
        self.stack.append(Name(f"{module}.{name}"))

    def push_stored(self, _: Any) -> None:
        (identifier,) = self._take(1)
        self.stack.append(Stored(identifier))

    def call(self, _: Any) -> None:
        what, args = self._take(2)
        is_mapping = isinstance(what, Name) and what.name == ORDERED_DICT and args == ()
        self.stack.append({} if is_mapping else Call(what, args))

    def call_with_names(self, _: Any) -> None:
        what, args, _ = self._take(3)
        self.stack.append(Call(what, args))

    def build(self, _: Any) -> None:
        (state,) = self._take(1)
        target = self.stack[-1]
        if isinstance(target, Call):
            target.state = state

    def append(self, _: Any) -> None:
        self._extend(list(self._take(1)))

    def extend(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)

    def set_item(self, _: Any) -> None:
        self._set(list(self._take(2)))

    def set_items(self, _: Any) -> None:
        self._set(self._above_mark())

    def _set(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Call) else target
        if not isinstance(items, dict) or len(flat) % 2:
            raise ValueError("its pickle sets items of what is no mapping")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # the hash of nested tuples can take forever
            if isinstance(key, str | int | float):
                items[key] = value


_OPERATIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "MARK": _Reader.mark,
    "TUPLE": _Reader.end_tuple,
    "BINPUT": _Reader.memoize,
    "LONG_BINPUT": _Reader.memoize,
    "MEMOIZE": _Reader.memoize,
    "BINGET": _Reader.recall,
    "LONG_BINGET": _Reader.recall,
    "GLOBAL": _Reader.push_name,
    "STACK_GLOBAL": _Reader.push_stacked_name,
    "BINPERSID": _Reader.push_stored,
    "REDUCE": _Reader.call,
    "NEWOBJ": _Reader.call,
    "NEWOBJ_EX": _Reader.call_with_names,
    "BUILD": _Reader.build,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.extend,
    "ADDITEMS": _Reader.extend,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_items,
}
