"""Losses as modules for the sentence-transformers trainer: its own where it has them, ours where it has not.

Read `make_loss`. Ours run on its gradient caching and its gather with gradient; their arithmetic is in
`objectives/contrastive.py`.
"""

# B = queries of this process, N = candidates of all processes, M = queries of all processes, D = vector width

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util.distributed import all_gather, all_gather_with_grad, get_rank, get_world_size
from torch import Tensor

from diffembed.errors import ConfigError
from diffembed.objectives.contrastive import TextKeys, explicit_negatives_loss, false_negatives, info_nce, scores_of
from diffembed.training.config import LossConfig

TEXT_KEY, QUERY_KEY = "text_key", "query_key"
"""Features: int64 hash of each text, in every column; and of each query with its instruction, in the first."""
LOSS_ROWS = 1024
"""Rows of the score matrix that sentence-transformers' cached loss holds at a time."""


def make_loss(model: Any, config: LossConfig, mini_batch_tokens: int | None) -> torch.nn.Module:
    """The loss of a config over columns query, positive, negative_1, ...

    mini_batch_tokens: GradCache's token budget; None holds all activations.
    Raises ConfigError for Matryoshka widths without the full one, or beyond it.
    """
    loss: torch.nn.Module
    if config.kind == "explicit":
        loss = ExplicitNegativesLoss(model, config, mini_batch_tokens)
    elif _needs_masks(config):
        loss = MaskedRankingLoss(model, config, mini_batch_tokens)
    else:
        settings: dict[str, Any] = {
            "scale": 1 / config.temperature,
            "similarity_fct": partial(scores_of, similarity=config.similarity),
            "gather_across_devices": config.gathers_across_devices and get_world_size() > 1,
            "directions": ("query_to_doc", "query_to_query") if config.uses_query_negatives else ("query_to_doc",),
        }
        if mini_batch_tokens is None:
            loss = MultipleNegativesRankingLoss(model, **settings)
        else:
            loss = CachedMultipleNegativesRankingLoss(
                model, mini_batch_size=LOSS_ROWS, mini_batch_num_tokens=mini_batch_tokens, **settings
            )
    if config.matryoshka_dims:
        full = model.get_embedding_dimension()
        if max(config.matryoshka_dims) != full:
            raise ConfigError(
                f"matryoshka_dims {config.matryoshka_dims} must have the full width, {full}, as the largest"
            )
        share = 1 / len(config.matryoshka_dims)
        loss = MatryoshkaLoss(model, loss, config.matryoshka_dims, [share] * len(config.matryoshka_dims))
    return loss


def _needs_masks(config: LossConfig) -> bool:
    # Every row of simcse equals its own positive: dropping same texts would leave nothing but that positive's copy.
    return config.kind == "in_batch" and (config.drops_same_texts or config.false_negative_margin is not None)


class _VectorLoss(CachedLossMixin, torch.nn.Module):
    """A loss on the vectors of all columns, with or without gradient caching."""

    def __init__(self, model: Any, config: LossConfig, mini_batch_tokens: int | None) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.mini_batch_size = LOSS_ROWS
        self.mini_batch_num_tokens = mini_batch_tokens
        self.uses_gradient_cache = mini_batch_tokens is not None
        self._text_keys: list[Tensor] = []
        self._query_key_B = torch.empty(0)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Scalar loss of one batch; `labels` is not used: the positive is the second column."""
        columns = list(sentence_features)
        # GradCache hands on vectors only; what else the loss reads of the batch waits here.
        self._text_keys = [column[TEXT_KEY] for column in columns]
        self._query_key_B = columns[0][QUERY_KEY]
        if self.uses_gradient_cache:
            return self.forward_cached(columns, labels)
        return self.loss_of([self.model(column)["sentence_embedding"] for column in columns])

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """The loss of cached vectors; with_backward leaves their gradients in `.grad` and returns a detached loss."""
        loss = self.loss_of([torch.cat(parts) for parts in reps])
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def loss_of(self, columns: list[Tensor]) -> Tensor:
        """Scalar loss of the vectors [B, D] of query, positive, negative_1, ..."""
        raise NotImplementedError


class ExplicitNegativesLoss(_VectorLoss):
    """Each query against its own positive and negatives only; nothing is gathered."""

    def loss_of(self, columns: list[Tensor]) -> Tensor:
        """See `objectives.contrastive.explicit_negatives_loss`."""
        return explicit_negatives_loss(
            columns[0],
            torch.stack(columns[1:], dim=1),
            similarity=self.config.similarity,
            temperature=self.config.temperature,
        )


class MaskedRankingLoss(_VectorLoss):
    """InfoNCE over the documents of all processes, without candidates that are likely false negatives."""

    def loss_of(self, columns: list[Tensor]) -> Tensor:
        """Mean over this process's queries; averaged over processes it is the mean over the global batch."""
        query_BD = columns[0]
        texts, query_key_M = self._text_keys, self._query_key_B
        offset = 0
        if self.config.gathers_across_devices and get_world_size() > 1:
            offset = get_rank() * len(query_BD)
            columns = [all_gather_with_grad(column) for column in columns]
            texts, query_key_M = [all_gather(text) for text in texts], all_gather(query_key_M)
        queries_MD, documents_ND = columns[0], torch.cat(columns[1:])
        own_B = torch.arange(offset, offset + len(query_BD), device=query_BD.device)
        score_BN = scores_of(query_BD, documents_ND, self.config.similarity)
        text_keys = None
        if self.config.drops_same_texts:
            no_query_N = torch.zeros(len(documents_ND) - len(queries_MD), dtype=torch.long, device=own_B.device)
            text_keys = TextKeys(
                query_B=query_key_M[own_B],
                query_text_B=texts[0][own_B],
                positive_B=texts[1][own_B],
                candidate_N=torch.cat(texts[1:]),
                candidate_query_N=torch.cat([query_key_M, no_query_N]),
            )
        dropped_BN = false_negatives(score_BN, own_B, keys=text_keys, margin=self.config.false_negative_margin)
        if self.config.uses_query_negatives:
            query_score_BM = scores_of(query_BD, queries_MD, self.config.similarity)
            dropped_BM = self._dropped_queries(query_score_BM, score_BN, query_key_M, own_B)
            dropped_BN = torch.cat([dropped_BN, dropped_BM], dim=1)
            score_BN = torch.cat([score_BN, query_score_BM], dim=1)
        return info_nce(score_BN, own_B, temperature=self.config.temperature, dropped_BN=dropped_BN)

    def _dropped_queries(self, query_score_BM: Tensor, score_BN: Tensor, key_M: Tensor, own_B: Tensor) -> Tensor:
        """The query itself, always; its repetitions and those above the margin where documents are judged so."""
        dropped_BM = torch.zeros_like(query_score_BM, dtype=torch.bool).scatter(1, own_B[:, None], True)
        if self.config.drops_same_texts:
            dropped_BM |= key_M == key_M[own_B][:, None]
        if self.config.false_negative_margin is not None:
            positive_B1 = score_BN.detach().gather(1, own_B[:, None])
            dropped_BM |= query_score_BM.detach() > positive_B1 + self.config.false_negative_margin
        return dropped_BM
