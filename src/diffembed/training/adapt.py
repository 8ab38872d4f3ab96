"""Adaptation of an autoregressive model into a masked-diffusion model, on the transformers trainer.

Read `adapt`, then `LanguageModel`. Noise and losses come from `objectives/`, rows from `token_rows.py`, noise per row
from `noising.py`, checkpoints and the stop at NaN from `safety.py`.
"""

# B = rows in batch, T = tokens in a row, V = vocabulary, D = hidden width

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from diffembed.backbones.attention import PackedLayout
from diffembed.backbones.head import Head, load_head
from diffembed.backbones.loading import Backbone
from diffembed.data.text_files import find_text_files
from diffembed.embedding.embedder import Embedder
from diffembed.errors import ConfigError, EmptyInputError, MissingExtraError
from diffembed.objectives.diffusion import NoisyRows, TokenLoss, token_loss
from diffembed.provenance import RunFolder, hash_bytes
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.callbacks import Score, untouched_random_state
from diffembed.training.noising import NoisyCollator, PlannedDataset, PlannedRows
from diffembed.training.runs import Run, RunReport, open_run, prepare_network, start_processes, training_arguments
from diffembed.training.settings import resolve_name, resolve_path
from diffembed.training.token_rows import TokenRows, read_token_rows

HELD_OUT_STEP = -1
"""Step number under which held-out rows are noised, always alike, so that measurements compare."""


class LanguageModel(torch.nn.Module):
    """The embedder's network with its language-model head; `forward` gives the loss of a noisy batch."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.network = backbone.model
        self.backbone = backbone
        self.head = head

    def forward(
        self, input_ids: Tensor, target_BT: Tensor, is_predicted_BT: Tensor, weight_BT: Tensor
    ) -> dict[str, Tensor]:
        """{"loss": scalar}, as the trainer expects it."""
        noisy = NoisyRows(token_BT=input_ids, target_BT=target_BT, is_predicted_BT=is_predicted_BT, weight_BT=weight_BT)
        return {"loss": self.loss_of(noisy).loss}

    def loss_of(self, noisy: NoisyRows) -> TokenLoss:
        """Loss and accuracy of noisy rows; each row is a document of its own to the attention."""
        num_rows, row_tokens = noisy.token_BT.shape
        layout = PackedLayout((row_tokens,) * num_rows, self.backbone.attention)
        hidden_1TD = self.network(
            input_ids=noisy.token_BT.reshape(1, -1),
            position_ids=layout.position_ids(noisy.token_BT.device),
            packed=layout,
        ).last_hidden_state
        return token_loss(
            hidden_1TD.view(num_rows, row_tokens, -1) * self.head.scale,
            noisy,
            self.head.weight_VD,
            shifts_logits=self.backbone.shifts_logits,
            softcap=self.head.softcap,
        )


def adapt(config: AdaptConfig, *, score: Score | None = None) -> RunReport:
    """Adapts a model and returns what came of it; `<output>/model` loads as an embedder and as a base for `train`.

    Held-out loss, its plain mean and the masked accuracy go to metrics.jsonl before the first step, every
    `measure_every_steps` and at the end; so do the development scores, where a section asks for them.
    Resume, processes and errors are those of `train`.
    """
    if (config.development is None) != (score is None):
        raise ConfigError("a development section needs a score to compute, and a score needs a development section")
    processes = start_processes(config)
    embedder = load_embedder(config, processes.device)
    rows, held_out = load_text(config, embedder.backbone.tokenizer)
    prepare_network(config, embedder)
    inputs = {**rows.inputs, **{f"held out {name}": value for name, value in held_out.inputs.items()}}
    inputs["training rows"] = hash_bytes(rows.rows.tobytes())
    run = open_run(config, embedder, processes, inputs)
    if run.is_finished:
        return run.report()
    run.folder.log(num_rows=len(rows.rows), num_tokens=rows.num_tokens, held_out_rows=len(held_out.rows))
    num_steps = count_steps(config, len(rows.rows))
    trainer, model, collator = make_trainer(config, run, rows, num_steps)
    measured = HeldOutLoss(
        model,
        _with_rows(collator, held_out),
        run.folder,
        every_steps=config.measure_every_steps,
        stop_step=config.run.stop_after_steps or num_steps,
        step_tokens=config.batch.rows * config.text.row_tokens,
    )
    return run.fit(trainer, num_steps, score, [measured])


def load_text(config: AdaptConfig, tokenizer: Any) -> tuple[TokenRows, TokenRows]:
    """(rows to train on, rows to measure on). Raises ConfigError for a file that is both."""
    text = config.text
    files, held_out_files = (
        {path.resolve() for path in find_text_files([resolve_path(name) for name in names])}
        for names in (text.files, text.held_out)
    )
    if both := sorted(files & held_out_files):
        raise ConfigError(f"{', '.join(map(str, both))} is both trained on and held out; name it in one of the two")
    max_rows = None if text.max_tokens is None else max(1, text.max_tokens // text.row_tokens)
    rows = read_token_rows(text.files, tokenizer, row_tokens=text.row_tokens, max_rows=max_rows, seed=config.run.seed)
    held_out = read_token_rows(text.held_out, tokenizer, row_tokens=text.row_tokens, max_rows=text.held_out_rows)
    return rows, held_out


def count_steps(config: AdaptConfig, num_rows: int) -> int:
    """Length of the learning-rate schedule in steps."""
    steps = config.run.schedule_steps or int(num_rows * config.run.num_epochs) // config.batch.rows
    if steps < 1:
        raise EmptyInputError(
            f"{num_rows} rows do not fill a batch of {config.batch.rows}; add text or read it more often"
        )
    if config.run.stop_after_steps is not None and config.run.stop_after_steps > steps:
        raise ConfigError(f"stop_after_steps is {config.run.stop_after_steps}, the schedule has {steps} steps")
    config.optimiser.check_length(steps)
    return steps


def make_trainer(
    config: AdaptConfig, run: Run, rows: TokenRows, num_steps: int
) -> tuple[Any, LanguageModel, NoisyCollator]:
    """The transformers trainer over noisy rows, its model and its collator."""
    try:
        from transformers import TrainingArguments

        from diffembed.training.trainers import AdaptTrainer
    except ImportError as error:
        raise MissingExtraError.of("accelerate", "train") from error
    backbone, batch = run.embedder.backbone, config.batch
    if config.objective.kind == "causal" and not backbone.shifts_logits:
        raise ConfigError(f"{backbone.name} does not predict the next token; kind: causal needs a model born so")
    if batch.rows % (batch.micro_rows * run.processes.num_processes):
        raise ConfigError(
            f"batch.rows is {batch.rows}; it must be a multiple of micro_rows {batch.micro_rows} times "
            f"{run.processes.num_processes} processes"
        )
    mask_token_id = None if config.objective.kind == "causal" else find_mask_token(config, backbone)
    if mask_token_id is not None:
        # The adapted model restores the token it was adapted with.
        backbone.mask_token_id = mask_token_id
    special = {*backbone.tokenizer.all_special_ids, *([] if mask_token_id is None else [mask_token_id])}
    head = load_head(backbone)
    if config.lora is None and head.weight_VD is not backbone.model.get_input_embeddings().weight:
        raise ConfigError(
            f"the language-model head of {backbone.name} is apart from its embeddings and would not be saved with all "
            "weights; train adapters (a lora section) instead"
        )
    collator = NoisyCollator(
        rows=rows.rows,
        objective=config.objective,
        seed=config.run.seed,
        step_rows=batch.rows,
        mask_token_id=mask_token_id,
        special_ids=tuple(sorted(special)),
        # Some tokenizers count a token more than the network has rows for.
        vocabulary_size=min(len(backbone.tokenizer), int(backbone.model.config.vocab_size)),
        shifts_logits=backbone.shifts_logits,
    )
    model = LanguageModel(backbone, head)
    trainer = AdaptTrainer(
        model=model,
        args=TrainingArguments(
            **training_arguments(config.run, config.optimiser, run, num_steps),
            per_device_train_batch_size=batch.micro_rows,
            gradient_accumulation_steps=batch.rows // (batch.micro_rows * run.processes.num_processes),
        ),
        train_dataset=PlannedDataset(len(rows.rows)),
        data_collator=collator,
        batches=PlannedRows(len(rows.rows), batch.rows, batch.micro_rows, num_steps, config.run.seed),
        safety=run.safety(model, lambda numbers: _describe(run.embedder, rows, numbers)),
        **run.optimiser(config.optimiser),
    )
    return trainer, model, collator


def find_mask_token(config: AdaptConfig, backbone: Backbone) -> int:
    """Id of the token that masks; raises ConfigError where there is none, or the named one is not one token."""
    name = config.objective.mask_token
    if name is None:
        if backbone.mask_token_id is None:
            raise ConfigError(
                f"{backbone.name} has no mask token; name a token of its vocabulary that texts do not use, "
                "for example objective.mask_token: '<unused0>'"
            )
        return backbone.mask_token_id
    found = backbone.tokenizer.convert_tokens_to_ids(name)
    if found is None or (found == backbone.tokenizer.unk_token_id and name != backbone.tokenizer.unk_token):
        raise ConfigError(f"objective.mask_token {name!r} is no token of {backbone.name}")
    return int(found)


class HeldOutLoss(TrainerCallback):
    """Measures the objective on held-out rows under always the same noise."""

    def __init__(
        self,
        model: LanguageModel,
        collator: NoisyCollator,
        run: RunFolder,
        *,
        every_steps: int,
        stop_step: int,
        step_tokens: int,
    ) -> None:
        """`collator`: over the held-out rows, all of them one step."""
        self.model = model
        self.collator = collator
        self.run = run
        self.every_steps = every_steps
        self.stop_step = stop_step
        self.step_tokens = step_tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The loss that adaptation starts from."""
        if state.global_step == 0:
            self._measure(state, args.per_device_train_batch_size)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A measurement at its turn, and always at the last step."""
        if state.global_step % self.every_steps == 0 or state.global_step == self.stop_step:
            self._measure(state, args.per_device_train_batch_size)

    def _measure(self, state: Any, micro_rows: int) -> None:
        # Every process measures: sharded weights are whole only while all of them read.
        with untouched_random_state():
            measures = measure_held_out(self.model, self.collator, micro_rows)
        if state.is_world_process_zero:
            self.run.log(step=state.global_step, tokens=state.global_step * self.step_tokens, held_out=measures)


@torch.no_grad()
def measure_held_out(model: LanguageModel, collator: NoisyCollator, micro_rows: int) -> dict[str, float]:
    """loss (NELBO in nats per token for diffusion), mean_nll and accuracy over the predicted tokens of all rows."""
    was_training = model.training
    model.eval()
    num_rows = len(collator.rows)
    loss, nll, num_correct, num_predicted = 0.0, 0.0, 0, 0
    for first in range(0, num_rows, micro_rows):
        rows = range(first, min(first + micro_rows, num_rows))
        batch = collator([(row, HELD_OUT_STEP, row) for row in rows])
        batch.pop("row_index")
        device = model.backbone.device
        out = model.loss_of(
            NoisyRows(
                token_BT=batch["input_ids"].to(device),
                target_BT=batch["target_BT"].to(device),
                is_predicted_BT=batch["is_predicted_BT"].to(device),
                weight_BT=batch["weight_BT"].to(device),
            )
        )
        loss += float(out.loss) * len(rows) / num_rows
        nll += float(out.mean_nll) * out.num_predicted
        num_correct += int(out.num_correct)
        num_predicted += out.num_predicted
    model.train(was_training)
    return {"loss": loss, "mean_nll": nll / max(num_predicted, 1), "accuracy": num_correct / max(num_predicted, 1)}


def _with_rows(collator: NoisyCollator, held_out: TokenRows) -> NoisyCollator:
    return replace(collator, rows=held_out.rows, step_rows=len(held_out.rows))


def _describe(embedder: Embedder, rows: TokenRows, numbers: Sequence[int]) -> list[dict[str, Any]]:
    decode = embedder.backbone.tokenizer.decode
    return [{"row": number, "text": decode(rows.rows[number].tolist())} for number in numbers]


def load_embedder(config: AdaptConfig, device: torch.device) -> Embedder:
    """The model before adaptation, with the attention its objective needs."""
    model = config.model
    return Embedder.load(
        resolve_name(model.name),
        attention=config.attention,
        pooling=model.pooling,
        dtype=model.dtype,
        device=str(device),
    )
