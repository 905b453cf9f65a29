"""Compare the mappers with ClipCap's published sizes and with naive float64 versions written from the definitions."""

import math

import pytest
import torch
from torch import Tensor

from prefixvlm.mapper.linear import LinearMapper
from prefixvlm.mapper.mlp import MLPMapper
from prefixvlm.mapper.resampler import ResamplerMapper
from prefixvlm.mapper.transformer import TransformerMapper

MAPPERS = [LinearMapper, MLPMapper, TransformerMapper, ResamplerMapper]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("d", "transformer", "mlp"), [(640, 42.73, 31.96), (512, 41.75, 31.47)])
def test_parameter_counts_are_clipcaps(d: int, transformer: float, mlp: float) -> None:
    e, k, c = 768, 10, 10
    with torch.device("meta"):
        num_transformer = count(TransformerMapper(d, 1, e, prefix_length=k, clip_length=c))
        num_mlp = count(MLPMapper(d, 1, e, prefix_length=k))
    attention = 3 * e * e + e * e + e  # q, k and v without bias, the output with
    layer = attention + 2 * 2 * e + (e * 2 * e + 2 * e) + (2 * e * e + e)  # two norms, an MLP of ratio 2
    assert num_transformer == d * c * e + c * e + k * e + 8 * layer
    assert num_mlp == d * e * k // 2 + e * k // 2 + (e * k // 2) * (e * k) + e * k
    assert (round(num_transformer / 1e6, 2), round(num_mlp / 1e6, 2)) == (transformer, mlp)


def naive_linear(x: list[Tensor], weight: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    return [weight @ v + (0 if bias is None else bias) for v in x]


def naive_norm(x: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [(v - v.mean()) / ((v - v.mean()).square().mean() + 1e-5).sqrt() * weight + bias for v in x]


def naive_attention(w: dict[str, Tensor], name: str, tokens: list[Tensor], heads: int) -> list[Tensor]:
    """Compute one position and one head at a time; each position attends to all."""
    width = len(tokens[0])
    size = width // heads
    query = naive_linear(tokens, w[f"{name}.query.weight"])
    key = naive_linear(tokens, w[f"{name}.key_value.weight"][:width])
    value = naive_linear(tokens, w[f"{name}.key_value.weight"][width:])
    mixed = []
    for q in query:
        parts = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = torch.stack([q[part] @ k[part] / math.sqrt(size) for k in key])
            weights = scores.exp() / scores.exp().sum()
            parts.append(sum(weight * v[part] for weight, v in zip(weights, value, strict=True)))
        mixed.append(torch.cat(parts))
    return naive_linear(mixed, w[f"{name}.out.weight"], w[f"{name}.out.bias"])


def naive_transformer(w: dict[str, Tensor], features: Tensor, width: int, layers: int, heads: int) -> Tensor:
    """features: float64[N, D] of one image -> float64[P, E]."""
    expanded = naive_linear(list(features), w["linear.weight"], w["linear.bias"])
    tokens = [piece for vector in expanded for piece in vector.split(width)] + list(w["constants"])
    for i in range(layers):
        normed = naive_norm(tokens, w[f"layers.{i}.norm1.weight"], w[f"layers.{i}.norm1.bias"])
        attended = naive_attention(w, f"layers.{i}.attention", normed, heads)
        tokens = [a + b for a, b in zip(tokens, attended, strict=True)]
        normed = naive_norm(tokens, w[f"layers.{i}.norm2.weight"], w[f"layers.{i}.norm2.bias"])
        hidden = naive_linear(normed, w[f"layers.{i}.mlp.0.weight"], w[f"layers.{i}.mlp.0.bias"])
        hidden = naive_linear(
            [h.clamp(min=0) for h in hidden], w[f"layers.{i}.mlp.2.weight"], w[f"layers.{i}.mlp.2.bias"]
        )
        tokens = [a + b for a, b in zip(tokens, hidden, strict=True)]
    return torch.stack(tokens[len(tokens) - len(w["constants"]) :])


def scrambled(mapper: torch.nn.Module) -> torch.nn.Module:
    """Return the mapper with random weights, since norms at 1 and biases at 0 would hide errors."""
    for p in mapper.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return mapper.eval()


@pytest.mark.parametrize("num_features", [1, 16])
def test_transformer_equals_the_definition(num_features: int) -> None:
    torch.manual_seed(0)
    clip_length = 3 if num_features == 1 else None
    mapper = TransformerMapper(
        12, num_features, 16, prefix_length=5, clip_length=clip_length, num_layers=2, num_heads=4
    )
    scrambled(mapper)
    features = torch.randn(3, num_features, 12)
    weights = {name: value.double() for name, value in mapper.state_dict().items()}
    expected = torch.stack([naive_transformer(weights, image.double(), 16, layers=2, heads=4) for image in features])
    torch.testing.assert_close(mapper(features).double(), expected, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(mapper.double()(features.double()), expected, atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize(
    ("activation", "function"), [("tanh", torch.tanh), ("gelu", lambda v: v * (1 + torch.erf(v / math.sqrt(2))) / 2)]
)
@pytest.mark.parametrize("num_features", [1, 16])
def test_mlp_equals_the_definition(num_features: int, activation: str, function) -> None:
    torch.manual_seed(0)
    mapper = MLPMapper(12, num_features, 8, prefix_length=5 if num_features == 1 else None, activation=activation)
    scrambled(mapper).double()
    features = torch.randn(3, num_features, 12, dtype=torch.float64)
    w = mapper.state_dict()
    assert len(w["mlp.0.weight"]) == 8 * (5 if num_features == 1 else 1) // 2
    for image, prefix in zip(features, mapper(features), strict=True):
        hidden = [function(v) for v in naive_linear(list(image), w["mlp.0.weight"], w["mlp.0.bias"])]
        out = naive_linear(hidden, w["mlp.2.weight"], w["mlp.2.bias"])
        torch.testing.assert_close(prefix, torch.cat(out).reshape(-1, 8), atol=1e-12, rtol=1e-10)


def test_resampler_equals_the_definition() -> None:
    torch.manual_seed(0)
    mapper = ResamplerMapper(12, 7, 8, prefix_length=4, width=16, num_layers=1, num_heads=2, mlp_ratio=1.0)
    scrambled(mapper).double()
    w = mapper.state_dict()
    features = torch.randn(1, 7, 12, dtype=torch.float64)
    inputs = naive_norm(
        naive_linear(list(features[0]), w["input.weight"], w["input.bias"]),
        w["layers.0.norm_features.weight"],
        w["layers.0.norm_features.bias"],
    )
    queries = list(w["queries"])
    normed = naive_norm(queries, w["layers.0.norm_queries.weight"], w["layers.0.norm_queries.bias"])
    attended = naive_attention(w, "layers.0.attention", inputs + normed, heads=2)[7:]
    queries = [a + b for a, b in zip(queries, attended, strict=True)]
    normed = naive_norm(queries, w["layers.0.norm_mlp.weight"], w["layers.0.norm_mlp.bias"])
    hidden = naive_linear(normed, w["layers.0.mlp.0.weight"], w["layers.0.mlp.0.bias"])
    hidden = naive_linear([h.clamp(min=0) for h in hidden], w["layers.0.mlp.2.weight"], w["layers.0.mlp.2.bias"])
    queries = [a + b for a, b in zip(queries, hidden, strict=True)]
    out = naive_linear(naive_norm(queries, w["norm.weight"], w["norm.bias"]), w["project.weight"], w["project.bias"])
    torch.testing.assert_close(mapper(features)[0], torch.stack(out), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("kind", MAPPERS)
@pytest.mark.parametrize(("num_features", "prefix_length"), [(1, 10), (16, 16)])
def test_shape_gradient_and_features_matter(kind, num_features: int, prefix_length: int) -> None:
    mapper = kind(12, num_features, 16, prefix_length=prefix_length)
    features = torch.randn(3, num_features, 12)
    prefix_embeds = mapper(features)
    assert prefix_embeds.shape == (3, mapper.prefix_length, 16) == (3, prefix_length, 16)
    assert not torch.allclose(prefix_embeds[0], prefix_embeds[1])
    prefix_embeds.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mapper.parameters())


@pytest.mark.parametrize("kind", MAPPERS)
@pytest.mark.parametrize("num_features", [1, 16])
def test_a_mapper_starts_at_the_scale_of_its_paper(kind, num_features: int) -> None:
    """Constants and queries are standard normal, as in ClipCap and Flamingo's code; all else is as PyTorch has it."""
    torch.manual_seed(0)
    mapper = kind(64, num_features, 64, prefix_length=16)
    modules = {name: module for name, module in mapper.named_modules() if list(module.parameters(recurse=False))}
    own = dict(modules.pop("").named_parameters(recurse=False)) if "" in modules else {}
    assert own.keys() == {TransformerMapper: {"constants"}, ResamplerMapper: {"queries"}}.get(kind, set())
    for values in own.values():
        assert values.shape == (16, 64)
        assert (values.mean().item(), values.std().item()) == pytest.approx((0, 1), abs=0.08)
    for name, module in modules.items():
        if isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
        else:  # uniform up to 1 / sqrt(width of the input), so that a unit input gives outputs of 1 / sqrt(3)
            width = module.in_features
            assert module.weight.std().item() * math.sqrt(3 * width) == pytest.approx(1, abs=0.05), name
            assert module.weight.abs().max().item() * math.sqrt(width) == pytest.approx(1, abs=0.02), name


def test_resampler_and_transformer_take_any_number_of_features() -> None:
    for kind in (TransformerMapper, ResamplerMapper):
        assert kind(12, 16, 16, prefix_length=4)(torch.randn(2, 16, 12)).shape == (2, 4, 16)


@pytest.mark.parametrize("kind", [LinearMapper, MLPMapper])
def test_projector_maps_each_patch_alone(kind) -> None:
    mapper = kind(12, 16, 8)
    features = torch.randn(2, 16, 12)
    other = features.clone()
    other[:, 3] = 0
    changed = (mapper(features) - mapper(other)).abs().sum((0, 2)) > 0
    assert mapper.prefix_length == 16
    assert changed.nonzero().flatten().tolist() == [3]


def test_llava_projector_size() -> None:
    with torch.device("meta"):
        mapper = MLPMapper(1024, 576, 4096, hidden_ratio=1.0, activation="gelu")
    assert count(mapper) == 1024 * 4096 + 4096 + 4096 * 4096 + 4096


@pytest.mark.parametrize("kind", MAPPERS)
def test_output_std_and_dropout(kind) -> None:
    torch.manual_seed(0)
    mapper = kind(12, 1, 64, prefix_length=10, output_std=0.14, dropout=0.5)
    features = torch.randn(8, 1, 12)
    dropped = (mapper(features) == 0).float().mean()
    assert 0.4 < dropped < 0.6
    assert mapper.eval()(features).std(-1).mean().item() == pytest.approx(0.14, rel=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearMapper(12, 16, 8, prefix_length=10), r"prefix_length is 10.*16 features.*prefix_length=null"),
        (lambda: MLPMapper(12, 16, 8, prefix_length=10), r"prefix_length is 10.*16 features"),
        (lambda: MLPMapper(12, 1, 8, prefix_length=0), "prefix_length is 0.*at least 1"),
        (lambda: MLPMapper(12, 1, 8, activation="swish"), "activation is 'swish'.*tanh, gelu, relu, silu"),
        (lambda: MLPMapper(12, 1, 8, hidden_ratio=0), "hidden_ratio is 0"),
        (lambda: TransformerMapper(12, 16, 8, clip_length=4), "clip_length is 4.*clip_length=null"),
        (lambda: TransformerMapper(12, 1, 12), "num_heads is 8.*divide.*12"),
        (lambda: TransformerMapper(12, 1, 8, prefix_length=0), "prefix_length is 0"),
        (lambda: ResamplerMapper(12, 1, 8, prefix_length=0), "prefix_length is 0"),
        (lambda: LinearMapper(12, 1, 8, dropout=1.5), "dropout is 1.5"),
        (lambda: LinearMapper(12, 1, 8, output_std=-1), "output_std is -1"),
    ],
)
def test_errors_name_the_key(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"mapper.{message}"):
        make()
