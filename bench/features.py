"""Training steps with stored features, compared with steps that encode their images.

`python bench/features.py [--quick]`: open_clip's ViT-B-32 and a GPT-2-small-size language model, both with random
weights, batches of 32 decoded images with captions as long as real ones. A step is transform (or stored array to
tensor), encoder, mapper, language model, backward pass and optimizer. Reading and decoding are not timed.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from measure import Clock, machine
from PIL import Image
from safetensors.torch import save_file
from sides import PREFIX_LENGTH, QUICK, Sizes, Tokenizer, batch_of, random_captions, random_lm
from torch import Tensor
from tqdm import tqdm

from prefixvlm.data.feature_codec import decode_npy, encode_npy
from prefixvlm.encoder.cached import CachedEncoder, write_identity
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.features.encode_images import ImageShardEncoder
from prefixvlm.features.write import identify
from prefixvlm.lm.causal import CausalLM
from prefixvlm.mapper.interface import Mapper
from prefixvlm.mapper.mlp import MLPMapper
from prefixvlm.mapper.resampler import ResamplerMapper
from prefixvlm.model.prefix_lm import PrefixLM

MODEL, BATCH = "ViT-B-32", 32
IMAGE_SIZE = (320, 240)
# open_clip requires a text model; it is not used.
TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 1, "layers": 1}
MAPPERS = {"pooled": MLPMapper, "patch": ResamplerMapper}


class Side:
    """One side: encoder, mapper and language model. images: PIL images, or their stored features."""

    def __init__(self, encoder: ImageEncoder, kind: type[Mapper], lm: CausalLM, images: list[Any]) -> None:
        torch.manual_seed(1)
        mapper = kind(encoder.feature_width, encoder.num_features, lm.width, PREFIX_LENGTH)
        self.model, self.images = PrefixLM(encoder, mapper, lm), images
        self.optimizer = torch.optim.AdamW(mapper.parameters(), lr=2e-5)

    def pixel_values(self) -> Tensor:
        return torch.stack([self.model.encoder.transform(image) for image in self.images])

    def step(self, captions: list[list[int]]) -> float:
        self.model.zero_grad()
        loss = self.model(batch_of(self.pixel_values(), captions)).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def random_encoder(features: str, quick: bool, folder: Path) -> OpenClipEncoder:
    """Return ViT-B-32 with random weights, from a file: a frozen encoder without weights is an error."""
    random_encoder_folder(quick, folder)
    return OpenClipEncoder(f"local-dir:{folder}", features=features)


def random_encoder_folder(quick: bool, folder: Path) -> None:
    torch.manual_seed(0)
    config = {**open_clip.get_model_config(MODEL), "text_cfg": TEXT}
    if quick:
        config["vision_cfg"] |= {"layers": 1, "width": 128}
    save_file(open_clip.model.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))


def sides_of(features: str, lm: CausalLM, batch: int, quick: bool, folder: Path) -> dict[str, Side]:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)) for _ in range(batch)]
    encoder = random_encoder(features, quick, folder)
    with torch.no_grad():
        computed = encoder(torch.stack([encoder.transform(each) for each in pictures])).numpy()
    write_identity(folder, identify(encoder, {}), ImageShardEncoder(encoder, 1).black())
    stored = [decode_npy(encode_npy(each)) for each in computed]
    return {
        "on the fly": Side(encoder, MAPPERS[features], lm, pictures),
        "cached": Side(CachedEncoder(str(folder)), MAPPERS[features], lm, stored),
    }


@torch.no_grad()
def check(sides: dict[str, Side]) -> None:
    """Assert that the prefixes of both sides are equal to 1e-3."""
    # Losses are only reported: these random weights are large, and amplify a difference in the fourth digit.
    ours, fly = (sides[name].model.prefix_embeds(sides[name].pixel_values()) for name in ("cached", "on the fly"))
    difference = float((ours - fly).norm() / fly.norm())
    assert difference < 1e-3, f"the prefixes of the two sides differ by {difference:.1e} of their size"


def bench(features: str, sizes: Sizes, lm: CausalLM, quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, tqdm(total=(sizes.rounds + 1) * 3 + 1, desc=features) as bar:
        clock, rng = Clock(bar), random.Random(0)
        sides = sides_of(features, lm, sizes.batch, quick, Path(folder))
        check(sides)
        bar.update()
        captions = [random_captions(rng, sizes.batch, sizes.vocabulary) for _ in range(sizes.rounds + 1)]
        losses: dict[str, list[float]] = {name: [] for name in sides}

        def step(name: str, number: int) -> None:
            losses[name].append(sides[name].step(captions[number]))

        for number in range(sizes.rounds + 1):  # the first warms up
            jobs: dict[str, Callable[[], Any]] = {name: partial(step, name, number) for name in sides}
            jobs["transform"] = sides["on the fly"].pixel_values
            for name, job in jobs.items():
                clock.time(name if number else "warm-up", job)
    difference = max(abs(a - b) / a for a, b in zip(losses["on the fly"], losses["cached"], strict=True))
    seconds = {name: clock.seconds[name] for name in ("on the fly", "cached", "transform")}
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "seconds": seconds,
        "medians": medians,
        "ratio": medians["on the fly"] / medians["cached"],
        "ratio_without_transform": (medians["on the fly"] - medians["transform"]) / medians["cached"],
        "loss_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models and 2 rounds: does it run at all?")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of features.json (%(default)s)")
    args = parser.parse_args()
    sizes = QUICK if args.quick else replace(Sizes(), batch=BATCH)
    model = random_lm(sizes)
    lm = CausalLM(model, Tokenizer(model.config.vocab_size))
    summary: dict[str, Any] = {"machine": machine(), "encoder": MODEL, "quick": args.quick, "sizes": asdict(sizes)}
    models = "tiny models (--quick)" if args.quick else f"{MODEL} and a GPT-2-small-size language model"
    print(f"{models}, random weights, batches of {sizes.batch}, median of {sizes.rounds} rounds")
    for features in MAPPERS:
        summary[features] = found = bench(features, sizes, lm, args.quick)
        medians = found["medians"]
        print(
            f"{features}: on the fly {medians['on the fly']:.3f} s, of which transforms {medians['transform']:.3f} s; "
            f"cached {medians['cached']:.3f} s: {found['ratio']:.2f} times as fast, "
            f"{found['ratio_without_transform']:.2f} where loader workers do the transforms"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "features.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"Summary: {args.out / 'features.json'}")


if __name__ == "__main__":
    main()
