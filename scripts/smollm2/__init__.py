"""The paper's experiment on SmolLM2-135M-Instruct: the pool, the traces and the study of docs/smollm2.md."""
