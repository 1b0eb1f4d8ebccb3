"""Optuna's journal file, written with fewer system calls and repaired after a crash."""
import json
import mmap
import os
import warnings
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from .errors import SearchError

__all__ = ['BatchedJournalStorage', 'has_records', 'remove_damaged_end']

_MAX_FIRST_RECORD = 4096  # bytes; the first record creates the study
_REMEDY = ('restore the file from a backup, or remove this line and all lines after it, which loses the trials that '
           'they record')


class _NoLock:
    """Stands for the lock of Optuna's journal, which a killed process would leave behind for half a minute.

    The lock of the search folder ensures that only one process writes.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class BatchedJournal(JournalFileBackend):
    """A journal file that can write many records at once.

    A trial has one record for each of its parameters, and Optuna calls fsync after each record. Inside :meth:`batch`
    the records are kept in memory and written together.

    Meanwhile another program may append records that do not concern trials, such as a note that a user writes in
    Optuna's dashboard. The storage gets them after those of the batch, although they are before them in the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _NoLock())
        self.path = path
        self.line = 0  # the number of the last line that was read
        self._pending: Optional[List[Dict[str, Any]]] = None
        self._first_pending = 0  # the number of the first pending record
        self._late: List[Dict[str, Any]] = []  # records of other programs that the storage has not got yet
        self._write_failed = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write the records that are appended inside when the block ends."""
        self._pending, self._first_pending = [], -1
        try:
            yield
        finally:
            pending, self._pending = self._pending, None
            if pending:
                self.append_logs(pending)
                ours = {record['worker_id'] for record in pending}
                # This also lets Optuna note the records' positions in the file.
                self._late += [record for record in self._read_file(self._first_pending + len(self._late))
                               if record['worker_id'] not in ours]

    def append_logs(self, logs: List[Dict[str, Any]]) -> None:
        if self._pending is not None:
            self._pending += logs
            return
        if self._write_failed:
            raise OSError(f'{self.path}: an earlier write failed, so nothing more is written; restart with --resume')
        size = os.path.getsize(self.path)
        try:
            super().append_logs(logs)
        except OSError:  # for example a full disk: the next record would continue an incomplete line
            self._write_failed = True
            os.truncate(self.path, size)
            raise

    def read_logs(self, log_number_from: int) -> Iterable[Dict[str, Any]]:
        if self._pending is None:
            late, self._late = self._late, []
            return chain(late, self._read_file(log_number_from + len(late)))
        if self._first_pending < 0:
            self._first_pending = log_number_from
        return iter(self._pending[log_number_from - self._first_pending:])

    def _read_file(self, log_number_from: int) -> Iterator[Dict[str, Any]]:
        self.line = log_number_from
        try:
            for record in super().read_logs(log_number_from):
                self.line += 1
                yield record
        except ValueError as error:
            raise SearchError(
                f'{self.path}: line {_first_damaged_line(self.path)} is damaged ({error}); {_REMEDY}') from None


class BatchedJournalStorage(JournalStorage):
    """Optuna's journal storage, with its journal as a public attribute.

    Raises:
        SearchError: If a line of the journal is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.journal = BatchedJournal(path)
        try:
            super().__init__(self.journal)
        except (SearchError, OSError):
            raise
        except Exception as error:  # Optuna does not check records before it applies them
            raise SearchError(f'{path}: line {self.journal.line} is not a record of a search '
                              f'({type(error).__name__}: {error}); {_REMEDY}') from None


def _first_damaged_line(path: Path) -> int:
    """Return the number of the first line that is not a record. Optuna 4.0 reads all lines before it yields one."""
    with path.open('rb') as file:
        return next((number for number, line in enumerate(file, 1) if not _is_record(line)), 0)


def has_records(path: Path) -> bool:
    """Return whether the journal exists and its first record is complete."""
    if not path.exists():
        return False
    with path.open('rb') as file:
        return b'\n' in file.read(_MAX_FIRST_RECORD)


def remove_damaged_end(path: Path) -> None:
    """Remove what a crash leaves at the end of a journal: an incomplete line, or bytes that are not a record.

    Otherwise the next record would continue the line. Records are on disk before the next ones are written, so a crash
    can damage only those that were being written.

    Raises:
        SearchError: If the file has no records, although it is longer than the first one can be.

    Warns:
        UserWarning: If more than an incomplete line was removed.
    """
    size = path.stat().st_size if path.exists() else 0
    if not size:
        return
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = start = size
        while end:
            start = content.rfind(b'\n', 0, end - 1) + 1
            if _is_record(content[start:end]):
                break
            end = start
        is_one_line = b'\n' not in content[end:]
    if not end and (size > _MAX_FIRST_RECORD or not is_one_line):
        raise SearchError(
            f'{path}: has no records of a search; restore the file from a backup, or choose another --out')
    if end < size:
        os.truncate(path, end)
        if not is_one_line:
            warnings.warn(f'{path}: the last {size - end} bytes were not records of the search and were removed',
                          stacklevel=2)


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b'\n') and 'op_code' in json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return False
