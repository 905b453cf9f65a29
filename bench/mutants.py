"""Put one mistake at a time into a copy of the sources, and see whether the nearest tests fail.

`python bench/mutants.py [WORD ...]`: all mistakes of the table, or those in files with one of the words in their names.
Ends with exit code 1 if a mistake lives, or if the table is older than the sources.
"""

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
IMPORTED = ("torchvision", "lightning.pytorch", "open_clip", "timm", "peft", "transformers.models.auto.modeling_auto",
            "transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama")  # fmt: skip

# A file below src/prefixvlm with its nearest tests below tests, and under it the mistakes: old text => new text.
TABLE = """
mapper/transformer.py: mapper/test_mappers.py
    nn.Parameter(torch.randn(prefix_length, lm_width))  =>  nn.Parameter(0.02 * torch.randn(prefix_length, lm_width))
    self.mlp(self.norm2(tokens))  =>  self.mlp(tokens)
mapper/resampler.py: mapper/test_mappers.py
    nn.Parameter(torch.randn(prefix_length, width))  =>  nn.Parameter(0.02 * torch.randn(prefix_length, width))
mapper/attention.py: mapper/test_mappers.py
    attention(query, key, value)  =>  attention(query, key, value, is_causal=True)
mapper/positions.py: mapper/test_positions.py
    std=0.02  =>  std=0.2
mapper/interface.py: mapper/test_mappers.py
    layers.insert(0, norm)  =>  layers.append(norm)
model/splice.py: model/test_prefix_lm.py
    prefix_embeds[image_index]  =>  prefix_embeds[image_index.sort().values]
model/token_losses.py: model/test_token_losses.py
    gradient * outputs[0][:, None]  =>  gradient * outputs[0].mean()
    reduction="none", label_smoothing=label_smoothing  =>  reduction="none"
model/prefix_lm.py: model/test_prefix_lm.py
    self.label_smoothing if self.training else 0.0  =>  self.label_smoothing
    (self.training and self.feature_noise)  =>  self.feature_noise
    (features.norm(dim=-1, keepdim=True) /  =>  (features.norm(dim=1, keepdim=True) /
model/head.py: task/test_heads.py
    / lengths[:, None]  =>  / mask.shape[1]
model/decoding.py: model/test_decoding.py
    probabilities.cumsum(-1) - probabilities >= top_p  =>  probabilities.cumsum(-1) >= top_p
    <= finished[:, -1])  =>  <= finished[:, 0])
model/clipcap_beam.py: model/test_clipcap_beam.py
    lengths = lengths + running  =>  lengths = lengths + 1
model/constrained.py: model/test_constrained.py
    total / (lengths + 1)  =>  total / lengths
model/decoder_state.py: model/test_llava.py
    self.lengths[:, None] + torch.arange  =>  self.mask.shape[1] - ids.shape[1] + torch.arange
model/kv_cache.py: model/test_kv_cache.py
    places[moved & other_prompt], places[moved & ~other_prompt]  =>  places[:0], places[moved]
lm/causal.py: model/test_llava.py
    None if attention_mask is None else attention_mask.long()  =>  None
    {"position_ids": position_ids} if self.takes_positions else {}  =>  {}
lm/packing.py: lm/test_packing.py
    positions[place[mask]] = within[mask]  =>  positions[place[mask]] = place[mask] % width
lm/seq2seq.py: lm/test_seq2seq.py
    prompt = mask & ~supervised  =>  prompt = ~supervised
lm/masked.py: lm/test_masked.py
    attention_mask=mask.long()  =>  attention_mask=None
lm/interface.py: model/test_prefix_lm.py
    super().train(False)  =>  super().train(mode)
training/module.py: training/test_module.py -k gradients
    losses.sum() * (self.trainer.world_size / count)  =>  losses.mean()
    world_size / count)  =>  world_size / count / getattr(self.trainer, "accumulate_grad_batches", 1))
    (self.trainer.world_size / count)  =>  (1 / count)
training/module.py: training/test_module.py -k val_loss
    self.val_loss.update(losses)  =>  self.val_loss.update(losses.mean())
training/optim.py: training/test_optim.py
    (step + 1) / (warmup + 1)  =>  step / warmup
    sum(size > 1 for size in parameter.shape) > 1  =>  parameter.ndim > 1
    self.lr if own_lr is None else own_lr  =>  own_lr or self.lr
training/contrastive.py: training/test_contrastive.py
    update(loss.expand(len(tokens)))  =>  update(loss)
    is_right[classes >= 0]  =>  is_right
data/loading/train_loader.py: data/loading/test_mixture.py -k bucket
    self.bucket_batches * batch_size * sharing,  =>  (self.bucket_batches + 1) * batch_size * sharing,
data/loading/train_loader.py: data/loading/plan/test_rank_worker_split.py -k mixture
    self._order().end if self.mixed  =>  self.positions if self.mixed
data/loading/plan/epoch_order.py: data/loading/test_mixture.py
    np.asarray(weights) / np.sum(weights)  =>  np.full(len(weights), 1 / len(weights))
data/loading/plan/epoch_order.py: data/loading/plan/test_rank_worker_split.py
    batches[start - first * self.window :] if number == first  =>  batches if number == first
data/loading/plan/rank_worker_split.py: data/loading/plan/test_rank_worker_split.py
    (steps - self.first) % workers == worker  =>  steps % workers == worker
data/loading/eval_loader.py: data/loading/test_train_loader.py
    min(batch_size, self.num_samples // self.world)  =>  batch_size
data/loading/make_batch.py: data/loading/test_train_loader.py
    random.Random(seed)  =>  random.Random(0)
data/loading/bad_samples.py: data/loading/test_bad_samples.py
    > self.fraction * self.num_samples  =>  >= self.fraction * self.num_samples
metrics/captions/cider.py: metrics/captions/test_caption_scores.py
    min(weights[ngram], truths[ngram])  =>  weights[ngram]
metrics/captions/bleu.py: metrics/captions/test_caption_scores.py
    (abs(truth.num_words - length), truth.num_words)  =>  (abs(truth.num_words - length), -truth.num_words)
metrics/captions/clip_score.py: metrics/captions/test_clip_score.py
    .max(), 0) for  =>  .max(), -1) for
metrics/bootstrap.py: metrics/test_bootstrap.py
    sums[draw].sum() / counts[draw].sum()  =>  (sums[draw] / counts[draw]).mean()
metrics/paired.py: metrics/test_paired.py
    (count + 1) / (num_resamples + 1)  =>  count / num_resamples
metrics/retrieval.py: metrics/test_retrieval.py
    - (~(row[own] < best)).sum()  =>  - 1
metrics/classification.py: metrics/test_classification.py
    (counts - 1) / 2  =>  (counts - 1)
metrics/vqa/accuracy.py: metrics/vqa/test_accuracy.py
    float(total - match) / 3  =>  float(total) / 3
metrics/sets.py: metrics/test_sets.py
    (mark != "I" or name != kind)  =>  (mark != "I")
task/regression.py: task/test_heads.py
    [0] * self.std + self.mean  =>  [0] * self.std
task/contrastive.py: task/test_contrastive.py
    scale.exp().clamp_max(100)  =>  scale.exp()
    for each in (logits, logits.T)  =>  for each in (logits, logits)
task/classification_head.py: task/test_heads.py
    each * weights[truth]  =>  each
task/retrieval.py: task/test_retrieval.py
    values[own].max() > values[~own].max()  =>  values[own].max() >= values[~own].max()
task/rows/few_shot.py: task/rows/test_few_shot.py
    self.keys[number] != key and (  =>  (
    chosen[::-1]  =>  chosen
task/results/boxes.py: task/results/test_boxes.py
    (_area(one) + _area(other) - intersection)  =>  (_area(one) + _area(other))
"""


class Mutant(NamedTuple):
    """One mistake: a text that is once in a file of src/prefixvlm, and what stands in its place."""

    file: str
    tests: str
    old: str
    new: str


def mutants() -> list[Mutant]:
    found, header = [], ("", "")
    for line in TABLE.strip("\n").splitlines():
        if line.startswith(" "):
            old, _, new = line.strip().partition("  =>  ")
            found.append(Mutant(*header, old, new))
        else:
            file, _, tests = line.partition(": ")
            header = file, tests
    return found


def exit_code(tree: Path, tests: list[str]) -> int:
    """Run tests of the tree with its own sources: 0 if all pass, 1 if one fails."""
    if not (child := os.fork()):  # a fork, since importing torch and the rest takes longer than most of the tests
        os.chdir(tree)
        sys.path[:0] = [str(tree), str(tree / "src")]
        os.environ.update(PYTHONPATH=str(tree / "src"), OMP_NUM_THREADS="1")
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        os._exit(pytest.main([*options, *tests]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(mutant: Mutant, tree: Path) -> str:
    path = tree / "src" / "prefixvlm" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return "not in the sources: correct the table"
    changed = text.replace(mutant.old, mutant.new)
    compile(changed, path, "exec")  # a mistake in the table's syntax would be seen by any test
    path.write_text(changed, encoding="utf-8")
    code = exit_code(tree, f"tests/{mutant.tests}".split())
    path.write_text(text, encoding="utf-8")
    return {0: "LIVES", 1: "killed"}.get(code, f"pytest ended with {code}")


def main() -> None:
    chosen = [each for each in mutants() if not sys.argv[1:] or any(word in each.file for word in sys.argv[1:])]
    sys.dont_write_bytecode = True  # it is found by the second of a change, and two mistakes may be of one second
    for name in IMPORTED:
        importlib.import_module(name)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("src", "tests", "conf"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        if exit_code(tree, sorted({f"tests/{each.tests.split()[0]}" for each in chosen})):
            sys.exit("error: the nearest tests fail without a mistake")
        for mutant in chosen:
            results.append(outcome(mutant, tree))
            print(f"{results[-1]:8} {mutant.file:38} {mutant.old}  =>  {mutant.new}", flush=True)
    print(f"{results.count('killed')} of {len(results)} killed")
    sys.exit(set(results) != {"killed"})


if __name__ == "__main__":
    main()
