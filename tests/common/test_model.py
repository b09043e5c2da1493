"""The network is the paper's, its layout changes nothing, and frozen means frozen."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from common.config import ModelSettings
from common.errors import ModelError
from common.model import CUTS, STAGES, ResNet1d, build_model, freeze, frozen_statistics, replace_head
from common.seeding import torch_stream

SMALL = ModelSettings(depth=18, width=4, stem="small")
FAMILY = [
    SMALL,
    ModelSettings(depth=34, width=4, stem="paper"),
    ModelSettings(depth=50, width=4, stem="small"),
    ModelSettings(depth=50, width=8, stem="paper"),
]


def named(settings: ModelSettings) -> str:
    return f"{settings.depth}-{settings.width}-{settings.stem}"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads on arrays this small only wait for each other: ten times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def layout() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "layout.py"
    spec = importlib.util.spec_from_file_location("layout_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def paper() -> ResNet1d:
    return build_model(ModelSettings(depth=50, width=64, stem="paper"), torch_stream("paper")).eval()


def beats(count: int = 8, *, name: str = "beats") -> torch.Tensor:
    return torch.randn(count, 120, generator=torch_stream(name))


def model_of(settings: ModelSettings = SMALL, name: str = "model") -> ResNet1d:
    return build_model(settings, torch_stream(name))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def train(model: ResNet1d, hidden: torch.Tensor, after: str = "none", steps: int = 3) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    labels = (torch.arange(len(hidden)) % 2).float()
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model.suffix(hidden, after), labels)
        loss.backward()
        optimizer.step()


# --- the network of the paper ---


def test_the_papers_network_has_15_95_million_parameters_most_of_them_in_the_last_stages(paper):
    sizes = dict.fromkeys([*STAGES, "norm", "head"], 0)
    for name, parameter in paper.named_parameters():
        sizes[name.split(".")[0]] += parameter.numel()
    total = sum(sizes.values())
    assert total == pytest.approx(15.95e6, rel=0.01)
    assert (sizes["stage3"] + sizes["stage4"]) / total == pytest.approx(0.94, abs=0.005)


def test_the_papers_network_leaves_4_positions_of_a_beat_of_120_samples(paper):
    x = beats(2)
    lengths = [paper.stem.conv(x.unsqueeze(2)).shape[1]]
    lengths += [paper.prefix(x, stage).shape[1] for stage in STAGES]
    assert lengths == [60, 30, 30, 15, 8, 4]
    assert paper.prefix(x, "stage4").shape == (2, 4, 2048)
    assert paper.features == 2048


def test_the_small_stem_keeps_every_sample_up_to_the_second_stage():
    model = model_of()
    assert [model.prefix(beats(2), stage).shape[1] for stage in STAGES] == [120, 120, 60, 30, 15]


def test_18_layers_of_width_16_have_242_thousand_parameters():
    model = model_of(ModelSettings(depth=18, width=16, stem="small"))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(242e3, rel=0.005)


@pytest.mark.parametrize(("depth", "layers"), [(18, 18), (34, 34), (50, 50)])
def test_depth_counts_the_layers_from_beat_to_logit(depth, layers):
    model = model_of(ModelSettings(depth=depth, width=4, stem="small"))
    convolutions = [name for name, _ in model.named_parameters() if "conv" in name]
    assert len(convolutions) + 1 == layers  # shortcuts are beside the way, the head is on it


# --- the layout ---


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    labels = (torch.arange(len(x)) % 2).to(x.dtype)
    nn.functional.binary_cross_entropy_with_logits(model(x), labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def pair(settings: ModelSettings, layout: ModuleType, dtype: torch.dtype) -> tuple[ResNet1d, nn.Module]:
    ours = model_of(settings).to(dtype)
    ours(beats(16, name="statistics").to(dtype))
    plain = layout.PlainResNet1d(settings).to(dtype)
    plain.load_state_dict(ours.state_dict())  # strict: same names and shapes
    return ours, plain


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("settings", FAMILY, ids=named)
def test_a_network_of_conv1d_has_the_same_state_outputs_gradients_and_statistics(settings, mode, layout):
    # In double precision, because in single precision rounding alone flips a ReLU near zero now and then.
    ours, plain = (model.train(mode == "training") for model in pair(settings, layout, torch.float64))
    x = beats(6).double()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-9, atol=1e-9)
    expected = gradients(plain, x)
    for name, gradient in gradients(ours, x).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("settings", FAMILY, ids=named)
def test_in_single_precision_the_outputs_agree_to_rounding(settings, layout):
    ours, plain = (model.eval() for model in pair(settings, layout, torch.float32))
    with torch.no_grad():
        expected, answers = plain(beats()), ours(beats())
    torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_in_single_precision_the_gradients_agree_to_rounding(layout):
    ours, plain = (model.eval() for model in pair(SMALL, layout, torch.float32))
    expected = gradients(plain, beats())
    for name, gradient in gradients(ours, beats()).items():
        assert (gradient - expected[name]).norm() < 1e-5 * expected[name].norm(), name


# --- what a network does with beats ---


def test_one_logit_per_beat():
    assert model_of()(beats(5)).shape == (5,)


def test_in_evaluation_a_beat_is_judged_alone_in_training_with_its_batch():
    model = model_of()
    x = beats(6)
    other = torch.cat([x[:3], beats(3, name="others") * 5])
    model.eval()
    torch.testing.assert_close(model(x)[:3], model(other)[:3], rtol=1e-4, atol=1e-5)
    model.train()
    assert not torch.allclose(model(x)[:3], model(other)[:3], rtol=1e-4, atol=1e-5)


def test_a_flat_lead_gives_a_finite_logit():
    model = model_of(ModelSettings(depth=18, width=4, stem="paper")).train()
    assert torch.isfinite(model(torch.zeros(4, 120))).all()


@pytest.mark.parametrize("shape", [(120,), (2, 120, 1)])
def test_an_array_that_is_not_a_list_of_beats_is_refused(shape):
    with pytest.raises(ModelError, match=r"takes beats as \(beats, samples\)"):
        model_of()(torch.zeros(shape))


# --- prefix and suffix ---


@pytest.mark.parametrize("settings", FAMILY, ids=named)
@pytest.mark.parametrize("cut", CUTS)
def test_prefix_and_suffix_are_the_forward_pass_bit_for_bit(settings, cut):
    model = model_of(settings).eval()
    x = beats()
    hidden = model.prefix(x, cut).detach().clone()
    assert torch.equal(model.suffix(hidden, cut), model(x))
    assert torch.equal(model.embed(hidden, cut), model.embed(x))
    assert model.embed(x).shape == (8, model.features)


@pytest.mark.parametrize("cut", ["stem", "stage2", "stage4"])
def test_training_on_kept_activations_gives_the_weights_of_the_naive_way_bit_for_bit(cut):
    naive, cached = model_of(), model_of()
    x = beats()
    for model in (naive, cached):
        freeze(model, cut)
    with torch.no_grad():
        hidden = cached.eval().prefix(x, cut)
    train(naive, x)
    train(cached, hidden, cut)
    assert all(torch.equal(a, b) for a, b in zip(state(naive).values(), state(cached).values(), strict=True))


def test_the_logit_has_a_gradient_at_every_stage():
    model = model_of().eval()
    for stage in STAGES:
        hidden = model.prefix(beats(2), stage).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.suffix(hidden, stage).sum(), hidden)
        assert gradient.shape == hidden.shape
        assert gradient.abs().sum() > 0


# --- freezing ---


@pytest.mark.parametrize("through", CUTS)
def test_frozen_stages_keep_weights_and_statistics_while_the_others_learn(through):
    model = model_of()
    freeze(model, through)
    before = state(model)
    train(model, beats())
    frozen = STAGES[: CUTS.index(through)]
    for name, value in state(model).items():
        unchanged = torch.equal(value, before[name])
        assert unchanged == (name.split(".")[0] in frozen), name


def test_frozen_stages_stay_in_evaluation_mode_whatever_is_called():
    model = model_of()
    freeze(model, "stage2")
    model.eval().train()
    assert not any(module.training for module in model.stage2.modules())
    assert all(module.training for module in model.stage3.modules())
    copied = copy.deepcopy(model).train()
    assert not any(module.training for module in copied.stage2.modules())


def test_freezing_less_releases_again():
    model = model_of()
    freeze(model, "stage4")
    freeze(model, "none")
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_an_unknown_stage_is_refused_with_those_that_exist():
    with pytest.raises(ModelError, match="no stage 'layer2'; allowed: none, stem, stage1"):
        freeze(model_of(), "layer2")


def test_frozen_statistics_let_scale_and_shift_learn():
    model = model_of()
    freeze(model, "stage1")
    before = state(model)
    with frozen_statistics(model):
        train(model, beats())  # calls model.train() inside
    after = state(model)
    learned = {name for name in after if not torch.equal(after[name], before[name])}
    assert not any("running" in name or "tracked" in name for name in learned)
    assert {"stage2.0.norm1.weight", "stage4.1.norm2.bias", "norm.weight", "head.weight"} <= learned
    train(model, beats())
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])


# --- randomness ---


def test_equal_streams_give_equal_networks_and_other_streams_others():
    first, second, third = model_of(name="a"), model_of(name="a"), model_of(name="b")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.stem.conv.weight, third.stem.conv.weight)
    assert not torch.equal(first.head.weight, third.head.weight)


def test_no_global_generator_is_touched():
    before = torch.get_rng_state()
    replace_head(model_of(), torch_stream("head"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_head_changes_nothing_else():
    model = model_of()
    before = state(model)
    replace_head(model, torch_stream("another head"))
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight"}
    assert model.head.weight.abs().max() <= model.features**-0.5


def test_weights_are_drawn_with_the_variance_that_keeps_activations_alive(paper):
    for name in ("stage4.0.conv2", "stage3.1.conv1", "stage1.0.conv2"):
        weight = paper.get_submodule(name).weight
        _, inputs, taps = weight.shape
        assert weight.std().item() == pytest.approx((2 / (inputs * taps)) ** 0.5, rel=0.02)
        assert abs(weight.mean().item()) < 0.05 * weight.std().item()
