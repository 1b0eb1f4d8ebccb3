"""The wheel, in an environment that has the dependencies but not this checkout."""
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


def test_wheel(tmp_path):
    pytest.importorskip('hatchling', reason='builds the wheel')
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', tmp_path, ROOT],
                   check=True, capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'nasnet_zoo/genotypes/{name}.json' for name in [*list_genotypes(), 'schema']} <= set(names)
    assert not [name for name in names if name.startswith(('tests', 'tools', 'genotypes'))]

    env = tmp_path / 'smoke'
    venv.create(env, with_pip=True)
    python = env / 'bin' / 'python'
    site = next(env.glob('lib/python*/site-packages'))
    # The dependencies weigh gigabytes, so they are borrowed; a path in a .pth file brings no editable install along.
    (site / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    subprocess.run([python, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', wheel], check=True)
    output = subprocess.check_output([python, '-c', SMOKE], cwd=tmp_path, text=True)
    assert output.split() == [__version__, *list_genotypes()]
    command = subprocess.check_output([env / 'bin' / 'nasnet-zoo', 'describe', 'nasnet_c', '--json'], cwd=tmp_path)
    assert b'"params"' in command
