"""Evaluators for tests of the search, for processes that import them by name."""
import os
import time
from pathlib import Path

from nasnet_zoo.search.evaluator import ChildError, Evaluation


class Noted:
    """A made-up accuracy; writes each architecture that it has evaluated into a file.

    Args:
        log: The file.
        seconds: That a child takes.
        fails, dies, faults: First digits of the architectures that give no accuracy, that take their process along,
            and that show a mistake of ours.
    """

    def __init__(self, log, seconds=0., fails='', dies='', faults=''):
        self.log, self.seconds, self.fails, self.dies, self.faults = Path(log), seconds, fails, dies, faults

    def __call__(self):  # made by itself in a worker's process
        return self.evaluate

    def evaluate(self, genotype, report=None):
        architecture = genotype.architecture_digest
        time.sleep(self.seconds)
        if architecture[0] in self.dies:
            os._exit(1)
        if architecture[0] in self.faults:
            raise KeyError('a mistake of ours')
        with self.log.open('a') as file:
            file.write(architecture + '\n')
        if architecture[0] in self.fails:
            raise ChildError('was not good')
        return Evaluation(int(architecture[:4], 16) / 65536, 10, 20, self.seconds)

    def noted(self):
        return self.log.read_text().split() if self.log.exists() else []
