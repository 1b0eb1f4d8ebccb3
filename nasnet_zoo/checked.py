"""Settings that are checked before they are used: typed, bounded, and refused with an error that names the field."""
import difflib
import inspect
import re
import reprlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Collection, Mapping, Optional, Sequence, Tuple, Type

import numpy as np
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

__all__ = ['Checked', 'CliOption', 'OneOf', 'join_first', 'printable', 'shorten', 'suggest']


if TYPE_CHECKING:  # pydantic's metaclass has no public name
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _OneLineErrors(ModelMetaclass):
    """Lets a constructor raise errors of one line. Pydantic does not call it for models inside other models."""

    def __call__(cls: Any, /, *args: Any, **fields: Any) -> Any:
        unknown = [name for name in fields if name not in cls.model_fields]
        if unknown:
            raise TypeError(f'unexpected argument {shorten(repr(unknown[0]))}; known: {", ".join(cls.model_fields)}')
        # Such as labels.max() + 1, which timm takes, too. Strict fields would refuse them.
        fields = {name: value.item() if isinstance(value, np.integer) else value for name, value in fields.items()}
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise ValueError('; '.join(_message(cls, dict(e)) for e in error.errors(include_url=False))) from None


class Checked(BaseModel, metaclass=_OneLineErrors):
    """Base class of settings that may come from an untrusted configuration: no unknown fields, no type coercion.

    Raises:
        TypeError: If a field is unknown.
        ValueError: If a value has the wrong type or is out of bounds. The message names the field.
    """
    model_config = ConfigDict(frozen=True, extra='forbid', strict=True)


def _message(cls: Type[Checked], error: Mapping[str, Any]) -> str:
    """Return pydantic's error in a line: field, what is wrong with its value, the value."""
    if not error['loc']:  # a check of the whole model, whose message names the fields
        return str(error['ctx']['error']) if 'error' in error.get('ctx', {}) else error['msg']
    path = [str(error['loc'][0])]
    model = cls.model_fields[path[0]].annotation
    for part in error['loc'][1:]:
        if not (inspect.isclass(model) and issubclass(model, Checked)):
            break
        path.append(str(part))
        model = model.model_fields[path[-1]].annotation if path[-1] in model.model_fields else None
    text = f'{".".join(path)}: {error["msg"][0].lower()}{error["msg"][1:]}'
    # A missing field has no value, and a whole sentence of ours names the value where that helps.
    if error['type'] == 'missing' or 'text' in error.get('ctx', {}):
        return text
    return f'{text}, not {reprlib.repr(error["input"])} of type {type(error["input"]).__name__}'


def shorten(text: Any, limit: int = 60) -> str:
    """Return `text` for use in a message, cut off after `limit` characters."""
    text = str(text)
    return text if len(text) <= limit else text[:limit] + '…'


def join_first(items: Sequence[Any], count: int, separator: str = ', ') -> str:
    """Return the first `count` items for use in a message, each of them shortened, and '…' if there are more."""
    return separator.join([shorten(item, 200) for item in items[:count]] + ['…'] * (len(items) > count))


def printable(text: Any, keep: str = '') -> str:
    r"""Return text of foreign origin in a form that every terminal shows.

    Terminal escape sequences are removed. Other characters that cannot be printed are written as in Python's source, a
    line break as ``\n`` and a byte that is not UTF-8 as ``\udcNN``, unless they are in `keep`.
    """
    text = re.sub(r'\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)', '', str(text))
    return ''.join(char if char in keep or char.isprintable() else ascii(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message or, if it has none, the name of its class."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def suggest(word: str, known: Collection[str]) -> str:
    """Return the hint for an unknown word: the known word that is most similar, or all known words."""
    def similarity(candidate: str):  # of equally similar words, the one nearest in size: sep_conv_4x4 is no 7x7
        size, size_meant = (sum(map(int, re.findall('[0-9]', text))) for text in (candidate, word))
        return difflib.SequenceMatcher(None, word, candidate).ratio(), -abs(size - size_meant), candidate
    nearest = max(known, key=similarity)
    return f'did you mean {nearest!r}?' if similarity(nearest)[0] > 0.6 else f'known: {", ".join(known)}'


@dataclass(frozen=True, eq=False)
class OneOf:
    """Annotation of a string field that takes only the names of a table, as in
    ``Annotated[str, OneOf('sampler', SAMPLERS)]``.

    Attributes:
        kind: What the names stand for, used in error messages.
        names: The table, or any collection of names. It is read when a value is checked, so entries may be added.
        aliases: Names that other software uses, and ours for the same. They only improve the hint of an error.
        others: Other strings that are taken: how they are written, for error messages, and a regular expression.
    """
    kind: str
    names: Collection[str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    others: Optional[Tuple[str, str]] = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        names = {'type': 'string', 'enum': list(self.names)}
        return {'anyOf': [names, {'type': 'string', 'pattern': f'^{self.others[1]}$'}]} if self.others else names

    def _check(self, word: Optional[str]) -> Optional[str]:
        # None has reached this place only if the field may be None.
        if word is None or word in self.names or self.others and re.fullmatch(self.others[1], word):
            return word
        meant = word[:100].lower()
        hint = suggest(self.aliases.get(meant, meant), self.names)
        if self.others:
            hint += f'{"" if hint.endswith("?") else ";"} {self.others[0]} is possible, too'
        raise PydanticCustomError('unknown_name', '{text}', {
            'text': f'unknown {self.kind} {shorten(word)!r}; {hint}'})


@dataclass(frozen=True, eq=False)
class CliOption:
    """Annotation of a field that says how it appears on the command line, where its type does not say it.

    Attributes:
        flag: The option, if it is not the field's name with hyphens.
        argument: Whether it is a positional argument. Its metavar must be given.
        parse: Converts the option's text to the field's value. It raises ValueError for text that it cannot convert.
        metavar: What stands for the value in help texts.
        hidden: Whether the command line does not have it.
    """
    flag: Optional[str] = None
    argument: bool = False
    parse: Optional[Callable[[str], Any]] = None
    metavar: Optional[str] = None
    hidden: bool = False
