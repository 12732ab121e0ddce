"""A reader of pickles that can build nothing but plain values and what its caller allows.

Interprets the opcodes that `torch.save` writes (CPython `Lib/pickletools.py`) over a byte string.
There is no import, no attribute, no call except through the caller's table; memory is bounded by
the input because every opcode makes at most one object and the memo is a dictionary.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

__all__ = ["PickleError", "load_pickle"]

_MARK = object()
_STOP = ord(".")
_MAX_INTEGER_BYTES = 64
_MAX_OPCODES = 1 << 20  # each takes a microsecond

Maker = Callable[[tuple[object, ...]], object]


class PickleError(ValueError):
    """The stream is damaged or asks for something that is not allowed."""


def load_pickle(
    data: bytes,
    position: int,
    *,
    allowed: Mapping[str, object],
    persistent: Callable[[object], object],
) -> tuple[object, int]:
    """Reads one pickle that starts at `position`.

    Args:
        data: the stream.
        position: where the pickle begins.
        allowed: `"module.name"` to what it stands for; a `Maker` if the stream may call it.
        persistent: gives the object of a persistent id.

    Returns:
        The object, and the offset after the pickle.

    Raises:
        PickleError: damaged, or a global, opcode or call outside of the table.
    """
    reader = _Reader(data, position, allowed, persistent)
    try:
        return reader.run(), reader.position
    except (IndexError, struct.error, UnicodeDecodeError, TypeError, MemoryError) as error:
        msg = f"damaged pickle at byte {reader.position}: {type(error).__name__}"
        raise PickleError(msg) from None


class _Reader:
    def __init__(
        self,
        data: bytes,
        position: int,
        allowed: Mapping[str, object],
        persistent: Callable[[object], object],
    ) -> None:
        self.data, self.position = data, position
        self.allowed, self.persistent = allowed, persistent
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    # --- input ---

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            msg = f"the pickle ends inside an item of {count} bytes at byte {self.position}"
            raise PickleError(msg)
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + 1024)
        if end < 0:
            msg = f"the pickle has an unfinished line at byte {self.position}"
            raise PickleError(msg)
        text = self.data[self.position : end].decode()
        self.position = end + 1
        return text

    def long(self, size: int) -> int:
        if size > _MAX_INTEGER_BYTES:
            msg = f"an integer of {size} bytes"
            raise PickleError(msg)
        return self.number(size, signed=True)

    # --- stack ---

    def pop_to_mark(self) -> list[object]:
        index = len(self.stack) - 1
        while self.stack[index] is not _MARK:
            index -= 1
            if index < 0:
                msg = "a mark is missing"
                raise PickleError(msg)
        items = self.stack[index + 1 :]
        del self.stack[index:]
        return items

    def pop(self) -> object:
        item = self.stack.pop()
        if item is _MARK:
            msg = "a mark where a value was expected"
            raise PickleError(msg)
        return item

    # --- what opcodes do ---

    def find(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if full not in self.allowed:
            msg = f"it names {full[:200]!r}, which is not needed for tensors and is never loaded"
            raise PickleError(msg)
        return self.allowed[full]

    def call(self) -> object:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Allowed) or not isinstance(arguments, tuple):
            msg = "it calls something that is not a tensor constructor"
            raise PickleError(msg)
        return function.make(arguments)

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            msg = "it sets items of something that is not a dictionary"
            raise PickleError(msg)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Strings and integers only: hashing nested tuples can take exponential time.
            if not isinstance(key, (str, int)):
                msg = f"a dictionary key of type {type(key).__name__}"
                raise PickleError(msg)
            target[key] = value

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            msg = "it appends to something that is not a list"
            raise PickleError(msg)
        target.extend(items)

    def run(self) -> object:
        data = self.data
        for _ in range(_MAX_OPCODES):
            if self.position >= len(data):
                msg = "the pickle has no end"
                raise PickleError(msg)
            code = data[self.position]
            self.position += 1
            if code == _STOP:
                return self.pop()
            handler = _HANDLERS[code]
            if handler is None:
                msg = f"opcode {bytes([code])!r} at byte {self.position - 1} is not allowed"
                raise PickleError(msg)
            handler(self)
        msg = f"more than {_MAX_OPCODES} opcodes; a tensor takes some forty"
        raise PickleError(msg)


class Allowed:
    """Something the stream may call."""

    def __init__(self, make: Maker) -> None:
        self.make = make


def _push(read: Callable[[_Reader], object]) -> Callable[[_Reader], None]:
    def handler(reader: _Reader) -> None:
        reader.stack.append(read(reader))

    return handler


def _tuple_of(count: int) -> Callable[[_Reader], None]:
    def handler(reader: _Reader) -> None:
        items = tuple(reader.stack[-count:])
        if len(items) != count or _MARK in items:
            msg = f"{count} values for a tuple are not there"
            raise PickleError(msg)
        del reader.stack[-count:]
        reader.stack.append(items)

    return handler


def _put(read: Callable[[_Reader], int]) -> Callable[[_Reader], None]:
    def handler(reader: _Reader) -> None:
        reader.memo[read(reader)] = reader.stack[-1]

    return handler


def _get(read: Callable[[_Reader], int]) -> Callable[[_Reader], None]:
    def handler(reader: _Reader) -> None:
        index = read(reader)
        if index not in reader.memo:
            msg = f"memo entry {index} was never written"
            raise PickleError(msg)
        reader.stack.append(reader.memo[index])

    return handler


def _text(size: int) -> Callable[[_Reader], object]:
    return lambda reader: reader.take(reader.number(size)).decode("utf-8", "surrogatepass")


def _bytes(size: int) -> Callable[[_Reader], object]:
    return lambda reader: reader.take(reader.number(size))


def _latin(size: int) -> Callable[[_Reader], object]:
    return lambda reader: reader.take(reader.number(size)).decode("latin-1")


def _stack_global(reader: _Reader) -> object:
    name, module = reader.pop(), reader.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        msg = "a global is named by something that is not a string"
        raise PickleError(msg)
    return reader.find(module, name)


def _skip_frame(reader: _Reader) -> None:
    reader.take(8)  # a hint for buffering, without meaning here


def _set_item(reader: _Reader) -> None:
    value, key = reader.pop(), reader.pop()
    reader.set_items([key, value])


def _append(reader: _Reader) -> None:
    item = reader.pop()
    reader.extend([item])


def _drop(reader: _Reader) -> None:
    reader.pop()


def _drop_any(reader: _Reader) -> None:
    reader.stack.pop()


def _protocol(reader: _Reader) -> None:
    version = reader.number(1)
    if version > 5:
        msg = f"pickle protocol {version}; 2 to 5 are known"
        raise PickleError(msg)


def _dict_from_mark(reader: _Reader) -> None:
    items = reader.pop_to_mark()
    reader.stack.append({})
    reader.set_items(items)


def _decimal(reader: _Reader) -> object:
    text = reader.line()
    if text in ("00", "01"):
        return text == "01"
    digits = text[:-1] if text.endswith("L") else text
    try:
        return int(digits)
    except ValueError:
        msg = f"{text[:40]!r} is not an integer"
        raise PickleError(msg) from None


_OPCODES: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": _protocol,
    b"\x95": _skip_frame,
    b"(": _push(lambda _: _MARK),
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"\x89": _push(lambda _: False),
    b"K": _push(lambda reader: reader.number(1)),
    b"M": _push(lambda reader: reader.number(2)),
    b"J": _push(lambda reader: reader.number(4, signed=True)),
    b"\x8a": _push(lambda reader: reader.long(reader.number(1))),
    b"\x8b": _push(lambda reader: reader.long(reader.number(4))),
    b"I": _push(_decimal),
    b"L": _push(_decimal),
    b"G": _push(lambda reader: struct.unpack(">d", reader.take(8))[0]),
    b"X": _push(_text(4)),
    b"\x8c": _push(_text(1)),
    b"\x8d": _push(_text(8)),
    b"C": _push(_bytes(1)),
    b"B": _push(_bytes(4)),
    b"\x8e": _push(_bytes(8)),
    b"U": _push(_latin(1)),
    b"T": _push(_latin(4)),
    b"}": _push(lambda _: {}),
    b"]": _push(lambda _: []),
    b")": _push(lambda _: ()),
    b"t": _push(lambda reader: tuple(reader.pop_to_mark())),
    b"l": _push(lambda reader: reader.pop_to_mark()),
    b"d": _dict_from_mark,
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"q": _put(lambda reader: reader.number(1)),
    b"r": _put(lambda reader: reader.number(4)),
    b"\x94": _put(lambda reader: len(reader.memo)),
    b"h": _get(lambda reader: reader.number(1)),
    b"j": _get(lambda reader: reader.number(4)),
    b"c": _push(lambda reader: reader.find(reader.line(), reader.line())),
    b"\x93": _push(_stack_global),
    b"R": _push(lambda reader: reader.call()),
    b"Q": _push(lambda reader: reader.persistent(reader.pop())),
    b"s": _set_item,
    b"u": lambda reader: reader.set_items(reader.pop_to_mark()),
    b"a": _append,
    b"e": lambda reader: reader.extend(reader.pop_to_mark()),
    b"b": _drop,  # BUILD: the state of an OrderedDict, ignored
    b"0": _drop_any,
    b"2": _push(lambda reader: reader.stack[-1]),
}

_HANDLERS = [_OPCODES.get(bytes([code])) for code in range(256)]
