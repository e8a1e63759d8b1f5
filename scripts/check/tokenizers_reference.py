"""Writes, for tokenizers.ts, tokenizers of every kind and what Rust `tokenizers` makes of 10,000 texts:

    DIR/texts.json            the texts (seeded; a lone surrogate is kept, and read as U+FFFD by the reference). Random characters in them
                              are ones that this Python knows: the two implementations' Unicode tables are of different age
    DIR/old.json              such texts for WordPiece, whose reference has much older tables: random characters are those that have kept
                              their category since Unicode 3.2
    DIR/ties.json             texts over few letters, for a Unigram whose scores are few multiples of a number that is no binary fraction: most
                              texts have paths whose sums are equal or differ by rounding alone
    DIR/KIND/tokenizer.json   a small tokenizer, trained here on the texts' own building blocks
    DIR/KIND/ids.json         its ids for every text, without special tokens added, and DIR/KIND/decoded.json, what they decode to

With --golden it writes the few that test/models/tokenizer.test.ts reads instead. The kinds are the pre-tokenizations and normalizers of published models, spelled as their tokenizer.json spell them.
"""
import io
import json
import pathlib
import random
import re
import sys
import unicodedata

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(sys.argv[1])
# Small in the golden files.
VOCABULARY = 420 if sys.argv[1] == "--golden" else 1200
COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000

LATIN = "the of and to in model weight token Grüße naïve façade Straße øre żółć İstanbul ığdır Őrült ÆON ﬁne e\u0301te\u0301 A\u030angstro\u0308m don't I'm we'll THEY'VE it'S".split()
WORDS = LATIN + (
    "Привет мир ёлка Καλημέρα ΣΟΦΟΣ κόσμος مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก こんにちは 世界 カタカナ ひらがな 你好 今天 天气 안녕하세요 각 한국어 "
    "Xin chào thế giới Քարտեզ საქართველო አማርኛ தமிழ் తెలుగు ខ្មែរ བོད 𝕳𝖊𝖑𝖑𝖔 ℌ ﷺ ㌀ ½ x² Ⅳ ① ٣٤٥ १२३ ๑๒ 一二三 １２３ ＡＢＣ ｶﾅ"
).split()
EMOJI = ["🙂", "👩\u200d👩\u200d👧\u200d👦", "🇨🇭", "👍🏽", "❤\ufe0f", "🧑🏿\u200d🚀", "😀😃", "🏴\U000e0067\U000e0062\U000e007f", "⚡", "☎\ufe0e"]
CODE = [
    "def f(x):\n    return x ** 2  # ok\n", "for (let i = 0; i < 10; i++) { a[i] += `${i}\\n`; }", "SELECT a.id FROM t AS a WHERE a.x >= 10;", '{"k": [1, 2.5, -3e-7], "n": null}',
    '<div class="a-b_c">&nbsp;</div>', "#include <stdio.h>\r\n\treturn 0;\r\n}", "git commit -m 'fix' && npm run build | tee out.log", "https://example.com:80/p?q=1&r=%20#f",
    "0x1F 1_000_000 1e-5 3.14159", "\\frac{1}{2} &= \\sum_{i=1}^{n} x_i", "camelCaseIDs HTTPServer snake_case_name CONSTANT_1", "a//b /* c */ <!-- d -->",
]
SPACE = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\r", " \n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\u2028", "\u0085", "\u202f", "\v", "\f", "\u180e"]
CONTROL = [chr(c) for c in range(32)] + ["\x7f", "\x80", "\x9f", "\u00ad", "\u200e", "\u202e", "\u2060", "\ufffd", "\ufffe", "\U0010ffff", "\ue000", "\u0378"]
BROKEN = ["\ud800", "\udfff", "\ud83d", "\ude42", "\udc00\ud800"]
SPECIAL = ["<s>", "</s>", "<unk>", "<|end|>", "<|user|>", "[CLS]", "[SEP]", "[MASK]", "<|en", "|>", "<0x41>", "▁", "▁▁", "##ing", "Ġ", "Ċ"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["…", "—", "«", "»", "。", "、", "¿", "’", "“", "€", "→", "™", "...", "?!", "''"]


def assigned(character):
    return unicodedata.category(character) != "Cn"


def old(character):
    return assigned(character) and unicodedata.ucd_3_2_0.category(character) == unicodedata.category(character)


def texts(allowed):
    pick = random.Random(20240701)
    pools = [WORDS] * 8 + [EMOJI, CODE, SPACE, SPACE, CONTROL, BROKEN, SPECIAL, PUNCTUATION, PUNCTUATION]
    number = lambda: str(pick.randrange(10 ** pick.randrange(1, 12)))
    code_point = lambda: pick.choice([pick.randrange(0x20, 0x2FFF), pick.randrange(0x20, 0xD7FF), pick.randrange(0x10000, 0x1F9FF)])
    known = [chr(c) for c in (code_point() for _ in range(40_000)) if allowed(chr(c))]
    anywhere = lambda: pick.choice(known)
    out = ["", " ", "\n"] + BROKEN + SPACE + CONTROL + SPECIAL + EMOJI + CODE
    while len(out) < COUNT:
        parts = []
        for _ in range(pick.randrange(1, 14)):
            draw = pick.random()
            parts.append(number() if draw < 0.06 else anywhere() if draw < 0.12 else pick.choice(pick.choice(pools)))
            if pick.random() < 0.5:
                parts.append(" ")
        out.append("".join(parts))
    joined = [t.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass") for t in out[:COUNT]]
    return joined


GPT2 = None
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT4 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
])


def byte_level(corpus, pattern, digits=False, nfc=False, ignore_merges=False):
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern is not None:
        steps += [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if nfc:
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in ("<|end|>", "<|user|>")]
    made.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special, show_progress=False))
    made.add_tokens([AddedToken("▁▁", special=False, normalized=False)])
    return made


def word_piece(corpus, lowercase):
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends)
    return made


def unigram(corpus, scheme, nfkc):
    made = Tokenizer(models.Unigram())
    steps = [normalizers.Replace(Regex(" {2,}"), " ")]
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), *steps] if nfkc else steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    made.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=VOCABULARY, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    return made


def unigram_of_ties(_corpus):
    pick = random.Random(7)
    words = ["".join(pick.choice("abcd▁") for _ in range(pick.randrange(1, 5))) for _ in range(120)]
    vocabulary = [("<unk>", 0.0)] + [(word, -0.1 * len(word) * pick.randrange(9, 12)) for word in dict.fromkeys(["▁", "a", "b", "c", *words]) if word != "d"]
    made = Tokenizer(models.Unigram(vocabulary, 0, False))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    return made


def texts_of_ties():
    pick = random.Random(11)
    return ["".join(pick.choice("aabbccd ") for _ in range(pick.randrange(1, 60))) for _ in range(COUNT)]


def pieces(corpus, style):
    """A SentencePiece BPE vocabulary with byte fallback as Llama 2, Phi-3 and Gemma publish theirs in tokenizer.json."""
    model = io.BytesIO()
    gemma = style == "gemma"
    lines = [line for text in corpus for line in re.sub("[\ud800-\udfff\x00]", "", text).splitlines() if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=VOCABULARY, model_type="bpe", byte_fallback=True, character_coverage=0.98, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=not gemma, minloglevel=2,
        user_defined_symbols=["\n\n", "▁▁", "<table>"] if gemma else [],
    )
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = {spm.id_to_piece(i): i for i in range(spm.get_piece_size())}
    plain = lambda piece: piece in vocab and not (spm.is_control(vocab[piece]) or spm.is_unknown(vocab[piece]) or spm.is_byte(vocab[piece]))
    merges = []
    for piece, index in vocab.items():
        if plain(piece):
            local = [(piece[:at], piece[at:]) for at in range(1, len(piece)) if plain(piece[:at]) and plain(piece[at:])]
            merges += [(-spm.get_score(index), vocab[a], vocab[b], a, b) for a, b in local]
    merges = [(a, b) for *_, a, b in sorted(merges)]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if gemma:
        made.normalizer = normalizers.Replace(" ", "▁")
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    elif style == "llama":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = [] if gemma else [decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    if gemma:
        made.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("\n\n", "▁▁", "<table>")])
    if style == "phi":
        made.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=True) for t in ("<|user|>", "<|end|>")])
    return made


KINDS = {
    "gpt-2": lambda c: byte_level(c, GPT2), "smollm": lambda c: byte_level(c, GPT2, digits=True), "qwen2": lambda c: byte_level(c, QWEN2, nfc=True),
    "llama-bpe": lambda c: byte_level(c, GPT4, ignore_merges=True), "dbrx": lambda c: byte_level(c, GPT4), "gpt-4o": lambda c: byte_level(c, GPT4O),
    "pieces-llama": lambda c: pieces(c, "llama"), "pieces-phi": lambda c: pieces(c, "phi"), "pieces-gemma": lambda c: pieces(c, "gemma"),
    "wordpiece-uncased": lambda c: word_piece(c, True), "wordpiece-cased": lambda c: word_piece(c, False),
    "unigram": lambda c: unigram(c, "always", False), "unigram-nfkc-first": lambda c: unigram(c, "first", True), "unigram-ties": unigram_of_ties,
}
TEXTS = {"wordpiece-uncased": "old", "wordpiece-cased": "old", "unigram-ties": "ties"}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    readable = {}
    for name, made in {"texts": texts(assigned), "old": texts(old), "ties": texts_of_ties()}.items():
        (OUT / f"{name}.json").write_text(json.dumps(made))
        readable[name] = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in made]
    corpus = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(0, len(WORDS), 3)] + CODE * 3 + readable["texts"][200:1200]
    for kind, make in KINDS.items():
        made = make(corpus)
        folder = OUT / kind
        folder.mkdir(exist_ok=True)
        made.save(str(folder / "tokenizer.json"))
        ids = [encoding.ids for encoding in made.encode_batch(readable[TEXTS.get(kind, "texts")], add_special_tokens=False)]
        (folder / "ids.json").write_text(json.dumps(ids, separators=(",", ":")))
        (folder / "decoded.json").write_text(json.dumps(made.decode_batch(ids, skip_special_tokens=False)))
        print(kind, made.get_vocab_size(), sum(map(len, ids)), file=sys.stderr)


def golden():
    """test/golden/tokenizers.json: the kinds that no other golden file holds, smaller and with few texts."""
    pick = random.Random(3)
    few = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in pick.sample([t for t in texts(old) if len(t) < 30], 60)]
    corpus = [" ".join(LATIN)] * 4 + few
    out = {}
    for kind in ("wordpiece-uncased", "wordpiece-cased", "unigram", "unigram-nfkc-first", "pieces-phi", "pieces-gemma"):
        made = KINDS[kind](corpus[:4] if kind.startswith("pieces") else corpus)
        ids = [encoding.ids for encoding in made.encode_batch(few, add_special_tokens=False)]
        decoded = made.decode_batch(ids, skip_special_tokens=False)
        cases = [{"text": t, "ids": i, "decoded": d} for t, i, d in zip(few, ids, decoded)]
        out[kind] = {"tokenizer": json.loads(made.to_str()), "cases": cases}
    (pathlib.Path(__file__).resolve().parents[2] / "test" / "golden" / "tokenizers.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    golden() if sys.argv[1] == "--golden" else main()
