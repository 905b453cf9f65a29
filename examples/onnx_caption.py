"""Captions images with a folder of `prefixvlm export --to onnx`: numpy, onnxruntime, tokenizers and PIL alone.

    python examples/onnx_caption.py FOLDER photo.png other.jpg [--question "what is this?"]

It is greedy, whatever decoding the checkpoint was trained for.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


class OnnxCaptioner:
    """The graphs of a folder. image: pixels to prefix; embed: ids to embeddings; text: the language model."""

    def __init__(self, folder):
        folder = Path(folder)
        self.runtime = json.loads((folder / "runtime.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # a question that spells <|endoftext|> is text
        self.image, self.embed, self.text = (
            onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
            for name in ("image", "embed", "text")
        )

    def __call__(self, images, question=None):
        """Return a caption, or an answer to the question, for each PIL image."""
        task = next(
            (
                each
                for each in self.runtime["tasks"].values()
                if ("text" in str(each["parts"])) == (question is not None)
            ),
            None,
        )
        if task is None:
            raise SystemExit(f"the model was trained for {', '.join(self.runtime['tasks'])}; see --question")
        (prefixes,) = self.image.run(None, {"pixel_values": np.stack([self.pixels(image) for image in images])})
        prompts = [self.prompt(task["parts"], prefix, question) for prefix in prefixes]
        options = task["decoding"]
        return [self.decode(ids, options["stop"]) for ids in self.generate(prompts, options["max_new_tokens"])]

    def pixels(self, image):
        """Return float32[3, H, W], as the image encoder was trained with."""
        options = self.runtime["image"]
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16-bit grey, which PIL would clip to white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.new("RGB", rgba.size, options["background"])
            image.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        image = image.convert("RGB")
        for step in options["steps"]:
            image = resize(image, **step) if "resize" in step else center_crop(image, *step["center_crop"])
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.array(options[name], dtype=np.float32)[:, None, None] for name in ("mean", "std"))
        return (pixels - mean) / std

    def prompt(self, parts, prefix, question):
        """Return the embeddings of a prompt, float32[T, E]."""
        embeds = []
        for part in parts:
            if "image" in part:
                embeds.append(prefix)
                continue
            ids = part.get("ids")
            if ids is None:
                text = part["text"].replace("{question}", question)
                ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            embeds.append(self.embed.run(None, {"input_ids": np.array([ids], dtype=np.int64)})[0][0])
        return np.concatenate(embeds)

    def generate(self, prompts, max_new_tokens):
        """Return the ids of the most probable token at each step, up to the EOS, for each of the prompts."""
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        embeds = np.zeros((len(prompts), max(lengths), prompts[0].shape[1]), dtype=np.float32)
        for row, prompt in enumerate(prompts):
            embeds[row, : len(prompt)] = prompt
        mask = np.zeros((len(prompts), 0), dtype=bool)
        past = [
            np.zeros((len(prompts), layer["heads"], 0, layer["width"]), dtype=np.float32)
            for layer in self.runtime["cache"]
            for _ in range(2)
        ]
        names = [each.name for each in self.text.get_inputs()]
        texts, done = [[] for _ in prompts], np.zeros(len(prompts), dtype=bool)
        limit = self.runtime["max_positions"]
        for _ in range(max_new_tokens):
            if limit is not None and max(mask.sum(1) + lengths) > limit:
                raise SystemExit(f"a prompt and its answer need more than the model's {limit} positions; ask less")
            logits, mask, *past = self.text.run(None, dict(zip(names, (embeds, lengths, mask, *past), strict=True)))
            ids = logits.argmax(-1)
            done |= ids == self.runtime["eos_id"]
            for row in np.flatnonzero(~done):
                texts[row].append(int(ids[row]))
            if done.all():
                break
            # Texts that have ended go on with the others, and what they say is not kept.
            (embeds,) = self.embed.run(None, {"input_ids": ids[:, None]})
            lengths = np.ones_like(lengths)
        return texts

    def decode(self, ids, stop):
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return min((text.split(each, 1)[0] for each in stop), key=len, default=text).strip()


def resize(image, resize, interpolation):
    """Resize to [height, width], or the shorter side to a number."""
    if isinstance(resize, int):
        short, long = sorted(image.size)
        size = (resize, int(resize * long / short))
        width, height = size if image.width <= image.height else size[::-1]
    else:
        height, width = resize
    return image.resize((width, height), getattr(Image.Resampling, interpolation.upper()))


def center_crop(image, height, width):
    # PIL fills what lies outside of the image with black, as torchvision pads it.
    left, top = first(image.width, width), first(image.height, height)
    return image.crop((left, top, left + width, top + height))


def first(side, cropped):
    """Return where a crop of a side begins, as torchvision rounds it; below 0 for an image that is too small."""
    return round((side - cropped) / 2) if side >= cropped else -((cropped - side) // 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of prefixvlm export --to onnx")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--question")
    arguments = parser.parse_args()
    captioner = OnnxCaptioner(arguments.folder)
    for path in arguments.images:
        (text,) = captioner([Image.open(path)], arguments.question)
        print(text if len(arguments.images) == 1 else f"{path}\t{text}")


if __name__ == "__main__":
    main()
