"""What several test files share."""
import importlib.util
from pathlib import Path

import pytest
import torch

# The layers under test are small: threads would spend their time waiting for each other and for the other workers.
torch.set_num_threads(1)


@pytest.fixture(scope='session')
def cadene():
    """Cadene's modules by name. The package's own ``__init__`` wants torchvision and more."""
    spec = importlib.util.find_spec('pretrainedmodels')
    if spec is None:
        pytest.skip('pretrainedmodels is not installed')

    def load(name):
        path = Path(spec.origin).parent / 'models' / f'{name}.py'
        module_spec = importlib.util.spec_from_file_location(f'cadene_{name}', path)
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    """The cache folder, an empty one, which processes that a test starts use too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('NASNET_ZOO_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield
