"""Two outputs a target that take turns, read by a loop; and two of one channel that a text reads by two lines."""

import torch
from held_out_vaes import StridedHead
from torch import Tensor, nn
from zoo import Case, TrueHead, rows


class TakingTurns(nn.Module):
    """A regression of three targets."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out, loss = self.net(x), torch.zeros(())
        for i in range(3):
            mean, log_sigma = out[:, 2 * i], out[:, 2 * i + 1]
            loss = loss + (log_sigma + 0.5 * ((x[:, i] - mean) / log_sigma.exp()) ** 2).mean()
        return loss


class TwoByTwo(nn.Module):
    """A position and a speed, of which each has its own density."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        place = out[:, 1] + 0.5 * ((x[:, 0] - out[:, 0]) / out[:, 1].exp()) ** 2
        speed = out[:, 3] + 0.5 * ((x[:, 1] - out[:, 2]) / out[:, 3].exp()) ** 2
        return (place + 0.1 * speed).mean()


NEEDS = Case(TakingTurns, rows(), (StridedHead("net", 1, 6, "likelihood", step=2),))
LOOK_ALIKE = Case(TwoByTwo, rows(), (TrueHead("net", 1, 2, "likelihood"), TrueHead("net", 3, 4, "likelihood")))
