"""What both kinds of run share: folder, processes, adapters, trainer settings, resume, final model.

Read `open_run`, then `Run.fit`. Knows nothing of losses or of what the rows are.
"""

import atexit
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from diffembed.backbones.allocator import keep_pages
from diffembed.backbones.arithmetic import pick_device
from diffembed.embedding.embedder import Embedder
from diffembed.errors import CheckpointError, ConfigError, MissingExtraError
from diffembed.provenance import RunFolder, atomic_folder, environment, hash_config, hash_file, write_json
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.adapters import attach_lora, copy_checkpoint, save_embedder, whole_weights
from diffembed.training.callbacks import DevelopmentScore, Progress, Score, StopAfter, Throughput
from diffembed.training.config import OptimiserConfig, RunConfig, TrainConfig
from diffembed.training.optimiser import MasterAdamW
from diffembed.training.safety import MODEL, Safety, last_checkpoint
from diffembed.training.settings import resolve_path, write_yaml

SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "warmup_stable_decay": "warmup_stable_decay",
}
"""Our name -> transformers' name."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What came of a run; `report.json` in its folder."""

    model: Path
    """Checkpoint folder of the trained embedder."""
    step: int
    """Step whose weights it holds."""
    num_steps: int
    """Steps that were made."""
    loss: float | None
    """Mean training loss of the last logged steps; None where none was logged."""
    tokens_per_s: float
    """Tokens per second of the last process that trained, scoring and saving left out."""
    peak_memory_bytes: int
    """Largest resident memory of this process."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Development scores of the weights in `model`, where a score was computed."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Where this process computes, and which of how many it is."""

    device: torch.device
    rank: int
    num_processes: int
    state: Any
    """accelerate's PartialState."""


@dataclass(kw_only=True)
class Run:
    """One run: its folder, its embedder with trainable weights, its place among the processes."""

    config: TrainConfig | AdaptConfig
    folder: RunFolder
    embedder: Embedder
    processes: Processes
    inputs: Mapping[str, str]
    throughput: Throughput = field(default_factory=Throughput)

    @property
    def is_finished(self) -> bool:
        """True once the final model is written."""
        return (self.folder.path / "report.json").exists()

    @property
    def checkpoints(self) -> Path:
        """Where the trainer's checkpoints are."""
        return self.folder.path / "checkpoints"

    def report(self) -> RunReport:
        """The stored report of a finished run."""
        stored = json.loads((self.folder.path / "report.json").read_text(encoding="utf-8"))
        return RunReport(**{**stored, "model": Path(stored["model"])})

    def save_model(self, folder: Path, final: Path) -> None:
        """Writes the embedder as a user loads it into `folder`, which will be renamed to `final`.

        Every process must call it, for sharded weights are gathered; the first one writes, whole or not at all.
        """
        weights = whole_weights(self.embedder.backbone.model)
        if self.processes.rank != 0:
            return
        provenance = {
            "config": json.loads((self.folder.path / "config.json").read_text(encoding="utf-8")),
            "config_hash": hash_config(self.config),
            "seed": self.config.run.seed,
            "inputs": dict(self.inputs),
            "environment": environment(),
        }
        with atomic_folder(folder) as part:
            part.rmdir()
            save_embedder(
                self.embedder,
                part,
                final=final,
                weights=weights,
                name=self.folder.path.resolve().name,
                lora=self.config.lora,
                provenance=provenance,
            )

    def safety(self, module: torch.nn.Module, rows: Callable[[Sequence[int]], list[dict[str, Any]]]) -> Safety:
        """The facts that `SafeTrainer` needs."""
        return Safety(
            module=module,
            folder=self.checkpoints,
            keep_checkpoints=self.config.run.keep_checkpoints,
            save_model=self.save_model,
            rows=rows,
            throughput=self.throughput,
        )

    def optimiser(self, config: OptimiserConfig) -> dict[str, Any]:
        """The trainer's arguments for the optimiser."""
        settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        return {"optimizer_cls_and_kwargs": (MasterAdamW, settings)}

    def fit(self, trainer: Any, num_steps: int, score: Score | None, callbacks: Sequence[Any] = ()) -> RunReport:
        """Runs the trainer from the last checkpoint, or from the start, and writes the final model and report."""
        from transformers import PrinterCallback, TrainerState

        stop_step = self.config.run.stop_after_steps or num_steps
        progress = Progress(
            self.folder, self.throughput, stop_step, is_shown=self.processes.rank == 0 and sys.stderr.isatty()
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(progress)
        for callback in callbacks:
            trainer.add_callback(callback)
        development = self.config.development
        if score is not None and development is not None:
            keeps_best = development.keep == "best"
            trainer.add_callback(
                DevelopmentScore(
                    score,
                    self.embedder,
                    self.folder,
                    every_steps=development.every_steps,
                    measure=development.measure,
                    stop_step=stop_step,
                    save_model=self.save_model if keeps_best else None,
                )
            )
        if stop_step < num_steps:
            trainer.add_callback(StopAfter(stop_step))
        checkpoint = last_checkpoint(self.checkpoints)
        reached = None if checkpoint is None else TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if reached is not None and reached.global_step >= stop_step:
            # Every step was made, and the run died before its report: the trainer would make one more.
            trainer.state = reached
        else:
            try:
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            finally:
                progress.close()
        trainer.accelerator.wait_for_everyone()
        if self.processes.rank == 0:
            self._finish(trainer)
        trainer.accelerator.wait_for_everyone()
        return self.report()

    def _finish(self, trainer: Any) -> None:
        step = trainer.state.global_step
        model = self.folder.path / MODEL
        shutil.rmtree(model, ignore_errors=True)
        scored: dict[str, Any] = {"scores": {}}
        if self.config.development is not None:
            file = self.folder.path / f"{self.config.development.keep}.json"
            scored = json.loads(file.read_text(encoding="utf-8"))
        if self.config.development is not None and self.config.development.keep == "best":
            step = scored["step"]
            copy_checkpoint(self.folder.path / f"best-{step}", model)
        else:
            copy_checkpoint(self.checkpoints / f"checkpoint-{step}" / MODEL, model)
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        report = {
            "model": str(model),
            "step": step,
            "num_steps": trainer.state.global_step,
            "loss": losses[-1] if losses else None,
            "tokens_per_s": self.throughput.tokens_per_s,
            "peak_memory_bytes": peak_memory_bytes(),
            "scores": scored["scores"],
        }
        write_json(self.folder.path / "report.json", report)


def start_processes(config: TrainConfig | AdaptConfig) -> Processes:
    """This process's device and its place among those that torchrun or `accelerate launch` started."""
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError.of("accelerate", "train") from error
    logger = config.run.logger
    if logger != "none" and find_spec(logger) is None:
        raise ConfigError(f"run.logger is {logger}, which is not installed; install it with: pip install {logger}")
    keep_pages()
    wanted = pick_device(config.model.device)
    state = PartialState(cpu=wanted.type == "cpu")
    device = wanted if state.num_processes == 1 else state.device
    # The threads of a process group that stands when the interpreter ends abort the process, now and then.
    atexit.register(state.destroy_process_group)
    return Processes(device=device, rank=state.process_index, num_processes=state.num_processes, state=state)


def prepare_network(config: TrainConfig | AdaptConfig, embedder: Embedder) -> None:
    """Attaches the adapters, or leaves all weights trainable; the adapters' first values follow from the seed alone."""
    from transformers import set_seed

    set_seed(config.run.seed)
    network = embedder.backbone.model
    if config.lora is not None:
        attach_lora(network, config.lora)
    if config.model.gradient_checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def open_run(
    config: TrainConfig | AdaptConfig, embedder: Embedder, processes: Processes, inputs: Mapping[str, str]
) -> Run:
    """Opens the run folder and writes config, seed, versions and hashes into it.

    inputs: name -> hash of the data; the weights are added.
    Raises CheckpointError when the folder holds a run with another config, other data or other weights.
    """
    every_input = {**inputs, "base weights": embedder.backbone.source_hash}
    for place, adapter in enumerate(embedder.adapter_folders):
        every_input[f"adapter {place}"] = hash_file(adapter / "adapter_model.safetensors")
    folder = resolve_path(config.run.output)
    with processes.state.main_process_first():
        run_folder = RunFolder(folder, config, inputs=every_input)
        if processes.rank == 0:
            _check_inputs(folder, every_input)
            (folder / "config.yaml").write_text(write_yaml(config), encoding="utf-8")
    return Run(config=config, folder=run_folder, embedder=embedder, processes=processes, inputs=every_input)


def _check_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """A run that goes on must read what it has read before."""
    stored = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["inputs"]
    changed = sorted(name for name in stored.keys() | inputs.keys() if stored.get(name) != inputs.get(name))
    if changed:
        raise CheckpointError(
            f"{', '.join(changed)} changed since the run in {folder} began; restore it, or choose another folder"
        )


def training_arguments(config: RunConfig, optimiser: OptimiserConfig, run: Run, num_steps: int) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments that both kinds of run share."""
    decay = {"num_decay_steps": optimiser.decay_steps} if optimiser.decay_steps is not None else {}
    return {
        "output_dir": str(run.checkpoints),
        "max_steps": num_steps,
        "learning_rate": optimiser.learning_rate,
        "weight_decay": optimiser.weight_decay,
        "max_grad_norm": optimiser.max_grad_norm,
        "lr_scheduler_type": SCHEDULES[optimiser.schedule],
        "lr_scheduler_kwargs": decay,
        "warmup_steps": optimiser.warmup_steps,
        "seed": config.seed,
        "save_strategy": "steps",
        "save_steps": config.save_every_steps,
        # Checkpoints are written aside and pruned by SafeTrainer.
        "save_total_limit": None,
        "logging_steps": config.log_every_steps,
        "logging_nan_inf_filter": False,
        "logging_first_step": True,
        "report_to": [] if config.logger == "none" else [config.logger],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "dataloader_drop_last": True,
        "use_cpu": run.processes.device.type == "cpu",
        "ddp_find_unused_parameters": False,
    }


def peak_memory_bytes() -> int:
    """Largest resident memory this process has had."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
