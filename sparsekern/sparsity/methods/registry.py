"""The list of methods by canonical name, and how a constructor gets on it."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial, wraps
from inspect import Parameter, Signature, getdoc, signature
from typing import Any, Concatenate, ParamSpec, Protocol, cast, overload

from ...errors import UsageError, choose
from ..method import Method
from .own import find, installed
from .request import Request

P = ParamSpec("P")
STRUCTURE = "structure"  # an option of all methods whose entry lists some
MINIMUM = "min_per_layer"  # an option of all methods whose entry allows it, unless they have one of their own
ALL, ROWS = "N:M, AxB, fan_in", "fan_in"
EXPLAINED = {
    ALL: 'structure: "N:M" keeps N of every M inputs, "AxB" blocks of A outputs by B inputs, "fan_in" as many weights\n'
    "        in every output; None: any pattern.",
    ROWS: 'structure: "fan_in" keeps as many weights in every output; None: any pattern.',
}
LEAST = "min_per_layer: weights that stay in every layer, however low their scores; 0: a layer may lose all."
NEWLINES = "\n\n"


@dataclass(frozen=True)
class Entry:
    """Holds what `sparsekern methods` prints of a method; `gradient` is the gradient by the weights that it needs,
    `structures` what its option of this name takes; `minimum` whether it takes `min_per_layer`."""

    title: str
    paper: str | None = None
    year: int | None = None
    storage: str = "nonzeros"
    changes: str = "never"
    gradient: str = "active weights"
    needs_batches: bool = False
    structures: str = ""
    minimum: bool = True


class Maker(Protocol[P]):
    """Makes a method: `sk.methods.NAME`. `structure` and `min_per_layer` are options of those that list them; give
    them by name.

    Attributes:
        entry: what is listed of it.
        added: its options that others have, too: they are not given to `build`.
        base: the name of the method that it varies, if it varies one.
        build: makes it of a request and all options.
    """

    __name__: str
    entry: Entry
    added: frozenset[str]
    base: str | None
    build: Callable[..., Method]

    def __call__(
        self,
        sparsity: float = ...,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        structure: str | None = None,
        min_per_layer: int = 0,
        *args: P.args,
        **options: P.kwargs,
    ) -> Method: ...


class Vary(Protocol[P]):
    @overload
    def __call__(self, vary: Callable[[Method], Method], /) -> Maker[P]: ...
    @overload
    def __call__(self, vary: Callable[Concatenate[Method, ...], Method], /) -> Maker[...]: ...


_makers: dict[str, Any] = {}  # those of this package


def listed(
    title: str, *, sparsity: Any = Parameter.empty, **facts: Any
) -> Callable[[Callable[Concatenate[Request, P], Method]], Maker[P]]:
    """Lists `build(request, *, options)`: what others call takes sparsity, total_steps and steps_per_epoch in place of
    the request, and has the options in its signature.

    Args:
        sparsity: its default, of a method that need not be given one.
        facts: fields of `Entry`.
    """

    def register(build: Callable[Concatenate[Request, P], Method]) -> Maker[P]:
        options = list(signature(build).parameters.values())[1:]
        return _list(build, build, options, sparsity, Entry(title, **facts))

    return register


def variant_of(base: Maker[P], title: str, **facts: Any) -> Vary[P]:
    """Lists `vary(method, *, options)`, which changes what `base` makes. It takes all options of `base`, and its own,
    if it has some; one that both have goes to both, with the default of the variant.

    Args:
        facts: fields of `Entry` that differ from those of `base`.
    """
    known = signature(base).parameters

    def register(vary: Callable[..., Method]) -> Any:
        own = dict(list(signature(vary).parameters.items())[1:])
        inherited = {key: option for key, option in list(known.items())[3:] if key not in base.added}

        def varied(request: Request, **options: Any) -> Method:
            method = base.build(request, **{key: value for key, value in options.items() if key in inherited})
            return vary(method, **{key: value for key, value in options.items() if key in own})

        entry = replace(base.entry, title=title, **facts)
        made = _list(vary, varied, (inherited | own).values(), known["sparsity"].default, entry)
        made.base = base.__name__
        return made

    return cast(Vary[P], register)


def _list(
    source: Callable[..., Method],
    build: Callable[..., Method],
    options: Iterable[Parameter],
    sparsity: Any,
    entry: Entry,
) -> Any:
    name, either = source.__name__, Parameter.POSITIONAL_OR_KEYWORD
    first = Parameter("sparsity", either, default=sparsity, annotation=float if sparsity is not None else float | None)
    others = [Parameter(key, either, default=None, annotation=int | None) for key in ("total_steps", "steps_per_epoch")]
    options, added, explained = list(options), [], []
    if entry.minimum and MINIMUM not in (option.name for option in options):
        added.append(Parameter(MINIMUM, Parameter.KEYWORD_ONLY, default=0, annotation=int))
        explained.append(LEAST)
    if entry.structures:
        added.append(Parameter(STRUCTURE, Parameter.KEYWORD_ONLY, default=None, annotation=str | None))
        explained.append(EXPLAINED[entry.structures])
    options += added
    known = Signature([first, *others, *options], return_annotation=Method)

    @wraps(source)
    def make(*args: Any, **keywords: Any) -> Method:
        try:
            given = known.bind(*args, **keywords)
        except TypeError as error:
            raise TypeError(f"{name}() {error}") from None
        given.apply_defaults()
        own = dict(given.arguments)
        run: Any = tuple(own.pop(key) for key in ("sparsity", "total_steps", "steps_per_epoch"))
        request = Request(name, *run)
        try:
            method = _built(facade, request, own)
        finally:
            for warning in request.warnings:
                warnings.warn(warning, stacklevel=2)
        again = None if first.default is None else partial(_again, facade, run[1:], own)
        return replace(method, notes=tuple(request.notes), again=again)

    facade: Any = make
    if explained:
        text = getdoc(source) or ""
        lines = "".join(f"\n    {line}" for line in explained)
        facade.__doc__ = f"{text}{'' if 'Args:' in text else NEWLINES + 'Args:'}{lines}\n"
    facade.__signature__ = known
    facade.__annotations__ = {key: p.annotation for key, p in known.parameters.items()} | {"return": Method}
    facade.build, facade.entry, facade.base = build, entry, None
    facade.added = frozenset(option.name for option in added)
    if source.__module__.startswith(__name__.rpartition(".")[0]):  # others may copy a method with its name
        _makers[name] = facade
    return facade


def _again(maker: Maker[...], steps: tuple[int | None, int | None], options: dict[str, Any], sparsity: float) -> Method:
    """Makes a method with the same options, but another sparsity."""
    return _built(maker, Request(maker.__name__, sparsity, *steps), options)


def _built(maker: Maker[...], request: Request, options: dict[str, Any]) -> Method:
    added = {key: options[key] for key in maker.added}
    method = maker.build(request, **{key: value for key, value in options.items() if key not in added})
    if added.get(MINIMUM):
        method = replace(method, view=replace(method.view, min_per_layer=added[MINIMUM]))
    return method if added.get(STRUCTURE) is None else method.structured(added[STRUCTURE])


def names() -> list[str]:
    """Returns the canonical names, then those of entry points (`sparsekern.methods`) of other packages."""
    return [*_makers, *(name for name in installed() if name not in _makers)]


def get(name: str) -> Callable[..., Method]:
    """Returns the constructor of a method by its name, or by its place: `module:function`, `file.py:function`.

    Raises:
        ValueError: no method has that name, and the message lists the nearest; or a method of somebody else cannot be
            imported.
    """
    if ":" not in name:
        choose("method", name, names())
    return _makers.get(name) or find(name)


def describe(name: str) -> dict[str, Any]:
    """Returns name, title, paper, year, storage, when the pattern changes, the gradient that the method needs, and
    whether `sparsify` needs data for it; of a method of another package, what it says of itself."""
    unknown = Entry("", storage="", changes="", gradient="")
    try:
        made = get(name)
    except UsageError as error:
        if name not in installed():
            raise
        return {"name": name, **asdict(replace(unknown, title=str(error)))}
    title = (getdoc(made) or "").partition("\n")[0]
    return {"name": name, **asdict(getattr(made, "entry", replace(unknown, title=title)))}
