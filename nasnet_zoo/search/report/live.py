"""Writes the report of a search again and again while the search runs."""
import threading
import time
from pathlib import Path
from typing import Callable, Optional, Type

from ...files import write_utf8

__all__ = ['LiveReport']

FIRST, INTERVAL = 2., 30.  # seconds before the first report, and at least between two reports
PART_OF_TIME = 0.02  # at most this part of the time is spent on reports, however many children there are


class LiveReport:
    """A thread that writes the report of a search while a block runs.

    The search does not wait for it, and an error in it does not end the search.

    Args:
        path: The page.
        render: Returns the page, given the state of the search, ``running`` or ``stopped``. Called in the thread.
        log: Called with a line for the user if the page cannot be written.
    """

    def __init__(self, path: Path, render: Callable[[str], str], log: Callable[[str], None]) -> None:
        self.path, self._render, self._log = path, render, log
        self._end = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name='report', daemon=True)

    def __enter__(self) -> 'LiveReport':
        self._thread.start()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], *_: object) -> None:
        """End the thread. If the block was left by an error, say on the page that the search was stopped."""
        self._end.set()
        self._thread.join()
        if kind is not None:
            self._write('stopped')

    def _run(self) -> None:
        pause = FIRST
        while not self._end.wait(pause):
            began = time.thread_time()
            self._write('running')
            pause = max(INTERVAL, (time.thread_time() - began) / PART_OF_TIME)

    def _write(self, state: str) -> None:
        try:
            write_utf8(self.path, self._render(state))
        except Exception as error:
            if not self._has_failed:
                self._log(f'{self.path} cannot be written ({type(error).__name__}: {error}); the search continues')
            self._has_failed = True
