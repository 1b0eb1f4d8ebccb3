"""Downloads from a server that is cut off, slow, or has something else."""
import hashlib
import threading

import pytest

from helpers.file_server import FileServer
from nasnet_zoo import downloads
from nasnet_zoo.downloads import DownloadError, download

BODY = bytes(range(256)) * 4000
HASH = hashlib.sha256(BODY).hexdigest()
PATH = '/models/net.tar.gz'


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, '_TIMEOUT', 0.3)
    monkeypatch.setattr(downloads, '_PAUSE', 0.)
    monkeypatch.setitem(downloads.SHA256, 'net.tar.gz', HASH)
    with FileServer() as server:
        server.files[PATH] = BODY
        yield server


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != '.lock')


@pytest.mark.parametrize('faults, ranges', [
    ([], [None]),
    (['cut'], [None, 'bytes=512000-']),
    (['slow'], [None, 'bytes=512000-']),
    (['cut', 'cut', 'cut'], [None, 'bytes=512000-', 'bytes=768000-', 'bytes=896000-']),
    (['cut', 'whole'], [None, 'bytes=512000-']),
    ([503, 429, 'cut'], [None, None, None, 'bytes=512000-']),
    (['long'], [None, 'bytes=1024000-']),
], ids=str)
def test_faults(server, tmp_path, faults, ranges):
    server.faults[PATH] = list(faults)
    path = download(server.url + PATH, tmp_path / 'cache')
    assert path.read_bytes() == BODY
    assert server.ranges == ranges and names(path.parent) == ['net.tar.gz']
    assert download(server.url + PATH, tmp_path / 'cache') == path
    assert len(server.requests) == len(ranges), 'the second one is from the cache'


def test_the_next_call_continues(server, tmp_path):
    server.faults[PATH] = ['cut'] + [500] * downloads._ATTEMPTS
    with pytest.raises(DownloadError, match='the download failed: HTTP Error 500.* 512,000 bytes have arrived'):
        download(server.url + PATH, tmp_path)
    assert names(tmp_path) == ['net.tar.gz.part']
    assert download(server.url + PATH, tmp_path).read_bytes() == BODY
    assert server.ranges[-1] == 'bytes=512000-'


def test_what_has_arrived_is_of_another_file(server, tmp_path):
    (tmp_path / 'net.tar.gz.part').write_bytes(BODY + b'more')
    assert download(server.url + PATH, tmp_path).read_bytes() == BODY
    (tmp_path / 'net.tar.gz').unlink()
    (tmp_path / 'net.tar.gz.part').write_bytes(b'wrong')
    with pytest.raises(DownloadError, match=f'is not the expected file: its SHA-256 is .* instead of {HASH}'):
        download(server.url + PATH, tmp_path)
    assert names(tmp_path) == []
    assert download(server.url + PATH, tmp_path).read_bytes() == BODY


def test_it_arrived_but_was_not_moved(server, tmp_path):
    (tmp_path / 'net.tar.gz.part').write_bytes(BODY)
    assert download(server.url + PATH, tmp_path).read_bytes() == BODY


def test_another_file(server, tmp_path):
    server.files[PATH] = b'<html>'
    with pytest.raises(DownloadError, match='is not the expected file'):
        download(server.url + PATH, tmp_path)
    with pytest.raises(DownloadError, match='none.tar.gz.*has no hash in its name'):
        download(server.url + '/none.tar.gz', tmp_path)
    with pytest.raises(DownloadError, match='HTTP Error 404'):
        download(server.url + f'/none-{HASH[:8]}.pth', tmp_path)
    assert server.requests.count(PATH) == 1 and names(tmp_path) == []


def test_no_server(server, tmp_path):
    with pytest.raises(DownloadError, match='the download failed: .*refused'):
        download(f'http://127.0.0.1:9/net-{HASH[:8]}.pth', tmp_path)


def test_an_unknown_hash_is_stored_and_printed(server, tmp_path, monkeypatch):
    monkeypatch.delitem(downloads.SHA256, 'net.tar.gz')
    opened = downloads._open
    monkeypatch.setattr(downloads, '_open', lambda url, begin: opened(url.replace('https://site', server.url), begin))
    with pytest.warns(UserWarning, match=f'{PATH}: the SHA-256 of this file is not known yet; it is {HASH}'):
        download('https://site' + PATH, tmp_path)
    assert (tmp_path / 'net.tar.gz.sha256').read_text(encoding='utf-8') == f'{HASH}  net.tar.gz\n'
    (tmp_path / 'net.tar.gz').unlink()
    server.files[PATH] = b'another file'
    with pytest.raises(DownloadError, match=f'is not the expected file: its SHA-256 is .* instead of {HASH}'):
        download('https://site' + PATH, tmp_path)


def test_https_does_not_lead_to_http(server, tmp_path, monkeypatch):
    opened = downloads.urllib.request.urlopen
    monkeypatch.setattr(downloads.urllib.request, 'urlopen', lambda request, timeout: opened(server.url + PATH))
    with pytest.raises(DownloadError, match='leads to plain HTTP'):
        download('https://site' + PATH, tmp_path)


def test_two_at_the_same_time(server, tmp_path):
    server.faults[PATH] = ['cut']
    found = []
    threads = [threading.Thread(target=lambda: found.append(download(server.url + PATH, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and found[0].read_bytes() == BODY
    assert len(server.requests) == 2
