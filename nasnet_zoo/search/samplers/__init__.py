"""Samplers that propose children. Each is an Optuna sampler; Optuna is imported when one is made."""
from typing import Dict

from ..table import Entry

__all__ = ['SAMPLERS']

# The functions take (space, seed, preset, trials, reward):
#   space    the search space
#   seed     the seed of the search
#   preset   the name of PPO's settings
#   trials   the number of trials that the study has already. Optuna's own samplers start with fresh random numbers in
#            each process, so this is a part of their seed; ours replay the trials and continue by themselves
#   reward   computes the number to maximise from a finished trial; needed for several objectives
SAMPLERS: Dict[str, Entry] = {
    'gp': Entry('Bayesian optimization with a Gaussian process', 'samplers.gp:build_gp'),
    'ppo': Entry("the paper's controller, an LSTM trained by PPO", 'samplers.ppo:build_ppo'),
    'evolution': Entry('regularized evolution', 'samplers.evolution:build_evolution'),
    'local': Entry('hill climbing with restarts', 'samplers.local:build_local'),
    'random': Entry("Optuna's random search", 'samplers.from_optuna:build_random'),
    'tpe': Entry("Optuna's tree-structured Parzen estimator", 'samplers.from_optuna:build_tpe'),
    'nsga2': Entry("Optuna's NSGA-II", 'samplers.from_optuna:build_nsga2'),
}
