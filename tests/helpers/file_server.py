"""A web server on loopback that gives files as the Hugging Face Hub and plain web servers do, with their faults."""
import hashlib
import http.server
import re
import threading
import time
from contextlib import suppress

__all__ = ['FileServer']


class FileServer:
    """A server, used as a context manager.

    Attributes:
        url: Its address.
        files: Contents by path.
        faults: For each path, what happens to the next requests, one after another; see `_Handler`.
        requests: The paths of all requests.
        ranges: The headers of the same name of all requests, None for those that had none.
    """

    def __init__(self):
        self.files, self.faults, self.requests, self.ranges = {}, {}, [], []

    def __enter__(self):
        handler = type('Handler', (_Handler,), {'site': self})
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}'
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Faults: ``cut`` (half of the answer, then the connection is closed), ``slow`` (half, then nothing), ``long`` (a
    byte less than was announced), ``whole`` (a range is ignored), and the number of a status."""
    site: FileServer

    def do_GET(self):
        body = self.site.files.get(self.path)
        faults = self.site.faults.get(self.path, [])
        fault = faults.pop(0) if faults and self.command == 'GET' else None
        match = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        begin = int(match[1]) if match and fault != 'whole' else 0
        status = 404 if body is None else fault if isinstance(fault, int) else 206 if begin else 200
        if body is not None and begin and begin >= len(body):
            status = 416
        self.send_response(status)
        if status == 404:
            self.send_header('X-Error-Code', 'EntryNotFound')
        if status == 416:
            self.send_header('Content-Range', f'bytes */{len(body)}')
        elif begin:
            self.send_header('Content-Range', f'bytes {begin}-{len(body) - 1}/{len(body)}')
        part = (body or b'')[begin:] if status in (200, 206) else b''
        self.send_header('Content-Length', str(len(part) + (fault == 'long')))
        self.send_header('ETag', f'"{hashlib.sha256(body or b"").hexdigest()}"')
        self.send_header('X-Repo-Commit', '0' * 40)
        self.end_headers()
        with suppress(ConnectionError):  # a client may have enough
            if self.command == 'GET':
                self.wfile.write(part[:len(part) // 2] if fault in ('cut', 'slow') else part)
            if fault == 'slow':
                self.wfile.flush()
                time.sleep(1)

    do_HEAD = do_GET

    def log_message(self, *args):
        self.site.requests.append(self.path)
        self.site.ranges.append(self.headers.get('Range'))
