"""AUTOMATIC1111's prompts, for tests to compare with: its published functions (modules/prompt_parser.py, sd_hijack_clip.py,
sd_emphasis.py, infotext_utils.py of 1.10), written down again for transformers' tokenizer and text encoder."""
import json
import re

ATTENTION = re.compile(r"""\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|]|[^\\()\[\]:]+|:""", re.X)
BREAK = re.compile(r"\s*\bBREAK\b\s*", re.S)
COMMA_REACH = 20


def attention(text):
    """[text, weight] pairs; a BREAK weighs -1."""
    parts, round_brackets, square_brackets = [], [], []

    def multiply(start, factor):
        for part in parts[start:]:
            part[1] *= factor
    for match in ATTENTION.finditer(text):
        piece, weight = match.group(0), match.group(1)
        if piece.startswith("\\"):
            parts.append([piece[1:], 1.0])
        elif piece == "(":
            round_brackets.append(len(parts))
        elif piece == "[":
            square_brackets.append(len(parts))
        elif weight is not None and round_brackets:
            multiply(round_brackets.pop(), float(weight))
        elif piece == ")" and round_brackets:
            multiply(round_brackets.pop(), 1.1)
        elif piece == "]" and square_brackets:
            multiply(square_brackets.pop(), 1 / 1.1)
        else:
            for i, part in enumerate(re.split(BREAK, piece)):
                if i > 0:
                    parts.append(["BREAK", -1])
                parts.append([part, 1.0])
    for start in round_brackets:
        multiply(start, 1.1)
    for start in square_brackets:
        multiply(start, 1 / 1.1)
    merged = []
    for text, weight in parts or [["", 1.0]]:
        if merged and merged[-1][1] == weight:
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return merged


def chunks(text, tokenizer, words={}, size=75):
    """[(ids, weights)] of all chunks of a prompt. words: a learned word's name -> its ids, in the place of its first."""
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    comma = tokenizer.get_vocab().get(",</w>")
    done, ids, weights, last_comma = [], [], [], -1

    def close():
        nonlocal ids, weights, last_comma
        left = size - len(ids)
        done.append(([start] + ids + [end] + [pad] * left, [1.0] + weights + [1.0] * (left + 1)))
        ids, weights, last_comma = [], [], -1
    several = {ids[0]: ids for ids in words.values()}
    for part, weight in attention(text):
        if part == "BREAK" and weight == -1:
            close()
            continue
        for token in tokenizer(part, add_special_tokens=False)["input_ids"]:
            if token == comma:
                last_comma = len(ids)
            elif len(ids) == size and last_comma != -1 and len(ids) - last_comma <= COMMA_REACH:
                at = last_comma + 1
                moved = ids[at:], weights[at:]
                ids, weights = ids[:at], weights[:at]
                close()
                ids, weights = moved
            if len(ids) == size:
                close()
            vectors = several.get(token, [token])
            if len(ids) + len(vectors) > size:
                close()
            ids = ids + vectors
            weights = weights + [weight] * len(vectors)
    if ids or not done:
        close()
    return done


def both_chunks(negative, prompt, tokenizer, words={}, size=75):
    """The chunks of both prompts, the shorter one's filled up with empty ones."""
    two = [chunks(text, tokenizer, words, size) for text in (negative, prompt)]
    count = max(map(len, two))
    return [one + chunks("", tokenizer, {}, size) * (count - len(one)) for one in two]


def embeds(done, text_encoder):
    """What the UNet attends to: chunks encoded one by one and joined along the tokens, [1, ids, width]."""
    import torch
    joined = []
    for ids, weights in done:
        z = text_encoder(torch.tensor([ids]))[0]
        mean = z.mean()
        z = z * torch.tensor(weights)[None, :, None]
        joined.append(z * (mean / z.mean()))
    return torch.cat(joined, dim=1)


PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def parameters(text):
    """The text of a picture -> its settings, with "Prompt" and "Negative prompt"."""
    found, prompt, negative, below = {}, "", "", False
    *lines, last = text.strip().split("\n")
    if len(PARAMETER.findall(last)) < 3:
        lines.append(last)
        last = ""
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            below, line = True, line[16:].strip()
        if below:
            negative += ("" if negative == "" else "\n") + line
        else:
            prompt += ("" if prompt == "" else "\n") + line
    for key, value in PARAMETER.findall(last):
        found[key] = json.loads(value) if value[:1] == '"' == value[-1:] else value
    return found | {"Prompt": prompt, "Negative prompt": negative}
