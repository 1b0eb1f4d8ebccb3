"""The hub on loopback."""
import time
import types

import huggingface_hub
import pytest

from helpers.hub_server import HubServer


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub with a user, whose token the client has; no waiting between the client's tries."""
    with HubServer(tokens={'secret': 'someone', 'other': 'other'}) as server:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, 'ENDPOINT', server.endpoint)
        for module in constants, huggingface_hub.file_download:  # the latter had a copy before 1.0
            monkeypatch.setattr(module, 'HUGGINGFACE_CO_URL_TEMPLATE',
                                server.endpoint + '/{repo_id}/resolve/{revision}/{filename}', raising=False)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
        monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
        monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'no-token'))
        monkeypatch.setenv('HF_TOKEN', 'secret')
        monkeypatch.setattr(huggingface_hub.utils._http, 'time', types.SimpleNamespace(
            **{**vars(time), 'sleep': lambda seconds: None}))
        yield server
