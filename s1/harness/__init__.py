"""Where evaluators already work: s1's engines and policies as models of other harnesses.

lm_eval.py     a model of lm-evaluation-harness, and the command `s1-lm-eval`
inspect.py     a provider of Inspect AI, found by its entry point
results.py     a run folder in the layout of either

The first two import their harness when they are imported; nothing else of s1 imports them.
"""
