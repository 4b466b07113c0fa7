"""s1 engines and policies as models of other evaluation harnesses.

lm_eval.py             a model of lm-evaluation-harness
command.py             the command `s1-lm-eval`, which checks that the harness is installed
inspect.py             a provider of Inspect AI, found by its entry point
adapter.py             what both share
generation_kwargs.py   the generation arguments of lm-evaluation-harness

`lm_eval.py` and `inspect.py` import their harness at the top; nothing in s1 imports them but the command.
"""
