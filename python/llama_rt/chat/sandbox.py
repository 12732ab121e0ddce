"""Running a checkpoint's Jinja template without trusting it: no access, bounded time and size."""

from __future__ import annotations

import datetime
import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from llama_rt.errors import TemplateError

__all__ = ["render_sandboxed"]

_MAX_SOURCE = 1 << 20  # characters of a template
_MAX_TEXT = 1 << 24  # characters of any text, elements of any list
_MAX_TOTAL = 1 << 27  # the same, of everything that is made on the way
_MAX_STEPS = 1_000_000  # loop rounds, calls and filters of one rendering
_MAX_SECONDS = 5.0
_MAX_NUMBER = 1 << 16  # as an argument: widths, repeat counts
_MAX_INTEGER_BITS = 4096
_WIDE = re.compile(r"\d{5,}|\*")  # a field width or precision in a format string
_GROWING = {"center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust"}
_GROWING |= {"zfill", "indent", "wordwrap", "translate"}
_LEFT_OUT = ("urlize", "pprint", "filesizeformat", "xmlattr", "wordwrap", "random", "indent")


class _Raised(Exception):  # noqa: N818 - not an error of ours: the template's own refusal
    """The template called `raise_exception`."""


def render_sandboxed(source: str, variables: Mapping[str, object], name: str) -> str:
    """Renders a chat template as transformers does, in Jinja's immutable sandbox.

    Args:
        source: The template.
        variables: `messages`, `add_generation_prompt`, `bos_token`, ...
        name: Where the template comes from, for errors.

    Raises:
        TemplateError: The template is malformed, refuses the conversation (`raise_exception`), or
            goes beyond the limits of time and size.
    """
    if len(source) > _MAX_SOURCE:
        msg = f"{name}: the template has {len(source)} characters, at most {_MAX_SOURCE} are read"
        raise TemplateError(msg)
    try:
        environment = _Environment()
        template = environment.from_string(source)
        text: str = environment.bounded(template.render(**variables))
        return text
    except _Raised as error:
        msg = f"{name}: the template refuses the conversation: {error}"
    except jinja2.exceptions.TemplateSyntaxError as error:
        msg = f"{name}: line {error.lineno} of the template: {error.message}"
    except RecursionError:
        msg = f"{name}: the template recurses too deeply"
    except Exception as error:  # whatever a template does wrong surfaces as one type
        msg = f"{name}: the template failed: {type(error).__name__}: {error}"
    raise TemplateError(msg)


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox plus a budget; one environment renders once."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[jinja2.ext.loopcontrols, _GenerationTag],
            finalize=self._printed,
        )
        self._steps = 0
        self._spent = 0
        self._deadline = time.monotonic() + _MAX_SECONDS
        self.globals.pop("lipsum", None)
        self.globals.update(
            raise_exception=_raise,
            strftime_now=_strftime_now,
            _counted=functools.partial(_Counted, self),
            _concatenated=self._concatenated,
        )
        self.filters["tojson"] = _tojson
        for left_out in _LEFT_OUT:
            self.filters.pop(left_out, None)
        self.filters["indent"] = _indent
        self.filters = {key: self._watched(key, call) for key, call in self.filters.items()}

    def step(self) -> None:
        """Counts one round, call or filter."""
        self._steps += 1
        if self._steps > _MAX_STEPS or (
            self._steps % 64 == 0 and time.monotonic() > self._deadline
        ):
            msg = f"more than {_MAX_STEPS} steps or {_MAX_SECONDS:g} seconds"
            raise jinja2.exceptions.SecurityError(msg)

    def bounded(self, value: Any) -> Any:  # noqa: ANN401 - any value of a template
        """Returns `value` unless it, or everything so far, is far too large."""
        if isinstance(value, (str, list, tuple, dict)):
            _limit(len(value))
            self._spent += len(value)
            _limit(self._spent, _MAX_TOTAL)
        return value

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Calls what a template calls, within the budget."""
        self.step()
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        _check_growth(getattr(obj, "__name__", ""), (owner, *args, *kwargs.values()))
        return self.bounded(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Computes `*`, `**`, `+` and `%` within the budget."""
        self.step()
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "%" and isinstance(left, str):
            _check_format(left)
            _limit(len(left) + _size(right))
        elif operator == "+":
            _limit(0 if numbers else _size(left) + _size(right))
        elif operator == "*" and not numbers:
            _limit(_size(left) * _size(right))
        elif operator == "**" and not (abs(left) < _MAX_NUMBER and abs(right) < 64):
            msg = "a power of too large numbers"
            raise jinja2.exceptions.SecurityError(msg)
        value = super().call_binop(context, operator, left, right)
        if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
            msg = "a number of too many digits"
            raise jinja2.exceptions.SecurityError(msg)
        return self.bounded(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        watched: nodes.Template = _Watch().visit(tree)
        return watched

    def _printed(self, value: Any) -> Any:  # noqa: ANN401
        """Sees every printed value, also those within blocks and macros."""
        self.step()
        return self.bounded(value if isinstance(value, str) else str(value))

    def _concatenated(self, *values: object) -> str:
        texts = [str(value) for value in values]
        _limit(sum(map(len, texts)))
        return str(self.bounded("".join(texts)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self.step()
            _check_growth(name, (*args, *kwargs.values()))
            return self.bounded(call(*args, **kwargs))

        return watched


class _Watch(NodeTransformer):
    """Puts the budget where the sandbox has no hook: loops and the operator `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - Jinja's naming
        """Counts the rounds."""
        self.generic_visit(node)
        node.iter = self._call("_counted", [node.iter], node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        """Limits the length."""
        self.generic_visit(node)
        return self._call("_concatenated", list(node.nodes), node.lineno)

    def _call(self, name: str, args: list[Any], lineno: int) -> nodes.Call:
        function = nodes.Name(name, "load", lineno=lineno)
        return nodes.Call(function, args, [], None, None, lineno=lineno)


class _Counted:
    """An iterable whose rounds are counted."""

    def __init__(self, environment: _Environment, inner: Iterable[object]) -> None:
        self._environment = environment
        self._inner = inner

    def __iter__(self) -> Iterator[object]:
        for item in self._inner:
            self._environment.step()
            yield item

    def __len__(self) -> int:
        if not isinstance(self._inner, Sized):
            self._inner = list(self)
        return len(self._inner)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks answers for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Any) -> list[nodes.Node]:  # noqa: ANN401
        """Returns the body."""
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


def _limit(size: int, limit: int = _MAX_TEXT) -> None:
    if size > limit:
        msg = f"texts or lists of {size} elements, at most {limit}"
        raise jinja2.exceptions.SecurityError(msg)


def _size(value: object) -> int:
    """Length of a text or list; the value of a number, as if it were a count."""
    if isinstance(value, int):
        return max(1, abs(value))
    return max(1, len(value)) if isinstance(value, Sized) else 1


def _check_growth(name: str, values: Iterable[object]) -> None:
    """Refuses calls whose result may be far larger than what they are given."""
    if name not in _GROWING:
        return
    size = 1
    for index, value in enumerate(values):
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            msg = f"{name} with {value}"
            raise jinja2.exceptions.SecurityError(msg)
        if index == 0 and isinstance(value, str) and name in ("format", "format_map"):
            _check_format(value)
        size *= _size(value)
    if name in ("join", "replace"):
        _limit(size)


def _check_format(text: str) -> None:
    if _WIDE.search(text) and ("%" in text or "{" in text):
        msg = f"format string {text[:40]!r}"
        raise jinja2.exceptions.SecurityError(msg)


def _raise(message: object) -> NoReturn:
    raise _Raised(str(message))


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(str(format)[:256])


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter of transformers: plain JSON, nothing escaped for HTML."""
    if indent is not None and not 0 <= indent <= 64:
        msg = f"tojson with indent {indent}"
        raise jinja2.exceptions.SecurityError(msg)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's filter, with a bounded width."""
    margin = width if isinstance(width, str) else " " * min(width, 256)
    _limit(len(text) + len(margin) * (text.count("\n") + 1))
    lines = str(text).splitlines(keepends=True)
    return "".join(
        margin + line if (index or first) and (blank or line.strip()) else line
        for index, line in enumerate(lines)
    )
