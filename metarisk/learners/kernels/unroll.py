"""The inner loop of many tasks at once, and its reverse, by hand: meta-gradients without an autograd graph.

A network is a list of matrices (in + 1, out) whose last row is the bias, so inputs carry a column of ones. The reverse
pass multiplies the adjoint by one Hessian a step (Pearlmutter, Neural Computation 6, 1994: the R operator), which
equals differentiating through the inner loop. Ragged adaptation lives in `adapting`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarisk.domain import ModelError
from metarisk.learners.kernels.plan import Rate, Unrolled, normalised
from metarisk.learners.kernels.workspace import Workspace, rows_of
from metarisk.learners.packing import Block


class Unroll(Workspace):
    """The kernels for meta-batches of one shape; call it with weights, rates, support and query.

    The first layer's inputs never change in the inner loop, so where a task has fewer support rows than features its
    pre-activations are moved by the Gram matrix X X^T of the task, without forming or applying weight updates.
    """

    def __call__(
        self, weights: Sequence[Tensor], rates: Sequence[Sequence[Rate]], support: Block, query: Block
    ) -> Unrolled:
        """Losses and meta-gradients of one meta-batch.

        Args:
            weights: matrices (in + 1, out) from which every task starts.
            rates: inner rates [step][layer].
            support, query: blocks whose x ends in a column of ones; weights are normalised here.

        Raises:
            ModelError: a block or a weight of another shape, dtype or device than the workspace.
        """
        plan = self.plan
        self._check(weights, rates, support, query)
        self.support, self.query = support, query
        self.share, self.share_q = normalised(support.weight, plan.prior_rows), normalised(query.weight)
        self.share_wide, self.share_wide_q = (
            share if self.single else share.unsqueeze(-1) for share in (self.share, self.share_q)
        )
        if self.single:
            weights = [*weights[:-1], weights[-1].mT]
        self.steps[0].place([weight.expand(self.tasks, -1, -1) for weight in weights], self.single)
        inputs = rows_of(support.x)
        for step in self.steps:
            step.inputs[0] = inputs
        self.hidden_q[0] = rows_of(query.x)
        self.input_adjoint = torch.zeros_like(support.x[..., :-1]) if plan.adjoint else None
        self.input_adjoint_q = torch.zeros_like(query.x[..., :-1]) if plan.adjoint else None
        if self.gram:
            self._start_gram(weights[0])
        if plan.momentum:
            for direction in [*self.scaled, *([self.direction_z] if self.gram else [])]:
                direction.zero_()
        for number in range(plan.steps):
            self._descend(number, rates[number])
        if plan.order == 2 and plan.steps:
            self._bend()
        losses = torch.zeros(self.tasks, device=self.device, dtype=self.dtype)
        found: list[list[Tensor]] = []
        judged = False
        for number in range(plan.steps, -1, -1):
            part = self._part(number)
            if part:
                losses += self._judge(number, part, first=not judged)
                judged = True
            if number and (plan.order == 2 or plan.learn_rates):
                row = rates[number - 1]
                # A step after the last loss that is judged teaches nothing, and has no adjoint to carry.
                found.append(self._reflect(number - 1, row) if judged else [self._nothing(rate) for rate in row])
        return self._collect(losses, found[::-1] if plan.learn_rates else [])

    def _nothing(self, rate: Rate) -> Tensor:
        """Gradient of a rate that no judged loss depends on."""
        shape = () if isinstance(rate, float) else rate.shape
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def _part(self, step: int) -> float:
        """Weight of the query loss after `step` inner steps."""
        if self.plan.loss_weights is None or self.plan.steps == 0:
            return float(step == self.plan.steps)
        return self.plan.loss_weights[step - 1] if step else 0.0

    def _start_gram(self, weight: Tensor) -> None:
        self.rows_z.zero_()
        x, x_q = self.support.x, self.query.x
        torch.bmm(x, x.mT, out=self.inner)
        torch.bmm(x_q, x.mT, out=self.cross)
        torch.mm(x.flatten(0, 1), weight, out=self.z_start.flatten(0, 1))
        torch.mm(x_q.flatten(0, 1), weight, out=self.z_start_q.flatten(0, 1))

    def _descend(self, number: int, rates: Sequence[Rate]) -> None:
        """One gradient step of every task on its support rows."""
        step, last = self.steps[number], self.layers - 1
        for i in range(self.layers):
            if i == 0 and self.gram:
                torch.baddbmm(self.z_start, self.inner, self.shift[number], alpha=-1, out=self.z[0])
            else:
                self._apply(i, step.inputs[i], step.weights[i], self.z[i] if i < last else step.scores)
            if i < last:
                self.activation.apply(self.z[i], step.hidden[i + 1])
                self.activation.slope(step.hidden[i + 1], step.slopes[i])
        eta = _offset(step.eta, self.support.base)
        torch.mul(self.likelihood.gradient(eta, self.support.y), self.share_wide, out=step.top)
        for i in range(last, 0, -1):
            self._spread(i, step.upright[i], step.below[i], self.back[i])
            torch.mul(self.back[i], step.slopes[i - 1], out=step.upright[i - 1])
        for i in range(self.layers):
            self._move(number, i, rates[i])

    def _bend(self) -> None:
        """Second derivatives of the support losses in the scores, of all steps at once."""
        curvature = self.likelihood.curvature(self.etas, self.support.y)
        curvature = curvature * (self.share if self.single else self.share_wide.unsqueeze(-1))
        for step, each in zip(self.steps, curvature.unbind(), strict=False):
            step.curvature = each

    def _move(self, number: int, i: int, rate: Rate) -> None:
        step, after = self.steps[number], self.steps[number + 1]
        momentum = self.plan.momentum
        if i == 0 and self.gram:
            speed = step.deltas[0]
            if momentum:
                before = self.speed[number - 1] if number else torch.zeros_like(speed)
                speed = torch.add(speed, before, alpha=momentum, out=self.speed[number])
            if isinstance(rate, float):
                torch.add(self.shift[number], speed, alpha=rate, out=self.shift[number + 1])
            else:
                torch.addcmul(self.shift[number], speed, rate, out=self.shift[number + 1])
        elif isinstance(rate, float) and not momentum:
            self._gather(i, step.weights[i], step.inputs[i], step.deltas[i], after.weights[i], alpha=-rate)
        else:
            gradient = step.gradients[i]
            self._gather(i, gradient, step.inputs[i], step.deltas[i], gradient, beta=0.0)
            if momentum and number:
                gradient.add_(self.steps[number - 1].gradients[i], alpha=momentum)
            if isinstance(rate, float):
                torch.add(step.weights[i], gradient, alpha=-rate, out=after.weights[i])
            else:
                torch.addcmul(step.weights[i], gradient, self._laid(i, rate), value=-1, out=after.weights[i])

    def _judge(self, number: int, part: float, *, first: bool) -> Tensor:
        """Losses (B,) after `number` steps, times `part`; their gradient is added to the adjoint, or begins it."""
        step, last, beta = self.steps[number], self.layers - 1, 0.0 if first else 1.0
        for i in range(self.layers):
            if i == 0 and self.gram:
                torch.baddbmm(self.z_start_q, self.cross, self.shift[number], alpha=-1, out=self.z_q[0])
            else:
                self._apply(i, self.hidden_q[i], step.weights[i], self.z_q[i])
            if i < last:
                self.activation.apply(self.z_q[i], self.inner_q[i + 1])
        eta = _offset(self.eta_q, self.query.base)
        losses = (self.likelihood.loss(eta, self.query.y) * self.share_q).sum(-1) * part
        gradient = self.likelihood.gradient(eta, self.query.y) * self.share_wide_q * part
        upright = gradient.view(self.top_q.shape)
        delta = self._laid(last, upright)
        for i in range(last, -1, -1):
            if i == 0 and self.gram:
                torch.baddbmm(self.adjoint_z, self.cross.mT, delta, beta=beta, out=self.adjoint_z)
                torch.add(self.rows_z_q, delta, out=self.rows_z_q) if beta else self.rows_z_q.copy_(delta)
                break
            self._gather(i, self.adjoint[i], self.hidden_q[i], delta, self.adjoint[i], beta=beta)
            if i > 0:
                self._spread(i, upright, step.below[i], self.back_q[i])
                upright = delta = self.z_q[i - 1]
                self.activation.pull(self.back_q[i], self.inner_q[i], delta)
            elif self.input_adjoint_q is not None:
                self.input_adjoint_q += self._spread(0, upright, step.below[0], self.back_q[0])
        return losses

    def _reflect(self, number: int, rates: Sequence[Rate]) -> list[Tensor]:
        """Carry the adjoint from after a step to before it: one Hessian-vector product; gradients of the rates.

        The direction of the product is the adjoint times the rates, plus momentum times the direction one step later.
        The rate of the first layer, if a number, is divided out of the direction and multiplied into the product.
        """
        step, last = self.steps[number], self.layers - 1
        common = float(rates[0]) if isinstance(rates[0], float) and rates[0] and not self.plan.momentum else 1.0
        found, directions = self._rate_gradients(number, rates, common)
        if self.plan.order == 1:
            return found
        for i, (image, _, scale) in enumerate(directions):
            if i:
                self._apply(i, step.images[i], step.weights[i], self.z[i], image, beta=scale)
            elif scale != 1.0:
                torch.mul(image, scale, out=self.z[0])
                image = self.z[0]
            if i < last:
                torch.mul(self.z[i] if i else image, step.slopes[i], out=step.hidden_images[i + 1])
        if self.single:
            torch.mul(self.eta, step.curvature, out=step.top_image)
        else:
            step.top_image.copy_((step.curvature @ self.z[last].unsqueeze(-1)).squeeze(-1))
        for i in range(last, -1 if self.input_adjoint is not None else 0, -1):
            _, below, scale = directions[i]
            self._spread(i, step.upright_images[i], step.below[i], self.back[i])
            self._spread(i, step.upright[i], below, self.back[i], beta=1.0, alpha=scale)
            if i == 0 and self.input_adjoint is not None:
                self.input_adjoint.sub_(self.back[0], alpha=common)
                break
            torch.mul(self.back[i], step.slopes[i - 1], out=step.upright_images[i - 1])
            if self.activation.bend is not None:
                image = directions[0][0] if i == 1 and directions[0][2] == 1.0 else self.z[i - 1]
                room, target = self.z[i - 1], step.upright_images[i - 1]
                self.activation.bend(image, step.hidden[i], step.upright[i - 1], room, target)
        for i in range(self.layers):
            if i == 0 and self.gram:
                self.adjoint_z.baddbmm_(self.inner, step.delta_images[0], alpha=-common)
                self.rows_z.sub_(step.delta_images[0], alpha=common)
            elif i == 0:
                adjoint = self.adjoint[0]
                self._gather(0, adjoint, step.inputs[0], step.delta_images[0], adjoint, alpha=-common)
            else:
                adjoint = self.adjoint[i]
                self._gather(i, adjoint, step.both[i], step.deltas_both[i], adjoint, alpha=-common)
        return found

    def _rate_gradients(
        self, number: int, rates: Sequence[Rate], common: float
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor, float]]]:
        """Gradients of the rates, and the direction of the Hessian-vector product by layer, over `common`.

        A direction is: inputs times it, it transposed and without its bias row, and a factor that both still lack.
        """
        step, momentum = self.steps[number], self.plan.momentum
        found: list[Tensor] = []
        directions: list[tuple[Tensor, Tensor, float]] = []
        for i, rate in enumerate(rates):
            adjoint, z = self.adjoint[i], self.z[i]
            if i == 0 and self.gram:
                if self.plan.learn_rates:
                    speed = self.speed[number] if momentum else step.deltas[0]
                    found.append(-(self.adjoint_z * speed).sum() / self.tasks)
                if isinstance(rate, float) and not momentum:
                    directions.append((self.adjoint_z, adjoint, rate / common))
                else:
                    directions.append((_blended(self.direction_z, momentum, self.adjoint_z, rate), adjoint, 1.0))
            elif isinstance(rate, float) and not momentum:
                self._apply(i, step.inputs[i], adjoint, z)
                directions.append((z, self.adjoint_below[i], rate / common))
                if self.plan.learn_rates:
                    found.append(-(z * step.deltas[i]).sum() / self.tasks)
            else:
                if self.plan.learn_rates:
                    each = -(adjoint * step.gradients[i]).sum(0) / self.tasks
                    matrix = not isinstance(rate, float) and rate.dim()
                    found.append(self._laid(i, each) if matrix else each.sum())
                scaled = _blended(
                    self.scaled[i], momentum, adjoint, rate if isinstance(rate, float) else self._laid(i, rate)
                )
                self._apply(i, step.inputs[i], scaled, z)
                directions.append((z, self._below(i, scaled), 1.0 / common))
        return found, directions

    def _collect(self, losses: Tensor, rates: list[list[Tensor]]) -> Unrolled:
        gradients = [self._laid(i, adjoint.mean(0)) for i, adjoint in enumerate(self.adjoint)]
        if self.gram:
            gradients[0] = self.query.x.flatten(0, 1).T @ self.rows_z_q.flatten(0, 1)
            if self.plan.order == 2:
                gradients[0].addmm_(self.support.x.flatten(0, 1).T, self.rows_z.flatten(0, 1))
            gradients[0] /= self.tasks
        support, query = (
            None if adjoint is None else adjoint / self.tasks for adjoint in (self.input_adjoint, self.input_adjoint_q)
        )
        return Unrolled(losses, gradients, rates, support, query)

    def _check(self, weights: Sequence[Tensor], rates: Sequence[Sequence[Rate]], support: Block, query: Block) -> None:
        wanted: dict[str, tuple[Tensor, tuple[int, ...]]]
        wanted = {f"weights[{i}]": (w, (self.widths[i] + 1, self.widths[i + 1])) for i, w in enumerate(weights)}
        for name, block, rows in (("support", support, self.n), ("query", query, self.q)):
            wanted[f"{name}.x"] = (block.x, (self.tasks, rows, self.widths[0] + 1))
            for field in ("y", "weight", "base"):
                wanted[f"{name}.{field}"] = (getattr(block, field), (self.tasks, rows))
        for name, (tensor, shape) in wanted.items():
            came = (tuple(tensor.shape), tensor.dtype, tensor.device.type)
            expected = (shape, self.dtype, self.device.type)
            if came != expected:
                raise ModelError(
                    f"{name}: expected shape, dtype and device {expected}, got {came}",
                    remedy="gather blocks with packing.Store on the device and in the dtype of the training loop",
                )
        if len(weights) != self.layers or len(rates) < self.plan.steps:
            raise ModelError(
                f"expected {self.layers} weights and rates of {self.plan.steps} steps, "
                f"got {len(weights)} and {len(rates)}",
                remedy="give one matrix a layer and one row of rates an inner step",
            )


def _offset(eta: Tensor, base: Tensor) -> Tensor:
    """Scores, the base score added to the first output in place."""
    (eta if eta.dim() == base.dim() else eta[..., 0]).add_(base)
    return eta


def _blended(direction: Tensor, momentum: float, adjoint: Tensor, rate: Rate) -> Tensor:
    """direction = momentum direction + rate adjoint, in place."""
    if not momentum:
        return torch.mul(adjoint, rate, out=direction)
    direction.mul_(momentum)
    if isinstance(rate, float):
        return direction.add_(adjoint, alpha=rate)
    return direction.addcmul_(adjoint, rate)
