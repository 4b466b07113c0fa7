"""Budget forcing inside vLLM: a logits processor that vLLM finds by its entry point (docs/guides/vllm.md).

request.py      the fields of a request -> a plan in token ids, or a refusal   (vLLM's front end)
rules.py        the plans, the tokens so far and the logits of a batch -> what each row may say   (torch only)
processor.py    the two interfaces of vLLM around the rules   (its workers)
beam_search.py  a refusal for requests that no logits processor sees   (vLLM's HTTP server, started with it)
"""
