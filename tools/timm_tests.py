"""Hold every named model, at full size, against timm's own tests: python tools/timm_tests.py [pytest options]

Takes tests/test_models.py from the source distribution of the timm that is installed, registers the zoo in it, lists it
among the modules with forward_intermediates, and runs what needs no download. Half an hour on a core.
"""
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import timm

import nasnet_zoo  # noqa: F401  registers the models

with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--no-binary', 'timm',
                    '--dest', folder, f'timm=={timm.__version__}'], check=True)
    archive, = Path(folder).glob('timm-*.tar.gz')
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter='data')
    tests = Path(folder, archive.name.removesuffix('.tar.gz'), 'tests')
    source = (tests / 'test_models.py').read_text(encoding='utf-8')
    for old, new in (('\nimport timm\n', '\nimport timm, nasnet_zoo\n'), ("'pnasnet', ", "'pnasnet', 'zoo', ")):
        assert source.count(old) == 1, f'this test_models.py is another than this tool knows: {old!r}'
        source = source.replace(old, new)
    (tests / 'test_models.py').write_text(source, encoding='utf-8')
    names = ' or '.join(  # as in [1-nasnet_a_large], [1-nasnet_a_large.tf_in1k] and [nasnet_a_large]
        f'{before}{name}{after}' for name in timm.list_models(module='zoo') for before in '-[' for after in '].')
    raise SystemExit(subprocess.call([
        sys.executable, '-m', 'pytest', 'test_models.py', '-q', '-p', 'no:cacheprovider', '-W', 'ignore',
        '-k', f'({names}) and not pretrained and not inference', *sys.argv[1:]], cwd=tests))
