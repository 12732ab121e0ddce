"""Running a checkpoint's Jinja template without trusting it: no access, bounded time and size.

Three things together bound it. Every value is measured when it is made (`resource_budget.py`), only
listed filters and methods exist, and the maximum that a call can make is known before it is made
(`limits.py`). This module puts the checks into Jinja's environment, at each operation of a
template.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import markupsafe
from jinja2 import nodes
from jinja2.runtime import Context, LoopContext
from jinja2.utils import Namespace

from llama_rt.chat.jinja.ast_instrumentation import GenerationTag, Instrumentation
from llama_rt.chat.jinja.limits import (
    CHARACTER,
    FILTERS,
    METHODS,
    NUMERIC_TESTS,
    OF_TEXT,
    Bound,
    percent,
)
from llama_rt.chat.jinja.resource_budget import (
    MAX_BYTES,
    MAX_TOTAL,
    ResourceBudget,
    Rounds,
    Steps,
    refuse,
)
from llama_rt.chat.jinja.taint import (
    TaintedText,
    derived,
    format_fields,
    format_percent,
    indented,
    tainted,
)
from llama_rt.errors import TemplateError

__all__ = ["ContentParts", "WantsTextError", "check_sandboxed", "render_sandboxed"]

_MAX_SOURCE = 1 << 17  # characters of a template; compiling cannot be interrupted
_MAX_REASON = 1000  # characters of an error that a template words
_MAX_POWER = 64
_JINJAS = ("_loop_vars", "_block_vars")  # arguments that Jinja adds to calls for itself
_CONSUMING = ("groupby", "join", "list", "slice", "sort", "urlencode")  # filters of all items


class ContentParts(list[object]):
    """A message's content, given as a list; a template that prints it wants a text instead."""


class WantsTextError(TemplateError):
    """The template made a text of a content that is none (a list, or null)."""


class _Raised(Exception):  # noqa: N818 - not an error of ours: the template's own refusal
    """The template called `raise_exception`."""


def render_sandboxed(
    source: str, variables: Mapping[str, object], name: str, *, no_null: bool = False
) -> TaintedText:
    """Renders a chat template as transformers does, in Jinja's immutable sandbox.

    Args:
        source: The template.
        variables: `messages`, `add_generation_prompt`, `bos_token`, ...; texts in them that are not
            the template's own are `TaintedText`.
        name: Where the template comes from, for errors.
        no_null: A null that is printed is an error, too.

    Returns:
        The text, with the origin of each character.

    Raises:
        WantsTextError: `ContentParts`, or null, became part of a text.
        TemplateError: The template is malformed, refuses the conversation (`raise_exception`), or
            goes beyond the limits of time and size.
    """
    environment = _Environment(no_null=no_null)
    try:
        template = environment.compiled(source)
        for value in variables.values():
            environment.budget.made(value)
        return tainted(template.render(**variables))
    except WantsTextError:
        raise
    except Exception as error:
        reason = _reason(error)
    finally:
        environment.budget.forget()
    msg = f"{name}: {reason}"
    raise TemplateError(msg)


def check_sandboxed(source: str, name: str) -> None:
    """Compiles a chat template without rendering it.

    Args:
        source: The template.
        name: Where the template comes from, for errors.

    Raises:
        TemplateError: The template is malformed; names the line.
    """
    try:
        _Environment().compiled(source)
    except Exception as error:
        reason = _reason(error)
    else:
        return
    msg = f"{name}: {reason}"
    raise TemplateError(msg)


def _reason(error: Exception) -> str:
    """Words whatever a template does wrong."""
    if isinstance(error, _Raised):
        reason = f"the template refuses the conversation: {error}"
    elif isinstance(error, jinja2.exceptions.TemplateSyntaxError):
        reason = f"line {error.lineno} of the template: {error.message}"
    elif isinstance(error, jinja2.exceptions.SecurityError):
        reason = f"the template is stopped: {error}"
    elif isinstance(error, RecursionError):
        reason = "the template recurses too deeply"
    else:
        reason = f"the template failed: {type(error).__name__}: {error}"
    return reason[:_MAX_REASON]


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox plus a budget; one environment renders once."""

    intercepted_binops = frozenset(jinja2.sandbox.SandboxedEnvironment.default_binop_table)

    def __init__(self, *, no_null: bool = False) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[jinja2.ext.loopcontrols, GenerationTag],
            finalize=self._printed,
        )
        self.budget = ResourceBudget()
        self._no_null = no_null
        self.concat = self.concatenated  # type: ignore[method-assign]
        self.globals = {
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "range": self.globals["range"],
            "dict": self._dict,
            "namespace": self._namespace,
            "raise_exception": _raise,
            "strftime_now": _strftime_now,
        }
        own = {"tojson": _tojson, "indent": indented, "join": self._join, "format": self._format}
        filters: dict[str, Any] = self.filters | own
        self.filters = {
            name: self._checked(
                filters[name], bound, collect=name in _CONSUMING, of_text=name in OF_TEXT
            )
            for name, bound in FILTERS.items()
            if name in filters  # of this version of Jinja
        }
        for hook in (self.rounds, self.made, self.compared, self.joined):
            self.filters[hook.__name__] = hook
        tests: dict[str, Any] = self.tests
        self.tests = {
            name: self._checked(test, NUMERIC_TESTS.get(name)) for name, test in tests.items()
        }

    def compiled(self, source: str) -> jinja2.Template:
        """Compiles a template of reasonable length."""
        if len(source) > _MAX_SOURCE:
            refuse(f"it has {len(source)} characters, at most {_MAX_SOURCE} are read")
        return self.from_string(source)

    # Checks of every operation.

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Calls what a template calls, within the budget."""
        self.budget.step()
        named = {key: value for key, value in kwargs.items() if key not in _JINJAS}
        self.budget.size_of((args, named))  # a macro makes lists of them
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps `format`
        owner = getattr(method, "__self__", None)
        if isinstance(obj, LoopContext):
            args = (self.rounds(args[0]), *args[1:])
        bounds = _methods(owner)
        if bounds:
            args = tuple(map(self._collected, args))
            self._check(bounds.get(method.__name__), (owner, *args), named)
        if isinstance(owner, str) and not isinstance(owner, markupsafe.Markup):
            value = self._call_text(tainted(owner), method.__name__, args, named)
        else:
            value = super().call(context, obj, *args, **kwargs)
        return self.budget.made(derived(value, (owner, *args, *named.values())))

    def _call_text(
        self, owner: TaintedText, method: str, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> Any:  # noqa: ANN401
        """Calls a text's method so that the result has origins."""
        if method in ("format", "format_map"):
            formatter = jinja2.sandbox.SandboxedFormatter(self)
            by_map = method == "format_map"
            values, names = ((), args[0]) if by_map else (args, named)
            return format_fields(formatter.vformat, owner, values, names)
        return getattr(owner, method)(*args, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Computes with two values within the budget."""
        self.budget.step()
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "%" and not numbers:
            values: tuple[object, ...] = right if isinstance(right, tuple) else (right,)
            self._check(percent, (left, *values), {})
        elif operator == "*" and not numbers:
            repeated, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(times, int):
                text = isinstance(repeated, str)
                size = CHARACTER * len(repeated) if text else self.budget.size_of(repeated)
                self._limit(size * times)
        elif operator == "**" and not (numbers and abs(right) <= _MAX_POWER):
            refuse(f"a power above {_MAX_POWER}")
        if isinstance(left, str) or isinstance(right, str):
            left, right = self._operand(left), self._operand(right)
        if operator == "%" and isinstance(left, TaintedText):
            value: Any = format_percent(left, right)
        else:
            value = super().call_binop(context, operator, left, right)
        return self.budget.made(derived(value, (left, right)))

    def _operand(self, value: Any) -> Any:  # noqa: ANN401
        """Returns one side of an operator whose other side may be a text."""
        self._refuse_non_text(value)
        markup = isinstance(value, markupsafe.Markup)
        return tainted(value) if isinstance(value, str) and not markup else value

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401
        """Reads an attribute or key."""
        self.budget.step()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: ANN401
        """Reads a key or attribute."""
        self.budget.step()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: ANN401
        """Of Python's own types only what is listed may be reached."""
        if type(obj).__module__ == "builtins" or isinstance(obj, (str, ContentParts)):
            return attr in _methods(obj)
        return super().is_safe_attribute(obj, attr, value)

    def rounds(self, iterable: Iterable[object]) -> Rounds:
        """Returns what a loop runs over, its rounds counted."""
        return Rounds(self.budget, iterable)

    def made(self, value: Any) -> Any:  # noqa: ANN401
        """Returns a list, dict or slice that a template wrote."""
        return self.budget.made(value)

    def compared(self, value: Any) -> Any:  # noqa: ANN401
        """Returns one side of a comparison."""
        self.budget.step()
        self.budget.size_of(value)
        return value

    def joined(self, *values: object) -> str:
        """Computes the operator `~`."""
        return self.concatenated(map(self._text, values))

    def concatenated(self, texts: Iterable[str]) -> str:
        """Joins what was printed, the size known before."""
        parts = []
        size = 0
        for text in texts:
            parts.append(text)
            size += len(text)
            self._limit(size, MAX_BYTES)
        joined: str = self.budget.made(TaintedText("", b"").join(parts))
        return joined

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        instrumented: nodes.Template = Instrumentation().visit(tree)
        return instrumented

    @jinja2.pass_eval_context  # so that Jinja prints nothing while it compiles
    def _printed(self, eval_context: nodes.EvalContext, value: object) -> str:
        """Sees every printed value, also those within blocks and macros."""
        self.budget.step()
        self.budget.size_of(value)
        if eval_context.autoescape:
            made: str = self.budget.made(derived(markupsafe.escape(value), (value,)))
            return made
        return self._text(value)

    def _text(self, value: object) -> str:
        self._refuse_non_text(value)
        self.budget.size_of(value)
        if isinstance(value, markupsafe.Markup):
            return tainted(value)
        text: str = value if isinstance(value, str) else self._as_text(value)
        return text

    def _as_text(self, value: object) -> str:
        text: str = self.budget.made(derived(str(value), (value,)))
        return text

    def _refuse_non_text(self, value: object) -> None:
        if isinstance(value, ContentParts) or (value is None and self._no_null):
            msg = "the template prints a message's content that is no text"
            raise WantsTextError(msg)

    @jinja2.pass_environment
    def _join(self, _: object, value: Any, d: object = "", attribute: Any = None) -> str:  # noqa: ANN401
        """The filter `join`, which keeps origins."""
        if attribute is not None:
            value = map(jinja2.filters.make_attrgetter(self, attribute), value)
        return tainted(self._text(d)).join(map(self._text, value))

    def _format(self, text: object, *values: object, **named: object) -> str:
        """The filter `format`, which keeps origins."""
        if values and named:
            msg = "format: values by position and by name at the same time"
            raise TypeError(msg)
        return format_percent(self._text(text), named or values)

    def _dict(self, source: Any = (), /, **named: object) -> dict[object, object]:  # noqa: ANN401
        """`dict`, a step for each key: some keys take long to tell apart."""
        made: dict[object, object] = {}
        pairs: Any = self.rounds(source.items() if isinstance(source, dict) else source)
        for key, value in pairs:
            made[key] = value
        made.update(named)
        return made

    def _namespace(self, source: object = (), /, **named: object) -> Namespace:
        return _Namespace(self._dict(source, **named))

    def _collected(self, value: Any) -> Any:  # noqa: ANN401
        return self.budget.made(list(value)) if isinstance(value, Steps) else value

    def _check(
        self, bound: Bound | None, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        if bound is not None:
            self._limit(bound(self.budget, *args, **kwargs))

    def _limit(self, size: int, limit: int = MAX_TOTAL) -> None:
        if size > limit:
            refuse(f"up to {size} bytes of texts or lists, at most {limit}")

    def _checked(
        self,
        call: Callable[..., Any],
        bound: Bound | None,
        *,
        collect: bool = False,
        of_text: bool = False,
    ) -> Callable[..., Any]:
        """Wraps a filter or test."""
        hidden = int(hasattr(call, "jinja_pass_arg"))  # leading arguments that are Jinja's own

        @functools.wraps(call)
        def instrumented(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self.budget.step()
            own, given = args[:hidden], args[hidden:]
            if collect:
                given = tuple(map(self._collected, given))
            if of_text:
                given = (*map(self._operand, given[:1]), *given[1:])
            self._check(bound, given, kwargs)
            value = derived(call(*own, *given, **kwargs), (*given, *kwargs.values()))
            if type(value).__module__ == "builtins" and hasattr(value, "__next__"):
                return Steps(self.budget, value)
            return self.budget.made(value)

        return instrumented


class _Namespace(Namespace):
    """Jinja's namespace. It alone can change, so what it holds is not printed."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _methods(owner: object) -> Mapping[str, Bound | None]:
    return next((names for kind, names in METHODS.items() if isinstance(owner, kind)), {})


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
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
