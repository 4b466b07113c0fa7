"""s1 engines and policies as models of other evaluation harnesses.

lm_eval.py             a model of lm-evaluation-harness, and the command `s1-lm-eval`
inspect.py             a provider of Inspect AI, found by its entry point
adapter.py             what both share
generation_kwargs.py   the generation arguments of lm-evaluation-harness

The first two import their harness at the top; nothing else in s1 imports them.
"""
