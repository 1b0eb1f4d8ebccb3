"""Uses the public names of the search as users do. A strict type checker checks it; it is not run."""
from pathlib import Path
from typing import Any, Dict

import optuna

from nasnet_zoo import Genotype
from nasnet_zoo.search import (
    EvolutionSampler,
    PPOSampler,
    SearchConfig,
    Space,
    darts_space,
    nasnet_space,
    run_search,
)


def ask(study: optuna.Study) -> Genotype:
    space: Space = nasnet_space()
    genotype: Genotype = space.suggest(study.ask())
    for decision in space.decisions:
        print(decision.name, *decision.options)
    return genotype


def sample(seed: int) -> optuna.Study:
    space = darts_space()
    PPOSampler(space, seed=seed)
    return optuna.create_study(sampler=EvolutionSampler(space, seed=seed), direction='maximize')


def search(settings: Dict[str, Any], folder: Path) -> None:
    config = SearchConfig(**settings, out=folder)
    run_search(config)
