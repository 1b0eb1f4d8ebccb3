"""A Hugging Face Hub in memory, on this machine: what the ``huggingface_hub`` client needs to push and pull."""
import base64
import hashlib
import json
import posixpath
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import unquote

REPO = r'(?P<repo>(?:spaces/)?[\w-][\w.-]*/[\w-][\w.-]*)'  # the name of a Space begins with spaces/
API, REVISION = f'/api/(?:models/)?{REPO}', '(?P<revision>[^/]+)'
# Method, path, required access to the repository, method of HubServer. HEAD is handled like GET.
ROUTES = [(method, re.compile(path), access, handler) for method, path, access, handler in [
    ('POST', '/api/repos/create', None, 'create_repo'),
    ('POST', '/api/validate-yaml', None, 'validate_yaml'),
    ('POST', f'{API}/branch/(?P<branch>[^/]+)', 'write', 'create_branch'),
    ('POST', f'{API}/preupload/{REVISION}', 'write', 'preupload'),
    ('POST', f'/{REPO}\\.git/info/lfs/objects/batch', 'write', 'lfs_batch'),
    ('PUT', '/lfs/(?P<oid>[0-9a-f]{64})', None, 'lfs_upload'),
    ('POST', f'/{REPO}\\.git/info/lfs/objects/verify', 'write', 'lfs_verify'),
    ('POST', f'{API}/commit/{REVISION}', 'write', 'commit'),
    ('GET', f'{API}(/revision/{REVISION})?', 'read', 'info'),
    ('GET', f'{API}/tree/{REVISION}', 'read', 'tree'),
    ('GET', f'{API}/commits/{REVISION}', 'read', 'commits'),
    ('GET', f'/{REPO}/resolve/{REVISION}/(?P<path>.+)', 'read', 'resolve'),
]]


@dataclass
class Answer:
    """A response. A body of bytes is sent unchanged, any other as JSON. Without a status the connection is dropped."""
    body: Any = b''
    headers: Mapping[str, str] = field(default_factory=dict)
    status: Optional[int] = 200


class Refusal(Exception):
    """A request is refused. The client chooses its exception by the status and the code."""

    def __init__(self, status: int, message: str, code: str = '', **headers: str):
        super().__init__(message)
        headers = {'X-Error-Message': json.dumps(message)[1:-1], 'X-Error-Code': code, **headers}
        self.answer = Answer({'error': message}, {name: value for name, value in headers.items() if value}, status)


@dataclass
class Commit:
    """A commit with all files of the repository, not only the changed ones."""
    oid: str
    message: str
    files: Dict[str, bytes]


@dataclass
class Repo:
    """A repository. Each branch lists its commits, the oldest first."""
    name: str
    private: bool
    branches: Dict[str, List[Commit]]

    def history(self, revision: str) -> List[Commit]:
        """Return the commits up to the end of a branch, or up to the commit with this full oid."""
        found = {h[i].oid: h[:i + 1] for h in self.branches.values() for i in range(len(h))}
        found.update(self.branches)
        if revision not in found:
            raise Refusal(404, f'Invalid rev id: {revision}', 'RevisionNotFound')
        return found[revision]


def inside(path: str) -> str:
    """Return `path` if it is a plain path inside the repository."""
    if posixpath.normpath(f'root/{path}') != f'root/{path}' or '\\' in path or '\0' in path:
        raise Refusal(400, f'Invalid path: {path}')
    return path


class HubServer:
    """A hub, used as a context manager. ``endpoint`` is its address; ``tokens`` maps access tokens to users.

    ``requests`` lists (method, path, status) of all requests; the status is None if the connection was dropped.
    ``uploads`` counts the large files that were uploaded.
    """

    def __init__(self, tokens: Optional[Mapping[str, str]] = None, lfs_threshold: int = 1_000_000):
        self.tokens = dict(tokens or {})
        self.lfs_threshold = lfs_threshold
        self.repos: Dict[str, Repo] = {}
        self.store: Dict[str, bytes] = {}
        self.requests: List[Tuple[str, str, Optional[int]]] = []
        self.uploads = 0
        # Large files are uploaded to signed addresses, without a token, after their oid and size were agreed on.
        self._granted: Dict[str, int] = {}
        self._failures: List[Tuple[str, str, Optional[int], bool]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> 'HubServer':
        self._server = _Server(('127.0.0.1', 0), type('Handler', (_Handler,), {'hub': self}))
        self.endpoint = f'http://127.0.0.1:{self._server.server_port}'
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, method: str, pattern: str, status: Optional[int] = 503, times: int = 1, late: bool = False) -> None:
        """Answer the next ``times`` requests whose path matches ``pattern`` with ``status`` and no body.

        None drops the connection in the middle of the body. With ``late`` the request is carried out and only the
        response is lost.
        """
        with self._lock:
            self._failures += [(method, pattern, status, late)] * times

    def put(self, repo_id: str, files: Mapping[str, bytes], private: bool = False, revision: str = 'main') -> Commit:
        """Commit exactly these files. Repository and branch are created if necessary."""
        with self._lock:
            repo = self.repos.get(repo_id) or self._new_repo(repo_id, private)
            repo.private = private
            repo.branches.setdefault(revision, list(repo.branches['main']))
            self.store.update((hashlib.sha256(data).hexdigest(), data) for data in files.values())
            return self._add_commit(repo, revision, 'Put', files)

    def injected(self, method: str, path: str) -> Optional[Tuple[Optional[int], bool]]:
        """Return status and lateness of the failure that was requested for this request, or None."""
        with self._lock:
            for failure in self._failures:
                if failure[0] == method and re.search(failure[1], path):
                    self._failures.remove(failure)
                    return failure[2:]
        return None

    def answer(self, method: str, path: str, token: Optional[str], body: bytes) -> Answer:
        """Return the response to a request. Requests are handled one at a time."""
        try:
            with self._lock:
                if token is not None and token not in self.tokens:
                    raise Refusal(401, 'Invalid credentials in Authorization header')
                user = self.tokens.get(token) if token is not None else None
                for verb, pattern, access, handler in ROUTES:
                    match = pattern.fullmatch(path)
                    if match and verb == method:
                        params = {name: unquote(value) for name, value in match.groupdict('main').items()}
                        if access:
                            params['repo'] = self._allowed(params['repo'], user, access)
                        return getattr(self, handler)(body=body, user=user, **params)
                raise Refusal(404, f'No such endpoint: {method} {path}')
        except Refusal as refusal:
            return refusal.answer
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Refusal(400, f'Malformed request: {error!r}').answer

    def create_repo(self, body: bytes, user: Optional[str]) -> Answer:
        payload = json.loads(body)
        if user is None:
            raise Refusal(401, 'Invalid username or password.')
        repo_id = f'{payload.get("organization") or user}/{payload["name"]}'
        if repo_id.split('/')[0] != user:
            raise Refusal(403, f"You don't have the rights to create {repo_id}")
        kind = payload.get('type', 'model')
        if kind not in ('model', 'space') or not re.fullmatch(REPO, repo_id):
            raise Refusal(400, f'Not a model or a Space: {repo_id}')
        if kind == 'space':
            if payload.get('sdk') != 'static':
                raise Refusal(400, f'Not an SDK of this hub: {payload.get("sdk")}')
            repo_id = f'spaces/{repo_id}'
        url = f'{self.endpoint}/{repo_id}'
        if repo_id in self.repos:
            return Answer({'error': 'You already created this model repo', 'url': url}, status=409)
        self._new_repo(repo_id, payload.get('visibility') == 'private' or bool(payload.get('private')))
        return Answer({'url': url})

    def validate_yaml(self, body: bytes, **_: Any) -> Answer:
        """Warn if there is no metadata. It is not parsed."""
        found = re.match(r'---\r?\n.*?\n---', json.loads(body)['content'], re.DOTALL)
        warnings = [] if found else [{'message': 'empty or missing yaml metadata in repo card'}]
        return Answer({'errors': [], 'warnings': warnings})

    def create_branch(self, body: bytes, repo: Repo, branch: str, **_: Any) -> Answer:
        if branch in repo.branches:
            raise Refusal(409, f'Reference already exists: refs/heads/{branch}')
        if branch.startswith('refs/') or not re.fullmatch(r'[\w./-]+', branch):
            raise Refusal(400, f'Invalid branch: {branch}')
        repo.branches[branch] = list(repo.history(json.loads(body).get('startingPoint', 'main')))
        return Answer({})

    def preupload(self, body: bytes, repo: Repo, revision: str, **_: Any) -> Answer:
        old, files = repo.history(revision)[-1].files, []
        for path, size in [(file['path'], file['size']) for file in json.loads(body)['files']]:
            mode = 'lfs' if self._is_lfs(path, size) else 'regular'
            oid = {'oid': self._oid(path, old[path])} if path in old else {}
            files.append({'path': path, 'uploadMode': mode, 'shouldIgnore': False, **oid})
        return Answer({'files': files})

    def lfs_batch(self, body: bytes, repo: Repo, **_: Any) -> Answer:
        objects = [{'oid': item['oid'], 'size': item['size']} for item in json.loads(body)['objects']]
        for item in objects:
            if item['oid'] not in self.store:
                self._granted[item['oid']] = item['size']
                verify = f'{self.endpoint}/{repo.name}.git/info/lfs/objects/verify'
                item['actions'] = {'upload': {'href': f'{self.endpoint}/lfs/{item["oid"]}'}, 'verify': {'href': verify}}
        return Answer({'transfer': 'basic', 'objects': objects})

    def lfs_upload(self, body: bytes, oid: str, **_: Any) -> Answer:
        if oid not in self._granted:
            raise Refusal(403, 'This upload was not asked for')
        if len(body) != self._granted[oid] or hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(422, f'The content is not that of {oid}')
        self.store[oid] = body
        self.uploads += 1
        return Answer()

    def lfs_verify(self, body: bytes, **_: Any) -> Answer:
        self._stored(json.loads(body))
        return Answer({})

    def commit(self, body: bytes, repo: Repo, revision: str, **_: Any) -> Answer:
        """Carry out all operations or none, on a copy of the files that becomes a commit after the last one."""
        if revision not in repo.branches:
            raise Refusal(404, f'Invalid rev id: {revision}', 'RevisionNotFound')
        lines = [json.loads(line) for line in body.splitlines()]
        (header, info), *operations = [(line['key'], line['value']) for line in lines]
        head = repo.branches[revision][-1]
        if header != 'header':
            raise Refusal(400, 'The first line is not a header')
        if info.get('parentCommit', head.oid) != head.oid:
            raise Refusal(412, 'A commit has happened since. Please refresh and try again.')
        files = dict(head.files)
        for key, value in operations:
            path = inside(value['path'].rstrip('/'))
            if key == 'file':
                files[path] = base64.b64decode(value['content'], validate=True)
            elif key == 'lfsFile':
                files[path] = self._stored(value)
            elif key in ('deletedFile', 'deletedFolder'):
                kept = {name: data for name, data in files.items() if not f'{name}/'.startswith(f'{path}/')}
                if len(kept) == len(files):
                    raise Refusal(404, "A file with this name doesn't exist", 'EntryNotFound')
                files = kept
            else:
                raise Refusal(400, f'Unknown operation: {key}')
        oid = self._add_commit(repo, revision, info['summary'], files).oid
        return Answer({'commitOid': oid, 'commitUrl': f'{self.endpoint}/{repo.name}/commit/{oid}'})

    def info(self, repo: Repo, revision: str, **_: Any) -> Answer:
        commit = repo.history(revision)[-1]
        siblings = [{'rfilename': path} for path in sorted(commit.files)]
        return Answer({'id': repo.name, 'sha': commit.oid, 'private': repo.private, 'tags': [], 'siblings': siblings})

    def tree(self, repo: Repo, revision: str, **_: Any) -> Answer:
        """Return all files, as for ``recursive=True``, without folders."""
        files = sorted(repo.history(revision)[-1].files.items())
        return Answer([{'type': 'file', 'path': p, 'oid': self._oid(p, data), 'size': len(data)} for p, data in files])

    def commits(self, repo: Repo, revision: str, **_: Any) -> Answer:
        common = {'message': '', 'authors': [], 'date': '2024-01-01T00:00:00.000Z'}
        return Answer([{'id': c.oid, 'title': c.message, **common} for c in reversed(repo.history(revision))])

    def resolve(self, repo: Repo, revision: str, path: str, **_: Any) -> Answer:
        commit = repo.history(revision)[-1]
        data = commit.files.get(inside(path))
        if data is None:
            raise Refusal(404, 'Entry not found', 'EntryNotFound', **{'X-Repo-Commit': commit.oid})
        etag = f'"{self._oid(path, data)}"'
        linked = {'X-Linked-Etag': etag, 'X-Linked-Size': str(len(data))} if self._is_lfs(path, len(data)) else {}
        return Answer(data, {'X-Repo-Commit': commit.oid, 'ETag': etag, **linked})

    def _allowed(self, repo_id: str, user: Optional[str], access: str) -> Repo:
        repo, owner = self.repos.get(repo_id), repo_id.split('/')[-2]
        # Without a token, a private repository looks like one that does not exist. The client takes a bare 401 for
        # "not found" at https:// addresses only; the code makes it the same exception here.
        if user is None and (access == 'write' or repo is None or repo.private):
            raise Refusal(401, 'Invalid username or password.', 'RepoNotFound')
        if repo is None or repo.private and user != owner:
            raise Refusal(404, 'Repository not found', 'RepoNotFound')
        if access == 'write' and user != owner:
            raise Refusal(403, f'You do not have write access to {repo_id}')
        return repo

    def _new_repo(self, repo_id: str, private: bool) -> Repo:
        self.repos[repo_id] = repo = Repo(repo_id, private, {'main': []})
        self._add_commit(repo, 'main', 'initial commit', {'.gitattributes': b'*.safetensors filter=lfs -text\n'})
        return repo

    def _add_commit(self, repo: Repo, branch: str, message: str, files: Mapping[str, bytes]) -> Commit:
        history = repo.branches[branch]
        listing = sorted((path, self._oid(path, data)) for path, data in files.items())
        oid = hashlib.sha1(repr((repo.name, [c.oid for c in history], message, listing)).encode()).hexdigest()
        history.append(Commit(oid, message, dict(files)))
        return history[-1]

    def _stored(self, item: Mapping[str, Any]) -> bytes:
        if len(self.store.get(item['oid'], b'')) != item['size']:
            raise Refusal(422, f'There is no object {item["oid"]} of {item["size"]} bytes')
        return self.store[item['oid']]

    def _is_lfs(self, path: str, size: int) -> bool:
        """Return whether a file is uploaded by LFS. The client always commits empty files directly."""
        return size > self.lfs_threshold or size > 0 and path.endswith(('.safetensors', '.onnx', '.png'))

    def _oid(self, path: str, data: bytes) -> str:
        """Return what the client compares its file with: SHA-256 of an LFS file, git's blob hash of any other."""
        if self._is_lfs(path, len(data)):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # the client transfers several files at once, and waits a second after an overflow


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: each response closes its connection, so nothing is served after the hub is closed."""
    hub: HubServer

    def _serve(self) -> None:
        path, length = self.path.partition('?')[0], int(self.headers.get('Content-Length', 0))
        failure = self.hub.injected(self.command, path)
        body = self.rfile.read(length // 2 if failure == (None, False) else length)
        answer = Answer(status=failure[0] if failure else None)
        if len(body) == length and (failure is None or failure[1]):  # a client that disconnected has no effect
            scheme, _, token = self.headers.get('Authorization', '').partition(' ')
            verb = 'GET' if self.command == 'HEAD' else self.command
            result = self.hub.answer(verb, path, token if scheme else None, body)
            answer = answer if failure else result
        self.hub.requests.append((self.command, path, answer.status))
        if answer.status is None:
            return
        binary = isinstance(answer.body, bytes)
        data = answer.body if binary else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header('Content-Type', 'application/octet-stream' if binary else 'application/json')
        self.send_header('Content-Length', str(len(data)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def log_message(self, *args: Any) -> None:
        pass
