"""The paper's controller as an Optuna sampler."""
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ..ppo import Learner, Sample
from ..ppo_settings import PRESETS, PPOSettings
from ..reward_model import Candidates, Proposal, RewardModel
from ..space import Space
from .base import MAX_DRAWS, FinishedTrial, Options, Reward, SpaceSampler, Tokens

__all__ = ['PPOSampler', 'build_ppo']


class PPOSampler(SpaceSampler):
    """The paper's controller, updated by PPO after each batch of finished trials.

    With the preset ``model``, the controller also learns from children that it only imagines, whose rewards a Gaussian
    process predicts from the finished ones; and of many children that the controller draws, the one of the best
    prediction is proposed. Until there are enough finished trials, this preset is the same as ``fast``.

    When a study is resumed, its trials are given to a new controller in the order in which they finished. The result is
    the same policy, to the last bit: initial weights, batches and draws are functions of the seed and of the numbers of
    trials and updates.

    Args:
        space: The search space.
        preset: A name in :data:`~nasnet_zoo.search.ppo_settings.PRESETS`, ``model``, ``fast`` or ``paper``, or other
            settings.
        seed: The seed; a random one by default.
        reward: See :class:`~nasnet_zoo.search.samplers.base.SpaceSampler`.
    """

    def __init__(
            self,
            space: Space,
            preset: Union[str, PPOSettings] = 'model',
            seed: Optional[int] = None,
            reward: Reward = None,
    ) -> None:
        super().__init__(space, seed, reward)
        if isinstance(preset, str) and preset not in PRESETS:
            raise ValueError(f'preset: unknown preset {preset!r}; known: {", ".join(PRESETS)}')
        self.ppo = PRESETS[preset] if isinstance(preset, str) else preset

    @property
    def settings(self) -> Dict[str, Any]:
        return {**super().settings, **self.ppo._asdict(), 'model': self.ppo.model and self.ppo.model._asdict()}

    @property
    def learner(self) -> Learner:
        """The controller and its diagnostics. They exist once the sampler was asked for a trial of a study."""
        return self._learner

    def start(self) -> None:
        self._learner = Learner(self.space.sizes, self.ppo, self._seed)
        self._model = self.ppo.model and RewardModel(self.space, self.ppo.model)
        self._new_diagnostics: Dict[str, Any] = {}  # of the last update, to be stored with the next trial
        self._drawn: Dict[int, Tuple[List[int], List[float]]] = {}  # by the current policy, for each trial number
        self._candidates: Optional[Tuple[Options, Candidates]] = None  # of the current policy

    def learn(self, child: FinishedTrial) -> None:
        log_probs = child.notes.get('log_probs') or self.learner.log_probs(child.tokens)
        if not self.learner.tell(Sample(child.tokens, log_probs, child.reward)):
            return
        self._drawn.clear()
        self._candidates = None
        self._new_diagnostics = dict(diagnostics=self.learner.diagnostics)
        if self._model:
            self._model.fit(self.learner.samples)
            if self._model.is_ready:
                self.learner.imagine(self._model.predict, self.ppo.model.updates, self.ppo.model.batch)

    def propose(self, number: int, options: Options) -> Tuple[Tokens, Dict[str, Any]]:
        notes, self._new_diagnostics = dict(self._new_diagnostics, update=self.learner.updates), {}
        proposal = self._choose(options)
        if proposal is not None:
            return proposal.tokens, dict(notes, log_probs=proposal.log_probs, predicted=proposal.predicted)
        tokens, log_probs = self._draw_new(number, options)
        return tuple(tokens), dict(notes, log_probs=log_probs)

    def _choose(self, options: Options) -> Optional[Proposal]:
        """Return the candidate of the best prediction, if there are predictions."""
        if not self._model or not self._model.is_ready:
            return None
        if self._candidates is None or self._candidates[0] != options:
            rng = np.random.default_rng([self._seed, self.learner.updates, 0, 2])
            controller = self.learner.controller
            self._candidates = options, self._model.candidates(controller, controller.allow(options), rng)
        pending = [tokens for _, tokens in sorted(self._history.pending.items())]
        return self._model.choose(self._candidates[1], self.learner.samples, pending, self._history.proposed)

    def _draw_new(self, number: int, options: Options) -> Tuple[List[int], List[float]]:
        """Return what the controller draws and, if the settings say so, again until it was not proposed before."""
        tokens, log_probs = self._first_draw(number, options)
        if self.ppo.novel and tuple(tokens) in self._history.proposed:
            draws = self._draw([(number, attempt) for attempt in range(1, MAX_DRAWS)], options)
            new = (draw for draw in draws if tuple(draw[0]) not in self._history.proposed)
            tokens, log_probs = next(new, draws[-1])
        return tokens, log_probs

    def _first_draw(self, number: int, options: Options) -> Tuple[List[int], List[float]]:
        if any(len(allowed) < size for allowed, size in zip(options, self.space.sizes)):
            return self._draw([(number, 0)], options)[0]
        if number not in self._drawn:
            # A batch is drawn at once, which costs little more than one draw. The numbers of a batch are always the
            # same, because the last bit of the log-probabilities depends on the other rows.
            first = number // self.ppo.batch * self.ppo.batch
            numbers = range(first, first + self.ppo.batch)
            self._drawn.update(zip(numbers, self._draw([(n, 0) for n in numbers], options)))
        return self._drawn[number]

    def _draw(self, keys: Sequence[Tuple[int, int]], options: Options) -> List[Tuple[List[int], List[float]]]:
        """Return tokens and log-probabilities for each pair of trial number and attempt."""
        uniforms = np.stack([np.random.default_rng([self._seed, *key]).random(len(self.space.sizes)) for key in keys])
        controller = self.learner.controller
        tokens, log_probs = controller.sample(torch.from_numpy(uniforms).float(), controller.allow(options))
        return list(zip(tokens.tolist(), log_probs.tolist()))


def build_ppo(space: Space, seed: int, preset: str, trials: int, reward: Reward) -> PPOSampler:
    """Return the sampler of a search, see :data:`~nasnet_zoo.search.samplers.SAMPLERS`."""
    return PPOSampler(space, preset, seed, reward)
