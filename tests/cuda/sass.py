"""What a warp executes, read from cuobjdump's disassembly of a kernel: how many instructions, and how many of them in the
innermost loop around the matrix products, where nearly all of a product's or attention's time goes."""
import re
from collections import Counter
from dataclasses import dataclass

MATRIX = ("HMMA", "IMMA")
LOADS = ("LDSM", "LDGSTS", "LDS", "LDG", "BAR")
BYTES = 16  # of an instruction, since sm_70


@dataclass
class Code:
    instructions: int  # of the whole kernel
    loop: int          # of a usual round of the loop: without what is jumped over in most rounds; 0: no matrix products
    matrix: int        # matrix products among these
    behind: int        # instructions behind the loop
    counts: Counter    # by name, of the whole kernel

    @property
    def kib(self):
        return self.instructions * BYTES / 1024


def name_of(instruction):
    return re.sub(r"^@!?U?P\w+\s+", "", instruction.strip()).split()[0].split(".")[0]


def target_of(instruction):
    """The address that a branch goes to."""
    found = re.search(r"\bBRA\b.*?0x([0-9a-f]+)\s*$", instruction.strip())
    return int(found[1], 16) if found else None


def find_loop(names, jumps):
    """First and last instruction of the loop with the most matrix products, or None. One in whose every round warps wait for each
    other, if there are such: not a loop around these, and none within."""
    loops = [(to, at) for at, to in jumps if to <= at and set(names[to:at + 1]) & set(MATRIX)]
    rounds = [loop for loop in loops if "BAR" in names[loop[0]:loop[1] + 1]] or loops
    inner = [(to, at) for to, at in rounds if not any((to, at) != (b, e) and to <= b and e <= at for b, e in rounds)]
    return max(inner, key=lambda loop: sum(n in MATRIX for n in names[loop[0]:loop[1] + 1]), default=None)


def seldom(names, jumps, first, last):
    """Instructions of a loop that a jump forward skips and that neither multiply nor load nor wait: addresses of the next tap."""
    skipped = set()
    for at, to in jumps:
        if first <= at < to <= last and not set(names[at + 1:to]) & {*MATRIX, *LOADS}:
            skipped.update(range(at + 1, to))
    return skipped


def code_of(body):
    """Code of the disassembly of one function."""
    lines = [(int(a, 16), text) for a, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+([^;]+);", body)]
    names, place = [name_of(text) for _, text in lines], {a: i for i, (a, _) in enumerate(lines)}
    jumps = [(i, place[to]) for i, (_, text) in enumerate(lines) if (to := target_of(text)) in place]
    loop = find_loop(names, jumps)
    if not loop:
        return Code(len(names), 0, 0, 0, Counter(names))
    first, last = loop
    usual = last + 1 - first - len(seldom(names, jumps, first, last))
    return Code(len(names), usual, sum(n in MATRIX for n in names[first:last + 1]), len(names) - 1 - last, Counter(names))


def functions(text):
    """mangled name -> Code, of the output of cuobjdump -sass."""
    parts = re.split(r"^\s*Function : (\S+)$", text, flags=re.M)
    return {name: code_of(body) for name, body in zip(parts[1::2], parts[2::2])}
