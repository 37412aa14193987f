"""The ids are those of the installed transformers' CLIPTokenizer: thousands of texts over vocabularies of several sizes, trained
here, and toybox's; every character of Unicode; both layouts of files and their special tokens; added words in any position.
Invalid files are refused by name."""
import json
import random
import shutil
import subprocess

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from conftest import TOYBOX, program, run, slice_of

NEEDS = "peers"
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
    "🇩🇪", "\ufeffbom", "\u00ad soft", "टेस्ट हिन्दी", "ไทย", "ԱԲԳ", "ᏣᎳᎩ", "Ⴀ ⴀ", "K Å Ω", "…—–“”‘’",
    "<|STARTOFTEXT|>!!", "<|ENDOFTEXT|>!!'s", "!<|EndOfText|>", "<|endoftext|><|ENDOFTEXT|>1", "a <|STARTOFTEXT|>b"]


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
    done = run(program("tests/tokenize"), folder, *options, stdin="".join(json.dumps(t) + "\n" for t in texts))
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(folder, texts, words=(), bare_only=False):
    theirs = CLIPTokenizer.from_pretrained(folder)
    for word in words:
        assert theirs.add_tokens(word) == 1
    options = [o for w in words for o in ("--add", w)]
    bare = theirs(texts, add_special_tokens=False).input_ids
    for text, a, b in zip(texts, ours(folder, texts, *options), bare, strict=True):
        assert a == b, repr(text)
    if bare_only:
        return
    full = theirs(texts, padding="max_length", max_length=77, truncation=True).input_ids
    for text, a, b in zip(texts, ours(folder, texts, *options, "--length", "77"), full, strict=True):
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


def by_each(folder, texts, *options):
    """The ids of the texts by the folder's tokenizer, then by each --derive."""
    lines = ours(folder, texts, *options)
    count = 1 + options.count("--derive")
    assert len(lines) == count * len(texts)
    return [lines[i::count] for i in range(count)]


def test_derived_tokenizers_are_as_if_loaded_anew(folder):
    """Two of one word, others of the same letters; the base knows none of their words, they know its own, and only those it had before."""
    texts = TEXTS + ["zzq sks ZZQ", "<toy>s toy>", "sks2 late"]
    base, *derived = by_each(folder, texts, "--add", "zzq", *[o for w in ("sks", "sks", "sks2", "<toy>") for o in ("--derive", w)], "--add", "late")
    assert base == ours(folder, texts, "--add", "zzq", "--add", "late")
    assert derived == [ours(folder, texts, "--add", "zzq", "--add", w) for w in ("sks", "sks", "sks2", "<toy>")]
    assert len({str(ids) for ids in [base, *derived]}) == 4


def test_a_derived_tokenizer_has_the_folders_own_added_words(toybox):
    """Special tokens, raw and normalized, and a word of several vectors that the folder brings."""
    (toybox / "added_tokens.json").write_text(json.dumps({"<x>": NEXT, "<x>_1": NEXT + 1, "<Y>": NEXT + 2}))
    (toybox / "special_tokens_map.json").write_text(json.dumps(dict(pad_token="<Y>", bos_token=token(START, normalized=False))))
    for length in ((), ("--length", "77")):
        base, derived = by_each(toybox, SPOKEN, "--derive", "sks", *length)
        assert base == ours(toybox, SPOKEN, *length) and derived == ours(toybox, SPOKEN, "--add", "sks", *length)


def test_a_derived_tokenizer_refuses_what_its_base_has(folder):
    for words, said in ((["--derive", "a"], '"a" is already a token of this model;'),
                        (["--add", "zzq", "--derive", "zzq"], '"zzq" is already a learned word;'),
                        (["--add", "Zzq", "--derive", "zZq"], '"zZq" is read like "Zzq", which is there already;')):
        done = run(program("tests/tokenize"), folder, *words, stdin="", check=False)
        assert done.returncode == 2 and said in done.stderr


def test_random_texts(folder):
    compare(folder, random_texts(3000, 1))
    compare(folder, random_texts(2000, 2), ["sks", "sks_1"])


def test_tokenizer_json_alone(folder, tmp_path):
    """As transformers 5 saves it: without vocab.json and merges.txt."""
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
        assert run(program("tests/tokenize"), folder, "--add", word, stdin="", check=False).returncode == 2


def test_a_refused_word_is_called_what_it_is(folder):
    for words, said in ((["a"], '"a" is already a token of this model;'), (["zzq", "zzq"], '"zzq" is already a learned word;'),
                        (["Zzq", "zZq"], '"zZq" is read like "Zzq", which is there already;')):
        done = run(program("tests/tokenize"), folder, *[o for word in words for o in ("--add", word)], stdin="", check=False)
        assert done.returncode == 2 and said in done.stderr


def test_a_text_that_is_no_utf8_is_refused():
    done = subprocess.run([program("tests/tokenize"), str(TOYBOX / "model" / "tokenizer")], capture_output=True, input=b'"\xff\xfe"\n')
    assert done.returncode == 2 and b"UTF-8" in done.stderr


def test_every_character():
    """Letter, number or neither; its lower case; where NFC moves it. Of large uniform blocks only the ends. Parts of transformers
    follow several versions of Unicode, and only one of them is utf8proc's. Of rare characters an eighth a day."""
    uniform = [(0x4e10, 0x9ff0), (0xac10, 0xd790), (0xd800, 0xdfff), (0xe010, 0xf8f0), (0x17010, 0x187f0), (0x20010, 0x2a6c0)]
    rare = [c for c in [*range(0x3100, 0x32400), *range(0xe0000, 0xe0200)] if not any(a <= c <= b for a, b in uniform)]
    characters = map(chr, [*range(1, 0x3100), *slice_of(rare, 8)])
    compare(TOYBOX / "model" / "tokenizer", [t for c in characters for t in (f"a{c}{c}b", f"e{c}\u0334", f"e\u0301{c}")], bare_only=True)


def token(text, **more):
    return dict(content=text, lstrip=False, rstrip=False, single_word=False, normalized=True) | more


def marked(text, **more):
    return dict(__type="AddedToken") | token(text, **more)


NEXT = 1571  # toybox's tokenizer has 1571 tokens, end the last
SETTINGS = {
    "nothing": {},
    "texts": dict(config=dict(bos_token=START, eos_token=END, unk_token=END, pad_token=END)),
    "objects": dict(config=dict(bos_token=marked(START), eos_token=marked(END), unk_token=marked(END), pad_token=marked(END))),
    "objects and a text": dict(config=dict(bos_token=marked(START), eos_token=marked(END), unk_token=marked(END), pad_token=END)),
    "raw": dict(config=dict(bos_token=marked(START, normalized=False), pad_token=marked(END, normalized=False))),
    "map": dict(map=dict(bos_token=token(START), eos_token=token(END), unk_token=token(END), pad_token="!")),
    "map over config": dict(config=dict(pad_token=END), map=dict(pad_token="!")),
    "decoder over map": dict(config=dict(pad_token="!", added_tokens_decoder={"0": token("!", normalized=False, special=True)}), map=dict(pad_token=END)),
    "decoder": dict(config=dict(added_tokens_decoder={str(NEXT): token("<x>", special=False), str(NEXT - 1): token(END, special=True)})),
    "decoder with gaps": dict(config=dict(added_tokens_decoder={"1600": token("<x>", special=False), "1580": token("<Y>", normalized=False)})),
    "added words": dict(words={"<x>": NEXT, "<pad>": NEXT + 1, "<Y>": NEXT + 2}, map=dict(pad_token="<pad>", additional_special_tokens=["<Y>"])),
    "more special tokens": dict(config=dict(extra_special_tokens=["!", END])),
    "other special tokens": dict(config=dict(mask_token="!", cls_token="a</w>", unk_token="!")),
    "start and end swapped": dict(config=dict(bos_token=END, eos_token=START)),
}
SPOKEN = TEXTS + ["a <x> b", "<X>foo <y>", "<Y><x>", "! !!", "foo<pad>", "sks <X> SKS", "a</w>"]


@pytest.fixture
def toybox(tmp_path):
    """Toybox's vocabulary, without any information on special tokens."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TOYBOX / "model" / "tokenizer" / name, folder / name)
    return folder


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_special_tokens(toybox, case):
    names = dict(config="tokenizer_config.json", map="special_tokens_map.json", words="added_tokens.json")
    for which, content in SETTINGS[case].items():
        (toybox / names[which]).write_text(json.dumps(content))
    compare(toybox, SPOKEN)
    compare(toybox, SPOKEN, ["sks"])


def test_tokenizer_json_comes_first(toybox, tmp_path):
    """A folder with files of both generations, and words added before it was saved: its vocab.json is from another tokenizer."""
    saved = CLIPTokenizer.from_pretrained(toybox)
    saved.add_tokens(["<x>", "Zzq"])
    saved.save_pretrained(tmp_path / "new")
    vocabulary = json.loads((toybox / "vocab.json").read_text())
    (tmp_path / "new" / "vocab.json").write_text(json.dumps({k: len(vocabulary) - 1 - i for k, i in vocabulary.items()}))
    shutil.copy(toybox / "merges.txt", tmp_path / "new")
    compare(tmp_path / "new", SPOKEN + ["zzq ZZQ's"], ["sks"])


def vocabulary_with(**changes):
    def damage(folder):
        content = json.loads((folder / "vocab.json").read_text()) | changes
        (folder / "vocab.json").write_text(json.dumps({k: v for k, v in content.items() if v != "gone"}))
    return damage


def file_with(name, content):
    def damage(folder):
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return damage


SMALL = dict(type="BPE", vocab={"a": 0, "a</w>": 1, START: 2, END: 3}, merges=[])


def model_with(**changes):
    return file_with("tokenizer.json", dict(model=SMALL | changes))


BROKEN = {
    "no vocabulary": (lambda folder: (folder / "vocab.json").unlink(), "neither vocab.json with merges.txt nor tokenizer.json"),
    "no merges": (lambda folder: (folder / "merges.txt").unlink(), "merges.txt"),
    "not JSON": (file_with("vocab.json", "{"), "vocab.json: line 1, column 2: is not valid JSON"),
    "more than JSON": (file_with("vocab.json", "{}\n{}"), "vocab.json: line 2, column 1: is not valid JSON"),
    "zero byte in a piece": (file_with("vocab.json", '{"a\\u0000b": 0}'), "vocab.json: line 1, column 4: is a zero byte"),
    "zero byte in a file": (file_with("tokenizer.json", json.dumps(dict(model=SMALL)) + "\0"), "is a zero byte"),
    "no pieces": (file_with("vocab.json", "{}"), "vocab.json: the file: expected an object of pieces"),
    "id as text": (vocabulary_with(a="1"), 'vocab.json: "a": expected an id'),
    "half an id": (vocabulary_with(a=1.5), 'vocab.json: "a": expected an id'),
    "negative id": (vocabulary_with(a=-1), 'vocab.json: "a": expected an id'),
    "huge id": (vocabulary_with(a=1e15), 'vocab.json: "a": expected an id'),
    "two pieces with one id": (vocabulary_with(a=1), "vocab.json: "),
    "piece listed twice": (file_with("vocab.json", '{"a": 0, "a": 1}'), 'vocab.json: "a" is given twice'),
    "no end": (vocabulary_with(**{END: "gone"}), f'eos_token: "{END}" is not in the vocabulary'),
    "merge of unknown pieces": (file_with("merges.txt", "#version: 0.2\nqqq www\n"), 'merges.txt: merge 1: "qqq" is not in the vocabulary'),
    "merge of one": (file_with("merges.txt", "a\n"), 'merges.txt: merge 1: "a": expected two pieces'),
    "merge of three": (file_with("merges.txt", "a b c\n"), "merges.txt: merge 1"),
    "zero byte": (file_with("merges.txt", "a\0b\n"), "merges.txt: holds a zero byte"),
    "another model": (model_with(type="WordPiece"), 'tokenizer.json: model.type: "WordPiece" is not supported'),
    "no pieces in the model": (model_with(vocab=[]), "tokenizer.json: model.vocab: expected an object"),
    "no list of merges": (model_with(merges={}), "tokenizer.json: model.merges: expected a list"),
    "merge as number": (model_with(merges=[7]), "tokenizer.json: model.merges: merge 1"),
    "added tokens as object": (file_with("tokenizer.json", dict(model=SMALL, added_tokens={})), "tokenizer.json: added_tokens: expected a list"),
    "no room for an end": (file_with("tokenizer_config.json", dict(model_max_length=1)), "model_max_length: expected an integer from 2 on"),
    "length as text": (file_with("tokenizer_config.json", dict(model_max_length="77")), "model_max_length: expected an integer from 2 on"),
    "decoder as list": (file_with("tokenizer_config.json", dict(added_tokens_decoder=[])), "tokenizer_config.json: added_tokens_decoder"),
    "decoder without an id": (file_with("tokenizer_config.json", dict(added_tokens_decoder={"x": token("<x>")})),
                              'tokenizer_config.json: added_tokens_decoder: "x": expected an id'),
    "decoder without content": (file_with("tokenizer_config.json", dict(added_tokens_decoder={"9": {}})), "tokenizer_config.json: added_tokens_decoder"),
    "word that strips": (file_with("tokenizer_config.json", dict(added_tokens_decoder={"9": token("<x>", lstrip=True)})), "lstrip is not supported"),
    "padding as number": (file_with("special_tokens_map.json", dict(pad_token=3)), "special_tokens_map.json: pad_token: expected a token"),
    "unknown padding": (file_with("tokenizer_config.json", dict(pad_token="[PAD]")), 'pad_token: "[PAD]" is not in the vocabulary'),
    "added word without id": (file_with("added_tokens.json", {"<x>": None}), 'added_tokens.json: added tokens: "<x>": expected an id'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_makes_no_sense(toybox, case):
    damage, said = BROKEN[case]
    damage(toybox)
    done = run(program("tests/tokenize"), toybox, stdin='"a"\n', check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert str(toybox) in done.stderr and said in done.stderr


def test_merges_as_other_systems_write_them(toybox):
    """Blank lines at the end, and lines ending in CR LF."""
    before = ours(toybox, TEXTS)
    text = (toybox / "merges.txt").read_bytes()
    (toybox / "merges.txt").write_bytes(text.replace(b"\n", b"\r\n") + b"\r\n\n")
    assert ours(toybox, TEXTS) == before
