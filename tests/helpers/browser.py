"""A real browser, the npm package onnxruntime-web, and a web server on loopback, for the tests of pages."""
import functools
import http.server
import shutil
import subprocess
import tarfile
import threading
from contextlib import contextmanager

import pytest
from filelock import FileLock

from nasnet_zoo.deploy.web import ORT_WEB_VERSION, RUNTIMES

from .paths import ROOT

CACHE = ROOT / '.cache'
FLAGS = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']  # a camera that shows a test pattern


@contextmanager
def open_browser():
    """Start headless Chromium. Without it, or without Playwright, the test is skipped."""
    sync_api = pytest.importorskip('playwright.sync_api', reason='Playwright drives the browser')
    with sync_api.sync_playwright() as playwright, launch(playwright.chromium) as browser:
        yield browser


@contextmanager
def launch(chromium, *flags):
    """Start headless Chromium with additional flags, by Playwright's object for it."""
    path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if path is None:
        pytest.skip('Chromium is not installed')
    browser = chromium.launch(executable_path=path, args=[*FLAGS, *flags])
    try:
        yield browser
    finally:
        browser.close()


def ort_web():
    """Return a folder with the files of onnxruntime-web, from a cache or from npm. Without npm, the test is skipped."""
    folder = CACHE / f'onnxruntime-web-{ORT_WEB_VERSION}'
    CACHE.mkdir(exist_ok=True)
    with FileLock(f'{folder}.lock'):
        if not folder.exists():
            _fetch(folder)
    return folder


def _fetch(folder):
    if shutil.which('npm') is None:
        pytest.skip('npm, which fetches onnxruntime-web, is not installed')
    part = folder.with_suffix('.part')
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    done = subprocess.run(['npm', 'pack', f'onnxruntime-web@{ORT_WEB_VERSION}'], cwd=part, capture_output=True,
                          encoding='utf-8', timeout=200)
    if done.returncode:
        pytest.skip(f'npm cannot fetch onnxruntime-web: {done.stderr.strip().splitlines()[-1:]}')
    archive, = part.glob('*.tgz')
    with tarfile.open(archive) as package:
        for file in (file for row in RUNTIMES.values() for file in row.values()):
            name = file.path.rpartition('/')[2]
            (part / name).write_bytes(package.extractfile(f'package/dist/{name}').read())
    archive.unlink()
    part.rename(folder)


class _Handler(http.server.SimpleHTTPRequestHandler):
    extra_headers = {}

    def end_headers(self):
        for name, value in self.extra_headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def serve(folder, **headers):
    """Serve a folder on loopback with additional headers. Yields the address, which ends in a slash."""
    handler = functools.partial(type('Handler', (_Handler,), dict(extra_headers=headers)), directory=folder)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}/'
    finally:
        server.shutdown()
        server.server_close()
