"""The sections `lr_find` and `runtime` of params.yaml, and the kinds of numbers that all sections use."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tumorboard.base.schema import Section

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=0)]
SCHEDULER = r"^(tcp|tls)://\S+:\d+$"  # pattern of the address of a Dask scheduler
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # the range that torch accepts


class LrFind(Section):
    first: Positive
    last: Positive
    steps: Annotated[int, Field(ge=10)]
    smoothing: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _rises(self) -> "LrFind":
        if self.first >= self.last:
            raise ValueError(f"first {self.first} is not below last {self.last}")
        return self


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"]
    processes: Literal["auto"] | Count
    threads: Literal["auto"] | Count
    workers: Literal["auto"] | Count
    scheduler: Annotated[str, Field(pattern=SCHEDULER)] | None
    timeout: Positive
    cuda_graphs: bool
    checkpoint_seconds: NotNegative
    checkpoint_days: Positive
