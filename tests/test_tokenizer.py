"""The ids are those of the installed transformers' CLIPTokenizer: thousands of texts over vocabularies of several sizes, trained
here, and toybox's; both layouts of files; added words wherever they stand."""
import json
import random
import shutil
import subprocess

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from conftest import TOYBOX, program

START, END = "<|startoftext|>", "<|endoftext|>"
CORPUS = (["a photo of a dog on the beach", "the cat's whiskers aren't we're they'll I'd I'm you've", "price: 123,456.78 USD!!!",
           "été à Paris, naïve façade", "Привет мир", "日本語のテキスト", "مرحبا بالعالم", "hello... world?! (really)", "3rd 21st 100%"] * 20
          + [f"word{i} thing-{i} {i * 37}" for i in range(300)])
TEXTS = [
    "", " ", "   ", "\t\n", "a", "sks", "a photo of a sks", "asks", "sks's", "SKS", "Sks sKs", "sks_1", "sks_1sks", "sks sks_1 sks_2",
    "sks_2sks_1", "sks.", "(sks)", "sks,sks", "xsksx", "a photo of a sks on the beach", "it's we're I'll you've he'd I'm can't", "'sun 'll",
    "IT'S", "rock'n'roll", "''s", "!'s", "12 3456", "1a2b", "①②½ Ⅷ", "a\u00a0b\u2003c\u3000d", "tab\tnew\nline\r\n", "émigré e\u0301migre\u0301",
    "ﬁne ﬂow", "İstanbul I ı", "Straße ẞ", "ΣΊΣΥΦΟΣ ς", "日本 語", "한국어 한국어", "👍🏽 👨\u200d👩\u200d👧", "a\u200db\u200cc", "naïve\u0301", "\u0301alone",
    "<|startoftext|>", "<|endoftext|> after", "a<|endoftext|>b", "<|ENDOFTEXT|>", "<|startoftext", "a_b-c+d=e", "http://x.y/z?q=1&r=2", "#tag @you",
    "long " * 120, "x" * 300, "ab" * 200, "é" * 100, "\u0085next\u2028line", "\x01\x02control\x7f", "ⅷ ª º ᵃ", "ǅ ǆ Ǆ", "ﷺ", "a" * 75, "a b " * 38, "½¼ ²³",
    "🇩🇪", "\ufeffbom", "\u00ad soft", "टेस्ट हिन्दी", "ไทย", "ԱԲԳ", "ᏣᎳᎩ", "Ⴀ ⴀ", "K Å Ω", "…—–“”‘’"]


def train(folder, size):
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(alphabet), end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([t.lower() for t in CORPUS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    vocab = {}
    for c in sorted(alphabet):
        vocab[c] = len(vocab)
    for c in sorted(alphabet):
        vocab[c + "</w>"] = len(vocab)
    for m in merges:
        vocab.setdefault(m.replace(" ", ""), len(vocab))
    for special in (START, END):
        vocab[special] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="CLIPTokenizer", bos_token=START, eos_token=END, unk_token=END, pad_token=END, model_max_length=77)))
    (folder / "special_tokens_map.json").write_text(json.dumps(dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)))
    return folder


@pytest.fixture(scope="module", params=["toybox", "small", "large"])
def folder(request, tmp_path_factory):
    if request.param == "toybox":
        return TOYBOX / "model" / "tokenizer"
    return train(tmp_path_factory.mktemp("vocabulary") / request.param, dict(small=700, large=1500)[request.param])


def ours(folder, texts, *options):
    done = subprocess.run([program("tests/tokenize"), str(folder), *options], text=True, capture_output=True,
                          input="".join(json.dumps(t) + "\n" for t in texts))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(folder, texts, words=(), source=None):
    theirs = CLIPTokenizer.from_pretrained(source or folder)
    for word in words:
        assert theirs.add_tokens(word) == 1
    options = [o for w in words for o in ("--add", w)]
    full = theirs(texts, padding="max_length", max_length=77, truncation=True).input_ids
    bare = [theirs.encode(t, add_special_tokens=False) for t in texts]
    for text, a, b in zip(texts, ours(folder, texts, *options, "--length", "77"), full):
        assert a == b, repr(text)
    for text, a, b in zip(texts, ours(folder, texts, *options), bare):
        assert a == b, repr(text)


def random_texts(count, seed):
    chance = random.Random(seed)
    ranges = [(0x20, 0x7e)] * 6 + [(0xa1, 0x17f), (0x370, 0x3ff), (0x400, 0x4ff), (0x5d0, 0x5ea), (0x621, 0x64a), (0x900, 0x97f), (0x3041, 0x30ff),
                                   (0x4e00, 0x9fa5), (0xac00, 0xd7a3), (0x1f300, 0x1f64f), (0x300, 0x36f), (0x2000, 0x206f), (0x2150, 0x218b)]
    words = ["sks", "sks_1", "photo", "the", "'s", "'re", " ", "  ", "\t", "toy", "1", "22", "!", "?!", "..."]
    out = []
    for _ in range(count):
        parts = []
        for _ in range(chance.randint(1, 12)):
            if chance.random() < 0.5:
                parts.append(chance.choice(words))
            else:
                low, high = chance.choice(ranges)
                parts.append("".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 6))))
            parts.append(chance.choice(["", " "]))
        out.append("".join(parts))
    return out


def test_chosen_texts(folder):
    compare(folder, TEXTS)


def test_chosen_texts_with_added_words(folder):
    compare(folder, TEXTS, ["sks"])
    compare(folder, TEXTS, ["sks", "sks_1", "sks_2"])
    compare(folder, TEXTS, ["<toy>", "Dog", "zzq"])


def test_random_texts(folder):
    compare(folder, random_texts(3000, 1))
    compare(folder, random_texts(2000, 2), ["sks", "sks_1"])


def test_tokenizer_json_alone(folder, tmp_path):
    """What transformers 5 saves: no vocab.json and merges.txt beside it."""
    CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "new")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "new" / name).unlink(missing_ok=True)
    assert (tmp_path / "new" / "tokenizer.json").exists()
    compare(tmp_path / "new", TEXTS + random_texts(500, 3), ["sks"])


def test_merges_as_pairs_or_text(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "new")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "new")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "new" / name).unlink(missing_ok=True)
    path = tmp_path / "new" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    before = ours(tmp_path / "new", TEXTS)
    path.write_text(json.dumps(content))
    assert ours(tmp_path / "new", TEXTS) == before


def test_a_word_that_is_a_token_already_is_refused(folder):
    for word in ("a</w>", "a", START, ""):
        done = subprocess.run([program("tests/tokenize"), str(folder), "--add", word], text=True, capture_output=True, input="")
        assert done.returncode == 2


def test_captions_as_written_by_hand():
    """A text that is no UTF-8 is refused, not guessed at."""
    done = subprocess.run([program("tests/tokenize"), str(TOYBOX / "model" / "tokenizer")], capture_output=True, input=b'"\xff\xfe"\n')
    assert done.returncode == 2 and b"UTF-8" in done.stderr
