"""What reaches a patched module: copies, pickles, replicas, tracers, wrappers; and what a plan refuses."""

from __future__ import annotations

import abc
import copy
import gc
import inspect
import io
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdvae_patch import check_intact, is_patched, patch, patched_heads, scales, scan, unpatch
from vdvae_patch.attach.graft import graft, take_out
from vdvae_patch.conventions import Convention
from vdvae_patch.errors import PatchError, SharedScaleError
from vdvae_patch.heads import Head
from vdvae_patch.patching import patch_record

X = 3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _floors_are_no_matter_here() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class AtOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        return 0.5 * (mu**2 + lv.exp() - lv - 1).sum()


class AtExpression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, lv = self.enc(x).chunk(2, 1)
        sigma = torch.exp(0.5 * lv).clamp(1e-3, 50.0)
        z = mu + sigma * torch.randn_like(mu)
        return 0.5 * (mu**2 + sigma**2 - 2 * torch.log(sigma) - 1).sum() + 0 * z.sum(), sigma


def head(**kwargs: Any) -> Head:
    return Head("enc", "posterior", 4, 8, convention="log_variance", **kwargs)


def at_output(scale: str = "upbounded") -> AtOutput:
    model = AtOutput()
    patch(model, posterior=scale, heads=[head()], paper=True)
    return model


def at_expression(scale: str = "upbounded") -> AtExpression:
    model = AtExpression()
    patch(model, posterior=scale, heads=scan(model, X), paper=True)
    return model


# --- several methods of one module ------------------------------------------------------------------------------------


class TwoMethods(nn.Module):
    def encode(self, x: Tensor) -> Tensor:
        return x + 1

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Plus:
    """Adds a number to what the host's method gives."""

    def __init__(self, number: float) -> None:
        self.number = number

    def run(self, module: Any, own: Any, *args: Any) -> Any:
        return own(module, *args) + self.number

    def restore(self, module: Any) -> None: ...


def test_two_methods_of_a_module_are_replaced_and_given_back_one_by_one() -> None:
    model, x = TwoMethods(), torch.ones(2)
    graft(model, "encode", Plus(10.0))
    graft(model, "forward", Plus(100.0))
    assert model.encode(x).tolist() == [12.0, 12.0]
    assert model(x).tolist() == [102.0, 102.0]
    take_out(model, "encode")
    assert model.encode(x).tolist() == [2.0, 2.0]  # by the host's own method, although the class is still the graft's
    assert model(x).tolist() == [102.0, 102.0]
    take_out(model, "forward")
    assert type(model) is TwoMethods
    assert model(x).tolist() == [2.0, 2.0]


def test_an_instance_that_a_host_makes_of_its_own_class_by_hand_is_not_patched() -> None:
    model, x = TwoMethods(), torch.ones(2)
    graft(model, "forward", Plus(100.0))
    other = type(model).__new__(type(model))
    vars(other).update((key, value) for key, value in vars(model).items() if key in vars(TwoMethods()))
    assert other(x).tolist() == [2.0, 2.0]


class CopiesItself(TwoMethods):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesItself:
        return CopiesItself()


def test_a_host_that_copies_itself_in_its_own_way_gives_a_patched_copy() -> None:
    model, x = CopiesItself(), torch.ones(2)
    graft(model, "forward", Plus(100.0))
    copied = copy.deepcopy(model)
    assert copied(x).tolist() == model(x).tolist() == [102.0, 102.0]
    take_out(model, "forward")
    assert copied(x).tolist() == [102.0, 102.0]


# --- the module stays what it was -------------------------------------------------------------------------------------


def test_the_type_looks_like_the_hosts() -> None:
    model = at_expression()
    assert isinstance(model, AtExpression)
    assert type(model).__name__ == "AtExpression"
    assert type(model).__module__ == AtExpression.__module__
    assert inspect.signature(model.forward) == inspect.signature(AtExpression().forward)
    assert model.forward.__name__ == "forward"
    assert model.forward.__self__ is model
    unpatch(model)
    assert type(model) is AtExpression
    assert vars(model).keys() == vars(AtExpression()).keys()


def test_a_new_instance_of_the_type_is_the_hosts() -> None:
    model = at_expression()
    other = type(model)()
    assert type(other) is AtExpression
    assert torch.equal(other(X)[1], AtExpression()(X)[1])


def test_what_the_host_writes_to_its_class_is_written_there() -> None:
    model = at_expression()
    type(model).counter = 1
    assert AtExpression.counter == 1  # type: ignore[attr-defined]
    model.__class__.counter += 1
    assert AtExpression.counter == 2  # type: ignore[attr-defined]
    del type(model).counter
    assert not hasattr(AtExpression, "counter")


def test_deleting_a_patched_model_frees_its_weights_at_once() -> None:
    gc.disable()
    try:
        for build in (at_output, at_expression):
            model = build()
            alive = weakref.ref(model.enc.weight)
            del model
            assert alive() is None
    finally:
        gc.enable()


class Registered(nn.Module):
    """A base class that keeps every subclass by name, and a metaclass that counts."""

    known: ClassVar[list[str]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__ in cls.known:
            raise TypeError(f"{cls.__name__} is registered already")
        cls.known.append(cls.__name__)


class RegisteredVAE(Registered):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(8, 8)

    forward = AtOutput.forward


class Meta(abc.ABCMeta):
    made: ClassVar[list[str]] = []

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        Meta.made.append(name)


class MetaVAE(nn.Module, metaclass=Meta):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(8, 8)

    @abc.abstractmethod
    def other(self) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        return AtOutput.forward(self, x)  # type: ignore[arg-type]


class ConcreteVAE(MetaVAE):
    def other(self) -> None:
        return None


@pytest.mark.parametrize("cls", [RegisteredVAE, ConcreteVAE])
def test_registries_of_subclasses_and_metaclasses_do_not_hear_of_it(cls: type[nn.Module]) -> None:
    before = list(Registered.known), list(Meta.made)
    of_abc = getattr(cls, "_abc_impl", None)
    model = cls()
    heads = [Head("", "posterior", convention="sigma")]
    patch(
        model, posterior="exp", heads=heads, paper=True
    )  # at the model's own forward: it is the model that is grafted
    assert type(model) is not cls
    assert isinstance(model, cls)
    assert (Registered.known, Meta.made) == before
    assert getattr(cls, "_abc_impl", None) is of_abc
    assert torch.equal(pickle.loads(pickle.dumps(model))(X), model(X))
    unpatch(model)
    assert type(model) is cls


# --- copies and pickles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "host"), [(at_output, AtOutput), (at_expression, AtExpression)])
def test_copies_and_pickles_are_patched_and_unpatch_by_themselves(build: Any, host: type) -> None:
    model = build()
    expected = _sigma(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, copy.deepcopy(loaded)):
        assert other.enc.weight is not model.enc.weight
        assert torch.equal(_sigma(other), expected)
        check_intact(other)
        unpatch(other)
        assert type(other) is host
        assert type(other.enc) is nn.Linear
        assert not torch.equal(_sigma(other), expected)
    assert torch.equal(_sigma(model), expected)


def _sigma(model: nn.Module) -> Tensor:
    if isinstance(model, AtExpression):
        sigma: Tensor = model(X)[1]
        return sigma
    return (0.5 * model.enc(X)[:, 4:]).exp()  # type: ignore[operator, index]


def test_replicas_and_shallow_copies_use_their_own_weights() -> None:
    model = at_output()
    replica = model.enc._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
    replica.weight, replica.bias = torch.zeros(8, 8), torch.zeros(8)
    expected = 2 * patched_heads(model)[0].scale.log_sigma(torch.zeros(5, 4))
    torch.testing.assert_close(replica(X)[:, 4:], expected)
    other = copy.copy(model.enc)
    other._parameters = {"weight": nn.Parameter(torch.zeros(8, 8)), "bias": nn.Parameter(torch.zeros(8))}
    torch.testing.assert_close(other(X)[:, 4:], expected)


class Posterior:
    def __init__(self, moments: Tensor) -> None:
        self.mean, log_variance = moments.chunk(2, 1)
        self.log_variance = torch.clamp(log_variance, -30.0, 20.0)
        self.std = torch.exp(0.5 * self.log_variance)

    def sample(self) -> Tensor:
        return self.mean + self.std * torch.randn_like(self.mean)


class Encodes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(8, 8)

    def encode(self, x: Tensor) -> Posterior:
        return Posterior(self.enc(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x).sample()


def test_what_a_patched_encode_returns_pickles_as_the_hosts_own() -> None:
    model = Encodes()
    patch(model, posterior="upbounded", heads=scan(model, X), paper=True)
    with torch.no_grad():
        posterior = model.encode(X)
    assert isinstance(posterior, Posterior)
    again = pickle.loads(pickle.dumps(posterior))
    assert type(again) is Posterior
    assert torch.equal(again.std, posterior.std)
    assert float(again.std.max()) <= 1


# --- tracers and compilers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [at_output, at_expression])
def test_graphs_of_a_patched_model_have_the_patch(build: Any, tmp_path: Any) -> None:
    model = build()

    def run(f: Any) -> Tensor:
        torch.manual_seed(1)
        out = f(X)
        return out[0] if isinstance(out, tuple) else out

    expected = run(model)
    traced = torch.jit.trace(model, X, check_trace=False)
    torch.jit.save(traced, tmp_path / "traced.pt")
    for graph in (
        torch.fx.symbolic_trace(model),
        torch.export.export(model, (X,), strict=False).module(),
        torch.export.export(model, (X,), strict=True).module(),
        torch.compile(model, backend="eager", fullgraph=True),
        traced,
        torch.jit.load(tmp_path / "traced.pt"),
    ):
        torch.testing.assert_close(run(graph), expected)
    with pytest.raises(PatchError, match=r"TorchScript compiles the source.*use torch\.jit\.trace"):
        torch.jit.script(model)


@pytest.mark.medium
def test_blocks_of_one_class_are_compiled_once() -> None:
    blocks = nn.ModuleList(AtExpression() for _ in range(12))
    for block in blocks:
        patch(block, posterior="upbounded", heads=scan(block, X), paper=True)
    assert len({type(block) for block in blocks}) == 1


def test_forward_mode_and_second_derivatives() -> None:
    model = at_output("explin")
    tangent = torch.ones_like(X)
    _, forward = torch.func.jvp(model, (X,), (tangent,))
    reverse = (torch.func.grad(model)(X) * tangent).sum()
    torch.testing.assert_close(forward, reverse, check_dtype=False)  # of AtOutput's own, too, it is float64
    torch.testing.assert_close(torch.func.jacfwd(model)(X), torch.func.jacrev(model)(X), check_dtype=False)
    hessian = torch.func.hessian(model)(X).reshape(X.numel(), -1)
    by_rows = torch.autograd.functional.hessian(model, X).reshape(X.numel(), -1)
    torch.testing.assert_close(hessian, by_rows, check_dtype=False)


class OutputKept(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.activity, self.kept = (out**2).mean(), out
        return out


def test_what_a_module_keeps_of_its_output_is_left_alone() -> None:
    model = AtOutput()
    model.enc = OutputKept(8, 8)
    expected = nn.functional.linear(X, model.enc.weight, model.enc.bias)
    patch(model, posterior="explin", heads=[head()], paper=True)
    loss = model(X) + model.enc.activity
    assert torch.equal(model.enc.kept, expected)
    loss.backward()
    with torch.no_grad():
        model(X)
    assert torch.equal(model.enc.kept, expected)


class Ladder(nn.Module):
    """A prior whose raw value has a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.q1, self.q2, self.dec = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(4, 8)
        self.p_mean, self.p_logvar = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        m2, l2 = self.q2(x).chunk(2, 1)
        z2 = m2 + (0.5 * l2).exp() * torch.randn_like(m2)
        m1, l1 = self.q1(x).chunk(2, 1)
        z1 = m1 + (0.5 * l1).exp() * torch.randn_like(m1)
        pm, pl = self.p_mean(z2), self.p_logvar(z2)
        kl2 = 0.5 * (m2**2 + l2.exp() - l2 - 1).sum()
        kl1 = 0.5 * (pl - l1 + (l1.exp() + (m1 - pm) ** 2) / pl.exp() - 1).sum()
        return ((self.dec(z1) - x) ** 2).sum() + kl1 + kl2


def test_every_parameter_gets_a_gradient_under_a_constant_scale() -> None:
    model = Ladder()
    patch(model, "explin/constant", heads=scan(model, X), paper=True)
    model(X).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert not model.p_logvar.weight.grad.any()
    model.p_logvar.weight.data.fill_(torch.inf)  # nor does what comes of a useless layer reach the loss
    assert model(X).isfinite()


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([Head("enc", "posterior", 4, 8), Head("enc", "posterior", 4)], "overlap"),
        ([Head("enc", "posterior", 4, 8), Head("enc", "prior", 2, 6)], "overlap"),
        ([Head("enc", "posterior", 0, 8, step=2), Head("enc", "prior", 4, 6)], "overlap"),
        ([Head("enc", "posterior", 4, 8), Head("alias", "prior", 4)], "overlap"),
        ([Head("enc", "posterior", 4, 8), Head("enc", "posterior", 4, 8, convention="sigma")], "name them once"),
        ([Head("log_sigma", "posterior", parameter=True)], "names a parameter"),
        ([Head("enc", "posterior", 40, 48)], "emits 8 channels"),
        ([Head("encoder", "posterior", 4, 8)], "no module 'encoder'"),
        ([], "the list is empty"),
    ],
)
def test_a_plan_refuses_before_anything_is_touched(heads: list[Head], message: str) -> None:
    model = AtOutput()
    model.alias = model.enc
    model.log_sigma = nn.Parameter(torch.zeros(()))
    with pytest.raises(PatchError, match=message):
        patch(model, "explin", heads=heads, paper=True)
    assert type(model.enc) is nn.Linear


def test_interleaved_channels_and_a_second_name_are_no_overlap() -> None:
    model = AtOutput()
    model.alias = model.enc
    raw = model.enc(X)
    heads = [Head("alias", "posterior", 0, 8, step=2), Head("enc", "prior", 1, 8, step=2)]
    patch(model, "explin/upbounded", heads=heads, paper=True)
    torch.testing.assert_close(model.enc(X)[:, ::2], scales.get("explin").log_sigma(raw[:, ::2]))
    torch.testing.assert_close(model.enc(X)[:, 1::2], scales.get("upbounded").log_sigma(raw[:, 1::2]))


def test_one_module_with_two_roles_and_two_scales_is_refused() -> None:
    with pytest.raises(SharedScaleError, match="cannot be told apart"):
        patch(
            AtOutput(),
            "explin/upbounded",
            heads=[Head("enc", "posterior", 4, 8), Head("enc", "prior", 4, 8)],
            paper=True,
        )


# --- several patched models in one ------------------------------------------------------------------------------------


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = AtOutput(), AtOutput()


def test_a_teacher_and_a_student_are_both_seen_and_both_unpatched() -> None:
    model = Both()
    patch(model.teacher, posterior="explin", heads=[head()], paper=True)
    patch(model.student, posterior="upbounded", heads=[head()], paper=True)
    assert [(h.head.path, str(h.scale)) for h in patched_heads(model)] == [
        ("teacher.enc", "explin"),
        ("student.enc", "upbounded"),
    ]
    check_intact(model)
    with pytest.raises(PatchError, match=r"\(teacher\) is patched already"):
        patch(model, posterior="exp", heads=[Head("teacher.enc", "posterior", 4, 8)], paper=True)
    unpatch(model)
    assert not any(map(is_patched, (model, model.teacher, model.student)))


def test_a_part_of_a_patched_model_knows_that_it_is_patched() -> None:
    model = Both()
    patch(model, posterior="explin", heads=[Head("teacher.enc", "posterior", 4, 8)], paper=True)
    assert is_patched(model.teacher)
    assert not is_patched(model.student)
    with pytest.raises(PatchError, match="part of one that was patched as a whole"):
        unpatch(model.teacher)
    with pytest.raises(PatchError, match="part of one that is patched already"):
        patch(model.teacher, posterior="explin", heads=[head()], paper=True)


# --- still in force? --------------------------------------------------------------------------------------------------


class LoraLinear(nn.Module):
    """As adapters do: the layer, and what they learn, added to its output."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.delta = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.delta(x)


def test_check_intact_says_what_took_a_patch_away_or_moved_it() -> None:
    check_intact(at_output())
    for change, message in (
        (lambda m: setattr(m, "enc", nn.Linear(8, 8)), r"enc\.forward: the patch is gone; a Linear is there"),
        (lambda m: setattr(m, "enc", LoraLinear(m.enc)), r"now enc\.base_layer, inside a LoraLinear"),
        (lambda m: setattr(m.enc, "__class__", nn.Linear), r"no longer what the patch put there"),
        (lambda m: setattr(m.enc, "forward", lambda x: x), r"replaced by .*<lambda>"),
        (lambda m: delattr(m, "enc"), "nothing is there"),
    ):
        model = at_output()
        change(model)  # type: ignore[no-untyped-call]
        with pytest.raises(PatchError, match=message):
            check_intact(model)
    with pytest.raises(PatchError, match="not patched"):
        check_intact(AtOutput())


def test_check_intact_lets_wrappers_pass_that_hand_the_output_on() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = at_output()
    model.enc = checkpoint_wrapper(model.enc)
    check_intact(model)
    check_intact(nn.Sequential(model))
    model = at_output()
    model.enc = torch.compile(model.enc, backend="eager")
    check_intact(model)
    model = at_output()
    old = model.enc.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        return old(*args, **kwargs)

    hooked.__wrapped__ = old  # type: ignore[attr-defined]  # as functools.update_wrapper leaves it
    model.enc.forward = hooked
    check_intact(model)


def test_an_instance_that_was_replaced_before_is_refused() -> None:
    model = AtOutput()
    model.enc.forward = lambda x: x
    with pytest.raises(PatchError, match=r"replaced already.*patch before it is put there"):
        patch(model, posterior="explin", heads=[head()], paper=True)


# --- whatever is raised -----------------------------------------------------------------------------------------------


class Interrupted(AtExpression):
    fails: type[BaseException] | None = None
    after = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = super().forward(x)
        if type(self).fails is not None:
            if not type(self).after:
                raise type(self).fails("in the host")
            type(self).after -= 1
        return out


@pytest.mark.parametrize("fails", [KeyboardInterrupt, MemoryError, RuntimeError, torch.OutOfMemoryError, SystemExit])
@pytest.mark.parametrize("variant", ["explin", "constant"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_error_of_the_models_own_leaves_it_as_it_was(
    fails: type[BaseException], variant: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Interrupted()
    heads = scan(model, X)
    monkeypatch.setattr(Interrupted, "fails", fails)
    monkeypatch.setattr(Interrupted, "after", after)
    expected = PatchError if issubclass(fails, Exception) else fails
    if variant == "explin" and after == 2:
        patch(
            model, posterior=variant, heads=heads, paper=True
        )  # one run measures, one verifies; a constant has a third
        return
    with pytest.raises(expected) as caught:
        patch(model, posterior=variant, heads=heads, paper=True)
    if expected is PatchError:
        assert "cannot be run again" in str(caught.value)
        assert isinstance(caught.value.__cause__, fails)
    assert not is_patched(model)
    assert type(model) is Interrupted


def test_a_batch_follows_its_model_to_another_type() -> None:
    model = Ladder()
    heads = scan(model, X)
    model.double()
    patch(model, "explin/constant", heads=heads, paper=True)
    assert str(patch_record(model).variant) == "explin/constant"


def test_a_call_that_keeps_its_own_batch_cannot_follow_and_the_message_says_so() -> None:
    model = Ladder()
    heads = scan(model, call=lambda m: m(X))
    model.double()
    with pytest.raises(PatchError, match=r"float32 on cpu when it was scanned and is float64 on cpu now"):
        patch(model, "explin/constant", heads=heads, paper=True)
    assert not is_patched(model)
    patch(model, "explin/constant", heads=heads, verify=False, paper=True)


# --- a user's own convention ------------------------------------------------------------------------------------------


class Tenth(Convention):
    """σ = exp(v / 10)."""

    name = "tenth"

    def sigma(self, v: Tensor) -> Tensor:
        return (v / 10).exp()

    def preimage(self, scale: Any, p: Tensor) -> Tensor:
        value: Tensor = 10 * scale.log_sigma(p)
        return value


def test_a_convention_of_the_users_is_inverted_as_such() -> None:
    from vdvae_patch.composition import Target, undo

    sigma = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(undo(Tenth(), Target(sigma, sigma.log())), 10 * sigma.log())
    torch.testing.assert_close(undo(Tenth(), Target(sigma, None)), 10 * sigma.log())


# --- in another process -----------------------------------------------------------------------------------------------


def test_a_pickle_of_a_patched_model_opens_in_a_process_that_imported_nothing(tmp_path: Any) -> None:
    model = at_expression()
    torch.manual_seed(3)
    expected = model(X)[0]
    torch.save((model, X), tmp_path / "model.pt")
    code = (
        "import torch\n"
        f"model, x = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "torch.manual_seed(3)\nprint(repr(float(model(x)[0])))\n"
        "import vdvae_patch\nvdvae_patch.check_intact(model); vdvae_patch.unpatch(model)\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(expected), rel=1e-6)


class WithNormal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        mu, lv = self.enc(x).chunk(2, 1)
        self.q = Normal(mu, (0.5 * lv).exp())
        z = self.q.rsample()
        return 0 * z.sum() + kl_divergence(self.q, Normal(torch.zeros(4), torch.ones(4))).sum()


def test_any_selection_of_heads_is_verified_and_gets_stable_normals() -> None:
    from vdvae_patch.distributions import StableNormal

    model = WithNormal()
    heads = scan(model, X)
    for chosen in (heads, heads[:1], [h for h in heads if h.role == "posterior"], heads.select(role="posterior")):
        with patch(model, posterior="explin", heads=chosen, paper=True) as handle:
            model(X)
            assert type(model.q) is StableNormal
            assert handle.unverified == ()
            assert "not verified" not in str(handle)
    with patch(model, posterior="explin", heads=[head()], paper=True) as handle:
        assert [h.path for h in handle.unverified] == ["enc"]
        assert "not verified: enc[4:8]" in str(handle)
    again = pickle.loads(pickle.dumps(heads))
    with patch(model, posterior="explin", heads=again, paper=True) as handle:
        model(X)
        assert type(model.q) is StableNormal
        assert handle.unverified == tuple(again)
    assert heads.select(path="enc", sure=True) == heads
    heads.verify(model) if is_patched(model) else None
    with pytest.raises(PatchError, match="no head is left; there are: enc"):
        heads.select(role="prior")
