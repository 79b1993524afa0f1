"""What a client asks for when it creates a job, and the Job that it means. Pure."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

from pydantic import Field

from hotswap.registry.domain.access import Principal
from hotswap.registry.domain.adapters import check_name
from hotswap.registry.domain.errors import InvalidReference, InvalidRequest
from hotswap.registry.domain.values import ValueObject
from hotswap.training.jobs.job import Job
from hotswap.training.spec import TrainingSpec

NAMESPACE = "ft/"
_AUTO = "auto"
# What a client may choose of a TrainingSpec besides OpenAI's fields: nothing that names a file.
OWN_FIELDS = frozenset(
    {
        *("r", "lora_alpha", "use_rslora", "lora_dropout", "method", "max_length", "system_prompt"),
        *("normaliser", "schedule", "warmup_ratio", "weight_decay", "validate_every_steps"),
        *("early_stopping_patience", "checkpoint_every_steps"),
    }
)


class Hyperparameters(ValueObject):
    """OpenAI's. `auto` is what `hotswap train` does by default."""

    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=1000)] = "auto"
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Times the default learning rate of `hotswap train`."""


class Supervised(ValueObject):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(ValueObject):
    """`dpo` and `reinforcement` are read only to be refused by name."""

    type: str
    supervised: Supervised = Supervised()
    dpo: Any = None
    reinforcement: Any = None


Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
]


class JobRequest(ValueObject):
    """The body of `POST /v1/fine_tuning/jobs`. `hotswap` is ours: fields of a TrainingSpec."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(max_length=128)] | None = None
    seed: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] | None = None
    metadata: Metadata | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: list[Any] | None = None
    hotswap: dict[str, Any] = Field(default_factory=dict)

    def name(self, base_id: str) -> str:
        """The adapter's name: `ft/<suffix>`, the suffix itself when it has a '/', or `ft/<base>`.

        Raises InvalidReference when that is no adapter name.
        """
        suffix = self.suffix or base_id.rpartition("/")[2].lower()
        try:
            return check_name(suffix if "/" in suffix else NAMESPACE + suffix)
        except InvalidReference as error:
            raise InvalidReference(f"suffix: {error.message}", param="suffix") from None

    def job(self, base_id: str, principal: Principal) -> Job:
        """A new job; raises InvalidRequest naming the field that cannot be met."""
        self._refuse_what_is_not_there(base_id)
        hyperparameters = self._hyperparameters()
        spec = self._spec(hyperparameters)
        resolved = {
            "n_epochs": spec.num_epochs,
            "batch_size": spec.batch_size,
            "learning_rate_multiplier": _multiplier(hyperparameters),
        }
        now_ns = time.time_ns()
        return Job(
            id=f"ftjob-{secrets.token_hex(12)}",
            order=now_ns,
            created_at=now_ns // 10**9,
            created_by=principal.actor("fine-tuning"),
            owner=principal.name,
            name=self.name(base_id),
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            spec=spec.model_dump(mode="json", exclude={"base", "data", "validation"}),
            method={"type": "supervised", "supervised": {"hyperparameters": resolved}},
            metadata=self.metadata,
        )

    def _refuse_what_is_not_there(self, base_id: str) -> None:
        if self.model != base_id:
            raise InvalidRequest(
                f"model: this server trains adapters of its base {base_id!r}, found "
                f"{self.model[:80]!r}; jobs start from the base, not from an adapter",
                param="model",
            )
        if self.method is not None and self.method.type != "supervised":
            raise InvalidRequest(
                f"method.type: expected 'supervised', found {self.method.type[:80]!r}",
                param="method.type",
            )
        if self.integrations:
            raise InvalidRequest(
                "integrations: there are none on this server; events and the result file hold "
                "the metrics",
                param="integrations",
            )
        if foreign := sorted(set(self.hotswap) - OWN_FIELDS):
            known = ", ".join(sorted(OWN_FIELDS))
            raise InvalidRequest(
                f"hotswap.{foreign[0][:80]}: not a field of a job; there are {known}",
                param=f"hotswap.{foreign[0][:80]}",
            )

    def _hyperparameters(self) -> Hyperparameters:
        if self.method is None:
            return self.hyperparameters or Hyperparameters()
        if self.hyperparameters is not None:
            raise InvalidRequest(
                "hyperparameters: given twice; leave them to method.supervised",
                param="hyperparameters",
            )
        return self.method.supervised.hyperparameters

    def _spec(self, chosen: Hyperparameters) -> TrainingSpec:
        """Without a validation file all rows are trained on, as the client expects."""
        values: dict[str, Any] = {"data": "train", "validation_fraction": 0, **self.hotswap}
        if chosen.n_epochs != _AUTO:
            values["num_epochs"] = chosen.n_epochs
        if chosen.batch_size != _AUTO:
            values["batch_size"] = chosen.batch_size
        default = TrainingSpec.model_fields["learning_rate"].default
        values["learning_rate"] = default * _multiplier(chosen)
        if self.seed is not None:
            values["seed"] = self.seed
        return TrainingSpec.parse(values)


def _multiplier(chosen: Hyperparameters) -> float:
    value = chosen.learning_rate_multiplier
    return 1.0 if value == "auto" else value
