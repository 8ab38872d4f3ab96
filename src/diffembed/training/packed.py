"""The embedder inside the sentence-transformers trainer: the same packs, attention and pooling as at inference.

Read `PackedEncoder`. Features travel in the flattened layout that sentence-transformers' GradCache cuts into
mini-batches by token budget; what the network reads is `embedding.packing.forward_packed`, so there is no padding.
"""

# N = texts, T = tokens of all of them, D = vector width

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffembed.backbones.loading import Backbone
from diffembed.embedding.packing import forward_packed, make_batches, pool_ranges
from diffembed.embedding.pooling import pool
from diffembed.embedding.text import Tokens


def pack_features(tokens: Sequence[Tokens]) -> dict[str, Tensor]:
    """Texts laid end to end, in the keys by which sentence-transformers recognises and cuts a flattened batch.

    What belongs to a text and not to a token would not be cut with it, so the pooled range travels as a mask.
    """
    lengths = [len(text) for text in tokens]
    bounds = torch.tensor([0, *np.cumsum(lengths).tolist()], dtype=torch.int32)
    pooled = np.zeros(sum(lengths), dtype=np.bool_)
    for start, stop in pool_ranges(tokens):
        pooled[start:stop] = True
    return {
        "input_ids": torch.from_numpy(np.concatenate([text.ids for text in tokens]).astype(np.int64)).unsqueeze(0),
        "pool_mask": torch.from_numpy(pooled).unsqueeze(0),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
    }


def unpack_features(features: dict[str, Any]) -> list[Tokens]:
    """The texts of `pack_features`, also after sentence-transformers has cut a mini-batch out of them."""
    ids_T = features["input_ids"][0].cpu().numpy().astype(np.int32)
    pooled_T = features["pool_mask"][0].cpu().numpy()
    bounds = features["cu_seq_lens_q"].tolist()
    tokens = []
    for start, stop in pairwise(bounds):
        places = np.flatnonzero(pooled_T[start:stop])
        first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (stop - start, stop - start)
        tokens.append(Tokens(ids_T[start:stop], first, last))
    return tokens


class PackedEncoder(torch.nn.Module):
    """`Transformer` and `Pooling` of sentence-transformers in one module, over a `Backbone` whose attention is proved.

    Gives `sentence_embedding` [N, D] float32 in the order of the texts, not normalised: the losses choose a similarity.
    """

    def __init__(self, backbone: Backbone, pooling: str, token_budget: int) -> None:
        """`token_budget`: tokens per pack, as at inference; packs of one batch keep their activations together."""
        super().__init__()
        self.network = backbone.model
        self.backbone = backbone
        self.pooling = pooling
        self.token_budget = token_budget
        self.tokenizer = backbone.tokenizer

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """The features with `sentence_embedding` added."""
        tokens = unpack_features(features)
        batches = make_batches([len(text) for text in tokens], self.token_budget)
        vectors = []
        for batch in batches:
            texts = [tokens[place] for place in batch]
            vectors.append(pool(forward_packed(self.backbone, texts), pool_ranges(texts), self.pooling))
        order_N = torch.tensor([place for batch in batches for place in batch])
        back_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N)))
        stacked_ND = torch.cat(vectors)
        return {**features, "sentence_embedding": stacked_ND[back_N.to(stacked_ND.device)]}

    def get_embedding_dimension(self) -> int:
        """D, which sentence-transformers' Matryoshka loss asks for."""
        return self.backbone.dim
