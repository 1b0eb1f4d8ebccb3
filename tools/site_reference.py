"""Writes the pages of the documentation that are generated from the code, as Markdown: commands, tools, modules, cells.

``tools/site_hooks.py`` adds them to the site. Nothing here needs mkdocs.
"""
import argparse
import functools
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple, Type

import typer

from nasnet_zoo.checked import Checked, OneOf
from nasnet_zoo.cli import app
from nasnet_zoo.gallery import show_genotype
from nasnet_zoo.genotype.loader import list_genotypes, load_genotype

__all__ = ['command_page', 'extension_page', 'gallery_page', 'public_modules', 'public_objects', 'python_page',
           'tools_page']

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
EXTENSION_POINTS = (
    'nasnet_zoo.genotype.operations.Operation', 'nasnet_zoo.genotype.operations.register_operation',
    'nasnet_zoo.genotype.operations.Combine', 'nasnet_zoo.genotype.operations.register_combine',
    'nasnet_zoo.network.ops.LayerArgs', 'nasnet_zoo.network.stems.Stem', 'nasnet_zoo.network.stems.StemConv',
    'nasnet_zoo.search.samplers.base.SpaceSampler', 'nasnet_zoo.deploy.layouts.Layout',
    'nasnet_zoo.deploy.deployment.Deployment', 'nasnet_zoo.deploy.deployment.ModelFacts',
    'nasnet_zoo.training.config.TrainConfig', 'nasnet_zoo.training.run.run_training',
    'nasnet_zoo.deploy.config.ExportConfig', 'nasnet_zoo.deploy.bundle.deploy')


class Option(NamedTuple):
    """An option or an argument of a command line.

    Attributes:
        names: Its names, each with what stands for its value, such as ``--out PATH``, or ``--flip`` and ``--no-flip``.
        text: What it means.
        is_required: Whether it must be given.
        group: The heading under which it is listed.
    """
    names: Sequence[str]
    text: str
    is_required: bool
    group: str


def escape(text: str) -> str:
    """Return a text as Markdown that shows it literally, also in a table."""
    text = re.sub(r'([\\`*_\[\]|])', r'\\\1', ' '.join(text.split()))
    return text.replace('&', '&amp;').replace('<', '&lt;')


def option_tables(options: Iterable[Option]) -> Iterator[str]:
    """Yield the lines of a table for each group of options."""
    groups: Dict[str, List[Option]] = {}
    for option in options:
        groups.setdefault(option.group, []).append(option)
    for group, members in groups.items():
        yield from ('', f'**{group}**', '', '<div class="options" markdown>', '', '| name | meaning |', '|---|---|')
        for option in members:
            names = ', '.join(f'`{name}`' for name in option.names)
            required = ' **Required.**' if option.is_required else ''
            yield f'| {names} | {escape(option.text)}{required} |'
        yield from ('', '</div>')


# The command

def _command_option(parameter: Any, context: Any) -> Option:
    """Return a parameter of a command as an option."""
    is_argument = parameter.param_type_name == 'argument'
    text, default = parameter.help or '', parameter.default
    if parameter.show_default and default not in (None, False, (), []) and not callable(default):
        text += f' (default: {default})'
    names = [parameter.metavar or parameter.name.upper()] if is_argument else (
        parameter.get_help_record(context)[0].split(' / '))
    panel = parameter.rich_help_panel or ('Arguments' if is_argument else 'Options')
    return Option(names, text, parameter.required, panel)


def _first_sentence(text: str) -> str:
    return re.split(r'(?<=[.:])\s', ' '.join(text.split()), maxsplit=1)[0].rstrip('.:')


def command_page() -> str:
    """Return the page of the command ``nasnet-zoo``: help text and options of each of its commands."""
    group = typer.main.get_command(app)
    lines = ['# Commands and options', '', escape(inspect.cleandoc(group.help or '')), '',
             'This page is what `nasnet-zoo COMMAND --help` prints. [The command line](../docs/command_line.md) says '
             'what all commands have in common, such as exit codes and how to resume.', '',
             '| command | what it does |', '|---|---|']
    lines += [f'| [`{name}`](#{name}) | {escape(_first_sentence(command.help))} |'
              for name, command in group.commands.items()]
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        options = [_command_option(parameter, context) for parameter in command.params]
        arguments = [option.names[0] if option.is_required else f'[{option.names[0]}]'
                     for option in options if option.group == 'Arguments']
        usage = ' '.join(['nasnet-zoo', name, *arguments, '[OPTIONS]'])
        lines += ['', f'## {name}', '', '```text', usage, '```', '']
        lines += [f'{escape(part)}\n' for part in inspect.cleandoc(command.help).split('\n\n')]
        lines += option_tables(sorted(options, key=lambda option: option.group != 'Arguments'))
    return '\n'.join(lines) + '\n'


# The tools

def _tool_names() -> List[str]:
    """Return the names of the tools that have options of their own: those with a function ``make_parser``."""
    return [path.stem for path in sorted(TOOLS.glob('*.py'))
            if '\ndef make_parser(' in path.read_text(encoding='utf-8')]


def _import_tool(name: str) -> Any:
    if sys.path[0] != str(TOOLS):
        sys.path.insert(0, str(TOOLS))
    return importlib.import_module(name)


def _tool_options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    """Yield the options of a parser. argparse has no public list of them; tools such as sphinx-argparse read this
    one."""
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        choices = f'{{{",".join(map(str, action.choices))}}}' if action.choices else ''
        value = '' if action.nargs == 0 else str(action.metavar or choices or (action.type or str).__name__.upper())
        text = (action.help or '') % {**vars(action), 'prog': parser.prog}
        default = action.default
        if default not in (None, False, argparse.SUPPRESS) and default != [] and 'default' not in text:
            shown = ' '.join(map(str, default)) if isinstance(default, list) else default
            text = f'{text} (default: {shown})'.strip()
        names = [f'{name} {value}'.strip() for name in action.option_strings]
        yield Option(names or [action.metavar or action.dest.upper()], text, action.required,
                     'Options' if names else 'Arguments')


def _commands(parser: argparse.ArgumentParser) -> Dict[str, Tuple[str, argparse.ArgumentParser]]:
    """Return what each subcommand does, and its parser."""
    return {row.dest: (row.help or '', action.choices[row.dest]) for action in parser._actions
            if isinstance(action, argparse._SubParsersAction) for row in action._choices_actions}


def _tool_section(name: str) -> Iterator[str]:
    """Yield the lines of a tool: what its docstring says, and its options."""
    parser = _import_tool(name).make_parser()
    summary, *parts = inspect.cleandoc(parser.description or '').split('\n\n')
    yield from ('', f'## {name}.py', '', escape(summary), '')
    for part in parts:  # command lines are indented
        yield from ('\n'.join(f'    {line.strip()}' for line in part.splitlines()) if part.startswith('    ') else
                    escape(part), '')
    yield from option_tables(_tool_options(parser))
    for command, (purpose, inner) in _commands(parser).items():
        yield from ('', f'### {name}.py {command}', '', escape(purpose))
        yield from option_tables(_tool_options(inner))


def tools_page() -> str:
    """Return the page of the scripts in ``tools/`` that have options of their own."""
    lines = ['# Tools in a checkout', '',
             'The folder `tools/` of a checkout has scripts that measure, train and release. Call them as '
             '`python tools/NAME.py`. They are not part of the package, and every version '
             '[may change them](../docs/stability.md).', '',
             'Some scripts are the same as a command: `train.py`, `search.py`, `validate.py`, `describe.py`, '
             '`classify.py` and `demo.py` take the options of [the command of this name](commands.md), '
             '`export_onnx.py` those of `export`, and `push_to_hub.py` those of `push`.']
    for name in _tool_names():
        lines += _tool_section(name)
    return '\n'.join(lines) + '\n'


# The modules

def public_modules() -> List[str]:
    """Return the modules whose ``__all__`` is public according to ``docs/stability.md``."""
    text = (ROOT / 'docs' / 'stability.md').read_text(encoding='utf-8')
    return list(dict.fromkeys(re.findall(r'`(nasnet_zoo[\w.]*)\.__all__`', text)))


def public_objects(module: str) -> Dict[str, str]:
    """Return for each public name of a module where it is defined, such as ``nasnet_zoo.genotype.schema.Genotype``."""
    names = importlib.import_module(module)
    return {name: f'{found.__module__}.{found.__qualname__}'
            for name in names.__all__ for found in [getattr(names, name)]}


def python_page(module: str) -> str:
    """Return the page of a module. mkdocstrings writes in place of a line with ``:::`` what the docstring says."""
    summary = inspect.cleandoc(importlib.import_module(module).__doc__ or '').splitlines()[0]
    return '\n'.join([f'# {module}', '', escape(summary), *_entries(public_objects(module).values())]) + '\n'


def extension_page() -> str:
    """Return the page of the names with which the package is extended, and of what the commands call."""
    lines = ['# Extension points', '',
             'With these names, programs add operations, stems, samplers and layouts, as in the '
             '[worked examples](../docs/architecture.md#adding-an-operation), or do what the commands `train` and '
             '`export` do. They are not covered by the promises of [API stability](../docs/stability.md).']
    return '\n'.join([*lines, *_entries(EXTENSION_POINTS)]) + '\n'


def _entries(paths: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the entries of a reference page."""
    for path in paths:
        module, _, name = path.rpartition('.')
        yield from ('', f'::: {path}', '    options:', f'      heading: {name}', f'      toc_label: {name}')
        found = getattr(importlib.import_module(module), name)
        if isinstance(found, type) and issubclass(found, Checked):
            yield from _field_table(found)


def _field_table(settings: Type[Checked]) -> Iterator[str]:
    """Yield the lines of a table of the fields of checked settings."""
    known = {path.rpartition('.')[2] for module in public_modules() for path in public_objects(module).values()}
    yield from ('', f'**Fields of `{settings.__name__}`**', '', '<div class="options" markdown>', '',
                '| field | default | meaning |', '|---|---|---|')
    for name, field in settings.model_fields.items():
        default = '' if field.is_required() else f'`{field.get_default(call_default_factory=True)!r}`'
        inner = field.annotation if isinstance(field.annotation, type) else None
        if inner and issubclass(inner, Checked):
            names = [one.__name__ for one in inner.__mro__ if one.__name__ in known]
            default, text = '', f'The fields of {names[0]}.' if names else inspect.getdoc(inner) or ''
        else:
            names = [name for note in field.metadata if isinstance(note, OneOf) for name in note.names]
            text = (field.description or '') + (f' One of: {", ".join(names)}.' if names else '')
        yield f'| `{name}` | {default} | {escape(text)}{" **Required.**" if field.is_required() else ""} |'
    yield from ('', '</div>')


# The cells

@functools.cache  # it takes half a minute, and mkdocs serve asks for it after every change of a page
def gallery_page() -> Tuple[str, Dict[str, str]]:
    """Return the page of the shipped genotypes with a comment in place of each, and the HTML for each comment."""
    lines = ['# Gallery of cells', '',
             'These are the genotypes that are part of the package: the cells, what networks of them cost, and the '
             'published results. Parameters include the classifier; mult-adds are those of convolutions and of the '
             'classifier, for one image. [Genotypes](../genotypes/README.md) explains the format, and '
             '`nasnet-zoo gallery --out FOLDER` writes this gallery as a single page.']
    parts: Dict[str, str] = {}
    for name in list_genotypes():
        comment = f'<!-- genotype {name} -->'
        parts[comment] = (
            f'<div class="gallery" data-search-exclude>{"".join(show_genotype(load_genotype(name)))}</div>')
        lines += ['', f'## {name}', '', comment]
    return '\n'.join(lines) + '\n', parts
