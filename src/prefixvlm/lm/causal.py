"""A Hugging Face causal language model, frozen: embeddings in, hidden states and logits out."""

import inspect
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from prefixvlm.batch import IGNORE_INDEX
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.loading import load
from prefixvlm.lm.packing import Packing, keeps_texts_apart


class CausalLM(LanguageModel):
    """GPT-2, OPT, GPT-NeoX, GPT-J, Llama, Qwen, BLOOM, SmolLM2 and others that say the next token of a text.

    takes_positions: whether it can be told the position of each token. packs: whether several texts may share a row;
    None where that is not known yet.
    """

    packs: bool | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        dtype: str = "auto",
        attention: str = "sdpa",
        eos_token: str | None = None,
        revision: str | None = None,
        quantization: str | None = None,
        activation_checkpointing: bool = False,
        compile: bool | str = False,
        weights: str = "pretrained",
    ) -> "CausalLM":
        """Load a hub id or a local folder; see lm.loading.load.

        activation_checkpointing: in training the blocks are computed twice and keep little. compile: true, or the name
        of a torch.compile backend, of the blocks; where a text is read on they run as they are.
        """
        loaded = load(AutoModelForCausalLM, name, dtype, attention, eos_token, revision, quantization, weights)
        return cls(*loaded, activation_checkpointing, compile)

    def check(self) -> None:
        self.state_width = int(self.head.in_features)  # type: ignore[arg-type]
        self.takes_positions = "position_ids" in inspect.signature(self.model.base_model.forward).parameters
        self._check_head()

    def hidden(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Last hidden states, ready for the head.

        inputs_embeds: float[S, T, E]; attention_mask: bool[S, past + T]; position_ids: int[S, T] -> float[S, T, E'].
        The cache, where given, grows by T positions. Without a mask, transformers parts texts where positions restart.
        """
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        # Compiled code would be made anew as a cache grows.
        eager = torch.compiler.set_stance("force_eager") if self.compiled and cache is not None else nullcontext()
        with eager, self.autocast(inputs_embeds):
            output = self.model.base_model(
                inputs_embeds=inputs_embeds,
                attention_mask=None if attention_mask is None else attention_mask.long(),
                past_key_values=cache,
                use_cache=cache is not None,
                **positions,
            )
        return output.last_hidden_state

    def states(self, embeds: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """Padding is not computed where the model allows: several texts then share a row."""
        if self.packs is None:
            self.packs = keeps_texts_apart(self)
        if self.packs and not mask.all():
            packing = Packing.of_mask(mask)
            packed = self.hidden(embeds.flatten(0, 1)[packing.source], None, packing.positions)
            return packed.flatten(0, 1)[packing.place[wanted]]
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        return self.hidden(embeds, mask, positions)[wanted]

    def before_labels(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Each token is said by the state one position before it."""
        supervised = labels[:, 1:] != IGNORE_INDEX
        return self.states(embeds, mask, F.pad(supervised, (0, 1))), labels[:, 1:][supervised]

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model that does more to its hidden states than its head (scaled or capped logits)."""
        ids = torch.tensor([[self.eos_id, self.pad_id]], device=self.model.device)
        if ids.device.type == "meta":
            return
        mask, positions = torch.ones_like(ids, dtype=torch.bool), torch.arange(2, device=ids.device)[None]
        ours = self.logits(self.hidden(self.embed(ids), mask, positions))
        theirs = self.model(input_ids=ids, attention_mask=mask.long()).logits.float()
        if not torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2):
            raise ValueError(
                f"{type(self.model).__name__} changes its logits after the head (a scale or a cap), "
                "which prefixvlm does not do; set lm to another model"
            )
