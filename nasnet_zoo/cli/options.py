"""Command-line options generated from settings: one option for each field of a checked model."""
import functools
import inspect
import typing
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, Iterator, List, Literal, Mapping, Optional, Tuple, Type, Union

import typer
from pydantic.fields import FieldInfo

from ..checked import Checked, CliOption, OneOf
from .common import exit_on_error

__all__ = ['with_settings']


def with_settings(settings: Type[Checked]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command that takes ``config``, an instance of `settings`, to take one option for each field instead.

    Fields that are models themselves contribute their fields, in a help panel of their own that is named after the
    model's title. Options that are not given keep the model's defaults. Values that the model refuses end the command
    with its message.

    Args:
        settings: A checked model. Descriptions, types and defaults of its fields become those of the options; see
            :class:`~nasnet_zoo.checked.CliOption` for what else a field may say.
    """
    fields = list(_fields(settings))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            given: Dict[str, Any] = {}
            for path, _, _ in fields:
                value = values.pop(path[-1])
                if value is not None and value != []:
                    _set(settings, given, path, value)
            with exit_on_error():
                config = settings(**given)
            command(config=config, **values)

        signature = inspect.signature(command, eval_str=True)
        others = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                  for p in signature.parameters.values() if p.name != 'config']
        generated = [_parameter(path[-1], field, panel) for path, field, panel in fields]
        parameters = sorted([*generated, *others], key=lambda p: not isinstance(p.default, _ARGUMENT))
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run
    return decorate


_ARGUMENT = type(typer.Argument())


def _set(settings: Type[Checked], given: Dict[str, Any], path: Tuple[str, ...], value: Any) -> None:
    """Put a value where `path` says. The fields that the outer model's default sets explicitly keep its
    values."""
    for name in path[:-1]:
        field = settings.model_fields[name]
        if name not in given:
            given[name] = {} if field.is_required() else field.get_default(call_default_factory=True).model_dump(
                exclude_unset=True)
        settings, given = field.annotation, given[name]  # type: ignore[assignment]
    given[path[-1]] = value


def _fields(
        settings: Type[Checked], path: Tuple[str, ...] = (), panel: Optional[str] = None,
) -> Iterator[Tuple[Tuple[str, ...], FieldInfo, Optional[str]]]:
    """Yield path, field and help panel of each option."""
    for name, field in settings.model_fields.items():
        kind, notes = _kind(field)
        if inspect.isclass(kind) and issubclass(kind, Checked):
            default = field.get_default(call_default_factory=True)
            title = kind.model_config.get('title', kind.__name__)
            for inner_path, inner, inner_panel in _fields(kind, (*path, name), title):
                if isinstance(default, Checked) and len(inner_path) == len(path) + 2:  # the outer model's own default
                    inner = FieldInfo.merge_field_infos(inner, default=getattr(default, inner_path[-1]))
                yield inner_path, inner, inner_panel
        elif not any(isinstance(note, CliOption) and note.hidden for note in notes):
            yield (*path, name), field, panel


def _kind(field: FieldInfo) -> Tuple[Any, List[Any]]:
    """Return the type of a field without Optional and Annotated, and all annotations."""
    kind, notes = _unwrap(field.annotation)
    return kind, [*field.metadata, *notes]


def _unwrap(kind: Any) -> Tuple[Any, List[Any]]:
    """Return a type without Optional and Annotated, and the annotations found on the way."""
    notes: List[Any] = []
    while True:
        if typing.get_origin(kind) is Annotated:
            kind, *inner = typing.get_args(kind)
            notes += inner
            notes += [note for info in inner if isinstance(info, FieldInfo) for note in info.metadata]
        elif typing.get_origin(kind) is Union and type(None) in typing.get_args(kind):
            kind = Union[tuple(arg for arg in typing.get_args(kind) if arg is not type(None))]
        else:
            return kind, notes


def _describe_names(choice: OneOf) -> List[str]:
    """Return the names of a table, each with the ``description`` of its row if it has one."""
    rows = choice.names if isinstance(choice.names, Mapping) else dict.fromkeys(choice.names)
    return [f'{name} ({row.description})' if hasattr(row, 'description') else name for name, row in rows.items()]


def _parameter(name: str, field: FieldInfo, panel: Optional[str]) -> inspect.Parameter:
    """Return the command's parameter for a field."""
    kind, notes = _kind(field)
    option = next((note for note in notes if isinstance(note, CliOption)), CliOption())
    names = next((_describe_names(note) for note in notes if isinstance(note, OneOf)), None)
    if typing.get_origin(kind) is Literal:
        names = list(typing.get_args(kind))
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    help_text = (field.description or '') + (f' One of: {", ".join(names)}.' if names else '')
    if not (default is None or default is False or default in ((), [])):
        help_text += f' (default: {default})'
    settings: Dict[str, Any] = dict(
        help=help_text, metavar=option.metavar, rich_help_panel=panel, show_default=False)
    if option.parse is not None:
        settings.update(parser=_reporting(option.parse))
        kind = Any
    elif typing.get_origin(kind) in (list, tuple):
        item, _ = _unwrap(typing.get_args(kind)[0])
        settings.update(metavar=option.metavar or ('PATH' if item is Path else 'TEXT'))
        kind = List[item]  # type: ignore[valid-type]
    elif kind not in (int, float, bool, str, Path):
        kind = str
    flag = option.flag or f'--{name.replace("_", "-")}'
    if option.argument:
        value = typer.Argument(... if field.is_required() else None, **settings)
    else:
        if kind is bool:
            flag = f'{flag}/--no-{flag[2:]}'
        value = typer.Option(... if field.is_required() else None, flag, **settings)
    annotation = kind if field.is_required() or typing.get_origin(kind) is list else Optional[kind]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=value)


def _reporting(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return `parse` with its ValueError as an error of the command line; click would drop the message."""
    @functools.wraps(parse)
    def parse_option(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return parse_option
