"""A Hugging Face causal language model, frozen: embeddings in, hidden states and logits out."""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from prefixvlm.batch import IGNORE_INDEX
from prefixvlm.lm.chat import Chat
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.loading import load_model
from prefixvlm.lm.packing import Packing, keeps_texts_apart

GAP = 32  # padding in a test: so much moves what a model that counts it says


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
        chat: bool = False,
        system: str | None = None,
    ) -> "CausalLM":
        """Load a hub id or a local folder; see lm.loading.load_model.

        activation_checkpointing: in training the blocks are computed twice and keep little. compile: true, or the name
        of a torch.compile backend, of the blocks; where a text is read on they run as they are.
        chat: texts are turns of a chat, by the tokenizer's template; system: the system's message in it.
        """
        loaded = load_model(AutoModelForCausalLM, name, dtype, attention, eos_token, revision, quantization, weights)
        lm = cls(*loaded, activation_checkpointing, compile)
        if system is not None and not chat:
            raise ValueError("lm.system is part of a chat; set lm.chat=true, or lm.system=null")
        if chat and lm.model.device.type != "meta":
            lm.chat = Chat(lm.tokenizer, system)
        return lm

    def check(self) -> None:
        self.state_width = int(self.head.in_features)  # type: ignore[arg-type]
        self.takes_positions = "position_ids" in inspect.signature(self.model.base_model.forward).parameters
        if self.model.device.type != "meta":
            self._check_head()
            self._check_padding()

    def hidden(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Last hidden states, ready for the head.

        inputs_embeds: float[S, T, E]; attention_mask: bool[S, past + T]; position_ids: int[S, T] -> float[S, T, E'].
        The cache, where given, grows by T positions. Without a mask, transformers parts texts where positions restart.
        """
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        with self.forward_context(inputs_embeds, cache):
            output = self.model.base_model(
                inputs_embeds=inputs_embeds,
                attention_mask=None if attention_mask is None else attention_mask.long(),
                past_key_values=cache,
                use_cache=cache is not None,
                **positions,
            )
        return output.last_hidden_state

    def hidden_at(self, embeds: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """Padding is not computed where the model allows: several texts then share a row."""
        if self.packs is None:
            self.packs = keeps_texts_apart(self)
        if self.packs and not mask.all():
            packing = Packing.of_mask(mask)
            packed = self.hidden(embeds.flatten(0, 1)[packing.source], None, packing.positions)
            return packed.flatten(0, 1)[packing.place[wanted]]
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        return self.hidden(embeds, mask, positions)[wanted]

    def supervised_states(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Each token is said by the state one position before it."""
        supervised = labels[:, 1:] != IGNORE_INDEX
        return self.hidden_at(embeds, mask, F.pad(supervised, (0, 1))), labels[:, 1:][supervised]

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model that does more to its hidden states than its head (scaled or capped logits)."""
        ids = torch.tensor([[self.eos_id, self.pad_id]], device=self.model.device)
        mask, positions = torch.ones_like(ids, dtype=torch.bool), torch.arange(2, device=ids.device)[None]
        ours = self.logits(self.hidden(self.embed(ids), mask, positions))
        theirs = self.model(input_ids=ids, attention_mask=mask.long()).logits.float()
        if not torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2):
            raise ValueError(
                f"{type(self.model).__name__} changes its logits after the head (a scale or a cap), "
                "which prefixvlm does not do; set lm to another model"
            )

    @torch.no_grad()
    def _check_padding(self) -> None:
        """Refuse a model that takes no positions and counts padding before an answer (MPT, recurrent models)."""
        if self.takes_positions:
            return
        text = self.embed(torch.tensor([[self.eos_id, 1, 0]], device=self.model.device))
        padded = torch.cat([text[:, :1], *[text[:, 1:2]] * GAP, text[:, 1:]], 1)
        places = torch.arange(padded.shape[1], device=text.device)[None]
        mask = (places == 0) | (places > GAP)
        alone = self.hidden(text, mask[:, mask[0]], places[:, :3])[:, 1:].float()
        found = self.hidden(padded, mask, places)[:, 1 + GAP :].float()
        if (found - alone).norm() > 0.05 * alone.norm():
            raise ValueError(
                f"{type(self.model).__name__} counts the padding between a prompt and its answer, so texts would not "
                "be the same alone and in a batch; set lm to another model"
            )
