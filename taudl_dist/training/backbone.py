"""The shared network under training: Adam over named tensors, and its state under the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from taudl_dist.config import OptimConfig
from taudl_dist.errors import UserError

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class TrainedBackbone:
    """Named tensors and the Adam that moves the parameters among them.

    Args:
        tensors: parameters, at least one, and buffers that belong to the state but are not trained.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], config: OptimConfig) -> None:
        self.tensors = dict(tensors)
        self.parameters = [tensor for tensor in tensors.values() if tensor.requires_grad]
        self._adam = torch.optim.Adam(self.parameters, lr=config.lr, weight_decay=config.weight_decay)

    def step(self, *, lr: float) -> None:
        """One Adam step on every parameter that has a gradient; then the gradients are gone."""
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor under its name, and Adam's moments under `<name>:<moment>` where the parameter has been moved."""
        state = {}
        for name, tensor in self.tensors.items():
            state[name] = tensor.detach()
            moments = self._adam.state.get(tensor, {})
            state.update({f"{name}:{moment}": moments[moment] for moment in MOMENTS if moment in moments})
        return state

    @torch.no_grad()
    def load(self, read: Callable[[str], torch.Tensor | None]) -> None:
        """Takes over a state.

        Args:
            read: gives the tensor of a key of `state`, or None where there is none.

        Raises:
            UserError: a tensor is missing, or has another shape or type.
        """
        for name, tensor in self.tensors.items():
            tensor.copy_(_expect(name, read(name), tensor))
            if not tensor.requires_grad or read(f"{name}:step") is None:
                continue
            step, first, second = (read(f"{name}:{moment}") for moment in MOMENTS)
            self._adam.state[tensor] = {
                "step": step,
                "exp_avg": torch.empty_like(tensor).copy_(_expect(f"{name}:exp_avg", first, tensor)),
                "exp_avg_sq": torch.empty_like(tensor).copy_(_expect(f"{name}:exp_avg_sq", second, tensor)),
            }


def _expect(name: str, found: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    if found is None:
        raise UserError(f"no tensor {name} in it; it was written by another configuration or dataset")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise UserError(
            f"tensor {name}: found {tuple(found.shape)} {found.dtype}, expected {tuple(like.shape)} {like.dtype};"
            " it was written by another configuration or dataset"
        )
    return found
