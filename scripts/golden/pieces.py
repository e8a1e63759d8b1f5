"""Writes test/golden/pieces.json: a small SentencePiece BPE vocabulary with byte fallback (as Llama 2, TinyLlama and Mistral have),
in the fields of a GGUF file, and the ids that SentencePiece itself gives for a list of texts.

Run: $(scripts/python-env.sh) scripts/golden/pieces.py
"""
import io
import json
import pathlib

import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = [
    "The quick brown fox jumps over the lazy dog.", "Hello", " Hello", "  two spaces", "a  b   c", "trailing ", "naïve café", "日本語", "🙂 ok", "tab\there",
    "line\nbreak", "The The the", "aaaaaaaaaa", "12.50 in 3 days", "I would recommend it to anyone", "quickquickquick", "overlazy", "é", "\u2581mark", "Grüße",
    "reviewreview product", "x", "battery-powered (not bad!)", "was good, was not", "ooooover",
]


def main():
    text = (ROOT / "scripts" / "golden" / "tiny_llama.py").read_text().split('TEXT = """')[1].split('"""')[0]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines() * 4), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        hard_vocab_limit=False, minloglevel=2,
    )
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = spm.get_piece_size()
    kind = lambda i: 2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i) else 1
    out = {
        "tokens": [spm.id_to_piece(i) for i in range(size)], "scores": [spm.get_score(i) for i in range(size)], "token_type": [kind(i) for i in range(size)],
        "bos": spm.bos_id(), "eos": spm.eos_id(), "unk": spm.unk_id(),
        "cases": [{"text": t, "ids": spm.encode(t)} for t in TEXTS],
    }
    (ROOT / "test" / "golden" / "pieces.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(size, out["cases"][0])


if __name__ == "__main__":
    main()
