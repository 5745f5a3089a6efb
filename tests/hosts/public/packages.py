"""Models of installed packages: autoencoders of media, cells, tables, graphs; policies, forecasts, Bayesian nets."""

from __future__ import annotations

import importlib.machinery
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import TrueHead

from public import Package, PublicCase, without
from public.draws import half

BAYESIAN_TORCH = Package("bayesian-torch", "0.5.0")
BLITZ = Package("blitz-bayesian-pytorch", "0.2.8")
CEBRA = Package("cebra", "0.6.1")
COMPRESSAI = Package("compressai", "1.2.8")
CTGAN = Package("ctgan", "0.12.1")
DIFFUSERS = Package("diffusers", "0.42.1")
GLUONTS = Package("gluonts", "0.17.0")
GPYTORCH = Package("gpytorch", "1.15.2")
MULTIVAE = Package("multivae", "1.0.3")
NORMFLOWS = Package("normflows", "1.7.3")
PYG = Package("torch-geometric", "2.8.1")
PYRO = Package("pyro-ppl", "1.9.2")
PYTHAE = Package("pythae", "0.1.2")
SB3 = Package("stable_baselines3", "2.9.2")
SCVI = Package("scvi-tools", "1.4.2")
STABLE_AUDIO = Package("stable-audio-tools", "0.0.19")
TIANSHOU = Package("tianshou", "2.0.1")
TORCHBNN = Package("torchbnn", "1.2")
TORCHRL = Package("torchrl", "0.14.1")
TRANSFORMERS = Package("transformers", "5.24.0")
VECTOR_QUANTIZE = Package("vector-quantize-pytorch", "1.32.0")
ZUKO = Package("zuko", "1.6.0")


@contextmanager
def standing_in(**attributes: str) -> Iterator[None]:
    """Stand-ins, while a package is imported, for what it imports and its models never use (see `without`)."""
    made = {name: module for name, module in without(**attributes).items() if name not in sys.modules}
    for name, module in made.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for attribute in attributes[name.replace(".", "__")].split():
            setattr(module, attribute, type(attribute, (), {}))  # some are made, as defaults, where they are imported
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)


def torchvision() -> Any:
    return standing_in(
        torchvision="",
        torchvision__datasets="CelebA MNIST SVHN",
        torchvision__datasets__utils="download_and_extract_archive download_file_from_google_drive",
        torchvision__models="",
        torchvision__transforms="Compose Normalize Resize ToPILImage ToTensor",
        torchvision__utils="make_grid save_image",
    )


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def clamped_half(v: Tensor) -> Tensor:
    return torch.exp(0.5 * v.clamp(-30, 20))


def identity(v: Tensor) -> Tensor:
    return v


def variance_floor(v: Tensor) -> Tensor:
    return torch.sqrt(torch.exp(v) + 1e-4)


def squareplus(v: Tensor) -> Tensor:
    return ((v + torch.sqrt(v * v + 4)) / 2).clamp_min(torch.finfo(torch.float32).eps)


def fixed(*tensors: Any) -> Callable[[], tuple[Any, ...]]:
    """The same inputs every time, copied so that no call can change the next."""
    return lambda: tuple(t.clone() if isinstance(t, Tensor) else t for t in tensors)


# diffusers -----------------------------------------------------------------------------------------------------------


def of_diffusers(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (package,) = DIFFUSERS.load("diffusers")
        if not hasattr(package, name):
            package = importlib.import_module("diffusers.models.autoencoders.autoencoder_mmaudio")
        model: nn.Module = getattr(package, name)(**arguments)
        return model

    return build


def latent_loss(model: Any, x: Tensor) -> Tensor:
    latent = model.encode(x).latent_dist
    return F.mse_loss(model.decode(latent.sample()).sample, x) + 1e-6 * latent.kl().mean()


def mel_loss(model: Any, x: Tensor) -> Tensor:
    latent = model.encode(x).latent_dist
    mel = model.mel_converter(x)
    kl = 0.5 * (latent.mean**2 + latent.var - 1 - latent.logvar)
    return F.l1_loss(model.decode(latent.sample()).sample, mel) + 1e-4 * kl.mean()


def wave_loss(model: Any, x: Tensor) -> Tensor:
    latent = model.encode(x).latent_dist
    kl = 0.5 * (latent.mean**2 + latent.std**2 - 1) - latent.logs
    return F.l1_loss(model.decode(latent.sample()).sample, x) + 1e-4 * kl.mean()


def tiny_loss(model: Any, x: Tensor) -> Tensor:
    return F.mse_loss(model(x).sample, x)


def vq_loss(model: Any, x: Tensor) -> Tensor:
    out = model(x)
    return F.mse_loss(out.sample, x) + out.commit_loss


def denoising() -> nn.Module:
    (package,) = DIFFUSERS.load("diffusers")
    model: nn.Module = package.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    return model


def denoising_loss(model: Any, x: Tensor) -> Tensor:
    (package,) = DIFFUSERS.load("diffusers")
    schedule = package.DDPMScheduler(num_train_timesteps=50)
    eps, steps = torch.randn_like(x), torch.randint(0, 50, (len(x),))
    return F.mse_loss(model(schedule.add_noise(x, eps, steps), steps).sample, eps)


# scvi-tools ----------------------------------------------------------------------------------------------------------

GENES, PROTEINS = 12, 4


def cells() -> tuple[Any, ...]:
    counts = (unit(6, GENES, seed=5) * 9).round() + 1
    return ({
        "X": counts, "batch": torch.tensor([[0], [1], [0], [1], [1], [0]]),
        "labels": torch.tensor([[0], [1], [2], [0], [1], [2]]), "proteins": (unit(6, PROTEINS, seed=6) * 20).round(),
    },)  # fmt: skip


def scvi_vae() -> nn.Module:
    import numpy

    (module,) = SCVI.load("scvi.module")
    model: nn.Module = module.VAE(
        GENES, n_batch=2, n_hidden=8, n_latent=3, use_observed_lib_size=False, gene_likelihood="normal",
        library_log_means=numpy.full((1, 2), 4.0), library_log_vars=numpy.full((1, 2), 0.3),
    )  # fmt: skip
    return model


def totalvi() -> nn.Module:
    import numpy

    (module,) = SCVI.load("scvi.module")
    model: nn.Module = module.TOTALVAE(
        GENES, PROTEINS, n_batch=2, n_panel=2, n_hidden=8, n_latent=3, use_observed_lib_size=False,
        library_log_means=numpy.full((1, 2), 4.0), library_log_vars=numpy.full((1, 2), 0.3),
    )  # fmt: skip
    return model


def scanvi() -> nn.Module:
    (module,) = SCVI.load("scvi.module")
    model: nn.Module = module.SCANVAE(GENES, n_batch=2, n_labels=3, n_hidden=8, n_latent=3, gene_likelihood="nb")
    return model


def peakvi() -> nn.Module:
    (module,) = SCVI.load("scvi.module")
    model: nn.Module = module.PEAKVAE(GENES, n_batch=2, n_hidden=8, n_latent=3)
    return model


def scvi_loss(model: Any, tensors: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(tensors)[2].loss
    return loss


def open_regions() -> tuple[Any, ...]:
    (tensors,) = cells()
    return ({**tensors, "X": (tensors["X"] > 5).float()},)


# pythae and multivae -------------------------------------------------------------------------------------------------


def of_pythae(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (models,) = PYTHAE.load("pythae.models")
        config = getattr(models, name + ("_Config" if "_" in name else "Config"))
        model: nn.Module = getattr(models, name)(config(input_dim=(1, 4, 4), latent_dim=3, **arguments))
        return model

    return build


def pythae_batch() -> tuple[Any, ...]:
    (datasets,) = PYTHAE.load("pythae.data.datasets")
    return (datasets.DatasetOutput(data=unit(6, 1, 4, 4)),)


def output_loss(model: Any, batch: Any) -> Tensor:
    loss: Tensor = model(batch).loss
    return loss


def of_multivae(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torchvision():
            (models,) = MULTIVAE.load("multivae.models")
        config = getattr(models, name + "Config")(
            n_modalities=2, latent_dim=3, input_dims={"a": (5,), "b": (4,)}, **arguments)  # fmt: skip
        model: nn.Module = getattr(models, name)(config)
        return model

    return build


def modalities() -> tuple[Any, ...]:
    with torchvision():
        (base,) = MULTIVAE.load("multivae.data.datasets.base")
    return (base.MultimodalBaseDataset({"a": noise(6, 5, seed=2), "b": noise(6, 4, seed=3)}),)


def hierarchical() -> nn.Module:
    with torchvision():
        models, config = MULTIVAE.load("multivae.models.mhvae", "multivae.models.base")
    encoders, decoders = PYTHAE.load("pythae.models.nn.base_architectures", "pythae.models.nn.base_architectures")

    class Gaussian(encoders.BaseEncoder):  # type: ignore[misc]
        def __init__(self, n_in: int, n_out: int) -> None:
            super().__init__()
            self.hidden, self.mean, self.log_var = nn.Linear(n_in, 8), nn.Linear(8, n_out), nn.Linear(8, n_out)

        def forward(self, x: Tensor) -> Any:
            h = torch.relu(self.hidden(x))
            return config.ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class First(encoders.BaseEncoder):  # type: ignore[misc]
        def __init__(self, n_in: int) -> None:
            super().__init__()
            self.latent_dim, self.net = 4, nn.Sequential(nn.Linear(n_in, 4), nn.ReLU())

        def forward(self, x: Tensor) -> Any:
            return config.ModelOutput(embedding=self.net(x))

    class Last(decoders.BaseDecoder):  # type: ignore[misc]
        def __init__(self, n_out: int) -> None:
            super().__init__()
            self.latent_dim, self.net = 3, nn.Linear(3, n_out)

        def forward(self, z: Tensor) -> Any:
            return config.ModelOutput(reconstruction=self.net(z))

    sizes = {"a": 5, "b": 4}
    model: nn.Module = models.MHVAE(
        models.MHVAEConfig(n_modalities=2, latent_dim=3, input_dims={m: (n,) for m, n in sizes.items()}, n_latent=2),
        {m: First(n) for m, n in sizes.items()},
        {m: Last(n) for m, n in sizes.items()},
        {m: [Gaussian(4, 3)] for m in sizes},
        [nn.Linear(3, 4)],
        {m: [Gaussian(8, 3)] for m in sizes},
        [Gaussian(4, 3)],
    )
    return model


# ctgan, stable-audio-tools, torch-geometric, compressai --------------------------------------------------------------


def tvae() -> nn.Module:
    (module,) = CTGAN.load("ctgan.synthesizers.tvae")
    return nn.ModuleDict({"encoder": module.Encoder(9, (8,), 3), "decoder": module.Decoder(3, (8,), 9)})


def tvae_loss(model: Any, x: Tensor) -> Tensor:
    module, data = CTGAN.load("ctgan.synthesizers.tvae", "ctgan.data_transformer")
    tanh, three, two = (data.SpanInfo(*info) for info in ((1, "tanh"), (3, "softmax"), (2, "softmax")))
    mean, std, log_var = model["encoder"](x)
    rec, sigmas = model["decoder"](torch.randn_like(std) * std + mean)
    first, second = module._loss_function(
        rec, x, sigmas, mean, log_var, [[tanh, three], [tanh, two], [two]], 2
    )  # a continuous column is a scalar and its mode, a discrete one its category
    total: Tensor = first + second
    return total


def table_rows() -> tuple[Any, ...]:
    def pick(n: int, seed: int) -> Tensor:
        return F.one_hot(torch.randint(n, (6,), generator=torch.Generator().manual_seed(seed)), n).float()

    number = noise(6, 2, seed=4).tanh()
    return (torch.cat([number[:, :1], pick(3, 1), number[:, 1:], pick(2, 2), pick(2, 3)], 1),)


def stable_audio() -> nn.Module:
    with standing_in(torchaudio="", torchaudio__transforms="Resample", k_diffusion=""):
        autoencoders, bottleneck = STABLE_AUDIO.load(
            "stable_audio_tools.models.autoencoders", "stable_audio_tools.models.bottleneck")  # fmt: skip
    encoder = autoencoders.OobleckEncoder(1, 4, latent_dim=6, c_mults=[1, 2], strides=[2, 2], use_snake=True)
    decoder = autoencoders.OobleckDecoder(1, 4, latent_dim=3, c_mults=[1, 2], strides=[2, 2], use_snake=True)
    model: nn.Module = autoencoders.AudioAutoencoder(
        encoder, decoder, 3, 4, 8000, io_channels=1, bottleneck=bottleneck.VAEBottleneck())  # fmt: skip
    return model


def stable_audio_loss(model: Any, x: Tensor) -> Tensor:
    latents, info = model.encode(x, return_info=True)
    return F.l1_loss(model.decode(latents), x) + 1e-4 * info["kl"]


def vgae() -> nn.Module:
    (package,) = PYG.load("torch_geometric.nn")

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = package.GCNConv(5, 8)
            self.conv_mu, self.conv_logstd = package.GCNConv(8, 3), package.GCNConv(8, 3)

        def forward(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
            h = self.conv1(x, edges).relu()
            return self.conv_mu(h, edges), self.conv_logstd(h, edges)

    model: nn.Module = package.VGAE(Encoder())
    return model


def vgae_loss(model: Any, x: Tensor, edges: Tensor) -> Tensor:
    z = model.encode(x, edges)
    loss: Tensor = model.recon_loss(z, edges) + model.kl_loss() / len(x)
    return loss


def hyperprior() -> nn.Module:
    with torchvision():
        (module,) = COMPRESSAI.load("compressai.models.google")
    model: nn.Module = module.MeanScaleHyperprior(4, 6)
    return model


def hyperprior_loss(model: Any, x: Tensor) -> Tensor:
    with torchvision():
        (losses,) = COMPRESSAI.load("compressai.losses.rate_distortion")
    loss: Tensor = losses.RateDistortionLoss()(model(x), x)["loss"] + model.aux_loss()
    return loss


# policies ------------------------------------------------------------------------------------------------------------


def of_sb3(module: str, name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import numpy
        from gymnasium.spaces import Box

        (policies,) = SB3.load(module)
        spaces = Box(-1, 1, (5,), numpy.float32), Box(-1, 1, (2,), numpy.float32)
        policy: nn.Module = getattr(policies, name)(*spaces, lambda _: 1e-3, net_arch=[8], **arguments)
        return policy

    return build


def sac_loss(policy: Any, obs: Tensor) -> Tensor:
    actions, log_prob = policy.actor.action_log_prob(obs)
    q = torch.cat(policy.critic(obs, actions), dim=1).min(dim=1, keepdim=True).values
    return (0.2 * log_prob.reshape(-1, 1) - q).mean()


def ppo_loss(policy: Any, obs: Tensor, actions: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
    values, log_prob, entropy = policy.evaluate_actions(obs, actions)
    ratio = torch.exp(log_prob - old)
    clipped = torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2))
    return -clipped.mean() + 0.5 * F.mse_loss(values.flatten(), advantages) - 0.01 * entropy.mean()


def torchrl_actor() -> nn.Module:
    modules, tensordict = TORCHRL.load("torchrl.modules", "tensordict.nn")
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4), tensordict.NormalParamExtractor())
    actor: nn.Module = modules.ProbabilisticActor(
        tensordict.TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"], distribution_class=modules.TanhNormal, return_log_prob=True,
    )  # fmt: skip
    return actor


def torchrl_loss(actor: Any, obs: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
    (tensordict,) = TORCHRL.load("tensordict")
    log_prob = actor.get_dist(tensordict.TensorDict({"observation": obs}, [len(obs)])).log_prob(actions)
    return -(advantages * log_prob).mean()


def tianshou_actor() -> nn.Module:
    common, continuous = TIANSHOU.load("tianshou.utils.net.common", "tianshou.utils.net.continuous")
    actor: nn.Module = continuous.ContinuousActorProbabilistic(
        preprocess_net=common.Net(state_shape=5, hidden_sizes=[8]), action_shape=(2,), conditioned_sigma=True
    )
    return actor


def reinforce(actor: Any, obs: Tensor, actions: Tensor, returns: Tensor) -> Tensor:
    (mean, sigma), _ = actor(obs)
    chosen = torch.distributions.Independent(torch.distributions.Normal(mean, sigma), 1)
    return -(chosen.log_prob(actions) * returns).mean()


# transformers and gluonts --------------------------------------------------------------------------------------------


def of_transformers(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        (package,) = TRANSFORMERS.load("transformers")
        config = name.partition("For")[0].removesuffix("Model") + "Config"
        model: nn.Module = getattr(package, name)(getattr(package, config)(**arguments))
        return model

    return build


def series_loss(model: Any, past: Tensor, past_time: Tensor, future: Tensor, future_time: Tensor) -> Tensor:
    loss: Tensor = model(
        past_values=past, past_time_features=past_time, past_observed_mask=torch.ones_like(past),
        future_values=future, future_time_features=future_time,
    ).loss  # fmt: skip
    return loss


def patch_loss(model: Any, past: Tensor, future: Tensor) -> Tensor:
    loss: Tensor = model(past_values=past, future_values=future).loss
    return loss


def vits_loss(model: Any, tokens: Tensor, spectrogram: Tensor, wave: Tensor) -> Tensor:
    token_mask, mask = torch.ones(*tokens.shape, 1), torch.ones(len(wave), 1, spectrogram.shape[2])
    text = model.text_encoder(tokens, padding_mask=token_mask, attention_mask=torch.ones_like(tokens))
    z, _, logs_q = model.posterior_encoder(spectrogram, mask)
    z_p = model.flow(z, mask)
    m_p, logs_p = (
        p.transpose(1, 2).repeat_interleave(2, 2) for p in (text.prior_means, text.prior_log_variances)
    )  # the aligned text: here two frames a token
    kl = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p) ** 2 * torch.exp(-2 * logs_p)
    out = model.decoder(z)
    return F.l1_loss(out, wave[:, :, : out.shape[2]]) + kl.mean()


def deepar() -> nn.Module:
    module, outputs = GLUONTS.load(
        "gluonts.torch.model.deepar.module", "gluonts.torch.distributions.distribution_output")  # fmt: skip
    model: nn.Module = module.DeepARModel(
        "D", 4, 3, hidden_size=8, num_layers=1, dropout_rate=0.0, distr_output=outputs.NormalOutput(),
        lags_seq=[1, 2], embedding_dimension=[2],
    )  # fmt: skip
    return model


def deepar_loss(model: Any, past: Tensor, past_time: Tensor, future: Tensor, future_time: Tensor) -> Tensor:
    n = len(past)
    loss: Tensor = model.loss(
        torch.zeros(n, 1, dtype=torch.long), torch.zeros(n, 1), past_time, past, torch.ones_like(past), future_time,
        future, torch.ones_like(future),
    )  # fmt: skip
    return loss.mean()


def series(past: int, future: int, features: int) -> Callable[[], tuple[Any, ...]]:
    return fixed(
        unit(4, past, seed=1) + 1, noise(4, past, features, seed=2),
        unit(4, future, seed=3) + 1, noise(4, future, features, seed=4),
    )  # fmt: skip


def image_classes(model: Any, x: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = model(pixel_values=x, labels=labels).loss
    return loss


# Bayesian nets, Gaussian processes, probabilistic programs -----------------------------------------------------------


class Chain(nn.Module):
    """Two layers and a ReLU."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class WithKL(Chain):
    """The same, of layers that return their KL, too."""

    def forward(self, x: Tensor) -> Any:
        h, first = self.first(x)
        out, second = self.second(torch.relu(h))
        return out, first + second


def bayesian_torch() -> nn.Module:
    (layers,) = BAYESIAN_TORCH.load("bayesian_torch.layers")
    return WithKL(layers.LinearReparameterization(5, 8), layers.LinearReparameterization(8, 1))


def bayesian_torch_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    out, kl = model(x)
    return F.mse_loss(out, y) + kl / len(x)


def flipout() -> nn.Module:
    (layers,) = BAYESIAN_TORCH.load("bayesian_torch.layers")
    return WithKL(layers.LinearFlipout(5, 8), layers.LinearFlipout(8, 1))


def blitz() -> nn.Module:
    modules, utils = BLITZ.load("blitz.modules", "blitz.utils")
    model: nn.Module = utils.variational_estimator(Chain)(modules.BayesianLinear(5, 8), modules.BayesianLinear(8, 1))
    return model


def blitz_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    loss: Tensor = model.sample_elbo(x, y, criterion=nn.MSELoss(), sample_nbr=2, complexity_cost_weight=1 / len(x))
    return loss


def torchbnn() -> nn.Module:
    (package,) = TORCHBNN.load("torchbnn")
    return Chain(package.BayesLinear(0, 0.1, 5, 8), package.BayesLinear(0, 0.1, 8, 1))


def torchbnn_loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
    (package,) = TORCHBNN.load("torchbnn")
    loss: Tensor = F.mse_loss(model(x), y) + 0.01 * package.BKLLoss()(model)
    return loss.sum()


def gaussian_process() -> nn.Module:
    package, models, variational, mlls = GPYTORCH.load(
        "gpytorch", "gpytorch.models", "gpytorch.variational", "gpytorch.mlls")  # fmt: skip

    class Process(models.ApproximateGP):  # type: ignore[misc]
        def __init__(self, points: Tensor) -> None:
            posterior = variational.MeanFieldVariationalDistribution(len(points))
            super().__init__(variational.VariationalStrategy(self, points, posterior))
            self.mean_module = package.means.ConstantMean()
            self.covar_module = package.kernels.ScaleKernel(package.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return package.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    mll: nn.Module = mlls.VariationalELBO(package.likelihoods.GaussianLikelihood(), Process(noise(4, 2, seed=7)), 6)
    mll.model(noise(6, 2))  # the first call sets the variational parameters
    return mll


def process_loss(mll: Any, x: Tensor, y: Tensor) -> Tensor:
    loss: Tensor = -mll(mll.model(x), y)
    return loss


def pyro_vae() -> nn.Module:
    pyro, dist = PYRO.load("pyro", "pyro.distributions")
    pyro.clear_param_store()

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.loc, self.log_scale = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
            self.decoder = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 6))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), x.new_ones(len(x), 3)).to_event(1))
                pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                h = F.softplus(self.hidden(x))
                pyro.sample("z", dist.Normal(self.loc(h), torch.exp(self.log_scale(h))).to_event(1))

    return VAE()


def elbo(name: str, *arguments: Any) -> Callable[..., Tensor]:
    def call(model: Any, *inputs: Tensor) -> Tensor:
        (infer,) = PYRO.load("pyro.infer")
        loss: Tensor = getattr(infer, name)(*arguments).differentiable_loss(model.model, model.guide, *inputs)
        return loss

    return call


def auto_guide() -> nn.Module:
    pyro, dist, pyro_nn, guides = PYRO.load("pyro", "pyro.distributions", "pyro.nn", "pyro.infer.autoguide")
    pyro.clear_param_store()

    class Regression(pyro_nn.PyroModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = pyro_nn.PyroModule[nn.Linear](3, 1)
            self.linear.weight = pyro_nn.PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
            self.linear.bias = pyro_nn.PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
            mean: Tensor = self.linear(x).squeeze(-1)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, sigma), obs=y)
            return mean

    both = nn.Module()
    both.model = Regression()
    both.guide = guides.AutoNormal(both.model)
    both.guide(noise(6, 3), noise(6))
    return both


def cevae() -> nn.Module:
    pyro, module = PYRO.load("pyro", "pyro.contrib.cevae")
    pyro.clear_param_store()
    model: nn.Module = module.CEVAE(4, outcome_dist="normal", latent_dim=3, hidden_dim=8, num_layers=2)
    return model


def cevae_loss(model: Any, *inputs: Tensor) -> Tensor:
    (module,) = PYRO.load("pyro.contrib.cevae")
    objective = module.TraceCausalEffect_ELBO()
    loss: Tensor = objective.differentiable_loss(model.model, model.guide, *inputs)
    return loss / len(inputs[0])


# normflows, zuko, vector-quantize-pytorch, cebra ---------------------------------------------------------------------


def flow_vae() -> nn.Module:
    (package,) = NORMFLOWS.load("normflows")
    dist = package.distributions
    encoder = dist.NNDiagGaussian(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)))
    decoder = dist.NNDiagGaussianDecoder(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 12)))
    prior = dist.DiagGaussian(3, trainable=False)
    flows = [package.flows.Planar((3,)) for _ in range(2)]
    model: nn.Module = package.NormalizingFlowVAE(prior, encoder, flows, decoder)
    return model


def flow_vae_loss(model: Any, x: Tensor) -> Tensor:
    _, log_q, log_p = model(x, num_samples=2)
    return (log_q - log_p).mean()


def real_nvp() -> nn.Module:
    (package,) = NORMFLOWS.load("normflows")
    flows = []
    for i in range(3):
        scale, shift = (package.nets.MLP([4, 8, 4], init_zeros=True) for _ in range(2))
        mask = torch.tensor([float(k % 2 == i % 2) for k in range(4)])
        flows.append(package.flows.MaskedAffineFlow(mask, shift, scale))
    model: nn.Module = package.NormalizingFlow(package.distributions.DiagGaussian(4), flows)
    return model


def forward_kld(model: Any, x: Tensor) -> Tensor:
    loss: Tensor = model.forward_kld(x)
    return loss


def autoregressive_flow() -> nn.Module:
    (flows,) = ZUKO.load("zuko.flows")
    flow: nn.Module = flows.MAF(features=4, context=2, transforms=2, hidden_features=(8, 8))
    return flow


def flow_nll(flow: Any, x: Tensor, context: Tensor) -> Tensor:
    loss: Tensor = -flow(context).log_prob(x).mean()
    return loss


def quantized() -> nn.Module:
    (package,) = VECTOR_QUANTIZE.load("vector_quantize_pytorch")
    return nn.ModuleDict({
        "encoder": nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)),
        "quantizer": package.ResidualVQ(dim=4, num_quantizers=2, codebook_size=8, stochastic_sample_codes=True),
        "decoder": nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 6)),
    })  # fmt: skip


def quantized_loss(model: Any, x: Tensor) -> Tensor:
    codes, _, commitment = model["quantizer"](model["encoder"](x))
    return F.mse_loss(model["decoder"](codes), x) + commitment.sum()


def contrastive() -> nn.Module:
    models, criterions = CEBRA.load("cebra.models", "cebra.models.criterions")
    return nn.ModuleDict({
        "net": models.init("offset1-model", 5, 8, 3), "criterion": criterions.LearnableCosineInfoNCE(temperature=1.0),
    })  # fmt: skip


def contrastive_loss(model: Any, *batch: Tensor) -> Tensor:
    loss: Tensor = model["criterion"](*(model["net"](x) for x in batch))[0]
    return loss


def weights(sigma: Callable[[Tensor], Tensor], *names: str) -> tuple[TrueHead, ...]:
    """Learned scales of weights in two layers."""
    return tuple(
        TrueHead(f"{layer}.{name}", 0, None, "posterior", sigma)
        for layer, name in itertools.product(("first", "second"), names)
    )


REGRESSION = fixed(noise(6, 5, seed=1), noise(6, 1, seed=2))

CASES = (
    PublicCase(
        "AutoencoderOobleck", DIFFUSERS,
        of_diffusers("AutoencoderOobleck", encoder_hidden_size=6, downsampling_ratios=[2, 2], channel_multiples=[1, 2],
                     decoder_channels=4, decoder_input_channels=3, audio_channels=1),
        fixed(noise(3, 1, 32)),
        (TrueHead("encoder.conv2", 3, 6, "posterior", lambda v: F.softplus(v) + 1e-4),), latent_loss,
        truth="autoencoders/autoencoder_oobleck.py:149-152: std = softplus(scale) + 1e-4, second half of encoder.conv2",
    ),
    PublicCase(
        "AutoencoderKLLTXVideo", DIFFUSERS,
        of_diffusers("AutoencoderKLLTXVideo", latent_channels=3, block_out_channels=(4, 4),
                     down_block_types=("LTXVideoDownBlock3D",) * 2, decoder_block_out_channels=(4, 4),
                     layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
                     spatio_temporal_scaling=(True, False), decoder_spatio_temporal_scaling=(True, False),
                     decoder_inject_noise=(False,) * 3, downsample_type=("conv", "conv"),
                     upsample_residual=(False, False), upsample_factor=(1, 1), patch_size=2),
        fixed(noise(2, 3, 3, 8, 8)), (TrueHead("encoder.conv_out.conv", 3, 4, "posterior", clamped_half),), latent_loss,
        truth="autoencoder_kl_ltx.py:872-874: conv_out's last channel is repeated as the log variance of all 3 "
        "latents; "
        "vae.py:694-696: clamp(-30, 20), exp(0.5 *)",
    ),
    PublicCase(
        "AutoencoderKLWan", DIFFUSERS,
        of_diffusers("AutoencoderKLWan", base_dim=4, z_dim=3, dim_mult=[1, 1], num_res_blocks=1,
                     temperal_downsample=[True], latents_mean=[0.0] * 3, latents_std=[1.0] * 3),
        fixed(noise(2, 3, 5, 8, 8)), (TrueHead("quant_conv", 3, 6, "posterior", clamped_half),), latent_loss,
        truth="autoencoder_kl_wan.py:1160, 1185; vae.py:694-696; the encoder runs in chunks, quant_conv once on all "
        "of them",
    ),
    PublicCase(
        "MMAudioVAE", DIFFUSERS,
        of_diffusers("MMAudioVAE", mel_bins=8, latent_channels=3, hidden_channels=4, channel_multipliers=(1, 2),
                     layers_per_block=1, sample_rate=8000, n_fft=64, hop_length=16),
        fixed(unit(2, 256) * 2 - 1), (TrueHead("vae.encoder.conv_out", 3, 6, "posterior", clamped_half),), mel_loss,
        truth="autoencoder_mmaudio.py:237: conv_out is a Conv1d subclass whose forward takes a gain; vae.py:694-696",
    ),
    PublicCase(
        "AutoencoderKLMiniMaxH3Audio", DIFFUSERS,
        of_diffusers("AutoencoderKLMiniMaxH3Audio", encoder_dim=4, encoder_rates=(2, 2), latent_dim=16,
                     latent_channels=4, num_attention_heads=2, decoder_dim=8, decoder_rates=(2, 2),
                     decoder_kernel_sizes=(4, 4), resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3),)),
        fixed(unit(2, 1, 64) * 2 - 1), (TrueHead("logs_proj", 0, None, "posterior"),), wave_loss,
        truth="autoencoder_kl_minimax_h3_audio.py:70: std = exp(logs); the snake activations' exp(alpha) are none",
    ),
    PublicCase(
        "SCVI (normal, learned library)", SCVI, scvi_vae, cells,
        (TrueHead("z_encoder.var_encoder", 0, None, "posterior", variance_floor),
         TrueHead("l_encoder.var_encoder", 0, None, "posterior", variance_floor),
         TrueHead("px_r", 0, None, "likelihood")), scvi_loss,
        truth="nn/_base_components.py:303-304: Normal(q_m, sqrt(exp(.) + 1e-4)) twice; module/_vae.py:518, 532: px_r "
        "is "
        "exponentiated and is the scale of a Normal of the counts; the library's prior is data",
    ),
    PublicCase(
        "TOTALVI", SCVI, totalvi, cells,
        (TrueHead("encoder.z_var_encoder", 0, None, "posterior", variance_floor),
         TrueHead("encoder.l_gene_var_encoder", 0, None, "posterior", variance_floor),
         TrueHead("decoder.py_back_mean_log_beta.fc_layers.Layer 0.0", 0, None, "posterior",
                  lambda v: F.softplus(v) + 1e-8),
         TrueHead("background_pro_log_beta", 0, None, "prior")), scvi_loss,
        truth="nn/_base_components.py:1049, 1056: z and library, sqrt(exp(.) + 1e-4); 907-911: softplus + 1e-8, "
        "sampled, first in a KL; module/_totalvae.py:633-640: the prior is exp(parameter), picked by the one-hot batch",
    ),
    PublicCase(
        "SCANVI", SCVI, scanvi, cells,
        (TrueHead("z_encoder.var_encoder", 0, None, "posterior", variance_floor),
         TrueHead("encoder_z2_z1.var_encoder", 0, None, "posterior", variance_floor),
         TrueHead("decoder_z1_z2.var_decoder", 0, None, "prior", half)), scvi_loss,
        truth="module/_scanvae.py:224-231: z2's posterior by the same Encoder; p(z1|z2, y) is Normal(m, "
        "sqrt(exp(.))), a "
        "learned prior of z1 through its density at the sampled z1",
    ),
    PublicCase(
        "PEAKVI", SCVI, peakvi, open_regions,
        (TrueHead("z_encoder.var_encoder", 0, None, "posterior", half),), scvi_loss,
        truth="nn/_base_components.py:303-304, region factors and depth go through sigmoids; corrected after the scan: "
        "module/_peakvae.py:191 passes var_eps=0, so σ is sqrt(exp(.)) without the Encoder's usual 1e-4",
    ),
    PublicCase(
        "BetaTCVAE", PYTHAE, of_pythae("BetaTCVAE"), pythae_batch,
        (TrueHead("encoder.log_var", 0, None, "posterior", half),), output_loss,
        truth="models/beta_tc_vae/beta_tc_vae_model.py:73; the density of every sample under every posterior: 112-150",
    ),
    PublicCase(
        "PIWAE", PYTHAE, of_pythae("PIWAE", number_gradient_estimates=2, number_samples=3), pythae_batch,
        (TrueHead("encoder.log_var", 0, None, "posterior", half),), output_loss,
        truth="models/piwae/piwae_model.py:72-80: repeated over estimates and samples, std = exp(0.5 * log_var)",
    ),
    PublicCase(
        "RHVAE", PYTHAE, of_pythae("RHVAE", n_lf=2), pythae_batch,
        (TrueHead("encoder.log_var", 0, None, "posterior", half),), output_loss,
        truth="models/rhvae/rhvae_model.py:166: std = exp(0.5 * log_var); the momentum's covariance is a metric, no "
        "head",
    ),
    PublicCase(
        "WAE_MMD", PYTHAE, of_pythae("WAE_MMD"), pythae_batch, (), output_loss,
        truth="models/wae_mmd/wae_mmd_model.py: a deterministic code; a fixed N(0, 1) is only drawn from, exp in a "
        "kernel",
    ),
    PublicCase(
        "MoPoE", MULTIVAE, of_multivae("MoPoE"), modalities,
        tuple(TrueHead(f"encoders.{m}.log_var", 0, None, "posterior", None) for m in "ab"), output_loss,
        truth="models/base/base_utils.py:122-130: precisions of all experts of a subset are added, so σ is a function "
        "of both",
    ),
    PublicCase(
        "MMVAEPlus", MULTIVAE,
        of_multivae("MMVAEPlus", modalities_specific_dim=2, prior_and_posterior_dist="normal_with_softplus", K=2,
                    learn_shared_prior=True, loss="iwae_looser"), modalities,
        tuple(TrueHead(f"encoders.{m}.{name}", 0, None, "posterior", lambda v: F.softplus(v) + 1e-6)
              for m in "ab" for name in ("log_var", "style_log_var"))
        + tuple(TrueHead(f"logvars_priors.{m}", 0, None, "prior", lambda v: F.softplus(v) + 1e-6)
                for m in ("a", "b", "shared")), output_loss,
        truth="models/mmvaePlus/mmvaePlus_model.py:113-123: softplus + 1e-6 of a 'log_var'; parameters as priors, "
        "88-111: "
        "those of the modalities are only drawn from, the shared one's density is taken",
    ),
    PublicCase(
        "MHVAE", MULTIVAE, hierarchical, modalities,
        (*(TrueHead(f"bottom_up_blocks.{m}.0.log_var", 0, None, "posterior", None) for m in "ab"),
         *(TrueHead(f"posterior_blocks.{m}.0.log_var", 0, None, "posterior", None) for m in "ab"),
         TrueHead("prior_blocks.0.log_var", 0, None, "prior", half)), output_loss,
        truth="models/mhvae/mhvae_model.py:133, 174, 182: products of experts (one is the prior), a KL to the "
        "prior",
    ),
    PublicCase(
        "TVAE", CTGAN, tvae, table_rows,
        (TrueHead("encoder.fc2", 0, None, "posterior", half),
         *(TrueHead("decoder.sigma", i, i + 1, "likelihood", identity) for i in (0, 4))),
        tvae_loss,
        truth="synthesizers/tvae.py:46; 86-89: the parameter is itself σ, read at the continuous columns only (0 and 4 "
        "here), clamped in data after each step",
    ),
    PublicCase(
        "AudioAutoencoder (VAEBottleneck)", STABLE_AUDIO, stable_audio, fixed(noise(3, 1, 32)),
        (TrueHead("encoder.layers.4", 3, 6, "posterior", lambda v: F.softplus(v) + 1e-4),), stable_audio_loss,
        truth="models/bottleneck.py:105-113: stdev = softplus(scale) + 1e-4, second half of the last weight-normed "
        "conv",
    ),
    PublicCase(
        "VGAE", PYG, vgae,
        fixed(noise(7, 5), torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0], [1, 2, 3, 4, 5, 6, 0, 3]])),
        (TrueHead("encoder.conv_logstd", 0, None, "posterior", lambda v: torch.exp(v.clamp(max=10))),), vgae_loss,
        truth="nn/models/autoencoder.py:163, 170: exp(clamp(logstd, max=10)); GCNConv adds its bias after the "
        "aggregation, "
        "so the raw value is the GCNConv's output and not that of its inner Linear",
    ),
    PublicCase(
        "MeanScaleHyperprior", COMPRESSAI, hyperprior, fixed(unit(2, 3, 64, 64)),
        (TrueHead("h_s.4", 0, 6, "prior", lambda v: v.clamp_min(0.11)),), hyperprior_loss,
        truth="models/google.py:415 (scales first); entropy_models.py:685-706: LowerBound(0.11), then a "
        "difference of two erfc: a Normal convolved with a uniform, the learned prior of the noisy latent",
    ),
    PublicCase(
        "SACPolicy", SB3, of_sb3("stable_baselines3.sac.policies", "SACPolicy"), fixed(noise(6, 5)),
        (TrueHead("actor.log_std", 0, None, "likelihood", lambda v: torch.exp(v.clamp(-20, 2))),), sac_loss,
        truth="sac/policies.py:164: clamp(-20, 2); common/distributions.py:165: Normal(mean, ones * exp), squashed",
    ),
    PublicCase(
        "ActorCriticPolicy (PPO)", SB3, of_sb3("stable_baselines3.common.policies", "ActorCriticPolicy"),
        fixed(noise(6, 5), noise(6, 2, seed=2), noise(6, seed=3) - 3, noise(6, seed=4)),
        (TrueHead("log_std", 0, None, "likelihood"),), ppo_loss,
        truth="common/distributions.py:152, 165: a parameter, Normal(mean, ones_like(mean) * exp(log_std))",
    ),
    PublicCase(
        "TD3Policy", SB3, of_sb3("stable_baselines3.td3.policies", "TD3Policy"), fixed(noise(6, 5)), (),
        lambda policy, obs: -policy.critic.q1_forward(obs, policy.actor(obs)).mean(),
        truth="td3/policies.py: a deterministic actor",
    ),
    PublicCase(
        "ProbabilisticActor (TanhNormal)", TORCHRL, torchrl_actor,
        fixed(noise(6, 5), unit(6, 2, seed=2) - 0.5, noise(6, seed=3)),
        (TrueHead("module.0.module.2", 2, 4, "likelihood",
                  lambda v: (F.softplus(v + math.log(math.expm1(0.99))) + 0.01).clamp_min(1e-4)),), torchrl_loss,
        truth="tensordict/nn/distributions/continuous.py:85-86 and nn/utils.py:66-70: biased softplus, then "
        "clamp_min(1e-4)",
    ),
    PublicCase(
        "ContinuousActorProbabilistic", TIANSHOU, tianshou_actor,
        fixed(noise(6, 5), noise(6, 2, seed=2), noise(6, seed=3)),
        (TrueHead("sigma.model.0", 0, None, "likelihood", lambda v: torch.exp(v.clamp(-20, 2))),), reinforce,
        truth="utils/net/continuous.py:233: clamp(self.sigma(logits), -20, 2).exp(); sigma is an MLP of one Linear",
    ),
    PublicCase(
        "TimeSeriesTransformer (normal)", TRANSFORMERS,
        of_transformers("TimeSeriesTransformerForPrediction", prediction_length=3, context_length=4,
                        lags_sequence=[1, 2], num_time_features=2, d_model=8, encoder_layers=1, decoder_layers=1,
                        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8,
                        distribution_output="normal"),
        series(6, 3, 2), (TrueHead("parameter_projection.proj.1", 0, None, "likelihood", squareplus),), series_loss,
        truth="time_series_utils.py:156-161, 189: squareplus, clamp_min(eps); then an affine transform by the data's "
        "scale",
    ),
    PublicCase(
        "PatchTST (normal)", TRANSFORMERS,
        of_transformers("PatchTSTForPrediction", num_input_channels=2, context_length=8, patch_length=2, patch_stride=2,
                        prediction_length=3, d_model=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8,
                        loss="nll", distribution_output="normal"),
        fixed(noise(4, 8, 2), noise(4, 3, 2, seed=2)),
        (TrueHead("head.projection.proj.1", 0, None, "likelihood", squareplus),), patch_loss,
        truth="models/patchtst/modeling_patchtst.py:1489-1499, 1673; time_series_utils.py:189; outputs are transposed "
        "after",
    ),
    PublicCase(
        "Vits", TRANSFORMERS,
        of_transformers("VitsModel", vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                        ffn_dim=8, flow_size=4, spectrogram_bins=6, upsample_initial_channel=8, upsample_rates=[2, 2],
                        upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
                        prior_encoder_num_flows=2, prior_encoder_num_wavenet_layers=1,
                        posterior_encoder_num_wavenet_layers=1, duration_predictor_num_flows=2),
        fixed(torch.tensor([[1, 4, 2], [3, 8, 5]]), unit(2, 6, 6), noise(2, 1, 24)),
        (TrueHead("posterior_encoder.conv_proj", 4, 8, "posterior"), TrueHead("text_encoder.project", 4, 8, "prior")),
        vits_loss,
        truth="models/vits/modeling_vits.py:396-398: exp(log_stddev); 1182, 1369: the 'prior_log_variances' are log σ "
        "too; "
        "the training loss is the paper's, written here, since the package has none",
    ),
    PublicCase(
        "DeepAR (normal)", GLUONTS, deepar, series(6, 3, 1),
        (TrueHead("param_proj.proj.1", 0, None, "likelihood", F.softplus),), deepar_loss,
        truth="torch/distributions/distribution_output.py:122: softplus, then scaled affinely by the data's mean",
    ),
    PublicCase(
        "ViT", TRANSFORMERS,
        of_transformers("ViTForImageClassification", hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=8, image_size=8, patch_size=4, num_labels=3),
        fixed(noise(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])), (), image_classes,
        truth="models/vit/modeling_vit.py: attention and a classifier",
    ),
    PublicCase(
        "LinearReparameterization", BAYESIAN_TORCH, bayesian_torch, REGRESSION,
        weights(F.softplus, "rho_weight", "rho_bias"), bayesian_torch_loss,
        truth="layers/variational_layers/linear_variational.py:160-172: σ = log1p(exp(rho)), a noise buffer filled in "
        "place; "
        "layers/base_variational_layer.py: the KL",
    ),
    PublicCase(
        "LinearFlipout", BAYESIAN_TORCH, flipout, REGRESSION, weights(F.softplus, "rho_weight", "rho_bias"),
        bayesian_torch_loss,
        truth="layers/flipout_layers/linear_flipout.py: σ = log1p(exp(rho)), times noise, times random signs of the "
        "batch",
    ),
    PublicCase(
        "BayesianLinear", BLITZ, blitz, REGRESSION,
        weights(F.softplus, "weight_sampler.rho", "bias_sampler.rho"), blitz_loss,
        truth="modules/weight_sampler.py:32, 51: log1p(exp(rho)), its log density; weight_rho is another Parameter on "
        "the "
        "same memory, never read; the prior is a fixed mixture of two Normals",
    ),
    PublicCase(
        "BayesLinear", TORCHBNN, torchbnn, REGRESSION,
        weights(torch.exp, "weight_log_sigma", "bias_log_sigma"), torchbnn_loss,
        truth="modules/linear.py:86, 92: exp(log_sigma); functional.py: the KL, of the parameters, outside the model",
    ),
    PublicCase(
        "ApproximateGP (mean field)", GPYTORCH, gaussian_process, fixed(noise(6, 2), noise(6, seed=2)),
        (TrueHead("model.variational_strategy._variational_distribution._variational_stddev", 0, None, "posterior",
                  torch.abs),
         TrueHead("likelihood.noise_covar.raw_noise", 0, None, "likelihood",
                  lambda v: torch.sqrt(F.softplus(v) + 1e-4))), process_loss,
        truth="variational/mean_field_variational_distribution.py:48-50: the covariance is the parameter squared; "
        "constraints.py (GreaterThan 1e-4): noise variance = softplus(raw) + 1e-4, likelihoods/gaussian_likelihood.py: "
        "((y - m)^2 + v) / noise + log noise; the kernel's lengthscale is none",
    ),
    PublicCase(
        "VAE (Trace_ELBO)", PYRO, pyro_vae, fixed(unit(5, 6).round()),
        (TrueHead("log_scale", 0, None, "posterior"),), elbo("Trace_ELBO"),
        truth="as in pyro's VAE tutorial: dist.Normal(loc, exp(log_scale)).to_event(1), log densities at the sample",
    ),
    PublicCase(
        "VAE (TraceMeanField_ELBO)", PYRO, pyro_vae, fixed(unit(5, 6).round()),
        (TrueHead("log_scale", 0, None, "posterior"),), elbo("TraceMeanField_ELBO", 2),
        truth="the same with an analytic KL, two particles",
    ),
    PublicCase(
        "AutoNormal", PYRO, auto_guide, fixed(noise(6, 3), noise(6, seed=2)),
        tuple(TrueHead(f"guide.scales.{name}_unconstrained", 0, None, "posterior", F.softplus)
              for name in ("linear.weight", "linear.bias", "sigma")), elbo("Trace_ELBO"),
        truth="infer/autoguide/guides.py (AutoNormal): scale is a PyroParam under softplus_positive; the likelihood's "
        "sigma "
        "is a sampled latent, no raw parameter",
    ),
    PublicCase(
        "CEVAE", PYRO, cevae, fixed(noise(8, 4), torch.tensor([0.0, 1, 0, 1, 1, 0, 1, 0]), noise(8, seed=2)),
        (*(TrueHead(f"guide.z{t}_nn.fc.0", 3, 6, "posterior", lambda v: (F.softplus(v) + 1e-3).clamp(max=100))
           for t in "01"),
         *(TrueHead(f"guide.y{t}_nn.fc.0", 1, 2, "likelihood", lambda v: F.softplus(v).clamp(1e-3, 1e6)) for t in "01"),
         TrueHead("model.x_nn.fc.4", 4, 8, "likelihood", lambda v: (F.softplus(v) + 1e-3).clamp(max=100)),
         *(TrueHead(f"model.y{t}_nn.fc.4", 1, 2, "likelihood", lambda v: F.softplus(v).clamp(1e-3, 1e6))
           for t in "01")),
        cevae_loss,
        truth="contrib/cevae/__init__.py: NormalNet, DiagNormalNet; torch.where(t, p1, p0) picks one of two nets for "
        "each "
        "row (guide z and y, model y); q(y|t, x) is a density of the observed y",
    ),
    PublicCase(
        "NormalizingFlowVAE", NORMFLOWS, flow_vae, fixed(noise(6, 6)),
        (TrueHead("q0.net.2", 3, 6, "posterior", half), TrueHead("decoder.net.2", 6, 12, "likelihood", half)),
        flow_vae_loss,
        truth="distributions/encoder.py:157; distributions/decoder.py:59: var = exp(second half); planar flows between",
    ),
    PublicCase(
        "NormalizingFlow (RealNVP, trainable base)", NORMFLOWS, real_nvp, fixed(noise(6, 4)),
        (TrueHead("q0.log_scale", 0, None, "prior"),), forward_kld,
        truth="distributions/base.py:94-102: the base is N(loc, exp(log_scale)) of parameters, a learned prior of the "
        "latent; the couplings' log scales are none",
    ),
    PublicCase(
        "MAF", ZUKO, autoregressive_flow, fixed(noise(6, 4), noise(6, 2, seed=2)), (), flow_nll,
        truth="flows/autoregressive.py: affine transforms; the base is N(0, 1) in buffers",
    ),
    PublicCase(
        "ResidualVQ", VECTOR_QUANTIZE, quantized, fixed(noise(5, 7, 6)), (), quantized_loss,
        truth="residual_vq.py: nearest codes, drawn with Gumbel noise",
    ),
    PublicCase(
        "offset1-model (InfoNCE)", CEBRA, contrastive,
        fixed(noise(6, 5, 1), noise(6, 5, 1, seed=2), noise(6, 5, 1, seed=3)),
        (), contrastive_loss,
        truth="models/criterions.py: a learned temperature, exp(-log_temperature), of similarities: no Normal",
    ),
    PublicCase(
        "AutoencoderTiny", DIFFUSERS,
        of_diffusers("AutoencoderTiny", encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
                     num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=3),
        fixed(unit(2, 3, 8, 8)), (), tiny_loss, truth="autoencoders/autoencoder_tiny.py: deterministic",
    ),
    PublicCase(
        "VQModel", DIFFUSERS,
        of_diffusers("VQModel", block_out_channels=(4,), norm_num_groups=2, num_vq_embeddings=8, latent_channels=3),
        fixed(unit(2, 3, 8, 8)), (), vq_loss, truth="autoencoders/vq_model.py: nearest codes",
    ),
    PublicCase(
        "UNet2DModel (DDPM)", DIFFUSERS, denoising, fixed(unit(3, 3, 8, 8) * 2 - 1), (), denoising_loss,
        truth="schedulers/scheduling_ddpm.py: the noise schedule is fixed",
    ),
)  # fmt: skip
