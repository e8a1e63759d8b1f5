"""Writes LoRA adapters of the tiny Llama under test/golden/peft/, saved by PEFT itself, and what PEFT adds to each layer with them.

    plain/          r 4, alpha 8, two modules in all layers, float32
    patterns/       rank-stabilized, other ranks and alphas by pattern, one layer left out, bfloat16
    classification/ r 2 on v_proj of tiny-serving with a head over three labels (SEQ_CLS), float32; classification_head.json is what this project adds
    expected.json   per adapter and module: (scaling * B A) x with x_i = cos(i), by get_delta_weight; of the classification also
                    the log-probabilities of its labels after some tokens

    With a folder as argument: loads that folder (an export of this project) onto the base with PEFT and prints the same as JSON.

Run: $(scripts/python-env.sh) scripts/golden/peft_adapters.py [folder]
"""
import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden"
PREFIX = "base_model.model."


TOKENS = [(7 * i * i + 11 * i + 5) % 160 for i in range(12)]
LABELS = ["no", "maybe", "yes"]


def base(task="CAUSAL_LM"):
    if task == "SEQ_CLS":
        return LlamaForSequenceClassification.from_pretrained(GOLDEN / "tiny-serving", num_labels=len(LABELS), dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "tiny-llama", dtype=torch.float32)


def loaded(folder):
    """What PEFT makes of a folder: products, and with a head the labels' log-probabilities."""
    task = json.loads((pathlib.Path(folder) / "adapter_config.json").read_text())["task_type"]
    model = PeftModel.from_pretrained(base(task), folder).eval()
    out = products(model)
    if task == "SEQ_CLS":
        with torch.no_grad():
            out["labels"] = torch.log_softmax(model(torch.tensor([TOKENS])).logits[0].double(), -1).tolist()
    return out


def products(model):
    """(scaling * B A) x of every LoRA layer, by module name."""
    out = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight") and getattr(layer, "lora_A", None):
            delta = layer.get_delta_weight("default").to(torch.float64)
            x = torch.cos(torch.arange(delta.shape[1], dtype=torch.float64))
            out[name.removeprefix(PREFIX)] = (delta @ x).tolist()
    return out


def write(name, dtype, task="CAUSAL_LM", **settings):
    torch.manual_seed(7)
    model = get_peft_model(base(task), LoraConfig(task_type=task, **settings))
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name or "score.modules_to_save" in parameter_name:
            parameter.data = torch.randn_like(parameter).mul(0.2).to(dtype)
    folder = GOLDEN / "peft" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tiny-llama" if task == "CAUSAL_LM" else "tiny-serving"
    config["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    if task == "SEQ_CLS":
        head = {"id2label": {str(i): label for i, label in enumerate(LABELS)}, "prompt_template": "{text}"}
        (folder / "classification_head.json").write_text(json.dumps(head, indent=2) + "\n")
    return loaded(folder)


if len(sys.argv) > 1:
    print(json.dumps(loaded(sys.argv[1])))
else:
    expected = {
        "plain": write("plain", torch.float32, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.05),
        "patterns": write(
            "patterns", torch.bfloat16, r=4, lora_alpha=16, use_rslora=True,
            target_modules=["q_proj", "o_proj", "down_proj"], exclude_modules=["model.layers.1.self_attn.o_proj"],
            rank_pattern={"down_proj": 6, r"^model\.layers\.\d+\.self_attn\.o_proj": 3},
            alpha_pattern={"layers.1.self_attn.q_proj": 5, "(q|o)_proj": 12},
        ),
        "classification": write("classification", torch.float32, "SEQ_CLS", r=2, lora_alpha=4, target_modules=["v_proj"]),
    }
    (GOLDEN / "peft" / "expected.json").write_text(json.dumps(expected) + "\n")
