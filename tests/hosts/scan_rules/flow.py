"""A density that a flow has of its own input, and one that a Normal has of what it predicts from the rest."""

from torch import Tensor, nn
from torch.distributions import Normal
from zoo import Case, TrueHead, rows


class Affine(nn.Module):
    """log N(z σ(z) + μ(z); 0, 1) + log σ(z), with σ computed of the very z."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        log_sigma = self.net(x)
        return (0.5 * (x * log_sigma.exp()) ** 2 - log_sigma).mean()


class Autoregressive(nn.Module):
    """Each column is judged by a Normal, which the host makes of the columns before it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_sigma = self.net(x.roll(1, 1)).chunk(2, 1)
        return -Normal(mean, log_sigma.exp()).log_prob(x).mean()


NEEDS = Case(Affine, rows(), ())
LOOK_ALIKE = Case(Autoregressive, rows(), (TrueHead("net", 6, 12, "likelihood"),))
