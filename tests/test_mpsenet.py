"""MP-SENet, its spectrograms and its loss, against the published size, a plain restatement, and theory."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import constant, entry, make_spec, needs_pesq, planned, train, value
from torch import Tensor, nn

from sparsity_cliff.data import quality
from sparsity_cliff.data.layouts.base import Dataset
from sparsity_cliff.data.loading import from_arrays
from sparsity_cliff.data.seeds import random_state
from sparsity_cliff.data.spectrogram import analyze, settings, synthesize
from sparsity_cliff.networks.activations import Site
from sparsity_cliff.networks.losses import mpsenet as speech_loss
from sparsity_cliff.networks.losses.mpsenet import Discriminator, MPSENetLoss, anti_wrapping, phase_losses
from sparsity_cliff.networks.models.mpsenet import MPSENet, Phase
from sparsity_cliff.probes import sites
from sparsity_cliff.training.build import Parts
from sparsity_cliff.training.job import Job, state_of
from sparsity_cliff.training.loop import train_seed

TINY: dict[str, Any] = {"channels": 4, "blocks": 1, "heads": 2, "kernel": 5, "n_fft": 64, "hop": 32}
SAMPLES = 640
LONG = 16_000  # samples for which STOI and PESQ are defined


def silu_site(dim: int) -> Site:
    return Site(nn.SiLU(), dim)


def tiny(**options: Any) -> MPSENet:
    torch.manual_seed(0)
    return MPSENet((SAMPLES,), 0, silu_site, None, **{**TINY, **options})


def signals(n: int = 2, samples: int = SAMPLES, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, samples, generator=torch.Generator().manual_seed(1), dtype=dtype)


# ------------------------------------------------------------------------------------------ spectrograms


@pytest.mark.numerical
@pytest.mark.parametrize(("n_fft", "hop"), [(400, 100), (400, 200), (64, 16), (64, 32)])
@pytest.mark.parametrize("samples", [1600, 1601, 2477])
def test_a_signal_comes_back_from_its_spectrum(n_fft: int, hop: int, samples: int) -> None:
    signal = signals(samples=samples, dtype=torch.float64)
    spectrum = analyze(signal, n_fft, hop)
    assert spectrum.shape == (2, 2, n_fft // 2 + 1, math.ceil(samples / hop) + 1)
    assert settings(spectrum, samples) == (n_fft, hop)
    # the power's floor of 1e-9 is all that is lost
    torch.testing.assert_close(synthesize(spectrum, samples), signal, rtol=0, atol=1e-4)


@pytest.mark.numerical
def test_a_spectrum_is_the_compressed_fourier_transform_of_windowed_frames() -> None:
    signal = signals(1, 640, torch.float64)
    window = np.sin(np.pi * np.arange(64) / 64) ** 2
    padded = np.pad(signal[0].numpy(), 32, mode="reflect")
    frames = np.stack([np.fft.rfft(window * padded[i : i + 64]) for i in range(0, 641, 32)], axis=1)
    magnitude, phase = analyze(signal, 64, 32)[0].numpy()
    assert magnitude == pytest.approx(np.abs(frames) ** 0.3, rel=1e-6)
    assert magnitude * np.exp(1j * phase) == pytest.approx(frames * np.abs(frames) ** -0.7, abs=1e-3)


def test_silence_has_phase_0_and_a_finite_gradient() -> None:
    silence = torch.zeros(1, SAMPLES, requires_grad=True)
    spectrum = analyze(silence, 64, 32)
    assert (spectrum[:, 1].abs() < 1e-4).all()
    (gradient,) = torch.autograd.grad(spectrum.sum(), silence)
    assert gradient.isfinite().all()


# ------------------------------------------------------------------------------------------ the model


def test_it_has_the_published_number_of_parameters_and_sites() -> None:
    with torch.device("meta"):
        model = MPSENet((32_000,), 0, silu_site, None)
        everywhere = MPSENet((32_000,), 0, silu_site, None, sites="all")
    assert sum(p.numel() for p in model.parameters()) == 2_048_849
    # a PReLU has one slope for each of 64 channels, that of the mask one
    assert sum(p.numel() for p in everywhere.parameters()) == 2_048_849 - 15 * 64 - 1
    assert [site.dim for _, site in sites.sites(model)] == [-1] * 24
    assert [site.dim for _, site in sites.sites(everywhere)] == [1] * 6 + [-1] * 24 + [1] * 10
    assert sum(isinstance(m, nn.PReLU) for m in model.modules()) == 16


def feed_forward(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = F.layer_norm(x, x.shape[-1:], w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])
    x = F.silu(x @ w[f"{name}.linear1.weight"].T + w[f"{name}.linear1.bias"])
    return x @ w[f"{name}.linear2.weight"].T + w[f"{name}.linear2.bias"]


def attention(w: dict[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    x = F.layer_norm(x, x.shape[-1:], w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])
    width = x.shape[-1]
    q, k, v = (x @ w[f"{name}.{part}.weight"].T + w[f"{name}.{part}.bias"] for part in ("query", "key", "value"))
    size, out = width // heads, []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        out.append(torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(size), dim=-1) @ v[:, part])
    return torch.cat(out, dim=-1) @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]


def convolution(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = F.layer_norm(x, x.shape[-1:], w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"])
    a, b = (x @ w[f"{name}.linear1.weight"].T + w[f"{name}.linear1.bias"]).chunk(2, dim=-1)
    x = a * torch.sigmoid(b)
    kernel = w[f"{name}.conv.weight"][:, 0]
    reach = kernel.shape[1] // 2
    padded = F.pad(x, (0, 0, reach, reach))
    x = torch.stack([(padded[i : i + 2 * reach + 1] * kernel.T).sum(dim=0) for i in range(len(x))])
    x = x + w[f"{name}.conv.bias"]
    mean, variance = w[f"{name}.norm2.running_mean"], w[f"{name}.norm2.running_var"]
    x = (x - mean) / torch.sqrt(variance + 1e-5) * w[f"{name}.norm2.weight"] + w[f"{name}.norm2.bias"]
    return F.silu(x) @ w[f"{name}.linear2.weight"].T + w[f"{name}.linear2.bias"]


def conformer(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = x + feed_forward(w, f"{name}.feed1", x) / 2
    x = x + attention(w, f"{name}.attention", x, TINY["heads"])
    x = x + convolution(w, f"{name}.convolution", x)
    x = x + feed_forward(w, f"{name}.feed2", x) / 2
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])


def normed(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Instance norm and PReLU of one (C, T, F)."""
    x = (x - x.mean(dim=(1, 2), keepdim=True)) / torch.sqrt(x.var(dim=(1, 2), keepdim=True, correction=0) + 1e-5)
    x = x * w[f"{name}.norm.weight"][:, None, None] + w[f"{name}.norm.bias"][:, None, None]
    return torch.where(x > 0, x, w[f"{name}.act.weight"][:, None, None] * x)


def dense(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    seen = x
    for i in range(4):
        layer = f"{name}.layers.{i}"
        weight, bias = w[f"{layer}.conv.weight"], w[f"{layer}.conv.bias"]
        x = normed(w, layer, F.conv2d(seen[None], weight, bias, padding=(2**i, 1), dilation=(2**i, 1))[0])
        seen = torch.cat([x, seen])
    return x


def doubled(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Transposed convolution along F, kernel 3 and stride 2, as a sum of what each input gives."""
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    out = bias[:, None, None].repeat(1, x.shape[1], 2 * x.shape[2] + 1)
    for i in range(x.shape[2]):
        out[:, :, 2 * i : 2 * i + 3] += torch.einsum("ct,cok->otk", x[:, :, i], weight[:, :, 0])
    return out


def restated(w: dict[str, Tensor], signal: Tensor) -> Tensor:
    """The whole network on one waveform, in eval mode, from the paper's figures and formulas."""
    noisy = analyze(signal[None], TINY["n_fft"], TINY["hop"])[0]
    x = torch.einsum("oi,ift->otf", w["stem.pointwise.conv.weight"][:, :, 0, 0], noisy)
    x = normed(w, "stem.pointwise", x + w["stem.pointwise.conv.bias"][:, None, None])
    x = dense(w, "stem.dense", x)
    down = F.conv2d(x[None], w["stem.down.conv.weight"], w["stem.down.conv.bias"], stride=(1, 2))[0]
    x = normed(w, "stem.down", down).permute(1, 2, 0)  # (T, F', C)
    x = x + torch.stack([conformer(w, "blocks.0.time", x[:, f]) for f in range(x.shape[1])], dim=1)
    x = x + torch.stack([conformer(w, "blocks.0.frequency", x[t]) for t in range(x.shape[0])])
    x = x.permute(2, 0, 1)
    mask = doubled(w, "head.mask.up", dense(w, "head.mask.dense", x))
    mask = torch.einsum("oi,itf->otf", w["head.mask.layer.conv.weight"][:, :, 0, 0], mask)
    mask = normed(w, "head.mask.layer", mask + w["head.mask.layer.conv.bias"])[0]
    mask = mask * w["head.mask.out.weight"].squeeze() + w["head.mask.out.bias"]
    magnitude = noisy[0] * 2 / (1 + torch.exp(-w["head.mask.slope"] * mask)).T
    y = normed(w, "head.phase.up", doubled(w, "head.phase.up.conv", dense(w, "head.phase.dense", x)))
    real, imaginary = (
        torch.einsum("c,ctf->ft", w[f"head.phase.{part}.weight"].squeeze(), y) + w[f"head.phase.{part}.bias"]
        for part in ("real", "imaginary")
    )
    return torch.stack([magnitude, torch.atan2(imaginary, real)])


@pytest.mark.numerical
def test_it_is_the_paper_s_network_and_so_is_its_gradient() -> None:
    model, x = tiny().double(), signals(dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():  # so that no bias is 0, no scale 1
            p += 0.1 * torch.randn_like(p)
        model(x)  # running statistics that are not 0 and 1
    model.eval()
    out = model(x)
    state = {name: t.detach().clone() for name, t in model.state_dict().items() if t.is_floating_point()}
    weights = {name: t.requires_grad_() for name, t in state.items()}
    expected = torch.stack([restated(weights, signal) for signal in x])
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(out)
    (out * direction).sum().backward()
    (expected * direction).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, weights[name].grad, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.numerical
def test_attention_is_torchs() -> None:
    theirs = nn.MultiheadAttention(4, 2, batch_first=True).double()
    own = tiny().double().blocks[0].time.attention
    parts = zip(theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True)
    for layer, (weight, bias) in zip((own.query, own.key, own.value), parts, strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    own.proj.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(3, 5, 7, 4, dtype=torch.float64)
    y = own.eval().norm(x).flatten(0, 1)
    torch.testing.assert_close(own(x).flatten(0, 1), theirs(y, y, y)[0])


def test_attention_starts_as_torchs() -> None:
    torch.manual_seed(0)
    width = 128
    theirs = nn.MultiheadAttention(width, 4)
    own = MPSENet((SAMPLES,), 0, silu_site, None, **{**TINY, "channels": width}).blocks[0].time.attention
    ours = torch.cat([layer.weight for layer in (own.query, own.key, own.value)])
    for weight, expected, bound in (
        (ours, theirs.in_proj_weight, (6 / (4 * width)) ** 0.5),  # Glorot's uniform, of one matrix (3 width, width)
        (own.proj.weight, theirs.out_proj.weight, width**-0.5),
    ):
        n = weight.numel()
        for drawn in (weight, expected):
            assert drawn.abs().max() <= bound
            assert abs(drawn.square().mean() - bound**2 / 3) < 4 * bound**2 * (4 / 45 / n) ** 0.5  # standard errors
    biases = [layer.bias for layer in (own.query, own.key, own.value, own.proj)]
    assert not torch.cat([*biases, theirs.in_proj_bias, theirs.out_proj.bias]).any()


@pytest.mark.parametrize("sites", ["conformer", "all"])
def test_an_example_does_not_see_the_others(sites: str) -> None:
    model, x = tiny(sites=sites), signals(3)
    with torch.no_grad():
        model(x)
        model.eval()
        before, after = model(x)[0], model(torch.cat([x[:1], 100 * x[1:].flip(0)]))[0]
    assert torch.equal(before, after)
    with torch.no_grad():
        torch.testing.assert_close(model(x[:1])[0], before, rtol=1e-4, atol=1e-4)


def test_a_normalization_replaces_the_layer_norms_of_the_conformers_alone() -> None:
    asked: list[tuple[int, int]] = []

    def norm(features: int, spatial: int) -> nn.Module:
        asked.append((features, spatial))
        return nn.Identity()

    model = MPSENet((SAMPLES,), 0, silu_site, norm, **TINY)
    assert asked == [(4, 0)] * 10  # five in each of two conformers
    assert not any(isinstance(m, nn.LayerNorm) for m in model.modules())
    assert model(signals()).isfinite().all()


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES + 1, 1111])
def test_output_fits_the_signal_whatever_its_length(samples: int) -> None:
    out = tiny().eval()(signals(samples=samples))
    assert out.shape == (2, 2, 33, math.ceil(samples / 32) + 1)
    assert (out[:, 0] >= 0).all()
    assert (out[:, 1].abs() <= math.pi).all()
    assert synthesize(out, samples).shape == (2, samples)


def test_spectra_are_float32_under_autocast() -> None:
    model, x = tiny().eval(), signals()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.float32
    noisy = analyze(x, 64, 32)[:, 0]
    assert (out[:, 0] <= 2 * noisy).all()
    assert torch.unique(out[:, 0] / noisy).numel() > 300  # of 1,386; bfloat16 has 256 steps from 1 to 2


def test_a_segment_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mpsenet: segments of 255 samples with n_fft=64; valid: 4 n_fft or more$"):
        MPSENet((255,), 0, silu_site, None, **TINY)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 6, "heads": 4},
        {"kernel": 4},
        {"n_fft": 66, "hop": 33},
        {"hop": 30},
        {"hop": 64},
        {"segment": 255},
        {"processes": 2},
    ],
)
def test_what_it_requires_is_what_it_needs(options: dict[str, Any]) -> None:
    names = {**TINY, "segment": SAMPLES, "processes": 1}
    valid = [eval(text, {}, {**names, **options}) for text in constant("mpsenet", "REQUIRES")]
    assert valid.count(False) == 1
    assert all(eval(text, {}, names) for text in constant("mpsenet", "REQUIRES"))


# ------------------------------------------------------------------------------------------ the loss


def test_anti_wrapping_is_the_distance_on_the_circle() -> None:
    angles = torch.linspace(-20, 20, 801, dtype=torch.float64)
    expected = torch.atan2(angles.sin(), angles.cos()).abs()
    torch.testing.assert_close(anti_wrapping(angles), expected)
    torch.testing.assert_close(anti_wrapping(angles + 2 * math.pi), anti_wrapping(angles))
    torch.testing.assert_close(anti_wrapping(-angles), anti_wrapping(angles))


def test_phase_losses_by_hand() -> None:
    clean = torch.zeros(1, 2, 3)
    phase = torch.tensor([[[0.1, 0.3, 0.3 + 2 * math.pi], [0.1, 0.3, 0.3]]])
    found = phase_losses(phase, clean)
    # errors .1 .3 .3 in both rows; along F: the first row, then 0; along T: the first column, then .2 and 0
    torch.testing.assert_close(torch.stack(found), torch.tensor([1.4 / 6, 0.7 / 6, 0.6 / 6]))


def test_each_term_by_itself() -> None:
    clean = signals(dtype=torch.float64)
    target = analyze(clean, 64, 32)
    outputs = torch.stack([1.5 * target[:, 0], target[:, 1] + 0.2], dim=1)
    off = dict.fromkeys(("metric", "magnitude", "phase", "complex", "time"), 0.0)
    terms = {
        name: MPSENetLoss(**{**off, name: 1.0})(outputs, clean).item()
        for name in ("magnitude", "phase", "complex", "time")
    }
    power = target[:, 0].square().mean().item()
    assert terms["magnitude"] == pytest.approx(0.25 * power)
    # of a constant error only the first row of each difference is left: 1, 1/33 and 1/21 of it
    assert terms["phase"] == pytest.approx(0.2 * (1 + 1 / 33 + 1 / 21))
    assert terms["complex"] == pytest.approx(abs(1.5 * np.exp(0.2j) - 1) ** 2 * power)
    heard = synthesize(outputs, SAMPLES)
    assert terms["time"] == pytest.approx((heard - clean).abs().mean().item())
    published = {"metric": 0.0, "magnitude": 0.9, "phase": 0.3, "complex": 0.1, "time": 0.2}
    total = sum(published[name] * term for name, term in terms.items())
    assert MPSENetLoss(metric=0.0)(outputs, clean).item() == pytest.approx(total)


def test_consistency_is_0_for_the_spectrum_of_a_signal_and_not_for_another() -> None:
    clean = signals(dtype=torch.float64)
    off = dict.fromkeys(("metric", "magnitude", "phase", "complex", "time"), 0.0)
    loss = MPSENetLoss(**off, consistency=1.0)
    assert loss(analyze(clean, 64, 16), clean).item() == pytest.approx(0, abs=1e-6)
    other = torch.rand(2, 2, 33, 41, dtype=torch.float64, requires_grad=True)
    value = loss(other, clean)
    value.backward()
    assert value.item() > 0.01
    assert other.grad is not None
    assert other.grad.isfinite().all()


def test_a_perfect_output_costs_nothing_but_the_discriminator() -> None:
    clean = signals(samples=8000)
    assert MPSENetLoss(metric=0.0)(analyze(clean, 400, 100), clean).item() == pytest.approx(0, abs=1e-4)


def test_the_discriminator_has_the_published_size() -> None:
    # convolutions of 16 (k²) weights, two scales and a slope per channel; two linear layers, 64 slopes, one slope
    convolutions = 16 * (2 * 16 + 16 * 32 + 32 * 64 + 64 * 128) + 3 * (16 + 32 + 64 + 128)
    assert sum(p.numel() for p in Discriminator(16, 5e-4).parameters()) == convolutions + 128 * 64 + 64 + 64 + 65 + 1


def test_the_discriminator_learns_to_tell() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(8, 2e-3)

    def draw() -> tuple[Tensor, Tensor]:
        clean = F.interpolate(torch.rand(6, 1, 5, 5), (33, 32), mode="bilinear").squeeze(1)
        return clean, clean + torch.rand(6, 33, 32)

    for _ in range(120):
        discriminator.learn(*draw(), torch.full((6,), 0.1))
    discriminator.eval()
    clean, bad = draw()  # which it has not seen
    with torch.no_grad():
        assert (discriminator(clean, clean) > discriminator(clean, bad) + 0.5).all()


def speech_like() -> tuple[Tensor, Tensor]:
    """Bursts of tones for which PESQ is defined, and the same in noise."""
    t = torch.arange(LONG) / 16_000
    clean = torch.sin(2 * math.pi * 440 * t) * (torch.sin(2 * math.pi * 4 * t) > 0)
    clean = torch.stack([clean, clean.flip(0)])
    return clean + 0.3 * signals(samples=LONG), clean


def outputs_of(noisy: Tensor) -> Tensor:
    return analyze(noisy, 256, 128).requires_grad_()


@needs_pesq
def test_the_discriminator_is_trained_by_pesq_and_the_model_s_gradient_does_not_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pesq import pesq

    torch.manual_seed(0)
    noisy, clean = speech_like()
    loss = MPSENetLoss(width=2)
    assert loss.discriminator is not None
    taught: list[tuple[Tensor, Tensor, Tensor]] = []
    learn = loss.discriminator.learn
    monkeypatch.setattr(loss.discriminator, "learn", lambda *batch: (taught.append(batch), learn(*batch))[1])
    before = {key: p.detach().clone() for key, p in loss.discriminator.named_parameters()}
    outputs = outputs_of(noisy)
    loss(outputs, clean).backward()
    ((target, heard, aims),) = taught
    expected = [(pesq(16_000, c.numpy(), n.numpy(), "wb") - 1) / 3.5 for c, n in zip(clean, noisy, strict=True)]
    assert aims.tolist() == pytest.approx(expected, abs=0.01)
    assert torch.equal(target, analyze(clean, 256, 128)[:, 0])
    torch.testing.assert_close(heard, outputs[:, 0].detach(), rtol=0, atol=0.01)
    assert not heard.requires_grad
    assert all(p.grad is None and p.requires_grad for p in loss.discriminator.parameters())
    assert [key for key, p in loss.discriminator.named_parameters() if torch.equal(p, before[key])] == []
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


@needs_pesq
def test_held_out_data_teaches_the_discriminator_nothing() -> None:
    noisy, clean = speech_like()
    loss = MPSENetLoss(width=2).eval()
    before = {key: t.clone() for key, t in loss.state_dict().items() if isinstance(t, Tensor)}
    with torch.no_grad():
        first = loss(analyze(noisy, 256, 128), clean)
        assert torch.equal(loss(analyze(noisy, 256, 128), clean), first)  # no dropout, no step
    after = loss.state_dict()
    assert all(torch.equal(after[key], t) for key, t in before.items())


@needs_pesq
@pytest.mark.parametrize("kind", ["silence", "not finite"])
def test_a_batch_without_pesq_teaches_the_discriminator_nothing(kind: str) -> None:
    noisy, clean = speech_like()
    if kind == "silence":
        clean = torch.zeros_like(clean)
    else:
        noisy = noisy * math.nan
    loss = MPSENetLoss(width=2)
    loss(outputs_of(noisy), clean)
    assert loss.discriminator is not None
    assert loss.discriminator.get_extra_state()["state"] == {}


@needs_pesq
def test_the_metric_term_is_the_discriminator_s_distance_from_1() -> None:
    noisy, clean = speech_like()
    off = dict.fromkeys(("magnitude", "phase", "complex", "time"), 0.0)
    loss = MPSENetLoss(metric=1.0, width=2, **off).eval()
    assert loss.discriminator is not None
    outputs = analyze(noisy, 256, 128)
    with torch.no_grad():
        judged = loss.discriminator(analyze(clean, 256, 128)[:, 0], analyze(synthesize(outputs, LONG), 256, 128)[:, 0])
        assert loss(outputs, clean).item() == pytest.approx(((1 - judged) ** 2).mean().item())


@needs_pesq
def test_a_saved_loss_goes_on_bit_for_bit() -> None:
    noisy, clean = speech_like()
    torch.manual_seed(0)
    first = MPSENetLoss(width=2)
    for _ in range(2):
        first(outputs_of(noisy), clean)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    torch.manual_seed(1)
    second = MPSENetLoss(width=2)
    second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    values = []
    for loss in (first, second):
        torch.manual_seed(2)  # of the dropout
        values.append([loss(outputs_of(noisy), clean).item() for _ in range(3)])
    assert values[0] == values[1]


def test_without_pesq_there_is_no_discriminator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_loss.importlib.util, "find_spec", lambda name: None)
    line = "loss mpsenet: metric=0.05 needs the package pesq; valid without it: 0"
    with pytest.raises(ModuleNotFoundError, match=f"^{line}$"):
        MPSENetLoss()
    assert MPSENetLoss(metric=0.0).discriminator is None
    assert quality.scores(*speech_like()).keys() == {"stoi"}


# ------------------------------------------------------------------------------------------ a run


def bursts(segment: int) -> Dataset:
    noisy, clean = ((3000 * torch.cat(list(x))).short().numpy() for x in speech_like())
    parts = {f"{name}_{part}": x for part in ("train", "test") for name, x in (("noisy", noisy), ("clean", clean))}
    ends = {f"ends_{part}": np.array([LONG, 2 * LONG]) for part in ("train", "test")}
    return from_arrays({**parts, **ends, "segment": np.array(segment)})


@needs_pesq
def test_a_run_learns_and_is_scored() -> None:
    model = {"function": "mpsenet", **TINY, "dropout": 0.0}
    optimizer = entry("optimizer", "adamw", lr=5e-3)
    spec = make_spec(
        "mpsenet", model=model, loss=entry("loss", "mpsenet", metric=0.05), optimizer=optimizer, steps=8, every=8
    )
    done = train(spec, bursts(SAMPLES))
    assert done["status"] == "finished"
    facts = done["facts"]
    assert value(facts, "loss@test", step=8) < value(facts, "loss@test", step=0)
    assert 0 < value(facts, "stoi") < 1
    assert 1 <= value(facts, "pesq") < 4.65
    assert {fact[1] for fact in facts if fact[5] in ("stoi", "pesq")} == {8}  # dear, so taken once, at the end
    assert value(facts, "potential_flops") <= value(facts, "dense_flops")
    marked = {f[3] for f in facts if f[5] == "fed_by_activation"}
    assert len(marked) == 6  # the second layer of both feed-forwards and of the convolution, in two conformers


class Keeping(Job):
    """Keeps what it would save at step 2."""

    kept: bytes

    def save(self, parts: Parts, progress: dict[str, Any], stop: bool) -> None:
        if progress["step"] == 2:
            buffer = io.BytesIO()
            torch.save({**progress, **state_of(parts), "random": [random_state(parts.device)]}, buffer)
            self.kept = buffer.getvalue()


@needs_pesq
def test_a_run_that_goes_on_is_the_run_that_was_not_stopped() -> None:
    spec = make_spec(
        "mpsenet", model={"function": "mpsenet", **TINY}, loss=entry("loss", "mpsenet", metric=0.05, width=2), steps=4
    )
    plan = planned(spec)
    job = Keeping(plan, Path("never saved"), "", log=lambda line: None, save_every=0)
    whole = train_seed(plan, 0, bursts(8000), torch.device("cpu"), job, None)
    resume = torch.load(io.BytesIO(job.kept), weights_only=True)
    assert resume["loss"]["discriminator._extra_state"]["state"]  # it has learned from a PESQ
    torch.manual_seed(99)
    again = train_seed(plan, 0, bursts(8000), torch.device("cpu"), job, resume)
    assert again == whole


def test_phase_decoder_turns_with_its_parts() -> None:
    decoder = Phase(2, nn.PReLU)
    x = torch.randn(1, 2, 4, 8)
    before = decoder(x)
    with torch.no_grad():
        for layer in (decoder.real, decoder.imaginary):
            layer.weight.neg_()
            layer.bias.neg_()
    torch.testing.assert_close(anti_wrapping(decoder(x) - before), torch.full_like(before, math.pi))
