"""The OpenAI API's requests and answers, as far as this server honours them.

A field that would change the answer and is not honoured is refused by name; a field that only
describes the caller (`user`, `metadata`, …) is accepted and not used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from hotswap.registry.domain.values import ValueObject

MAX_STOPS = 4
"""OpenAI's own limit."""


class TextPart(ValueObject):
    type: Literal["text"]
    text: str


class ChatMessage(ValueObject):
    """A message; content parts of type text are joined."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, str]:
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text}


class StreamOptions(ValueObject):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class SamplingFields(ValueObject):
    """What chat and text completions have in common."""

    model: str = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int = Field(0, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1, le=128)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    @field_validator(
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "min_tokens",
        "n",
        mode="before",
    )
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        """OpenAI's own types allow null for these, vLLM's for others, and mean the default."""
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list) and len(value) > MAX_STOPS:
            raise ValueError(f"{len(value)} stop strings were given; at most {MAX_STOPS} may be")
        return value

    @property
    def max_new_tokens(self) -> int | None:
        raise NotImplementedError

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens get log probabilities; None: not even the chosen one."""
        raise NotImplementedError

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same for the tokens of the prompt."""
        return None

    @property
    def stop_strings(self) -> list[str]:
        strings = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [s for s in strings if s]


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    store: bool | None = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError(
                f"top_logprobs is {self.top_logprobs}, which needs logprobs to be true"
            )
        return self

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None


class CompletionRequest(SamplingFields):
    """POST /v1/completions; a prompt is text or token ids, sent to the model as it is."""

    prompt: str | list[int] | list[str] | list[list[int]] = Field(min_length=1)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def max_new_tokens(self) -> int:
        return self.max_tokens or 16

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.logprobs if self.echo else None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [token_id for token_id in self.prompt if isinstance(token_id, int)]
        return [ids] if ids else [p for p in self.prompt if not isinstance(p, int)]


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Provenance(BaseModel):
    """Who answered: the field `hotswap` of every answer. Both are null when the base did.

    `version` can be sent as `model` to ask exactly these versions again. When several adapters
    answered, `digest` is null and `adapters` gives each one's.
    """

    base: str
    version: str | None
    digest: str | None
    adapters: list[AppliedAdapter]


class AppliedAdapter(BaseModel):
    version: str
    digest: str
    scale: float
