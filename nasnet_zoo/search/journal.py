"""Optuna's journal file, written with fewer system calls and repaired after a crash."""
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

__all__ = ['BatchedJournalStorage', 'truncate_incomplete_line']


class BatchedJournal(JournalFileBackend):
    """A journal file that can write many records at once.

    A trial has one record for each of its parameters, and Optuna calls fsync after each record. Inside :meth:`batch`
    the records are kept in memory and written together.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), JournalFileOpenLock(str(path)))
        self.path = path
        self._pending: Optional[List[Dict[str, Any]]] = None
        self._first_pending = 0  # the number of the first pending record
        self._write_failed = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Write the records that are appended inside when the block ends. No other process may write meanwhile."""
        self._pending, self._first_pending = [], -1
        try:
            yield
        finally:
            pending, self._pending = self._pending, None
            if pending:
                self.append_logs(pending)
                for _ in super().read_logs(self._first_pending):  # lets Optuna note the records' positions in the file
                    pass

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
            return super().read_logs(log_number_from)
        if self._first_pending < 0:
            self._first_pending = log_number_from
        return iter(self._pending[log_number_from - self._first_pending:])


class BatchedJournalStorage(JournalStorage):
    """Optuna's journal storage, with its journal as a public attribute."""

    def __init__(self, path: Path) -> None:
        self.journal = BatchedJournal(path)
        super().__init__(self.journal)


def truncate_incomplete_line(path: Path) -> None:
    """Remove an incomplete last line, as a killed process leaves it. The next record would continue it."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b'\n'):
        os.truncate(path, content.rfind(b'\n') + 1)
