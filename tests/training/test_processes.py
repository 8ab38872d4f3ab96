"""What only real processes show: kill -9 at any moment, and several processes that train as one."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffembed.training.adapt import adapt
from diffembed.training.contrast import train
from diffembed.training.optimiser import MasterAdamW

WEIGHTS = "checkpoints/checkpoint-6/trainable.safetensors"

KILLED = """
import json, os, signal, sys
from diffembed.training import adapt, callbacks, contrast
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import TrainConfig
from diffembed.training.settings import make_config

kind, path = sys.argv[1:]
started = []

def start(self):
    started.append(0)
    if len(started) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks.Throughput.start = start
values = json.load(open(path))
if kind == "train":
    contrast.train(make_config(TrainConfig, values))
else:
    adapt.adapt(make_config(AdaptConfig, values))
"""

PROCESSES = """
import json, os, sys
import torch
from diffembed.training import adapt, contrast
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import TrainConfig
from diffembed.training.optimiser import MasterAdamW
from diffembed.training.settings import make_config

folder = sys.argv[1]
update = MasterAdamW.step

def step(self, closure=None):
    if os.environ["RANK"] == "0":
        torch.save([w.grad.clone() for g in self.param_groups for w in g["params"]], f"{folder}/{name}.pt")
    return update(self, closure)

MasterAdamW.step = step
for name, kind in json.load(open(f"{folder}/runs.json")):
    values = json.load(open(f"{folder}/{name}.json"))
    if kind == "train":
        contrast.train(make_config(TrainConfig, values))
    else:
        adapt.adapt(make_config(AdaptConfig, values))

# The process group stands: shard a layer by FSDP 2, gather it, change it, and gather it again.
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from diffembed.training.adapters import load_whole_weights, whole_weights

torch.manual_seed(0)
layer = torch.nn.Linear(6, 5)
expected = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
assert layer.weight.to_local().shape[0] < 5
assert all(torch.equal(weight, expected[name]) for name, weight in whole_weights(layer).items())
load_whole_weights(layer, {name: weight + 1 for name, weight in expected.items()})
assert all(torch.equal(weight, expected[name] + 1) for name, weight in whole_weights(layer).items())
torch.distributed.barrier()
"""


def write_config(path: Path, config) -> Path:
    path.write_text(json.dumps(asdict(config)), encoding="utf-8")
    return path


def start(folder: Path, script: str, *arguments: str, launcher=()) -> subprocess.Popen:
    file = folder / f"script-{len(list(folder.glob('script-*')))}.py"
    file.write_text(script, encoding="utf-8")
    # Sums depend on the number of threads they are cut for.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, *launcher, str(file), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def gradients_of(monkeypatch, run, config):
    """Gradients of the first step of one process, in the order of the optimiser."""
    kept = []
    update = MasterAdamW.step

    def step(self, closure=None):
        kept.append([w.grad.clone() for group in self.param_groups for w in group["params"]])
        return update(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(MasterAdamW, "step", step)
        run(config)
    return kept[0]


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.slow
def test_kill_9_and_resume_equals_the_straight_run_bit_for_bit(
    train_config, adapt_config, straight_run, straight_adaptation, tmp_path
):
    """Training with LoRA, dropout and GradCache, and adaptation with LoRA and dropout, both killed in step 4."""
    configs = {"train": train_config("killed-train"), "adapt": adapt_config("killed-adapt")}
    children = [
        start(tmp_path, KILLED, kind, str(write_config(tmp_path / f"{kind}.json", config)))
        for kind, config in configs.items()
    ]
    for child in children:
        output, _ = child.communicate(timeout=300)
        assert child.returncode == -signal.SIGKILL, output
    train(configs["train"])
    adapt(configs["adapt"])
    for name, (_, straight) in {"killed-train": straight_run, "killed-adapt": straight_adaptation}.items():
        resumed, expected = load_file(tmp_path / name / WEIGHTS), load_file(straight / WEIGHTS)
        assert len(expected) == 28 and resumed.keys() == expected.keys()
        assert all(torch.equal(resumed[key], expected[key]) for key in expected)


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one_and_do_not_without_the_gather(
    train_config, adapt_config, tmp_path, monkeypatch
):
    """Each process reads its half of the global batch; all weights are trained, so every gradient is compared.

    The same two processes shard a layer and gather it, as checkpoints do under FSDP.
    """
    common = {"lora": None, "run": {"schedule_steps": 1, "save_every_steps": 1}, "optimiser": {"warmup_steps": 0}}

    def build(name, loss):
        return train_config(name, **common, loss=loss)

    gathered = {"num_negatives": 2, "uses_query_negatives": True}
    configs = {
        "masked": (train, build("masked", gathered)),
        "plain": (train, build("plain", {"drops_same_texts": False})),
        "apart": (train, build("apart", {**gathered, "gathers_across_devices": False})),
        "text": (adapt, adapt_config("text", **common, batch={"micro_rows": 2})),
    }
    for name, (_, config) in configs.items():
        write_config(tmp_path / f"{name}.json", config)
    runs = [(name, run.__name__) for name, (run, _) in configs.items()]
    (tmp_path / "runs.json").write_text(json.dumps(runs), encoding="utf-8")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    child = start(tmp_path, PROCESSES, str(tmp_path), launcher=launcher)
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0, output[-3000:]

    for name, (run, config) in configs.items():
        alone = gradients_of(
            monkeypatch, run, replace(config, run=replace(config.run, output=f"{config.run.output}-1"))
        )
        together = torch.load(tmp_path / f"{name}.pt")
        assert len(alone) == len(together) and flat(alone).abs().max() > 1e-3
        difference = (flat(together) - flat(alone)).norm() / flat(alone).norm()
        if name == "apart":
            assert difference > 0.05
        else:
            assert difference < 1e-4, name
