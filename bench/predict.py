"""Captioning a folder of photographs: a loop of one image, whole batches, and `prefixvlm predict` with its workers.

`python bench/predict.py [--quick]`: JPEGs of 1600 x 1200 pixels, ViT-B-32 and a GPT-2-small-size language model, both
with random weights, and captions of 12 tokens. All sides read, decode and transform the files, and their captions are
checked to be the same.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from features import random_encoder_folder
from measure import Clock, machine
from omegaconf import OmegaConf
from reading import photo
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm import tqdm
from transformers import GPT2Config, PreTrainedTokenizerFast

import prefixvlm
from prefixvlm.build import build_module
from prefixvlm.inference.batches import Options, predict_all
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.inputs import read_items
from prefixvlm.inference.request import Request
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO

SIZE, TOKENS = (1600, 1200), 12
LOOP = "a loop of one image"


def checkpoint(folder: Path, quick: bool) -> Path:
    """Write a checkpoint of random weights with its parts, and return its path."""
    (folder / "clip").mkdir()
    random_encoder_folder(quick, folder / "clip")
    width, layers, words = (64, 2, 300) if quick else (768, 12, 50_257)
    # Weights are larger than GPT-2's initial ones, or a random model would say the same of every image.
    size = {"n_embd": width, "n_layer": layers, "n_head": width // 64, "vocab_size": words}
    GPT2Config(**size, initializer_range=0.2).save_pretrained(folder / "lm")
    tokenizer = Tokenizer(models.WordLevel({f"word{number}": number for number in range(words)}, unk_token="word0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="word1").save_pretrained(folder / "lm")
    cfg = {
        "seed": 0,
        "encoder": {
            "_target_": "prefixvlm.encoder.openclip.OpenClipEncoder", "model_name": f"local-dir:{folder / 'clip'}"
        },
        "mapper": {"_target_": "prefixvlm.mapper.mlp.MLPMapper", "prefix_length": 10, "output_std": 1.0},
        "lm": {
            "_target_": "prefixvlm.lm.causal.CausalLM.from_pretrained", "name": str(folder / "lm"), "weights": "random",
            "dtype": "float32",
        },
        "task": {"captioning": {"_target_": "prefixvlm.task.captioning.Captioning", "prompt": "Caption:"}},
        "module": {"_target_": "prefixvlm.training.module.PrefixModule"},
        "optim": {
            "_target_": "prefixvlm.training.optim.Optim",
            "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True},
            "lr": 0.001,
        },
    }  # fmt: skip
    torch.manual_seed(0)
    saved: dict[str, Any] = {"state_dict": {}}
    build_module(OmegaConf.create(cfg)).on_save_checkpoint(saved)
    AtomicCheckpointIO().save_checkpoint(saved, folder / "x.ckpt")
    return folder / "x.ckpt"


def sides(model: Captioner, photos: Path, batch_size: int) -> dict[str, Callable[[], list[str]]]:
    """Return functions that caption all photographs of a folder in order."""
    paths = sorted(photos.iterdir())

    def loop() -> list[str]:
        return [model.caption(path, max_new_tokens=TOKENS) for path in paths]

    def lists() -> list[str]:
        firsts = range(0, len(paths), batch_size)
        return [text for at in firsts for text in model.caption(paths[at : at + batch_size], max_new_tokens=TOKENS)]

    def predict(workers: int) -> list[str]:
        items, options = read_items([str(photos)], Request()), {"max_new_tokens": TOKENS}
        answers = predict_all(model, items, Options(batch_size, workers, None, options))
        return [found[0].prediction.prediction for _, found in answers if not isinstance(found, Exception)]

    named = {f"predict, {workers} workers": partial(predict, workers) for workers in (1, 2)}
    return {LOOP: loop, "lists, no workers": lists, **named}


def bench(folder: Path, quick: bool, number: int, batch_size: int, rounds: int) -> dict[str, Any]:
    (folder / "photos").mkdir()
    for place in range(number):
        (folder / "photos" / f"{place:04d}.jpg").write_bytes(photo(place, SIZE))
    model = prefixvlm.load(checkpoint(folder, quick))
    jobs = sides(model, folder / "photos", batch_size)
    with tqdm(total=rounds * len(jobs)) as bar:
        clock = Clock(bar)
        captions = [job() for job in jobs.values()]  # also the warm-up
        assert all(each == captions[0] for each in captions), "the sides give different captions"
        for _ in range(rounds):  # interleaved, so that a busy machine is busy for all sides
            for name, job in jobs.items():
                clock.time(name, job)
    seconds = clock.seconds
    return {
        "captions": len(set(captions[0])),
        "seconds": seconds,
        "images_per_second": {name: number / clock.median(name) for name in jobs},
        # Of the same round, which a busy machine slows down alike.
        "ratios": {
            name: statistics.median(one / each for one, each in zip(seconds[LOOP], seconds[name], strict=True))
            for name in jobs
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and 2 rounds: does it run at all?")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of predict.json (%(default)s)")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    number, rounds = (6, 2) if args.quick else (args.images, args.rounds)
    batch_size = 4 if args.quick else args.batch_size
    with tempfile.TemporaryDirectory() as folder:
        found = bench(Path(folder), args.quick, number, batch_size, rounds)
    print(f"{number} JPEGs of {SIZE[0]} x {SIZE[1]}, batches of {batch_size}, captions of {TOKENS} tokens")
    print(f"{'':24}{'images/s':>10}{'times':>8}")
    for name, speed in found["images_per_second"].items():
        print(f"{name:24}{speed:>10.2f}{found['ratios'][name]:>8.2f}")
    print(f"Medians of {rounds} interleaved rounds; times: of the ratios to the loop in the same round.")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "predict.json").write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n")
    print(f"Summary: {args.out / 'predict.json'}")


if __name__ == "__main__":
    main()
