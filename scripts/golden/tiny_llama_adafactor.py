"""Golden loss curves of Adafactor on the tiny checkpoint: PyTorch's torch.optim.Adafactor over 100 steps.

    .venv/bin/python scripts/golden/tiny_llama_adafactor.py

Writes test/golden/tiny-llama-adafactor.json. Rows, schedule, clipping and LoRA's initial matrices are those of tiny_llama_training.py.
"""
import json

import torch
from tiny_llama_training import DECAY, GOLDEN, factor, load, lora, one, only, rows, train

CLIP_THRESHOLD, BETA2_DECAY, EPSILONS = 1.5, -0.7, (1e-6, 1e-2)
# On the gains high enough for the limit of 1 / sqrt(step), from step 5 on; so wild a run is compared over its first steps only.
PEAKS = {"full": 2e-2, "lora": 5e-3, "gains": 1.0, "tuned": 1.5e-3}
COMPARED = {"gains": 7}


def plain(groups):
    return torch.optim.Adafactor(groups, lr=1.0)


def tuned(groups):
    return torch.optim.Adafactor(groups, lr=1.0, d=CLIP_THRESHOLD, beta2_decay=BETA2_DECAY, weight_decay=DECAY, eps=EPSILONS)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = rows(load().config.vocab_size)

    def run(label, model, make=plain, multiplier=one):
        case = train(model, data, {}, "", multiplier=multiplier, write=False, make=make, peak=PEAKS[label])
        compared = COMPARED.get(label, len(case["losses"]))
        return {"peak": PEAKS[label], "losses": case["losses"][:compared], "gradientNorms": case["gradientNorms"][:compared]}

    cases = {"full": (only(lambda name: True),), "lora": (lora(),), "gains": (only(lambda name: "norm" in name),), "tuned": (only(lambda name: True), tuned, factor)}
    result = {
        "torch": torch.__version__,
        "settings": {"clipThreshold": CLIP_THRESHOLD, "beta2Decay": BETA2_DECAY, "weightDecay": DECAY, "epsilons": EPSILONS},
        "cases": {label: run(label, *case) for label, case in cases.items()},
    }
    (GOLDEN / "tiny-llama-adafactor.json").write_text(json.dumps(result) + "\n")
    for label, case in result["cases"].items():
        print(label, case["losses"][0], case["losses"][-1], case["gradientNorms"][0])


if __name__ == "__main__":
    main()
