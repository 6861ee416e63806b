"""The heads of one rank under training: lazy Adam, and their state under their cameras' names, for any number of workers to load.

A head moves only when its camera is in the batch, by its own count of moves: plain Adam when all cameras are in each batch. Absent
heads cost nothing in a step, neither time nor memory for gradients.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.adam import adam

from taudl_dist.config import OptimConfig
from taudl_dist.errors import UserError
from taudl_dist.model import CameraHeads

Leaves = Mapping[int, tuple[torch.Tensor, torch.Tensor]]

_BETAS, _EPS = (0.9, 0.999), 1e-8
"""torch.optim.Adam's defaults, which the backbone trains with."""


class TrainedHeads:
    """Packed heads and their Adam.

    Args:
        heads: weights and biases held here.
        names: camera -> the name of its head in a checkpoint.
        saved: the cameras whose state this rank writes; None: all it holds.
    """

    def __init__(
        self, heads: CameraHeads, names: Mapping[int, str], config: OptimConfig, *, saved: Sequence[int] | None = None
    ) -> None:
        self.heads, self.names, self.config = heads, names, config
        self.saved = tuple(heads.rows if saved is None else saved)
        self._position = {camera: position for position, camera in enumerate(heads.rows)}
        self._packed = {"weight": heads.weight, "bias": heads.bias}
        self._exp_avg = {name: torch.zeros_like(tensor) for name, tensor in self._packed.items()}
        self._exp_avg_sq = {name: torch.zeros_like(tensor) for name, tensor in self._packed.items()}
        # one count for weight and one for bias, because adam() counts up each it is given; on the CPU, where it reads them
        self._moves = {name: torch.zeros(len(heads.rows)) for name in self._packed}

    @property
    def num_bytes(self) -> int:
        """Of weights and moments."""
        tensors = [*self._packed.values(), *self._exp_avg.values(), *self._exp_avg_sq.values()]
        return sum(tensor.nbytes for tensor in tensors)

    @torch.no_grad()
    def step(self, leaves: Leaves, *, lr: float) -> None:
        """One Adam step on the heads that collected a gradient."""
        moved: dict[str, list[torch.Tensor]] = {name: [] for name in ("p", "grad", "exp_avg", "exp_avg_sq", "moves")}
        for camera, (weight, bias) in leaves.items():
            rows, position = self.heads.rows[camera], self._position[camera]
            for name, leaf in (("weight", weight), ("bias", bias)):
                if leaf.grad is None:
                    continue
                moved["p"].append(self._packed[name][rows])
                moved["grad"].append(leaf.grad)
                moved["exp_avg"].append(self._exp_avg[name][rows])
                moved["exp_avg_sq"].append(self._exp_avg_sq[name][rows])
                moved["moves"].append(self._moves[name][position])
        if not moved["p"]:
            return
        adam(
            moved["p"], moved["grad"], moved["exp_avg"], moved["exp_avg_sq"], [], moved["moves"],
            amsgrad=False, beta1=_BETAS[0], beta2=_BETAS[1], lr=lr, weight_decay=self.config.weight_decay, eps=_EPS,
            maximize=False,
        )  # fmt: skip

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Packed weights, moments and counts of the cameras this rank saves, and which rows are whose (safetensors metadata)."""
        rows = {camera: self.heads.rows[camera] for camera in self.saved}
        everything = tuple(self.saved) == tuple(self.heads.rows)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if everything:
                return tensor
            return torch.cat([tensor[part] for part in rows.values()]) if rows else tensor[:0]

        counts = torch.tensor([self._position[camera] for camera in self.saved], dtype=torch.int64)
        tensors = {}
        for name, tensor in self._packed.items():
            tensors[name] = pack(tensor)
            tensors[f"{name}:exp_avg"] = pack(self._exp_avg[name])
            tensors[f"{name}:exp_avg_sq"] = pack(self._exp_avg_sq[name])
            tensors[f"{name}:step"] = self._moves[name][counts]
        table = [[self.names[camera], part.stop - part.start] for camera, part in rows.items()]
        return tensors, {"cameras": json.dumps(table)}

    @torch.no_grad()
    def load(self, files: Iterable[Any]) -> None:
        """Takes over the state of the heads held here from whichever files they lie in.

        Args:
            files: open safetensors files that `state` was written to, of any number of ranks.

        Raises:
            UserError: a head is missing, or has another shape or type.
        """
        place: dict[str, tuple[Any, slice, dict[str, torch.Tensor]]] = {}
        for file in files:
            first, moves = 0, {part: file.get_tensor(f"{part}:step") for part in self._packed}
            for position, (name, count) in enumerate(json.loads(file.metadata()["cameras"])):
                there = {part: counts[position] for part, counts in moves.items()}
                place[name] = (file, slice(first, first := first + count), there)
        for camera, rows in self.heads.rows.items():
            name = self.names[camera]
            if name not in place:
                raise UserError(f"no head of camera {name} in it; it was written by another configuration or dataset")
            file, found_rows, moves = place[name]
            for part, tensor in self._packed.items():
                targets = {"": tensor, ":exp_avg": self._exp_avg[part], ":exp_avg_sq": self._exp_avg_sq[part]}
                for suffix, target in targets.items():
                    found, own = file.get_slice(part + suffix)[found_rows], target[rows]
                    if found.shape != own.shape or found.dtype != own.dtype:
                        raise UserError(
                            f"{part}{suffix} of camera {name}: found {tuple(found.shape)} {found.dtype}, expected"
                            f" {tuple(own.shape)} {own.dtype}; it was written by another configuration or dataset"
                        )
                    own.copy_(found)
                self._moves[part][self._position[camera]] = moves[part]


@torch.no_grad()
def sum_gradients(leaves: Leaves) -> None:
    """Sums the gradients of heads that every rank holds; a collective: all ranks name the same cameras in the same order."""
    tensors = [tensor for head in leaves.values() for tensor in head]
    flat = torch.cat([torch.zeros_like(t).flatten() if t.grad is None else t.grad.flatten() for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.grad = part.view_as(tensor)
