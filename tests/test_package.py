"""The wheel, in an environment that has the dependencies but not this checkout."""
import importlib
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile

import pytest

from helpers.paths import ROOT
from nasnet_zoo import __version__, list_genotypes
from nasnet_zoo.version import REPOSITORY

SMOKE = '''
import timm, nasnet_zoo, torch
assert 'smoke' in nasnet_zoo.__file__, nasnet_zoo.__file__
model = timm.create_model('nasnet', genotype='nasnet_b', num_cells=1, cell_filters=2)
assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 1000)
print(nasnet_zoo.__version__, *nasnet_zoo.list_genotypes())
'''


def check_files(names):
    """The data is there, and nothing that belongs to the checkout only."""
    weights = [f'nasnet_zoo/weights/{path.name}' for path in (ROOT / 'nasnet_zoo' / 'weights').glob('*.safetensors')]
    genotypes = [f'nasnet_zoo/genotypes/{name}.json' for name in [*list_genotypes(), 'schema']]
    assert weights
    page = {f'nasnet_zoo/deploy/web_page/{name}' for name in ('classify.html', 'page.js', 'page.css', 'worker.js')}
    assert {*weights, *genotypes, *page, 'nasnet_zoo/py.typed'} <= set(names)
    assert not [name for name in names if not name.startswith(('nasnet_zoo/', f'nasnet_zoo-{__version__}.dist-info/'))]


def test_files_of_the_wheel():
    builder = pytest.importorskip('hatchling.builders.wheel', reason='lists the files of the wheel')
    wheel = builder.WheelBuilder(str(ROOT))
    check_files([file.distribution_path for file in wheel.recurse_included_files()])


def test_links_of_the_description():
    """PyPI shows README.md, too, but has none of the other files."""
    metadata = pytest.importorskip('hatchling.metadata.core', reason='makes the description')
    pytest.importorskip('hatch_fancy_pypi_readme', reason='makes the description')
    manager = importlib.import_module('hatchling.plugin.manager').PluginManager()
    description = metadata.ProjectMetadata(str(ROOT), manager).core.readme
    links = re.findall(r'\]\(([^)]*)\)', description)
    assert f'{REPOSITORY}/blob/main/CONTRIBUTING.md' in links and all(link.startswith('https://') for link in links)
    assert description.count('/raw.githubusercontent.com/') == 1, 'the picture'


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """The folder with the sdist, and the wheel that was built from it."""
    pytest.importorskip('hatchling', reason='builds the wheel')
    folder = tmp_path_factory.mktemp('dist')
    subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, ROOT], check=True,
                   capture_output=True)
    return folder


@pytest.mark.slow
def test_files_to_publish(built):
    wheel, = built.glob('*.whl')
    sdist, = built.glob('*.tar.gz')
    assert wheel.name == f'nasnet_zoo-{__version__}-py3-none-any.whl'
    assert sdist.name == f'nasnet_zoo-{__version__}.tar.gz'
    assert wheel.stat().st_size < 8e6 and sdist.stat().st_size < 8e6
    check_files(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as tar:
        names = {name.partition('/')[2] for name in tar.getnames()}
    assert {'CHANGELOG.md', 'CITATION.cff', 'Makefile', 'tests/conftest.py', '.github/workflows/test.yml'} <= names
    pytest.importorskip('twine', reason='checks what is uploaded')
    done = subprocess.run([sys.executable, '-m', 'twine', 'check', '--strict', wheel, sdist], capture_output=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_wheel(built, tmp_path):
    wheel, = built.glob('*.whl')

    env = tmp_path / 'smoke'
    venv.create(env, with_pip=True)
    python = env / 'bin' / 'python'
    site = next(env.glob('lib/python*/site-packages'))
    # The dependencies weigh gigabytes, so they are borrowed; a path in a .pth file brings no editable install along.
    (site / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n', encoding='utf-8')
    subprocess.run([python, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', wheel], check=True)
    variables = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    output = subprocess.check_output([python, '-c', SMOKE], cwd=tmp_path, text=True, env=variables)
    assert output.split() == [__version__, *list_genotypes()]
    command = [env / 'bin' / 'nasnet-zoo', 'describe', 'nasnet_c', '--json']
    assert b'"params"' in subprocess.check_output(command, cwd=tmp_path, env=variables)
    pytest.importorskip('optuna', reason='the demo is a search')
    command = [env / 'bin' / 'nasnet-zoo', 'demo', '--trials', '2', '--epochs', '6']
    subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True)
    assert {'cells.png', 'model.onnx', 'report.json'} <= {path.name for path in (tmp_path / 'demo').iterdir()}


def test_workflows_run_targets_of_the_makefile():
    workflows = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE))
    run = [command for path in workflows for command in re.findall(r'run: (.+)', path.read_text(encoding='utf-8'))]
    assert len(workflows) == 3 and len(run) > 5
    for command in run:
        assert re.match(r'make ([\w-]+)', command)[1] in targets, command


def test_version_and_repository_are_stated_once():
    """The other places that name them, which tools outside of Python read, agree with it."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
    assert project['project']['urls']['Repository'] == REPOSITORY
    for page in 'README.md', 'CONTRIBUTING.md':
        assert f'    git clone {REPOSITORY} && cd nasnet-zoo\n' in (ROOT / page).read_text(encoding='utf-8')
    citation = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert f'\nversion: {__version__}\n' in citation
    assert f'## [{__version__}]' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
