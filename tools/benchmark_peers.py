"""Run the search algorithms of other packages on NAS-Bench-301: python tools/benchmark_peers.py --nb301 DIR --out FILE

The yardstick is that of tools/benchmark_search.py. Each algorithm has the settings that its package calls default.
Install the packages into an environment of their own, beside this one: pip install nni neural-pipeline-search
"""
import argparse
import logging
import random
import statistics
import time
import warnings
from collections import UserDict
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import numpy as np
from benchmark_search import Surrogate, Task, deviation
from rich.console import Console
from rich.table import Table

from nasnet_zoo.cli.common import exit_on_interrupt
from nasnet_zoo.files import write_json
from nasnet_zoo.search.space import Space, darts_space


class Enough(Exception):
    """Ends a search that has evaluated as many different cells as it may."""


class Yardstick:
    """Evaluates choices, and ends the search by raising :class:`Enough`.

    Args:
        space: Whose choices are evaluated.
        surrogate: Predicts the accuracy of a genotype.
        cells: Number of different cells that may be evaluated. Other choices for the same cell do not count.

    Attributes:
        known: The value of each different cell by its digest, in the order of evaluation.
    """

    def __init__(self, space: Space, surrogate: Surrogate, cells: int) -> None:
        self.space, self.surrogate, self.cells = space, surrogate, cells
        self.known: Dict[str, float] = {}
        self._asked = 0

    def __call__(self, choices: Mapping[str, str]) -> float:
        self._asked += 1
        if len(self.known) >= self.cells or self._asked > 20 * self.cells:
            raise Enough
        genotype = self.space.genotype(self.space.tokens(choices))
        digest = genotype.architecture_digest
        if digest not in self.known:
            self.known[digest] = self.surrogate(genotype)
        return self.known[digest]


def run_optuna(evaluate: Yardstick, seed: int) -> None:
    """Optuna's default sampler, TPE."""
    import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction='maximize', sampler=optuna.samplers.TPESampler(seed=seed))
    space = evaluate.space
    while True:
        trial = study.ask()
        study.tell(trial, evaluate(space.choices(space.suggest(trial))))


def run_nni(evaluate: Yardstick, seed: int) -> None:
    """The regularized evolution of NNI, in this process."""
    import nni
    from nni.nas.evaluator import FunctionalEvaluator
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.nn.pytorch import ModelSpace
    from nni.nas.space import RawFormatModelSpace
    from nni.nas.strategy import RegularizedEvolution
    logging.getLogger('nni').setLevel(logging.CRITICAL)  # it reports each model, and our way of ending the search

    class Cells(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            for name, options in evaluate.space.decisions:
                self.add_mutable(nni.choice(name, list(options)))

        def freeze(self, sample: Dict[str, Any]) -> Any:
            return UserDict(sample)  # the choices stand for the model; NNI keeps a weak reference to them

    space = RawFormatModelSpace(
        Cells(), FunctionalEvaluator(lambda choices: nni.report_final_result(evaluate(choices))))
    engine = SequentialExecutionEngine(max_model_count=20 * evaluate.cells)
    RegularizedEvolution(seed=seed)(space, engine)


def run_neps(evaluate: Yardstick, seed: int) -> None:
    """The regularized evolution of NePS, through its interface of asking and telling."""
    import neps
    from neps.optimizers.algorithms import neps_regularized_evolution
    random.seed(seed)  # NePS has no seed of its own
    np.random.seed(seed)
    decisions = {f'd{i}': decision for i, decision in enumerate(evaluate.space.decisions)}  # names as Python has them
    parameters = {name: neps.Categorical(decision.options) for name, decision in decisions.items()}
    optimizer = neps.AskAndTell(neps_regularized_evolution(type('Cells', (neps.PipelineSpace,), parameters)()))
    while True:
        trial = optimizer.ask()
        # A parameter's index is stored under a name such as SAMPLING__Resolvable.d3::categorical__7.
        chosen = {key.split('.')[1].split('::')[0]: index for key, index in trial.config.items()}
        value = evaluate({decision.name: decision.options[chosen[name]] for name, decision in decisions.items()})
        optimizer.tell(trial, -value)


PEERS: Dict[str, Callable[[Yardstick, int], None]] = {
    'optuna-tpe': run_optuna,
    'nni-evolution': run_nni,
    'neps-evolution': run_neps,
}


def search(name: str, seed: int, cells: int, surrogate: Surrogate) -> List[float]:
    """Return the values of the different cells that an algorithm evaluated, in order."""
    evaluate = Yardstick(darts_space(), surrogate, cells)
    try:
        PEERS[name](evaluate, seed)
    except Enough:
        pass
    return list(evaluate.known.values())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nb301', type=Path, required=True, help='folder that contains the surrogate')
    parser.add_argument('--peers', default=','.join(PEERS), help='comma-separated list (default: %(default)s)')
    parser.add_argument('--cells', type=int, default=500, help='number of different cells per seed (default: 500)')
    parser.add_argument('--seeds', type=int, default=10, help='number of seeds (default: 10)')
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write: peer, budget, best of each seed')
    return parser


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    unknown = [name for name in args.peers.split(',') if name not in PEERS]
    if unknown:
        parser.error(f'--peers: there is no {unknown[0]!r}; known: {", ".join(PEERS)}')
    warnings.simplefilter('ignore')  # other packages warn of the versions of their dependencies
    import torch
    torch.set_num_threads(1)
    try:
        surrogate = Surrogate(args.nb301)
    except ValueError as error:
        parser.error(str(error))
    best: Dict[str, Dict[str, List[float]]] = {}
    budgets = Task(args.nb301, trials=args.cells).budgets
    table = Table('algorithm', *(f'best of {budget}' for budget in budgets), 'seconds per search',
                  title='Mean ± standard deviation over seeds')
    for name in args.peers.split(','):
        started = time.perf_counter()
        found = [search(name, seed, args.cells, surrogate) for seed in range(args.seeds)]
        seconds = (time.perf_counter() - started) / args.seeds
        best[name] = {str(budget): [max(values[:budget]) for values in found] for budget in budgets}
        table.add_row(name, *(f'{statistics.mean(row):.4f} ± {deviation(row):.4f}'
                              for row in best[name].values()), f'{seconds:.0f}')
        write_json(args.out, best)
    Console().print(table)


if __name__ == '__main__':
    with exit_on_interrupt(lambda: 'the algorithms that were finished are in --out; the same command starts again'):
        main()
