"""What the server counts, for Prometheus. Counts only: no prompt and no name of a client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from s1.types import Generation

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class ServerMetrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "s1_requests", "Requests by route and status", ["route", "status"], registry=own
        )
        self.running = Gauge("s1_running", "Choices that decode now", registry=own)
        self.waiting = Gauge("s1_waiting", "Choices that wait for their turn", registry=own)
        self.tokens = Counter("s1_tokens", "Tokens after the prompt", ["kind"], registry=own)
        self.prompt = Counter("s1_prompt_tokens", "Tokens of prompts", registry=own)
        self.ended = Counter("s1_thinking_ended", "How thinking ended", ["by"], registry=own)
        self.waits = Counter("s1_waits", "Waits that were appended", registry=own)
        self.turns = Counter("s1_turns", "Requests turned while they ran", ["what"], registry=own)
        self.first = Histogram(
            "s1_first_token_seconds", "From arrival to the first token", buckets=SECONDS, registry=own
        )
        self.seconds = Histogram(
            "s1_choice_seconds", "From arrival to the last token", buckets=SECONDS, registry=own
        )

    def count(self, generation: Generation, queued: float) -> None:
        """Add one finished choice that had waited `queued` seconds for its turn."""
        delimiter = sum(
            len(s.token_ids) for s in generation.segments if s.phase == "answer" and s.by == "forced"
        )
        self.tokens.labels("thinking").inc(generation.thinking_tokens)
        self.tokens.labels("answer").inc(generation.answer_tokens)
        self.tokens.labels("delimiter").inc(delimiter)
        self.prompt.inc(sum(len(s.token_ids) for s in generation.segments if s.phase == "prompt"))
        self.ended.labels("error" if generation.error else generation.cut_by or "model").inc()
        self.waits.inc(generation.waits)
        self.seconds.observe(queued + generation.seconds)
        if generation.first_token_seconds is not None:
            self.first.observe(queued + generation.first_token_seconds)
