"""Models that are asked over HTTP or through an engine: calls, retries, spending, and the record of replies."""
