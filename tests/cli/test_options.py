"""Command-line options that are generated from settings."""
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Optional, Tuple

import pytest
import typer
from pydantic import ConfigDict, Field, model_validator
from typer.testing import CliRunner

from nasnet_zoo.checked import Checked, CliOption, OneOf
from nasnet_zoo.cli.options import with_settings


class Row(NamedTuple):
    description: str


TABLE = {'round': Row('without corners'), 'square': Row('with four')}


def pair(text):
    left, right = text.split('x')
    return int(left), int(right)


class Paint(Checked):
    """Nested twice."""
    layers: Annotated[int, Field(ge=1, description='Number of layers.')] = 2
    gloss: Annotated[bool, Field(description='Glossy paint.')] = True


class Lid(Checked):
    model_config = ConfigDict(title='The lid')
    height: Annotated[float, Field(gt=0, description='Height in cm.')] = 1.5
    paint: Paint = Paint(layers=3)


class Box(Checked):
    name: Annotated[str, CliOption(argument=True, metavar='NAME'), Field(description='What is written on it.')]
    shape: Annotated[str, OneOf('shape', TABLE), Field(description='The shape.')] = 'round'
    finish: Annotated[Literal['matt', 'shiny'], Field(description='The finish.')] = 'matt'
    size: Annotated[Tuple[int, int], CliOption(parse=pair, metavar='AxB'), Field(strict=False)] = (1, 2)
    tags: Annotated[Tuple[str, ...], CliOption(flag='--tag'), Field(strict=False, description='Tags.')] = ()
    out: Annotated[Optional[Path], Field(description='A folder.')] = None
    limit: Annotated[Optional[int], Field(ge=1, description='A limit.')] = None
    fragile: Annotated[bool, Field(description='Handle with care.')] = False
    secret: Annotated[int, CliOption(hidden=True)] = 7
    lid: Lid = Lid(height=2.)

    @model_validator(mode='after')
    def _check_fragile(self):
        if self.fragile and self.finish == 'shiny':
            raise ValueError('fragile: a shiny box is not fragile')
        return self


@pytest.fixture
def invoke():
    """Run a command that keeps its settings."""
    app = typer.Typer()
    app.callback()(lambda: None)

    @app.command()
    @with_settings(Box)
    def pack(config: Box, loud: bool = typer.Option(False, '--loud', help='Say so.')) -> None:
        """Pack a box."""
        run.config, run.loud = config, loud

    def run(*options):
        run.config = None
        return CliRunner().invoke(app, ['pack', *options], env={'COLUMNS': '200', 'NO_COLOR': '1'})
    return run


def test_what_is_not_given_has_the_defaults_of_the_model(invoke):
    assert invoke('tea').exit_code == 0
    assert invoke.config == Box(name='tea') and invoke.loud is False
    assert invoke.config.lid.height == 2., "the outer model's default of a nested model"


def test_options_are_set(invoke, tmp_path):
    result = invoke('tea', '--shape', 'square', '--finish', 'shiny', '--size', '3x4', '--tag', 'a', '--tag', 'b',
                    '--out', str(tmp_path), '--limit', '5', '--height', '3', '--layers', '1', '--no-gloss', '--loud')
    assert result.exit_code == 0, result.output
    assert invoke.config == Box(
        name='tea', shape='square', finish='shiny', size=(3, 4), tags=('a', 'b'), out=tmp_path, limit=5,
        lid=Lid(height=3., paint=Paint(layers=1, gloss=False))) and invoke.loud


def test_other_fields_of_a_nested_model_keep_their_defaults(invoke):
    invoke('tea', '--no-gloss')
    assert invoke.config.lid == Lid(height=2., paint=Paint(layers=3, gloss=False))


@pytest.mark.parametrize('options, message', [
    (['--shape', 'rund'], "shape: unknown shape 'rund'; did you mean 'round'?"),
    (['--limit', '0'], 'limit: input should be greater than or equal to 1, not 0'),
    (['--height', '-1'], 'lid.height: input should be greater than 0'),
    (['--layers', '0'], 'lid.paint.layers: input should be greater'),
    (['--finish', 'dull'], "finish: input should be 'matt' or 'shiny'"),
    (['--fragile', '--finish', 'shiny'], 'error: fragile: a shiny box is not fragile')])
def test_values_that_the_model_refuses(invoke, options, message):
    result = invoke('tea', *options)
    assert result.exit_code == 1 and message in result.stderr and invoke.config is None
    assert len(result.stderr.splitlines()) == 1, 'in one line'


@pytest.mark.parametrize('options', [[], ['tea', '--size', '3'], ['tea', '--size', 'axb'], ['tea', '--limit', 'x'],
                                     ['tea', '--secret', '1']])
def test_values_that_the_command_line_refuses(invoke, options):
    assert invoke(*options).exit_code == 2 and invoke.config is None


def test_help(invoke):
    text = ' '.join(invoke('--help').output.replace('│', ' ').split())
    for expected in ('Pack a box.', 'NAME', 'What is written on it.', 'The lid', '─ Paint', '--tag', 'AxB',
                     '--no-gloss', 'The shape. One of: round (without corners), square (with four). (default: round)',
                     'The finish. One of: matt, shiny. (default: matt)', 'Height in cm. (default: 2.0)',
                     'Number of layers. (default: 3)', 'Say so.'):
        assert expected in text, expected
    assert 'secret' not in text


def test_new_entries_of_a_table_are_in_the_help(monkeypatch):
    monkeypatch.setitem(TABLE, 'oval', Row('like an egg'))
    app = typer.Typer()
    app.command()(with_settings(Box)(lambda config: None))
    text = ' '.join(CliRunner().invoke(app, ['--help'], env={'COLUMNS': '200'}).output.replace('│', ' ').split())
    assert 'oval (like an egg)' in text
    assert Box(name='tea', shape='oval').shape == 'oval'


def test_a_check_of_the_whole_model_has_a_message_of_its_own():
    with pytest.raises(ValueError, match='^fragile: a shiny box is not fragile$'):
        Box(name='tea', fragile=True, finish='shiny')


@pytest.mark.parametrize('name', ['weight', 'cls', 'self'])
def test_unknown_fields_are_named(name):
    with pytest.raises(TypeError, match=f"^unexpected argument '{name}'; known: name, "):
        Box(**{name: 1})
