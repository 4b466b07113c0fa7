"""What the person who runs the server decides: limits, and what each reasoning effort means."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from s1.errors import BadConfig
from s1.policy import BudgetPolicy


@dataclass(frozen=True, slots=True)
class Efforts:
    """The policy that each value of `reasoning_effort` names."""

    none: BudgetPolicy = BudgetPolicy(max_thinking=0)
    minimal: BudgetPolicy = BudgetPolicy(max_thinking=128)
    low: BudgetPolicy = BudgetPolicy(max_thinking=512)
    medium: BudgetPolicy = BudgetPolicy(max_thinking=2048)
    high: BudgetPolicy = BudgetPolicy()
    xhigh: BudgetPolicy = BudgetPolicy(waits=2)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Limits of the server. Sizes are tokens unless the name says otherwise."""

    concurrent: int = 64
    """Choices that decode at once."""
    waiting: int = 256
    """Choices that wait for their turn; a request beyond it gets 429."""
    connections: int = 2000
    """Open connections; a new one beyond it closes the one that has sent nothing whole for longest."""
    body_bytes: int = 1 << 20
    body_seconds: float = 20.0
    """Longest time in which a request must have arrived."""
    request_seconds: float = 600.0
    """Longest time of a request, waiting included."""
    shutdown_seconds: float = 30.0
    """How long a shutdown waits for running requests."""
    prompt_tokens: int | None = None
    """Longest prompt; None: what the context allows."""
    thinking_tokens: int | None = None
    """Largest thinking limit or minimum that a request may ask for; None: what the context allows."""
    waits: int = 32
    """Most waits that a request may ask for."""
    choices: int = 16
    """Largest `n`."""
    efforts: Efforts = field(default_factory=Efforts)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in ("waiting", "waits", "shutdown_seconds") else 1e-3
            if isinstance(value, (int, float)) and value < least:
                raise BadConfig(f"{f.name} is {value}.", "Use a positive number.")
