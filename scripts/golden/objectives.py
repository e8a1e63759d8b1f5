"""Golden training values of the objectives beside the language model: a classification head on the last token, and DPO.

    .venv/bin/python scripts/golden/objectives.py

Writes test/golden/objectives.json (rows, settings, losses, gradient norms) and .safetensors (gradients of the first step, initial heads and
LoRA matrices). The classifier is transformers' LlamaForSequenceClassification over tiny-llama, with PEFT where LoRA is trained; DPO is
written out here from its formula. One optimizer step covers all rows; float32 on the CPU.
"""
import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

from tiny_llama_training import ALPHA, CLIP, DECAY, GOLDEN, RANK, RATE, STEPS, WARMUP, local, rate

LABELS = 3
PREFERENCES = {"plain": dict(beta=0.5, labelSmoothing=0.0, sftWeight=0.0), "mixed": dict(beta=0.3, labelSmoothing=0.1, sftWeight=0.2)}


def tokens(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 160, (length,), generator=generator).tolist() for length in lengths]


def labelled():
    return [{"tokens": row, "label": i * 2 % LABELS} for i, row in enumerate(tokens((9, 23, 16, 30, 5, 24), 21))]


def pairs():
    """Prompts with two answers of different lengths each; what counts are the answers."""
    lengths = ((4, 9, 3), (12, 5, 7), (7, 2, 11), (20, 8, 8), (3, 6, 1))
    result = []
    for i, (prompt, chosen, rejected) in enumerate(lengths):
        first, *answers = tokens((prompt, chosen, rejected), 100 + i)
        result.append({name: {"tokens": first + answer, "lossMask": [t >= prompt for t in range(prompt + len(answer))]} for name, answer in zip(("chosen", "rejected"), answers)})
    return result


def seeded(model, match, deviation, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if match in name and parameter.requires_grad:
            parameter.data.normal_(0, deviation, generator=generator)
    return model


def classifier():
    model = LlamaForSequenceClassification.from_pretrained(GOLDEN / "tiny-llama", num_labels=LABELS, dtype=torch.float32, attn_implementation="eager")
    return seeded(model, "score", 0.02, 31)


def lora(model, task):
    return seeded(get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type=task)), "lora_", 0.1, 32)


def only(model, selected):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(selected in name)
    return model


def plain(name):
    return local(name).replace("modules_to_save.", "").replace(".default", "")


def classification_loss(data):
    def total(model):
        logits = torch.cat([model(input_ids=torch.tensor([row["tokens"]])).logits for row in data])
        return cross_entropy(logits, torch.tensor([row["label"] for row in data]))

    return total


def log_probability(model, row):
    ids = torch.tensor([row["tokens"]])
    losses = cross_entropy(model(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return -losses[torch.tensor(row["lossMask"][1:])].sum()


def preference_loss(data, model, beta, labelSmoothing, sftWeight):
    with torch.no_grad():
        reference = [(log_probability(model, pair["chosen"]), log_probability(model, pair["rejected"])) for pair in data]

    def total(model):
        losses = []
        for pair, (chosen0, rejected0) in zip(data, reference):
            chosen, rejected = log_probability(model, pair["chosen"]), log_probability(model, pair["rejected"])
            z = beta * ((chosen - chosen0) - (rejected - rejected0))
            loss = -(1 - labelSmoothing) * logsigmoid(z) - labelSmoothing * logsigmoid(-z)
            losses.append(loss - sftWeight * chosen / sum(pair["chosen"]["lossMask"]))
        return torch.stack(losses).mean()

    return total


def train(label, model, total, tensors, write):
    trained = {plain(name): p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if "lora_" in name or name == "score.weight":
            tensors[f"{label}/initial/{name}"] = parameter.detach().clone().contiguous()
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY)
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss = total(model)
        loss.backward()
        if step == 1 and write:
            for name, parameter in trained.items():
                tensors[f"{label}/gradient/{name}"] = parameter.grad.detach().clone().contiguous()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), CLIP).item())
        for group in optimizer.param_groups:
            group["lr"] = rate(step, STEPS)
        optimizer.step()
        losses.append(loss.item())
    print(label, losses[0], losses[-1], norms[0])
    return {"losses": losses, "gradientNorms": norms, "parameters": sorted(trained)}


def language_model():
    return AutoModelForCausalLM.from_pretrained(GOLDEN / "tiny-llama", dtype=torch.float32, attn_implementation="eager")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rows, preferred, tensors, cases = labelled(), pairs(), {}, {}
    for label, model in (
        ("classification/full", classifier()),
        ("classification/lora", lora(classifier(), "SEQ_CLS")),
        ("classification/head", only(classifier(), "score")),
    ):
        cases[label] = train(label, model, classification_loss(rows), tensors, label != "classification/full")
    for label, model, kind in (
        ("preference/full", language_model(), "plain"),
        ("preference/lora", lora(language_model(), "CAUSAL_LM"), "plain"),
        ("preference/mixed", lora(language_model(), "CAUSAL_LM"), "mixed"),
    ):
        cases[label] = train(label, model, preference_loss(preferred, model, **PREFERENCES[kind]), tensors, label == "preference/mixed")
    result = {
        "labelled": rows,
        "pairs": preferred,
        "settings": {
            "steps": STEPS, "warmupSteps": WARMUP, "learningRate": RATE, "weightDecay": DECAY, "maxGradientNorm": CLIP, "rank": RANK, "alpha": ALPHA,
            "labels": LABELS, "preferences": PREFERENCES,
        },
        "torch": torch.__version__,
        "cases": cases,
    }
    save_file(tensors, GOLDEN / "objectives.safetensors")
    (GOLDEN / "objectives.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
