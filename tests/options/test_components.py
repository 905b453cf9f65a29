"""Which classes a configuration may build: those listed here, of all names of the three packages."""

import importlib
import pkgutil
import warnings
from contextlib import suppress

import lightning.pytorch
import pytest
import torch.optim

import prefixvlm
from prefixvlm.options.components import AXES, resolve_target

OURS = {
    "encoder": "cached.CachedEncoder openclip.OpenClipEncoder timm.TimmEncoder",
    "mapper": "linear.LinearMapper mlp.MLPMapper resampler.ResamplerMapper transformer.TransformerMapper",
    "lm": "causal.CausalLM masked.MaskedLM packaged.MiniLM packaged.SmolLM2 seq2seq.Seq2SeqLM",
    "tune.*": "adapters.Adapters all.All biases.Biases last_blocks.LastBlocks layer_norms.LayerNorms peft.Peft",
    "task.*": "captioning.Captioning classification.Classification classification_head.ClassificationHead "
    "contrastive.Contrastive detection.Detection dialogue.Dialogue fast_binding.FastBinding grounding.Grounding "
    "regression.Regression retrieval.Retrieval tagging.Tagging vqa.Vqa",
    "task.*.metrics.*": "caption_scores.CocoCaptionMetrics caption_scores.Diversity",
    "task.*.consensus": "consensus.Consensus",
    "module": "contrastive.ContrastiveModule module.PrefixModule",
    "optim": "optim.Optim",
    "data": "datamodule.ShardDataModule",
    "few_shot": "few_shot.FewShot",
    "clip_scorer": "clip.Clip",
    "trainer.strategy": "sharding.ShardedLMStrategy",
    "callbacks.*": "best_checkpoint.BestCheckpoint early_stopping.EarlyStopping ema.Ema "
    "finite_loss.FiniteLoss frozen_guard.FrozenGuard history.History "
    "last_checkpoint.LastCheckpoint monitor.Monitor prediction_table.PredictionTable pruner.Pruner top_k.TopK "
    "unfreeze.Unfreeze",
    "logger.*": "resumable.CsvLogger resumable.ContinuedTensorBoardLogger wandb.ContinuedWandbLogger",
}
# Of Lightning and torch: the axes that take them, with some that must be there and what all of them are subclasses of.
EXPORTED = {
    "optim.optimizer": {"torch.optim.AdamW", "torch.optim.SGD"},
    "trainer": {"lightning.pytorch.Trainer"},
    "trainer.strategy": {"lightning.pytorch.strategies.DDPStrategy"},
    "trainer.profiler": {"lightning.pytorch.profilers.SimpleProfiler"},
    "callbacks.*": {"lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.callbacks.ModelCheckpoint"},
    "logger.*": {"lightning.pytorch.loggers.CSVLogger"},
}


def names():
    """Every public name of every module of the three packages, and the methods of the classes."""
    found = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in (prefixvlm, torch.optim, lightning.pytorch):
            modules = [package.__name__]
            modules += [each.name for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", str)]
            for module in modules:
                if not module.endswith("__main__"):
                    try:
                        content = vars(importlib.import_module(module))
                    except (ImportError, AttributeError, RuntimeError):  # of packages that are not installed
                        continue
                    found |= {f"{module}.{name}" for name in content if not name.startswith("_")}
    return found


def accepted(key, targets):
    for target in sorted(targets):
        with suppress(ValueError):
            yield target, resolve_target(key, target)


def test_no_name_builds_but_those_of_the_list():
    everything = names()
    assert len(everything) > 5000
    for key, axis in AXES.items():
        constructor = f".{axis.constructor}" if axis.constructor else ""
        built = dict(accepted(key, {f"{name}{constructor}" for name in everything} | everything))
        ours = {target for target in built if target.startswith("prefixvlm.")}
        assert ours == {f"{axis.homes[0]}.{name}{constructor}" for name in OURS.get(key, "").split()}, key
        assert built.keys() - ours >= EXPORTED.get(key, set()), key
        interface = axis.interface.rpartition(".")
        base = getattr(importlib.import_module(interface[0]), interface[2])
        for target in built.keys() - ours:
            assert key in EXPORTED, target
            assert target.rpartition(".")[0] in axis.exported, target
            assert issubclass(built[target], base), target


@pytest.mark.parametrize(
    "target",
    [
        "lightning.pytorch.cli.instantiate_class", "lightning.pytorch.LightningModule.load_from_checkpoint",
        "prefixvlm.training.module.PrefixModule.load_from_checkpoint", "prefixvlm.atomic.replacing_file",
        "prefixvlm.data.remote.download", "prefixvlm.encoder.timm.load_timm",
        "prefixvlm.encoder.timm.timm.create_model", "prefixvlm.lm.causal.CausalLM", "prefixvlm.mapper.mlp.MLPMapper",
        "prefixvlm.encoder.pretrained.PretrainedEncoder", "torch.optim.AdamW", "torch.hub.load", "os.system",
        "builtins.eval", "", None, 5, ["a"], "a..b", "prefixvlm.encoder.", ".prefixvlm.encoder.timm.TimmEncoder",
        "prefixvlm.encoder.timm.TimmEncoder.__init__", "prefixvlm.encoder..TimmEncoder",
    ],
)  # fmt: skip
def test_an_encoder_is_none_of_these(target):
    with pytest.raises(ValueError, match="encoder._target_ is .*; accepted are the subclasses of"):
        resolve_target("encoder", target)


@pytest.mark.parametrize("key", ["seed", "mapper.layer", "task.captioning.decoding", "encoder.timm.a", ""])
def test_elsewhere_nothing_is_built(key):
    with pytest.raises(ValueError, match="takes no component"):
        resolve_target(key, "prefixvlm.mapper.mlp.MLPMapper")
