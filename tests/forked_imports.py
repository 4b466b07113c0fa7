"""What `forked.py` imports before it forks: what the commands import while they run."""

# ruff: noqa: E402, F401
import atexit
import os
import shutil
import tempfile

# The libraries read these when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hub-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

import datasets
import matplotlib.figure
import polars
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.llama import modeling_llama
from trl import SFTConfig, SFTTrainer
