"""What a patch changes, what it leaves alone, and that it can be taken back: the rules of the design, one by one."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from process_trees import finished
from torch import Tensor, nn
from vdvae_patch.patches.vdvae import HOST

import vdvae_patch
from vdvae_patch import normal, scales
from vdvae_patch.errors import InvalidValueError, PatchError, UnknownNameError
from vdvae_patch.heads import Arithmetic, Head
from vdvae_patch.patching import Variant, patch_record

VARIANTS = ["upbounded", "explin", "explin/constant", "vanilla/constant", "upbounded/bounded(alpha=0.1,omega=1)"]
Build = Callable[..., nn.Module]


def batch(model: nn.Module, n: int = 2) -> tuple[Tensor, Tensor]:
    size = int(model.decoder.image_size)  # type: ignore[union-attr, arg-type]
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(n, size, size, 3, generator=generator)
    return x, torch.rand(n, size, size, 3, generator=generator) * 2 - 1


def loss_and_gradients(model: nn.Module) -> list[Tensor]:
    """elbo, distortion, rate and every gradient, for fixed noise."""
    model.zero_grad()
    torch.manual_seed(1)
    losses = HOST.losses(model, *batch(model))
    losses.elbo.backward()
    return [*losses, *(p.grad for p in model.parameters() if p.grad is not None)]


def everything(model: nn.Module) -> list[Tensor]:
    """What the four uses of the model give: training, latents, unconditional samples, given latents."""
    out = loss_and_gradients(model)
    with torch.no_grad():
        torch.manual_seed(2)
        latents = HOST.latents(model, batch(model)[0])
        out += [t for latent in latents for t in latent]
        torch.manual_seed(3)
        out.append(torch.from_numpy(HOST.sample(model, 2, 0.7)))
        torch.manual_seed(4)
        out.append(torch.from_numpy(HOST.sample(model, 2, 0.1, [latents[0].z])))
    return out


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def model(build_vdvae: Build) -> nn.Module:
    """A small VDVAE whose heads do not emit zeros, so that every scale makes a difference."""
    torch.manual_seed(0)
    built = build_vdvae("starts_at_zero")
    for name, parameter in built.named_parameters():
        if "prior.c4" in name or "enc.c4" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return built


@pytest.fixture
def heads(model: nn.Module) -> list[Head]:
    return HOST.heads(model)


class TestParametersStay:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_the_state_dict_is_the_same_before_during_and_after(
        self, model: nn.Module, heads: list[Head], variant: str
    ) -> None:
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with vdvae_patch.patch(model, variant, heads=heads, paper=True):
            during = model.state_dict()
            assert list(during) == list(before)
            assert all(torch.equal(during[k], before[k]) for k in before)
        assert list(model.state_dict()) == list(before)

    def test_checkpoints_go_both_ways(self, model: nn.Module, heads: list[Head], build_vdvae: Build) -> None:
        vanilla = build_vdvae("starts_at_zero")
        with vdvae_patch.patch(model, "explin", heads=heads, paper=True):
            vanilla.load_state_dict(model.state_dict(), strict=True)
            model.load_state_dict(vanilla.state_dict(), strict=True)


class TestPatchAndUnpatch:
    @pytest.mark.parametrize("arithmetic", ["stable", "host"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_unpatching_restores_every_use_bit_for_bit(
        self, model: nn.Module, heads: list[Head], variant: str, arithmetic: Arithmetic
    ) -> None:
        before = everything(model)
        handle = vdvae_patch.patch(model, variant, heads=heads, arithmetic=arithmetic, paper=True)
        assert not equal(everything(model), before)
        handle.unpatch()
        assert equal(everything(model), before)

    def test_exp_on_a_log_sigma_host_changes_nothing_and_says_so(self, model: nn.Module, heads: list[Head]) -> None:
        before = everything(model)
        with pytest.warns(UserWarning, match="changes nothing"):
            handle = vdvae_patch.patch(model, "exp", heads=heads, paper=True)
        assert equal(everything(model), before)
        handle.unpatch()

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_stable_and_host_arithmetic_agree_where_the_host_is_well(
        self, model: nn.Module, heads: list[Head], variant: str
    ) -> None:
        results = []
        for arithmetic in ("stable", "host"):
            with vdvae_patch.patch(model, variant, heads=heads, arithmetic=arithmetic, paper=True):
                results.append(everything(model))
        for ours, hosts in zip(*results, strict=True):
            torch.testing.assert_close(ours, hosts, rtol=2e-4, atol=2e-4)

    def test_the_context_manager_unpatches_when_its_block_raises(self, model: nn.Module, heads: list[Head]) -> None:
        with pytest.raises(RuntimeError, match="inside"), vdvae_patch.patch(model, "explin", heads=heads, paper=True):
            raise RuntimeError("inside")
        assert not vdvae_patch.is_patched(model)

    def test_patching_twice_is_refused(self, model: nn.Module, heads: list[Head]) -> None:
        vdvae_patch.patch(model, "explin", heads=heads, paper=True)
        with pytest.raises(PatchError, match="patched already"):
            vdvae_patch.patch(model, "upbounded", heads=heads, paper=True)

    def test_unpatching_an_unpatched_model_is_refused(self, model: nn.Module) -> None:
        with pytest.raises(PatchError, match="not patched"):
            vdvae_patch.unpatch(model)

    def test_other_models_of_the_class_are_left_alone(
        self, model: nn.Module, heads: list[Head], build_vdvae: Build
    ) -> None:
        other = build_vdvae("starts_at_zero")
        before = everything(other)
        with vdvae_patch.patch(model, "upbounded", heads=heads, paper=True):
            assert equal(everything(other), before)

    def test_a_foreign_replacement_put_on_top_is_not_silently_dropped(
        self, model: nn.Module, heads: list[Head]
    ) -> None:
        before = everything(model)
        vdvae_patch.patch(model, "explin", heads=heads, paper=True)
        block = model.decoder.dec_blocks[1]  # type: ignore[union-attr, index]
        ours, block.sample = block.sample, lambda *_: None
        with pytest.raises(PatchError, match="replaced after"):
            vdvae_patch.unpatch(model)
        assert vdvae_patch.is_patched(model)
        block.sample = ours
        vdvae_patch.unpatch(model)
        assert equal(everything(model), before)


class TestTheNewSigmaIsUsed:
    """σ of what is drawn, from many draws of one block, is the scale of what its module emitted."""

    @pytest.mark.parametrize("arithmetic", ["stable", "host"])
    @pytest.mark.parametrize("spec", ["upbounded", "explin", "constant", "softplus", "bounded(alpha=0.2,omega=0.9)"])
    def test_in_training(self, model: nn.Module, heads: list[Head], spec: str, arithmetic: Arithmetic) -> None:
        block = model.decoder.dec_blocks[0]  # type: ignore[union-attr, index]
        x = torch.randn(1, block.width, block.base, block.base)
        acts = torch.randn_like(x)
        raw = block.enc(torch.cat([x, acts], 1)).detach()[:, block.zdim :]
        with vdvae_patch.patch(model, spec, heads=heads, arithmetic=arithmetic, paper=True), torch.no_grad():
            z = block.sample(x.expand(20_000, -1, -1, -1), acts.expand(20_000, -1, -1, -1))[0]
        torch.testing.assert_close(z.std(0), scales.get(spec).sigma(raw)[0], rtol=0.05, atol=0)

    @pytest.mark.parametrize("arithmetic", ["stable", "host"])
    def test_temperature_multiplies_it(self, model: nn.Module, heads: list[Head], arithmetic: Arithmetic) -> None:
        block = model.decoder.dec_blocks[0]  # type: ignore[union-attr, index]
        x = torch.randn(1, block.width, block.base, block.base)
        raw = block.prior(x).detach()[:, block.zdim : 2 * block.zdim]
        with vdvae_patch.patch(model, "upbounded", heads=heads, arithmetic=arithmetic, paper=True), torch.no_grad():
            z = block.sample_uncond(x.expand(20_000, -1, -1, -1), 0.3)[0]
        torch.testing.assert_close(z.std(0), 0.3 * scales.get("upbounded").sigma(raw)[0], rtol=0.05, atol=0)

    def test_a_temperature_of_zero_gives_the_mean(self, model: nn.Module, heads: list[Head]) -> None:
        block = model.decoder.dec_blocks[0]  # type: ignore[union-attr, index]
        x = torch.randn(1, block.width, block.base, block.base)
        with vdvae_patch.patch(model, "upbounded", heads=heads, paper=True), torch.no_grad():
            z = block.sample_uncond(x, 0.0)[0]
        assert torch.equal(z, block.prior(x)[:, : block.zdim])

    def test_the_kl_is_that_of_the_new_sigmas(self, model: nn.Module, heads: list[Head]) -> None:
        block = model.decoder.dec_blocks[0]  # type: ignore[union-attr, index]
        x = torch.randn(3, block.width, block.base, block.base)
        acts = torch.randn_like(x)
        mean_q, raw_q = block.enc(torch.cat([x, acts], 1)).chunk(2, 1)
        mean_p, raw_p = block.prior(x)[:, : 2 * block.zdim].chunk(2, 1)
        with vdvae_patch.patch(model, "explin/upbounded(omega=2)", heads=heads, paper=True):
            kl = block.sample(x, acts)[2]
        q = torch.distributions.Normal(mean_q.double(), scales.get("explin").sigma(raw_q.double()))
        p = torch.distributions.Normal(mean_p.double(), scales.get("upbounded(omega=2)").sigma(raw_p.double()))
        torch.testing.assert_close(kl.double(), torch.distributions.kl_divergence(q, p), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("log_sigma", [-45.0, -52.0, -103.0, -1e4])
    def test_heads_at_a_tiny_sigma_give_a_finite_kl_and_gradient(
        self, model: nn.Module, heads: list[Head], log_sigma: float
    ) -> None:
        for block in model.decoder.dec_blocks:  # type: ignore[union-attr]
            for c4, start in ((block.enc.c4, block.zdim), (block.prior.c4, block.zdim)):
                nn.init.zeros_(c4.weight)
                nn.init.zeros_(c4.bias)
                c4.bias.data[start : start + block.zdim] = log_sigma
        with vdvae_patch.patch(model, "vanilla", heads=heads, arithmetic="stable", paper=True):
            assert all(t.isfinite().all() for t in loss_and_gradients(model))
        assert any(not t.isfinite().all() for t in loss_and_gradients(model))


class TestOrdinaryModule:
    """Rule 4, use by use, for both ways in which a head can be patched."""

    @pytest.fixture(params=["stable", "host"])
    def patched(self, model: nn.Module, heads: list[Head], request: pytest.FixtureRequest) -> nn.Module:
        vdvae_patch.patch(model, "explin/upbounded", heads=heads, arithmetic=request.param, paper=True)
        return model

    def test_deepcopy_is_patched_and_independent(self, patched: nn.Module) -> None:
        twin = copy.deepcopy(patched)
        assert equal(everything(twin), everything(patched))
        nn.init.zeros_(next(twin.parameters()))
        vdvae_patch.unpatch(twin)
        assert vdvae_patch.is_patched(patched)
        assert not equal(everything(twin), everything(patched))

    def test_pickle_keeps_the_patch(self, patched: nn.Module) -> None:
        twin = pickle.loads(pickle.dumps(patched))
        assert equal(everything(twin), everything(patched))
        vdvae_patch.unpatch(twin)
        assert not vdvae_patch.is_patched(twin)

    @pytest.mark.medium
    def test_torch_compile_in_one_graph(self, patched: nn.Module) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(patched, fullgraph=True, backend="aot_eager")
        assert vdvae_patch.is_patched(compiled)  # type: ignore[arg-type]
        expected = loss_and_gradients(patched)
        torch.testing.assert_close(loss_and_gradients(compiled), expected, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]

    @pytest.mark.medium
    def test_a_compiled_model_notices_that_it_is_unpatched(self, patched: nn.Module) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(patched, fullgraph=True, backend="eager")
        during = loss_and_gradients(compiled)  # type: ignore[arg-type]
        vdvae_patch.unpatch(patched)
        after = loss_and_gradients(compiled)  # type: ignore[arg-type]
        assert not torch.equal(during[0], after[0])
        torch.testing.assert_close(after, loss_and_gradients(patched))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, patched: nn.Module, dtype: torch.dtype) -> None:
        exact = loss_and_gradients(patched)[0]
        with torch.autocast("cpu", dtype=dtype):
            torch.manual_seed(1)
            losses = HOST.losses(patched, *batch(patched))
        losses.elbo.backward()  # type: ignore[no-untyped-call]
        if patch_record(patched).arithmetic == "stable":
            assert losses.rate.dtype is torch.float32
        torch.testing.assert_close(losses.elbo.float(), exact, rtol=0.05, atol=0.05)

    def test_functional_call_uses_the_parameters_it_is_given(self, patched: nn.Module) -> None:
        doubled = {k: 2 * v for k, v in patched.state_dict().items()}
        torch.manual_seed(1)
        called = torch.func.functional_call(patched, doubled, batch(patched))["elbo"]
        twin = copy.deepcopy(patched)
        twin.load_state_dict(doubled)
        assert torch.equal(called, loss_and_gradients(twin)[0])

    def test_vmap_over_an_ensemble(self, patched: nn.Module) -> None:
        twins = [copy.deepcopy(patched) for _ in range(3)]
        for scale, twin in enumerate(twins, 1):
            for parameter in twin.parameters():
                parameter.data *= 0.5 * scale
        parameters, buffers = torch.func.stack_module_state(twins)
        x, target = batch(patched)

        def loss(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
            out: Tensor = torch.func.functional_call(patched, (p, b), (x, target))["elbo"]
            return out

        torch.manual_seed(1)
        gradients = torch.func.vmap(torch.func.grad(loss), randomness="same")(parameters, buffers)
        for index, twin in enumerate(twins):
            expected = loss_and_gradients(twin)[3:]
            for (name, _), gradient in zip(twin.named_parameters(), expected, strict=True):
                assert (gradients[name][index] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name


@pytest.mark.slow
def test_ddp_and_fsdp2_on_two_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("distributed_patching.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    results = {}
    for wrapper, ranks in (("none", 1), ("ddp", 2), ("fsdp2", 2)):
        command = [sys.executable, str(worker), wrapper, str(ranks), str(tmp_path / wrapper)]
        done = finished(command, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        results[wrapper] = torch.load(tmp_path / wrapper, weights_only=True)
    for wrapper in ("ddp", "fsdp2"):
        assert results[wrapper].keys() == results["none"].keys()
        for name, weight in results["none"].items():
            torch.testing.assert_close(results[wrapper][name], weight, rtol=1e-4, atol=1e-6, msg=f"{wrapper} {name}")


class TestVariants:
    @pytest.mark.parametrize(
        ("text", "posterior", "prior", "likelihood"),
        [
            ("vanilla", None, None, None),
            ("upbounded", "upbounded", "upbounded", None),
            ("explin/cst1", "explin", "constant", None),
            ("vanilla/constant(value=2)", None, "constant(value=2)", None),
            ("exp/vanilla/bounded(0.1, omega=1)", "exp", None, "bounded(alpha=0.1, omega=1)"),
        ],
    )
    def test_are_read_as_posterior_prior_likelihood(
        self, text: str, posterior: str | None, prior: str | None, likelihood: str | None
    ) -> None:
        variant = Variant.parse(text)
        shown = [None if s is None else str(s) for s in (variant.posterior, variant.prior, variant.likelihood)]
        assert shown == [posterior, prior, likelihood]
        assert Variant.parse(str(variant)) == variant

    @pytest.mark.parametrize("text", ["", "a/b/c/d", "explin/", "/explin"])
    def test_of_another_form_are_refused(self, text: str) -> None:
        with pytest.raises(InvalidValueError, match="posterior/prior"):
            Variant.parse(text)

    @pytest.mark.parametrize(("text", "nearest"), [("upbouned/constant", "upbounded"), ("vanila", "vanilla")])
    def test_misspelt_are_refused_with_the_nearest_name(self, text: str, nearest: str) -> None:
        with pytest.raises(UnknownNameError, match=f"did you mean '{nearest}'"):
            Variant.parse(text)

    def test_keywords_say_the_same(self, model: nn.Module, heads: list[Head]) -> None:
        with vdvae_patch.patch(model, posterior="explin", prior="constant", heads=heads, paper=True):
            assert patch_record(model).variant == Variant.parse("explin/constant")

    def test_both_forms_at_once_or_none_are_refused(self, model: nn.Module, heads: list[Head]) -> None:
        with pytest.raises(InvalidValueError, match="choose one form"):
            vdvae_patch.patch(model, "explin", prior="constant", heads=heads, paper=True)
        with pytest.raises(InvalidValueError, match="which scales"):
            vdvae_patch.patch(model, heads=heads, paper=True)

    def test_a_role_without_heads_is_refused(self, model: nn.Module, heads: list[Head]) -> None:
        with pytest.raises(PatchError, match="likelihood, but no head"):
            vdvae_patch.patch(model, "explin/constant/bounded(0.1,1)", heads=heads, paper=True)

    def test_a_head_that_does_not_exist_is_refused_with_the_nearest(self, model: nn.Module) -> None:
        with pytest.raises(PatchError, match=r"no module 'decoder.dec_blocks.99.enc'.*did you mean"):
            vdvae_patch.patch(model, "explin", heads=[Head("decoder.dec_blocks.99.enc", "posterior", 4, 8)], paper=True)


class TestPatchedHeads:
    def test_print_as_a_table(self, model: nn.Module, heads: list[Head]) -> None:
        with vdvae_patch.patch(model, "upbounded/constant", heads=heads, paper=True):
            shown = str(vdvae_patch.patched_heads(model)).splitlines()
        assert shown[0].split() == ["path", "channels", "role", "convention", "scale"]
        assert shown[2].split() == ["decoder.dec_blocks.0.enc", "4:8", "posterior", "log_sigma", "upbounded"]
        assert shown[3].split() == ["decoder.dec_blocks.0.prior", "4:8", "prior", "log_sigma", "constant"]
        assert len(shown) == 2 + len(heads)

    def test_of_an_unpatched_model_are_none(self, model: nn.Module) -> None:
        assert not vdvae_patch.is_patched(model)
        assert len(vdvae_patch.patched_heads(model)) == 0


class Gaussian(nn.Module):
    """A plain VAE's encoder: one layer emits mean and log variance, side by side."""

    def __init__(self, tail: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.to_stats = nn.Sequential(nn.Linear(8, 10), tail) if tail else nn.Linear(8, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.to_stats(self.trunk(x)).chunk(2, dim=1)
        return mean, (0.5 * log_variance).exp()


class TestAtAModulesOutput:
    @pytest.mark.parametrize("tail", [None, nn.ReLU(), nn.Tanh(), nn.Identity()])
    @pytest.mark.parametrize("spec", ["explin", "upbounded", "bounded(0.1,1)"])
    def test_the_host_computes_the_new_sigma_and_the_mean_stays(self, spec: str, tail: nn.Module | None) -> None:
        model = Gaussian(tail)
        x = torch.randn(4, 6)
        mean, _ = model(x)
        raw = model.to_stats(model.trunk(x))[:, 5:]
        head = Head("to_stats", "posterior", 5, 10, convention="log_variance")
        with vdvae_patch.patch(model, posterior=spec, heads=[head], paper=True):
            new_mean, sigma = model(x)
            sigma.sum().backward()
        gradient = model.trunk.weight.grad
        assert torch.equal(new_mean, mean)
        torch.testing.assert_close(sigma, scales.get(spec).sigma(raw))
        model.zero_grad()
        scales.get(spec).sigma(raw).sum().backward()
        torch.testing.assert_close(gradient, model.trunk.weight.grad)

    def test_the_slice_is_written_in_place(self) -> None:
        model = Gaussian()
        head = Head("to_stats", "posterior", 5, 10, convention="log_variance")
        pointers = []
        model.to_stats.register_forward_hook(lambda _, __, out: pointers.append(out.data_ptr()))
        layer_outputs = []
        linear = torch.nn.functional.linear

        def noted(*args: Tensor) -> Tensor:
            layer_outputs.append(linear(*args))
            return layer_outputs[-1]

        with pytest.MonkeyPatch.context() as monkey:
            monkey.setattr(torch.nn.functional, "linear", noted)
            with vdvae_patch.patch(model, posterior="explin", heads=[head], paper=True):
                model(torch.randn(4, 6))
        assert pointers == [layer_outputs[-1].data_ptr()]

    def test_a_layer_that_quantization_left_out_says_so_when_it_is_given_quantized_values(self) -> None:
        model = Gaussian()
        vdvae_patch.patch(model, posterior="explin", heads=[Head("to_stats", "posterior", 5, 10)], paper=True)
        quantized = torch.quantize_per_tensor(torch.randn(4, 8), 0.1, 0, torch.quint8)
        with pytest.raises(PatchError, match=r"to_stats is given quantized values.*quantize the model first"):
            model.to_stats(quantized)

    def test_a_method_that_a_hook_replaced_is_named_by_its_function(self) -> None:
        model = Gaussian()
        model.to_stats.forward = functools.partial(Gaussian.forward, model)
        with pytest.raises(PatchError, match=r"replaced already \(by Gaussian.forward\)"):
            vdvae_patch.patch(model, posterior="explin", heads=[Head("to_stats", "posterior", 5, 10)], paper=True)

    def test_one_name_serves_a_host_that_has_no_learned_prior(self) -> None:
        head = Head("to_stats", "posterior", 5, 10, convention="log_variance")
        for variant in ("explin", Variant.parse("explin")):
            with vdvae_patch.patch(Gaussian(), variant, heads=[head], paper=True) as handle:
                assert len(handle.heads) == 1
        with pytest.raises(PatchError, match="prior, but no head"):
            vdvae_patch.patch(Gaussian(), "explin/explin", heads=[head], paper=True)

    def test_too_many_channels_and_other_outputs_are_errors_that_name_the_head(self) -> None:
        model = Gaussian()
        with pytest.raises(PatchError, match=r"to_stats\[5:11\].*emits 10 channels"):
            vdvae_patch.patch(model, posterior="explin", heads=[Head("to_stats", "posterior", 5, 11)], paper=True)
        assert not vdvae_patch.is_patched(model)
        vdvae_patch.patch(model, posterior="explin", heads=[Head("", "posterior")], paper=True)
        with pytest.raises(PatchError, match="returns a tuple"):
            model(torch.randn(4, 6))


class TestAForkOfTheHost:
    """A block whose `sample` somebody changed keeps its lines: its modules' outputs and two functions are patched."""

    @pytest.fixture
    def fork(self, model: nn.Module) -> nn.Module:
        import forked_vdvae

        for block in model.decoder.dec_blocks:  # type: ignore[union-attr]
            block.__class__ = forked_vdvae.DecBlock
        return model

    def test_runs_its_own_lines_with_the_new_sigma(self, fork: nn.Module) -> None:
        heads = HOST.heads(fork)
        assert not heads[0].calls
        assert heads[0].rebindings
        block = fork.decoder.dec_blocks[0]  # type: ignore[union-attr, index]
        x = torch.randn(2, block.width, block.base, block.base)
        acts = torch.randn_like(x)
        mean_q, raw_q = block.enc(torch.cat([x, acts], 1)).chunk(2, 1)
        mean_p, raw_p = block.prior(x)[:, : 2 * block.zdim].chunk(2, 1)
        with vdvae_patch.patch(fork, "explin/upbounded", heads=heads, paper=True):
            block.visits = 0
            kl = block.sample(x, acts)[2]
            assert block.visits == 1
        expected = normal.kl_divergence(
            mean_q, scales.get("explin").log_sigma(raw_q), mean_p, scales.get("upbounded").log_sigma(raw_p)
        )
        torch.testing.assert_close(kl, expected)

    def test_keeps_a_kl_of_its_own(self, fork: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        import forked_vdvae

        monkeypatch.setattr(forked_vdvae, "gaussian_analytical_kl", forked_vdvae.kl_with_free_bits)
        heads = HOST.heads(fork)
        assert {r.name for r in heads[0].rebindings} == {"draw_gaussian_diag_samples"}
        block = fork.decoder.dec_blocks[0]  # type: ignore[union-attr, index]
        x = torch.randn(2, block.width, block.base, block.base)
        with vdvae_patch.patch(fork, "explin/upbounded", heads=heads, paper=True):
            assert (block.sample(x, x)[2] >= 0.25).all()

    def test_is_restored_bit_for_bit(self, fork: nn.Module) -> None:
        before = everything(fork)
        with vdvae_patch.patch(fork, "explin/upbounded", heads=HOST.heads(fork), paper=True):
            twin = pickle.loads(pickle.dumps(fork))
            assert equal(everything(twin), everything(fork))
        assert equal(everything(fork), before)


def test_no_warning_is_given_for_a_patch_that_does_something(model: nn.Module, heads: list[Head]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vdvae_patch.patch(model, "upbounded", heads=heads, paper=True).unpatch()
