#!/usr/bin/env python3
"""rooms.py [TREE]: the product's rooms, their lines and share, how often each includes which, and their largest files;
and the rules for them, which tests/test_house.py checks."""
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES, ROOM_SHARE = 500, 0.15  # the most lines of a file; the largest share of a room in all lines

# What a room may include besides itself, from the top down.
USES = {
    "main.c": ["commands", "cluster", "device", "base"],
    "commands": ["queue", "pipeline", "zo", "report", "model", "text", "files", "cluster", "device", "base"],
    "queue": ["pipeline", "zo", "report", "model", "text", "files", "cluster", "device", "base"],
    "pipeline": ["zo", "report", "model", "text", "files", "cluster", "device", "base"],
    "zo": ["report", "model", "text", "files", "cluster", "device", "base"],
    "report": ["files", "base"],
    "model": ["text", "files", "device", "base"],
    "text": ["files", "base"],
    "files": ["base"],
    "cluster": ["base"],
    "kernels": ["device", "base"],
    "device/cpu": ["device", "base"],
    "device": ["base"],
    "base": [],
}


def room_of(path):
    """The room of a file or of an #include: its folder, named from src/."""
    return re.match(r"(?:src/)?(device/cpu(?=/)|[^/]+)", path).group(1)


def product(tree=ROOT):
    """The product's files and their texts."""
    found = [p for p in [*tree.glob("src/**/*"), *tree.glob("kernels/*")] if p.suffix in (".c", ".h", ".cu")]
    return {str(p.relative_to(tree)): p.read_text() for p in sorted(found)}


def includes(text):
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.M)


def lines_of(files):
    return sum((Counter({room_of(path): text.count("\n")}) for path, text in files.items()), Counter())


if __name__ == "__main__":
    FILES = product(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    LINES = lines_of(FILES)
    ARROWS = Counter((room_of(path), room_of(used)) for path, text in FILES.items() for used in includes(text))
    SHOWN = sorted(LINES, key=[*USES, *LINES].index)
    print(f"{'':11}{'lines':>6}{'share':>7}" + "".join(f"{room:>11}" for room in SHOWN[1:]) + "  largest file")
    for row in SHOWN:
        length, largest = max((FILES[p].count("\n"), p) for p in FILES if room_of(p) == row)
        counts = "".join(f"{ARROWS[row, to] or '':>11}" if to != row else f"{'.':>11}" for to in SHOWN[1:])
        print(f"{row:11}{LINES[row]:6}{LINES[row] / LINES.total():7.1%}{counts}  {largest} {length}")
    print(f"{'all':11}{LINES.total():6}")
