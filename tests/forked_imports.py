"""What `forked.py` imports before it forks: what the commands import while they run."""

# ruff: noqa: F401
import datasets
import matplotlib.figure
import polars
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.llama import modeling_llama
from trl import SFTConfig, SFTTrainer

import s1.cli
import s1.data.pipeline
import s1.engines.hf
import s1.evals.run
import s1.report.page
import s1.train.sft
