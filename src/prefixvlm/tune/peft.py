"""LoRA, its variants and IA3 by the package peft."""

import warnings
from typing import Any

from peft import IA3Config, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_TARGETS

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.options.ranges import BelowOne, PositiveFloat, Size, check_value
from prefixvlm.tune.adapters import Adapter
from prefixvlm.tune.interface import Tuning

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "ia3": {},
}


class Peft(Tuning):
    """LoRA (Hu et al. 2022), DoRA (Liu et al. 2024), rsLoRA (Kalajdzievski 2023) or IA3 (Liu et al. 2022), in float32.

    r, alpha, dropout: of LoRA and its variants. The update is scaled by alpha / r, in rsLoRA by alpha / sqrt(r).
    target_modules: suffixes of the names of linear layers, as [q_proj, v_proj], or all-linear. null uses peft's
    default for the model, or all-linear if it has none.
    """

    def __init__(
        self,
        method: str = "lora",
        r: Size = 8,
        alpha: PositiveFloat = 16,
        dropout: BelowOne = 0.0,
        target_modules: list[str] | str | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"tune.lora.method is {method!r}; accepted are {', '.join(METHODS)}")
        check_value("tune.lora.r", r, Size)
        check_value("tune.lora.dropout", dropout, BelowOne)
        self.method, self.r, self.alpha, self.dropout = method, r, alpha, dropout
        self.target_modules = target_modules

    def apply(self, lm: LanguageModel) -> None:
        if peft_layers(lm):
            raise ValueError("tune has two methods of peft; one at a time is accepted")
        trained = [parameter for parameter in lm.model.parameters() if parameter.requires_grad]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # peft warns, but sets it right, for GPT-2
            try:
                inject_adapter_in_model(self._config(lm), lm.model)
            except ValueError as error:
                reason = str(error).split(". ")[0]
                key = "tune.ia3" if self.method == "ia3" else "tune.lora"
                targets = self.target_modules
                raise ValueError(f"{key}.target_modules is {targets}; the error of peft: {reason}") from error
        # peft has frozen all parameters but its own, also those of Tunings applied before.
        for parameter in trained:
            parameter.requires_grad_(True)
        for layer in peft_layers(lm).values():
            for name in layer.adapter_layer_names:
                getattr(layer, name).float()  # small updates would be lost in the dtype of a bfloat16 model
            lm.tuned_modules.append(layer)  # for LoRA's dropout

    def _config(self, lm: LanguageModel) -> PeftConfig:
        # peft raises an error for an architecture outside its table.
        known = set(IA3_TARGETS if self.method == "ia3" else LORA_TARGETS)
        targets = self.target_modules
        if targets is None and lm.model.config.model_type not in known:
            targets = "all-linear"
        common: dict[str, Any] = {"target_modules": targets}
        # all-linear would put LoRA on the linear layers of adapters, too.
        if any(isinstance(module, Adapter) for module in lm.model.modules()):
            common["exclude_modules"] = ["adapter.down", "adapter.up"]
        if self.method == "ia3":
            # IA3 scales inputs of feed-forward layers and outputs of others; peft's table alone names the former.
            feedforward: Any = None if targets is None else []
            return IA3Config(**common, feedforward_modules=feedforward)
        options: dict[str, Any] = {"r": self.r, "lora_alpha": self.alpha, "lora_dropout": self.dropout}
        return LoraConfig(**common, **options, **METHODS[self.method])

    def merge(self, lm: LanguageModel) -> None:
        for name, layer in peft_layers(lm).items():
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(lm.model.get_submodule(parent), child, layer.get_base_layer())
        lm.tuned_modules = [module for module in lm.tuned_modules if not isinstance(module, BaseTunerLayer)]
        del lm.model.peft_config


def peft_layers(lm: LanguageModel) -> dict[str, Any]:
    """Return the modules by which peft has replaced linear layers, by name."""
    return {name: part for name, part in lm.model.named_modules() if isinstance(part, BaseTunerLayer)}
