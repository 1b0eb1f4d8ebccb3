"""Evaluators for tests of the search, for processes that import them by name."""
import os
import time
from pathlib import Path

import torch

from nasnet_zoo.search.errors import ChildError, Pruned
from nasnet_zoo.search.evaluator import Evaluation


class Noted:
    """A made-up accuracy; writes each architecture that it has evaluated into a file.

    Args:
        log: The file.
        seconds: How long a child takes.
        fails, dies, faults: First digits of the architectures that have no accuracy, that end their process, and that
            raise an unexpected error.
        epochs: Epochs of a child; after each but the last it may be pruned.
    """

    def __init__(self, log, seconds=0., fails='', dies='', faults='', epochs=1):
        self.log, self.seconds, self.fails, self.dies, self.faults = Path(log), seconds, fails, dies, faults
        self.epochs = epochs

    def __call__(self):  # made by itself in a worker's process
        return self.evaluate

    def evaluate(self, genotype, should_prune=None):
        architecture = genotype.architecture_digest
        with self.log.with_suffix('.begun').open('a', encoding='utf-8') as file:
            file.write(f'{architecture} {os.getppid()}\n')
        time.sleep(self.seconds)
        if architecture[0] in self.dies:
            os._exit(1)
        if architecture[0] in self.faults:
            raise KeyError('a mistake of ours')
        accuracy = int(architecture[:4], 16) / 65536
        for epoch in range(1, self.epochs):
            if should_prune and should_prune(epoch, accuracy * epoch / self.epochs):
                raise Pruned(f'pruned after epoch {epoch}')
        with self.log.open('a', encoding='utf-8') as file:
            file.write(architecture + '\n')
        if architecture[0] in self.fails:
            raise ChildError('was not good')
        return Evaluation(accuracy, accuracy, 10, 20, self.seconds)

    def noted(self):
        return self.log.read_text(encoding='utf-8').split() if self.log.exists() else []

    def begun(self):
        """Architecture of each child that was begun, and the parent of its process, which on Ray is the node."""
        path = self.log.with_suffix('.begun')
        return [line.split() for line in path.read_text(encoding='utf-8').splitlines()] if path.exists() else []


class Surroundings:
    """An evaluator that returns what its process saw when it was made: the visible GPUs, and whether CUDA was in use.

    A child that is the word 'die' ends the process.
    """

    def __call__(self):
        seen = os.environ.get('CUDA_VISIBLE_DEVICES'), torch.cuda.is_initialized()

        def evaluate(genotype, should_prune=None):
            if genotype == 'die':
                os._exit(1)
            return seen
        return evaluate
