"""The paper's controller: an LSTM that makes the decisions of a search space one after the other."""
from typing import Optional, Sequence, Tuple

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ['Controller']


class Controller(nn.Module):
    """A policy over sequences of tokens: a one-layer LSTM that reads its previous choice, and a softmax per decision.

    The defaults are the paper's (appendix A.1): 100 hidden units, all weights uniform in [-0.1, 0.1].

    Args:
        sizes: The number of options of each decision.
        hidden: Number of units of the LSTM, and of the embedding of a choice.
        init_range: Largest absolute value of the initial weights.
    """

    def __init__(self, sizes: Sequence[int], hidden: int = 100, init_range: float = 0.1) -> None:
        super().__init__()
        sizes = torch.tensor(sizes)
        # the row of each decision's first option in the embedding
        self.register_buffer('first_rows', F.pad(sizes.cumsum(0), (1, -1)), persistent=False)
        self.register_buffer('no_option', torch.arange(int(sizes.max())) >= sizes[:, None], persistent=False)
        self.start = nn.Parameter(torch.empty(hidden))
        self.embedding = nn.Embedding(int(sizes.sum()), hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.weight = nn.Parameter(torch.empty(len(sizes), hidden, int(sizes.max())))
        self.bias = nn.Parameter(torch.empty(len(sizes), int(sizes.max())))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init_range, init_range)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities of all options, [B, decisions, options], given the choices before them.

        Args:
            tokens: The choices, int64 [B, decisions].
        """
        chosen = self.embedding(tokens[:, :-1] + self.first_rows[:-1])
        states, _ = self.lstm(torch.cat([self.start.expand(len(tokens), 1, -1), chosen], dim=1))
        scores = torch.einsum('bth,tho->bto', states, self.weight) + self.bias
        return scores.masked_fill(self.no_option, float('-inf')).log_softmax(-1)

    def allow(self, options: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return which options may be chosen, bool [1, decisions, options], given those of each decision."""
        allowed = torch.zeros_like(self.no_option)
        for row, tokens in zip(allowed, options):
            row[list(tokens)] = True
        return allowed[None]

    @torch.no_grad()
    def sample(
            self, uniforms: torch.Tensor, allowed: Optional[torch.Tensor] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return choices and their log-probabilities, both [B, decisions].

        Args:
            uniforms: Random numbers in [0, 1), [B, decisions]. Apart from rounding, the choices of a row depend on that
                row only.
            allowed: Which options may be chosen, bool [B or 1, decisions, options], see :meth:`allow`; all of them by
                default. The log-probabilities are those of the policy without this restriction, as in :meth:`forward`.
        """
        forbidden = self.no_option[None] if allowed is None else ~allowed | self.no_option
        last = torch.where(forbidden, -1, torch.arange(forbidden.shape[-1])).amax(-1)
        inputs, state, tokens = self.start.expand(len(uniforms), 1, -1), None, []
        log_probs = []
        for t in range(uniforms.shape[1]):
            output, state = self.lstm(inputs, state)
            scores = output[:, 0] @ self.weight[t] + self.bias[t]
            chances = scores.masked_fill(forbidden[:, t], float('-inf')).log_softmax(-1)
            # Rounding may leave the sum of the probabilities a little below 1; then the last option is chosen.
            beyond = (uniforms[:, t, None] >= chances.exp().cumsum(-1)).sum(-1)
            token = beyond.minimum(last[:, t])
            tokens.append(token)
            options_log_probs = scores.masked_fill(self.no_option[t], float('-inf')).log_softmax(-1)
            log_probs.append(options_log_probs.gather(-1, token[:, None])[:, 0])
            inputs = self.embedding(token + self.first_rows[t])[:, None]
        return torch.stack(tokens, dim=1), torch.stack(log_probs, dim=1)
