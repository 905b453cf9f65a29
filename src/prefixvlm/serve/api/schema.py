"""The JSON of requests, with the range of each field."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_BEAMS, MAX_CHOICES, MAX_LIKELIEST = 16, 8, 20
MAX_TEXTS, MAX_LENGTH = 256, 500  # texts to rank, and characters of each: all are padded to the longest
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Ranked = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]
Texts = Annotated[list[Ranked], Field(min_length=1, max_length=MAX_TEXTS)]
Stop = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=8)]


class Strict(BaseModel):
    """No field that is not known, no number that is none."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Decoding(Strict):
    """Options of the task's decoding; see docs/python.md."""

    method: Literal["greedy", "nucleus", "beam", "clipcap_beam"] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | None = None
    num_beams: Annotated[int, Field(ge=1, le=MAX_BEAMS)] | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None


class ImageRequest(Strict):
    """An image, as a data: URL or base64, and a question about it; without, it is captioned."""

    image: str
    question: str | None = None
    task: str | None = None


class CaptionRequest(ImageRequest):
    """A text about an image."""

    decoding: Decoding = Decoding()
    stream: bool = False


class RankRequest(ImageRequest):
    """The probabilities of texts, of the likeliest ones if none are given."""

    texts: Texts | None = None


class HeatMapRequest(ImageRequest):
    """Where in the image each token comes from. text: of which; without, what the model says."""

    # A backward pass for each token, which nobody can cancel. Methods of inspect that take many are left out.
    question: Annotated[str, Field(max_length=MAX_LENGTH)] | None = None
    text: Ranked | None = None


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    url: str
    detail: str | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """OpenAI's request for a chat completion. Fields that are not here must be absent or neutral."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Annotated[str, Field(min_length=1)] | Stop | None = None
    seed: Seed | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LIKELIEST)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def unsupported(self) -> list[str]:
        """Return the fields that ask for something that is not done; those that only name or label are passed over."""
        asked: dict[str, Any] = {name: value for name, value in (self.model_extra or {}).items() if value}
        if asked.get("response_format") == {"type": "text"}:
            del asked["response_format"]
        return sorted(asked.keys() & UNSUPPORTED)


UNSUPPORTED = {
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "modalities", "prediction",
    "presence_penalty", "response_format", "tool_choice", "tools", "web_search_options",
}  # fmt: skip
