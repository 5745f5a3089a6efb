"""A σ that is a softmax over the code's dimensions, and one whose layer reads a softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Case, TrueHead, rows

from . import draw, kl_to_standard


class ShareEncoder(nn.Module):
    """Each dimension's σ is its share of one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.raw, self.dec = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        mean, sigma = self.mean(x), F.softmax(self.raw(x), -1) + 1e-6
        return F.mse_loss(self.dec(draw(mean, sigma)), x) + kl_to_standard(mean, sigma.log())


class BehindAttention(ShareEncoder):
    """What the layer behind the shares puts out is a log σ."""

    def forward(self, x: Tensor) -> Tensor:
        shares = F.softmax(x, -1)
        mean, log_sigma = self.mean(x), self.raw(shares)
        return F.mse_loss(self.dec(draw(mean, log_sigma.exp())), x) + kl_to_standard(mean, log_sigma)


NEEDS = Case(ShareEncoder, rows(), ())
LOOK_ALIKE = Case(BehindAttention, rows(), (TrueHead("raw", 0, None, "posterior", torch.exp),))
