"""A training run: a folder with a recipe, a log, and for each stage a checkpoint and its results."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, MotionAdapter, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from rich.progress import Progress, track
from torch.utils.data import DataLoader

from ..devices import usable_device
from ..documents import read_text
from ..errors import Refused
from ..runs import rows, whole, writable
from .recipe import Common

CHECKPOINT_EVERY = 200  # steps
LOG_EVERY = 100
Batch = dict[str, torch.Tensor]
CARD = """---
license: apache-2.0
library_name: diffusers
{head}, with

    {command}

Half precision; load in float32 on a CPU.

| stage | steps | loss | minutes |
|---|---|---|---|
{stages}

{held_out}On {machine}. The recipe:

```json
{recipe}
```
"""


def _recipe(note: Path) -> Any:
    """The recipe with which a folder was started.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        return json.loads(read_text(note))
    except ValueError as error:
        raise ValueError(f"recipe: {note} cannot be read ({error}); take another folder") from None


class _Mapped(torch.utils.data.Dataset):
    """The values of a function at numbers, as a dataset."""

    def __init__(self, make: Callable[[int], Any], numbers: Sequence[int]):
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.numbers[index])


class _State:
    """The state of a stage in training: its parameters, optimizer, schedule, and averaged parameters (EMA)."""

    def __init__(self, rates: Mapping[torch.nn.Module, float], steps: int, decay: float, fused: bool):
        groups = [([p for p in m.parameters() if p.requires_grad], rate) for m, rate in rates.items()]
        self.parameters = [p for group, _ in groups for p in group]
        self.optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in groups], betas=(0.9, 0.98), weight_decay=1e-4, fused=fused
        )
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, min(100, steps // 10), steps)
        self.ema = EMAModel(self.parameters, decay=decay, use_ema_warmup=True, power=0.75, foreach=True)

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.ema.step(self.parameters)

    def save(self, path: Path, step: int, seconds: float) -> None:
        state = {
            "step": step,
            "seconds": seconds,
            "parameters": [p.data for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict(),
        }
        with whole({"state": path}) as staged:
            torch.save(state, staged["state"])

    def load(self, path: Path, device: torch.device) -> tuple[int, float]:
        """Restores a saved state. Returns the number of steps done, and the seconds that they took.

        Raises:
            ValueError: the file cannot be read, or belongs to other modules.
        """
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            for p, value in zip(self.parameters, state["parameters"], strict=True):
                p.data.copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.ema.load_state_dict(state["ema"])
            return int(state["step"]), float(state["seconds"])
        except MemoryError:
            raise
        except Exception as error:  # torch raises many kinds of errors for a damaged file
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{path} cannot be read; remove it to restart the stage ({reason})") from error


class Run:
    """Runs the stages of a recipe in a folder. `train()` resumes from the folder's checkpoints."""

    stages: ClassVar[tuple[str, ...]]
    after: ClassVar[Mapping[str, str]]  # by stage, the stage from whose models it continues

    def __init__(self, folder: Path, recipe: Common, device: str | None = None):
        self.folder = Path(folder)
        self.recipe = recipe
        self.device = usable_device(device or "auto", auto=("cuda",))
        writable(self.folder, "FOLDER")
        note = self.folder / "recipe.json"
        if not note.exists():
            with whole({"note": note}) as staged:
                staged["note"].write_text(json.dumps(asdict(self.recipe), indent=1))
        elif _recipe(note) != asdict(self.recipe):
            raise ValueError(
                f"recipe: {self.folder} was started with another recipe, {note}; use that one, or another folder"
            )
        self.workers = min(8, os.cpu_count() or 1) if self.device.type == "cuda" else 0

    def train(self, stages: Iterable[str] | None = None) -> None:
        """Runs the stages that are not done yet, in order.

        Args:
            stages: which ones. None: all.

        Raises:
            Refused: a stage continues from one that is neither done nor among `stages`.
        """
        chosen = self.stages if stages is None else tuple(stages)
        self.check(chosen)
        for stage in self.stages:
            if stage in chosen and not self._done(stage).exists():
                getattr(self, f"_{stage}")()
                self._done(stage).touch()

    def check(self, stages: Sequence[str]) -> None:
        """Refuses stages that `train` cannot run.

        Raises:
            Refused: see `train`.
        """
        for stage in stages:
            before = self.after.get(stage)
            if before and before not in stages and not self._done(before).exists() and not self._done(stage).exists():
                raise Refused("stage", stage, f"it continues from {before}, which {self.folder} lacks: train it first")

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return all(self._done(stage).exists() for stage in self.stages)

    def card(self, head: str, command: str, stages: Iterable[str], held_out: str = "") -> str:
        """A model card.

        Args:
            head: front matter, title and first paragraph; the command follows it.
            command: the command that trains the model.
            stages: the stages whose steps, losses and minutes to list.
            held_out: a paragraph on the loss on videos outside the training set.

        Raises:
            ValueError: the log lacks one of the stages.
        """
        log = self.folder / "log.jsonl"
        last = {line["stage"]: line for line in rows(log) if line.keys() >= {"stage", "step", "loss", "seconds"}}
        if lacking := [stage for stage in stages if stage not in last]:
            raise ValueError(f"{log} has no line for {', '.join(lacking)}, which the model card lists")
        threads = f"{torch.get_num_threads()} threads" if self.device.type == "cpu" else torch.cuda.get_device_name()
        table = "\n".join(
            f"| {s} | {last[s]['step']} | {last[s]['loss']:.4f} | {last[s]['seconds'] / 60:.0f} |" for s in stages
        )
        precision = "bfloat16" if self._half else "float32"
        machine = (
            f"{self.device.type} ({threads}), in {precision}, torch {torch.__version__}, diffusers"
            f" {diffusers.__version__}, Python {platform.python_version()}"
        )
        recipe = json.dumps(asdict(self.recipe), indent=1)
        return CARD.format(head=head, command=command, stages=table, held_out=held_out, machine=machine, recipe=recipe)

    def rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, *key])

    def rng_of(self, stage: str, step: int) -> np.random.Generator:
        """The random generator for a stage's batch at a step."""
        return self.rng(self.stages.index(stage) + 1, step)

    def _each(self, make: Callable[[int], Any], numbers: Sequence[int], what: str = "") -> Iterable[Any]:
        """The values of a function at numbers, in order. With a GPU, other processes compute them ahead."""
        batches = DataLoader(_Mapped(make, numbers), batch_size=None, num_workers=self.workers)
        return track(batches, what, len(numbers), disable=not sys.stderr.isatty()) if what else batches

    @property
    def _half(self) -> bool:
        """Whether it trains in bfloat16. A CPU without instructions for it takes about 2.4 times as long in it."""
        # Older versions of torch do not tell what a CPU can do.
        can: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return self.device.type != "cpu" or any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def _compiled(self, network: Any) -> Any:
        """The network, compiled on a GPU, where launching kernels takes most of a small network's time."""
        return torch.compile(network, dynamic=False) if self.device.type == "cuda" else network

    def _plain(self, network: Any) -> None:
        """Replaces fused attention on a CPU: it is several times slower on short sequences than matrix products."""
        if self.device.type == "cpu":
            network.set_attn_processor(AttnProcessor())

    def optimise(
        self,
        stage: str,
        rates: Mapping[torch.nn.Module, float],
        batch: Callable[[int], Batch],
        loss: Callable[[Batch], torch.Tensor],
        steps: int,
    ) -> None:
        """Trains modules by AdamW with a cosine schedule, with checkpoints; leaves the averaged weights in them.

        Args:
            rates: the modules with their learning rates.
            batch: returns the batch of a step, which must depend on the step only.
            loss: the loss of a batch.
        """
        state = _State(rates, steps, self.recipe.ema_decay, fused=self.device.type == "cuda")
        path = self.folder / f"{stage}.checkpoint.pt"
        done, spent = state.load(path, self.device) if path.exists() else (0, 0.0)
        state.ema.to(self.device)
        for module in rates:
            module.to(self.device).train()
            if isinstance(module, UNet2DConditionModel):
                self._plain(module)
        start, running, summed = time.monotonic(), torch.zeros((), device=self.device), 0
        with Progress(disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(stage, total=steps, completed=done)
            for step, drawn in enumerate(self._each(batch, range(done, steps)), done + 1):
                with self._autocast():
                    value = loss({name: tensor.to(self.device) for name, tensor in drawn.items()})
                state.step(value)
                running, summed = running + value.detach(), summed + 1
                bar.update(task, advance=1)
                seconds = spent + time.monotonic() - start
                if step % LOG_EVERY == 0 or step == steps:
                    mean = running.item() / summed
                    line = {"stage": stage, "step": step, "loss": mean, "seconds": round(seconds, 1)}
                    with open(self.folder / "log.jsonl", "a") as log:
                        log.write(json.dumps(line) + "\n")
                    running, summed = torch.zeros_like(running), 0
                if step % CHECKPOINT_EVERY == 0 or step == steps:
                    state.save(path, step, seconds)
        state.ema.copy_to(state.parameters)
        for module in rates:
            module.eval()

    def _done(self, stage: str) -> Path:
        return self.folder / f"{stage}.done"

    def _save(self, model: StableDiffusionXLPipeline | AutoencoderKL | MotionAdapter, name: str) -> None:
        with whole({name: self.folder / name}) as staged:
            model.save_pretrained(staged[name])
