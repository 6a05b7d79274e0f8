"""What is added to and taken from logits before a token is chosen: bias and penalties.

Depends on the row's own tokens only, so that a request that is moved or resumed, and whose answer so
far is then part of the prompt, is penalised as if nothing had happened. Knows nothing of text.
"""

from collections.abc import Sequence as Items

import numpy as np
import torch
from numpy.typing import NDArray

from mserve.runtime.engine.sequence import Sequence
from mserve.runtime.messages import Sampling


def penalize(logits: torch.Tensor, sequences: Items[Sequence]) -> None:
    """Changes logits [rows, vocab] in place, where a row's sampling asks for it.

    Bias is added first. The repetition penalty divides positive and multiplies negative logits of
    tokens seen in prompt or answer (Keskar et al., arXiv 1909.05858, section 4.1); the frequency
    penalty takes its value for each time a token stands in the answer, the presence penalty once.
    """
    for index, sequence in enumerate(sequences):
        sampling = sequence.sampling
        assert sampling is not None, f"{sequence.key} is sampled but generates nothing"
        if not _changes_logits(sampling):
            continue
        row = logits[index]
        if sampling.logit_bias:
            _add_bias(row, sampling)
        if sampling.repetition_penalty != 1.0:
            _penalize_repetition(row, sequence, sampling.repetition_penalty)
        if sampling.frequency_penalty or sampling.presence_penalty:
            _penalize_answer(row, sequence, sampling)


def _changes_logits(sampling: Sampling) -> bool:
    """For most requests not: on a GPU even to look at a row costs as much as deciding this."""
    penalized = sampling.frequency_penalty or sampling.presence_penalty
    return bool(sampling.logit_bias or penalized or sampling.repetition_penalty != 1.0)


def _add_bias(row: torch.Tensor, sampling: Sampling) -> None:
    known = [token for token in sampling.logit_bias if 0 <= token < len(row)]
    values = [sampling.logit_bias[token] for token in known]
    row[known] += torch.tensor(values, dtype=row.dtype, device=row.device)


def _penalize_repetition(row: torch.Tensor, sequence: Sequence, penalty: float) -> None:
    seen = _on_device(np.unique(np.asarray(sequence.tokens)), row)
    values = row[seen]
    row[seen] = torch.where(values > 0, values / penalty, values * penalty)


def _penalize_answer(row: torch.Tensor, sequence: Sequence, sampling: Sampling) -> None:
    begin = sequence.num_prompt - sampling.answered
    tokens, counts = np.unique(np.asarray(sequence.tokens[begin:]), return_counts=True)
    penalties = sampling.presence_penalty + sampling.frequency_penalty * counts
    row[_on_device(tokens, row)] -= _on_device(penalties, row).to(row.dtype)


def _on_device(values: NDArray[np.generic], row: torch.Tensor) -> torch.Tensor:
    if values.dtype == np.int32:
        values = values.astype(np.int64)
    return torch.from_numpy(values).to(row.device)
