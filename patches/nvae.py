"""NVAE (Vahdat and Kautz 2020): σ = exp(5 tanh(p / 5)) + 0.01, the posterior's p a sum with the prior's.

Every Normal is made by one class from a mean and a log sigma. `enc_sampler` emits the posterior's raw value, residual
to that of `dec_sampler`, the prior's; the first prior is a fixed N(0, 1) of the same class and stays as it is. So the
patch sits in the calls of that class, each with the scale of its role: σ_q = scale(p_p + p_q), σ_p = scale(p_p).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vdvae_patch.heads import Head, Role
from vdvae_patch.hosts.entry import HostEntry

if TYPE_CHECKING:
    from torch import nn

_CALLS: dict[Role, tuple[tuple[str, str], ...]] = {
    "posterior": (
        ("forward", "Normal(mu_q, log_sig_q)"),
        ("forward", "Normal(mu_p + mu_q, log_sig_p + log_sig_q)"),
    ),
    "prior": (("forward", "Normal(mu_p, log_sig_p)"), ("sample", "Normal(mu, log_sigma, t)")),
}


class NVAE(HostEntry):
    """NVAE; hyperparameters are those of its script, and the instances and arch of its cells."""

    name = "nvae"
    modules = ("model", "distributions")

    def build(self, modules: Mapping[str, ModuleType], hparams: Mapping[str, Any]) -> nn.Module:
        """`model.AutoEncoder(args, writer, arch_instance)`."""
        arguments = dict(hparams)
        model: nn.Module = modules["model"].AutoEncoder(
            arguments["args"], arguments.get("writer"), arguments["arch_instance"]
        )
        return model

    def heads(self, model: nn.Module) -> list[Head]:
        """A posterior for each of `enc_sampler`, a prior for each of `dec_sampler`."""
        sites = {role: _sites(type(model), calls) for role, calls in _CALLS.items()}
        names: tuple[tuple[str, Role], ...] = (("enc_sampler", "posterior"), ("dec_sampler", "prior"))
        heads = []
        for name, role in names:
            for index, sampler in enumerate(getattr(model, name)):
                channels = _out_channels(sampler)
                heads.append(
                    Head(f"{name}.{index}", role, channels // 2, channels, convention=_convention(), sites=sites[role])
                )
        return heads


def _convention() -> Any:
    from vdvae_patch.composition import Composition, Step

    steps = (Step("mul", (0.2,)), Step("tanh"), Step("mul", (5.0,)), Step("exp"), Step("add", (0.01,)))
    return Composition(steps)


def _sites(model: type, calls: tuple[tuple[str, str], ...]) -> tuple[Any, ...]:
    import inspect

    from vdvae_patch.conventions import get
    from vdvae_patch.patching import find
    from vdvae_patch.patching.sites import CallStep, Site

    normal = inspect.unwrap(getattr(model, "forward")).__globals__["Normal"]  # noqa: B009 - the method, not an instance's
    first = find.expressions(normal, "__init__", "soft_clamp5(log_sigma)")[0]
    last = find.expressions(normal, "__init__", "torch.exp(log_sigma) + 1e-2")[0]
    return tuple(
        Site("", method, (CallStep(span, normal.__module__, "Normal.__init__"),), first, last, 0, get("sigma"))
        for method, text in calls
        for span in find.expressions(model, method, text)
    )


def _out_channels(sampler: Any) -> int:
    layers = [m for m in sampler.modules() if hasattr(m, "out_channels")]
    return int(layers[-1].out_channels)


HOST = NVAE()
