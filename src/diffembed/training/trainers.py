"""The two trainers: those of sentence-transformers and transformers, made safe, over planned batches.

Imported only when a run starts, for both libraries are heavy. Knows neither configs nor data.
"""

from typing import Any

from sentence_transformers import SentenceTransformerTrainer
from torch.utils.data import DataLoader
from transformers import Trainer

from diffembed.training.safety import SafeTrainer


class _PlannedTrainer(SafeTrainer):
    """Reads the batches it is given, in their order, in place of a sampler of its own."""

    train_dataset: Any
    data_collator: Any

    def __init__(self, *arguments: Any, batches: Any, **settings: Any) -> None:
        self.batches = batches
        super().__init__(*arguments, **settings)

    def get_train_dataloader(self) -> Any:
        """All batches of the run as one epoch; accelerate deals them to the processes in turn."""
        # Otherwise accelerate would repeat rows to even out the last round.
        self.accelerator.even_batches = False
        loader: Any = DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class ContrastTrainer(_PlannedTrainer, SentenceTransformerTrainer):
    """The sentence-transformers trainer, without the model card it would write."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: the provenance of a run is written by the run folder."""


class AdaptTrainer(_PlannedTrainer, Trainer):
    """The transformers trainer; the model returns its own loss."""
