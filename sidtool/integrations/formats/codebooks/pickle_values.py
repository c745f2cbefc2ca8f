"""The values of a pickle, without running it.

A pickle is a program: it names functions and calls them with arguments. Here its operations are
read by `pickletools`, which executes nothing, and a call becomes a record of what was called with
what. No name is looked up and no module is imported, so a hostile pickle can only be malformed.
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any

ORDERED_DICT = "collections.OrderedDict"

_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "SHORT_BINSTRING", "BINSTRING"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


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


def read_pickle(data: bytes) -> Any:
    """The value of a pickle, in which objects are `Name`, `Call` and `Stored`.

    Pairs of a mapping are kept if their key is a text or a number. Raises ValueError for a pickle
    that is malformed, or has operations that PyTorch does not write."""
    reader = _Reader()
    try:
        for operation, argument, _ in pickletools.genops(data):  # raises ValueError without a STOP
            if operation.name != "STOP":
                reader.apply(operation.name, argument)
        return reader.stack.pop()
    except LookupError as error:
        raise ValueError("its pickle takes values that are not there") from error


class _Reader:
    """The stack and the memo of a pickle that is read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._outer: list[list[Any]] = []
        """the stacks below each mark"""
        self._memo: dict[int, Any] = {}

    def apply(self, name: str, argument: Any) -> None:
        """One operation. Raises ValueError for an unknown one, LookupError if values lack."""
        if name in ("PROTO", "FRAME"):
            return
        if name == "MARK":
            self._outer.append(self.stack)
            self.stack = []
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = list(self._take(1)) if name == "APPEND" else self._above_mark()
            target = self.stack[-1]
            if isinstance(target, list):
                target.extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            flat = list(self._take(2)) if name == "SETITEM" else self._above_mark()
            target = self.stack[-1]
            items = target.items if isinstance(target, Call) else target
            if not isinstance(items, dict) or len(flat) % 2:
                raise ValueError("its pickle sets items of what is no mapping")
            for key, value in zip(flat[::2], flat[1::2], strict=True):
                # the hash of nested tuples can take forever
                if isinstance(key, str | int | float):
                    items[key] = value
        elif name == "BUILD":
            self._take(1)  # the state of what no tensor is made of
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
        else:
            value = self._value(name, argument)  # changes the stack
            self.stack.append(value)

    def _value(self, name: str, argument: Any) -> Any:
        """The value that an operation puts on the stack."""
        if name in _LITERALS:
            return argument
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        match name:
            case "EMPTY_DICT":
                return {}
            case "EMPTY_LIST" | "EMPTY_SET":  # nothing that a pickle makes is hashed
                return []
            case "FROZENSET":
                return self._above_mark()
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return self._take(int(name[-1]))
            case "TUPLE":
                return tuple(self._above_mark())
            case "BINGET" | "LONG_BINGET":
                return self._memo[argument]
            case "GLOBAL":
                return Name(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL":
                module, attribute = self._take(2)
                return Name(f"{module}.{attribute}")
            case "BINPERSID":
                return Stored(*self._take(1))
            case "REDUCE" | "NEWOBJ":
                callee, args = self._take(2)
                is_mapping = isinstance(callee, Name) and callee.name == ORDERED_DICT and args == ()
                return {} if is_mapping else Call(callee, args)
            case "NEWOBJ_EX":
                callee, args, _ = self._take(3)
                return Call(callee, args)
        raise ValueError(f"its pickle has the operation {name}, which PyTorch does not write")

    def _take(self, count: int) -> tuple[Any, ...]:
        """The last values of the stack."""
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def _above_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self._outer.pop()
        return values
