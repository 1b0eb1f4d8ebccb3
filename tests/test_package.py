"""The wheel, in an environment that has the dependencies but not this checkout."""
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

from helpers.paths import ROOT
from nasnet_zoo import __version__, list_genotypes

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


@pytest.mark.slow
def test_wheel(tmp_path):
    pytest.importorskip('hatchling', reason='builds the wheel')
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', tmp_path, ROOT],
                   check=True, capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    check_files(zipfile.ZipFile(wheel).namelist())

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
