"""ClipCap's model, loss and decoding as a reference: one image, no cache, one head at a time.

The state is that of a file of weights, with the names of ClipCap's code.
"""

import math

import torch
from torch import Tensor

STOP = 13  # "." of the tests' byte tokenizer, as of GPT-2's
State = dict[str, Tensor]


def norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int, causal: bool) -> Tensor:
    size = query.shape[-1] // num_heads
    heads = []
    for q, k, v in zip(query.split(size, -1), key.split(size, -1), value.split(size, -1), strict=True):
        scores = q @ k.T / math.sqrt(size)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, -1)


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gpt2(state: State, embeds: Tensor, num_heads: int) -> Tensor:
    """Return the logits of all positions: float[T, E] -> float[T, V]. GPT-2 stores its matrices input first."""
    x = embeds + state["gpt.transformer.wpe.weight"][: len(embeds)]
    layer = 0
    while (name := f"gpt.transformer.h.{layer}") + ".ln_1.weight" in state:
        normed = norm(x, state, f"{name}.ln_1")
        qkv = normed @ state[f"{name}.attn.c_attn.weight"] + state[f"{name}.attn.c_attn.bias"]
        mixed = attend(*qkv.chunk(3, -1), num_heads, causal=True)
        x = x + mixed @ state[f"{name}.attn.c_proj.weight"] + state[f"{name}.attn.c_proj.bias"]
        hidden = norm(x, state, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"] + state[f"{name}.mlp.c_fc.bias"]
        x = x + gelu(hidden) @ state[f"{name}.mlp.c_proj.weight"] + state[f"{name}.mlp.c_proj.bias"]
        layer += 1
    return norm(x, state, "gpt.transformer.ln_f") @ state["gpt.lm_head.weight"].T


def mapped(state: State, feature: Tensor) -> Tensor:
    """Return the prefix of one image: float[D] -> float[P, E]."""
    w = {name.removeprefix("clip_project."): value for name, value in state.items()}
    width = state["gpt.transformer.wte.weight"].shape[1]
    if "model.0.weight" in w:
        hidden = torch.tanh(w["model.0.weight"] @ feature + w["model.0.bias"])
        return (w["model.2.weight"] @ hidden + w["model.2.bias"]).view(-1, width)
    x = torch.cat([(w["linear.weight"] @ feature + w["linear.bias"]).view(-1, width), w["prefix_const"]])
    layer = 0
    while (name := f"transformer.layers.{layer}") + ".norm1.weight" in w:
        normed = norm(x, w, f"{name}.norm1")
        query = normed @ w[f"{name}.attn.to_queries.weight"].T
        key, value = (normed @ part.T for part in w[f"{name}.attn.to_keys_values.weight"].split(width))
        mixed = attend(query, key, value, 8, causal=False)
        x = x + mixed @ w[f"{name}.attn.project.weight"].T + w[f"{name}.attn.project.bias"]
        hidden = norm(x, w, f"{name}.norm2") @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"]
        x = x + hidden.clamp(min=0) @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"]
        layer += 1
    return x[-len(w["prefix_const"]) :]


def logits(state: State, feature: Tensor, ids: list[int], num_heads: int) -> Tensor:
    """Return the logits of all positions of the prefix and the text: float[P + T, V]."""
    text = state["gpt.transformer.wte.weight"][ids]
    return gpt2(state, torch.cat([mapped(state, feature), text]), num_heads)


def losses(state: State, feature: Tensor, ids: list[int], num_heads: int) -> Tensor:
    """Return the cross entropy of each token; the last position of the prefix predicts the first one."""
    predicted = logits(state, feature, ids, num_heads)[len(mapped(state, feature)) - 1 : -1]
    return torch.nn.functional.cross_entropy(predicted, torch.tensor(ids), reduction="none")


def greedy(state: State, feature: Tensor, num_heads: int, max_new_tokens: int = 67) -> list[int]:
    """Return the ids up to and with the stop. ClipCap calls it nucleus sampling, but takes the likeliest token."""
    ids: list[int] = []
    while len(ids) < max_new_tokens and STOP not in ids:
        ids.append(int(logits(state, feature, ids, num_heads)[-1].argmax()))
    return ids


def beam(state: State, feature: Tensor, num_heads: int, size: int = 5, max_new_tokens: int = 67) -> list[list[int]]:
    """Return all beams up to and with the stop, the best first."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(max_new_tokens):
        candidates = []
        for ids, total in beams:
            if ids[-1:] == [STOP]:
                candidates.append((ids, total))
                continue
            found = logits(state, feature, ids, num_heads)[-1].log_softmax(-1)
            candidates += [([*ids, token], total + log_p) for token, log_p in enumerate(found.tolist())]
        beams = sorted(candidates, key=lambda candidate: -candidate[1] / len(candidate[0]))[:size]
        if all(ids[-1] == STOP for ids, _ in beams):
            break
    return [ids for ids, _ in beams]
