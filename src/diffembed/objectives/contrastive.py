"""Contrastive losses on vectors: what sentence-transformers does not have.

Read `info_nce`, then `false_negatives`. Everything here is a function of tensors; the modules that put these into the
sentence-transformers trainer, with its gradient caching and its gather, are in `training/losses.py`.
"""

# B = queries of this process, N = candidate documents of all processes, M = queries of all processes,
# K = documents of one query, D = vector width

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffembed.errors import ConfigError, UnknownNameError

SIMILARITIES = ("cosine", "dot_over_dim")


def scores_of(query_BD: Tensor, document_ND: Tensor, similarity: str) -> Tensor:
    """[B, N] float32 scores; `cosine`, or `dot_over_dim`: the dot product divided by D, without a norm (RepLLaMA).

    The paper trains its instruction-following models with `dot_over_dim` and tests all of them with cosine.
    """
    if similarity == "cosine":
        return normalize(query_BD.float(), dim=-1) @ normalize(document_ND.float(), dim=-1).T
    if similarity == "dot_over_dim":
        return query_BD.float() @ document_ND.float().T / query_BD.shape[-1]
    raise UnknownNameError.of("similarity", similarity, SIMILARITIES)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextKeys:
    """Int64 hashes by which equal texts are found, of this process's queries and of all candidates."""

    query_B: Tensor
    """Key of each query together with its instruction: under another one the same text asks for something else."""
    query_text_B: Tensor
    """Key of each query's text alone, comparable with documents."""
    positive_B: Tensor
    """Key of each query's own positive."""
    candidate_N: Tensor
    """Key of each candidate document."""
    candidate_query_N: Tensor
    """Key of the query, instruction included, whose positive the candidate is; 0 where it is a negative."""


def false_negatives(
    score_BN: Tensor, positive_B: Tensor, *, keys: TextKeys | None = None, margin: float | None = None
) -> Tensor:
    """[B, N] bool, True for candidates that look relevant and must not be pushed away; never a query's own positive.

    positive_B: int64, column of each query's positive.
    keys: drops copies of the positive, copies of the query itself, and positives of the same query in other rows.
    margin: drops candidates that score above the positive by more than this, in units of score_BN (pplx-embed: 0.1 on
    cosine, arXiv 2602.11151); scores are read, not differentiated.
    """
    drop_BN = torch.zeros_like(score_BN, dtype=torch.bool)
    if keys is not None:
        drop_BN |= keys.candidate_N == keys.positive_B[:, None]
        drop_BN |= keys.candidate_N == keys.query_text_B[:, None]
        drop_BN |= keys.candidate_query_N == keys.query_B[:, None]
    if margin is not None:
        if margin < 0:
            raise ConfigError(f"margin is {margin}; it must not be negative, or positives count as their own rivals")
        own_B1 = score_BN.detach().gather(1, positive_B[:, None])
        drop_BN |= score_BN.detach() > own_B1 + margin
    return drop_BN.scatter(1, positive_B[:, None], False)


def info_nce(score_BN: Tensor, positive_B: Tensor, *, temperature: float, dropped_BN: Tensor | None = None) -> Tensor:
    """Mean over queries of -log softmax(score / temperature)[positive]; dropped candidates leave the denominator."""
    logit_BN = score_BN / temperature
    if dropped_BN is not None:
        logit_BN = logit_BN.masked_fill(dropped_BN, float("-inf"))
    return torch.nn.functional.cross_entropy(logit_BN, positive_B)


def explicit_negatives_loss(query_BD: Tensor, document_BKD: Tensor, *, similarity: str, temperature: float) -> Tensor:
    """InfoNCE of each query over its own K documents only, the first of which is the positive (RepLLaMA's loss).

    No document of another row is a candidate, so rows of one batch may be about the same thing, and processes need
    not exchange vectors. Source: paper section 4.3; siyue-zhang/DiffEmbed trains with K = 16 and `dot_over_dim`.
    """
    if similarity == "cosine":
        query_BD, document_BKD = normalize(query_BD.float(), dim=-1), normalize(document_BKD.float(), dim=-1)
    elif similarity == "dot_over_dim":
        query_BD, document_BKD = query_BD.float(), document_BKD.float() / query_BD.shape[-1]
    else:
        raise UnknownNameError.of("similarity", similarity, SIMILARITIES)
    score_BK = torch.einsum("bd,bkd->bk", query_BD, document_BKD)
    first_B = torch.zeros(len(score_BK), dtype=torch.long, device=score_BK.device)
    return info_nce(score_BK, first_B, temperature=temperature)
