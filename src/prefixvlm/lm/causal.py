"""Frozen decoder-only language models from Hugging Face."""

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
from prefixvlm.lm.packing import Packing

FULL = (
    0.75  # share of real tokens from which rows are not packed: attention over packed rows needs a mask, and is slower
)
GAP = 32  # padding of the check below; enough to change the states of a model that counts padding


class CausalLM(LanguageModel):
    """A decoder-only language model: GPT-2, OPT, GPT-NeoX, GPT-J, Llama, Qwen, BLOOM, SmolLM2 and others.

    takes_positions: whether the model accepts position_ids.
    packs: whether several texts may share a row; None until the first forward pass that could use it.
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
        start_token: str | None = None,
    ) -> "CausalLM":
        """Load a model from the hub or from a local folder; see load_model for the options not listed here.

        activation_checkpointing: recompute the blocks in the backward pass instead of storing their activations.
        compile: true, or the name of a torch.compile backend, to compile the blocks; decoding with a cache stays eager.
        chat: format texts as turns of a chat, by the tokenizer's template. system: system message of the chat.
        start_token: special token at the start of every row; see start_rows_with.
        """
        loaded = load_model(AutoModelForCausalLM, name, dtype, attention, eos_token, revision, quantization, weights)
        lm = cls(*loaded, activation_checkpointing, compile)
        if system is not None and not chat:
            raise ValueError("lm.system is part of a chat; set lm.chat=true, or lm.system=null")
        if chat and lm.model.device.type != "meta":  # on "meta" the tokenizer is a placeholder without a template
            lm.chat = Chat(lm.tokenizer, system)
        if start_token is not None and lm.model.device.type != "meta":
            lm.start_rows_with(start_token)
        return lm

    def start_rows_with(self, token: str) -> None:
        """Let every row start with a special token, before its first image.

        Language models attend to the first position whatever stands there (attention sink, Xiao et al. 2023). A prefix
        at that position has to serve as one, and how long it takes to learn that depends on the seed.
        Raises ValueError if the tokenizer has no such special token.
        """
        special = list(map(str, self.tokenizer.all_special_tokens))
        if token not in special:
            raise ValueError(f"lm.start_token is {token!r}; accepted are null and {', '.join(special)}")
        self.start_ids = [int(self.tokenizer.get_vocab()[token])]
        if self.bos_ids == self.start_ids:
            self.bos_ids = []

    def check(self) -> None:
        self.state_width = int(self.head.in_features)  # type: ignore[arg-type]
        self.takes_positions = "position_ids" in inspect.signature(self.model.base_model.forward).parameters
        if self.model.device.type != "meta":
            self._check_head()
            self._check_padding()

    def hidden(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Return the last hidden states, the input of the head; the cache, if given, grows by T positions.

        inputs_embeds: float[S, T, E]; attention_mask: bool[S, past + T], or None for right-padded rows, and for rows of
        several texts, separated where their positions restart; position_ids: int[S, T] -> float[S, T, E'].
        """
        # Without position_ids GPT-2 counts padding, and its logits after a padded prompt are wrong.
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        with self.forward_context(inputs_embeds, cache):
            output = self.model.base_model(
                inputs_embeds=inputs_embeds,
                attention_mask=None if attention_mask is None else attention_mask.long(),
                past_key_values=cache,
                use_cache=cache is not None,  # the default would store keys and values in training, too
                **positions,
            )
        return output.last_hidden_state

    def hidden_at(self, embeds: Tensor, mask: Tensor, selected: Tensor) -> Tensor:
        # Captions differ in length: packed rows save the compute that their padding would take.
        if self.packs is None:
            self.packs = keeps_texts_apart(self)
        if self.packs and mask.sum() < FULL * mask.numel():
            packing = Packing.of_mask(mask)
            packed = self.hidden(embeds.flatten(0, 1)[packing.source], None, packing.positions)
            return packed.flatten(0, 1)[packing.place[selected]]
        positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        # Rows are right-padded, so no token sees padding, and attention without a mask has faster kernels. Models
        # without position_ids take their positions from the mask.
        return self.hidden(embeds, None if self.takes_positions else mask, positions)[selected]

    def supervised_states(self, embeds: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        supervised = labels[:, 1:] != IGNORE_INDEX
        # The state one position before a token predicts it.
        return self.hidden_at(embeds, mask, F.pad(supervised, (0, 1))), labels[:, 1:][supervised]

    @torch.no_grad()
    def _check_head(self) -> None:
        """Raise ValueError if the model's logits are not head(hidden), because of a scale or a cap (Gemma 2)."""
        ids = torch.tensor([[self.eos_id, self.pad_id]], device=self.model.device)
        mask, positions = torch.ones_like(ids, dtype=torch.bool), torch.arange(2, device=ids.device)[None]
        ours = self.logits(self.hidden(self.embed(ids), mask, positions))
        theirs = self.model(input_ids=ids, attention_mask=mask.long()).logits.float()
        # The tolerance is that of bfloat16; a scale or a cap changes logits by more.
        if not torch.allclose(ours, theirs, atol=1e-2, rtol=1e-2):
            raise ValueError(
                f"{type(self.model).__name__} changes its logits after the head (a scale or a cap), "
                "which prefixvlm does not do; set lm to another model"
            )

    @torch.no_grad()
    def _check_padding(self) -> None:
        """Raise ValueError for a model without position_ids that counts padding inside a row (MPT, recurrent models).

        Decoding puts the answers of a batch after right-padded prompts, so padding stands between the two.
        """
        if self.takes_positions:
            return
        text = self.embed(torch.tensor([[self.eos_id, 1, 0]], device=self.model.device))
        padded = torch.cat([text[:, :1], *[text[:, 1:2]] * GAP, text[:, 1:]], 1)
        places = torch.arange(padded.shape[1], device=text.device)[None]
        mask = (places == 0) | (places > GAP)
        alone = self.hidden(text, mask[:, mask[0]], places[:, :3])[:, 1:].float()
        in_batch = self.hidden(padded, mask, places)[:, 1 + GAP :].float()
        # BLOOM's ALiBi passes: it takes its positions from the mask.
        if (in_batch - alone).norm() > 0.05 * alone.norm():
            raise ValueError(
                f"{type(self.model).__name__} counts the padding between a prompt and its answer, so texts would not "
                "be the same alone and in a batch; set lm to another model"
            )


def keeps_texts_apart(lm: CausalLM) -> bool:
    """Return whether the texts of a packed row are independent: the gradient between them is then exactly 0."""
    # Models without positions (ALiBi) or with convolutions, and some attention kernels, ignore a restart of positions.
    if not lm.takes_positions:
        return False
    training = any(module.training for module in lm.tuned_modules)
    lm.eval()  # dropout would make the gradient random
    with torch.inference_mode(False), torch.enable_grad():  # the first call may be in an evaluation
        embeds = lm.embed(torch.arange(6, device=lm.model.device).expand(2, -1)).detach().requires_grad_()
        positions = torch.tensor([0, 1, 2, 0, 1, 2], device=embeds.device).expand(2, -1)
        second = lm.hidden(embeds, None, positions)[:, 3:]
        # Not a sum, which the last layer norm keeps constant; not random, which would advance the training's generator.
        weights = torch.arange(second.numel(), device=embeds.device).sin().view_as(second).to(second.dtype)
        (gradient,) = torch.autograd.grad(second, embeds, weights)
    lm.train(training)
    return not gradient[:, :3].any()
