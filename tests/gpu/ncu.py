"""Where a training step's time goes on the GPU: the times of kernels as ncu reports them, summed by kernel and grid.

ncu runs every launch once, in the order of the program, and writes a line of CSV for each metric of each launch.
"""
import csv
import re
from collections import defaultdict, namedtuple

TIME, GRID = "gpu__time_duration.sum", "launch__grid_size"
TENSOR = "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active"
NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9, "nsecond": 1, "usecond": 1e3, "msecond": 1e6, "second": 1e9}
LAST_OF_A_STEP = "update_kernel"

Launch = namedtuple("Launch", "kernel grid us tensor")
Kernel = namedtuple("Kernel", "kernel grid times us tensor")  # us: of all launches; tensor: their mean, in percent


def command(program, log, metrics):
    """Clocks and caches are left as they are in a run without a profiler, and the kernels of a graph are told apart."""
    return ["ncu", "--csv", "--log-file", log, "--metrics", ",".join(metrics), "--graph-profiling", "node", "--clock-control", "none",
            "--cache-control", "none", *program]


def short(name):
    """product_kernel<0, 1, 64, 64, 1> of "void <unnamed>::product_kernel<(operand)0, (tile_kind)1, (int)64, (int)64, (bool)1>(product_args)"."""
    name = re.sub(r"^void |\(anonymous namespace\)::|<unnamed>::", "", name)
    return re.sub(r"\(\w+\)(?=-?\d)|\([^()]*\)$", "", name)


def read_launches(lines):
    """Launches in their order. Lines that are not CSV are what the program and ncu said in between."""
    found = {}
    for row in csv.DictReader(line for line in lines if line.startswith('"')):
        launch = found.setdefault(int(row["ID"]), dict(kernel=short(row["Kernel Name"])))
        try:
            value = float(row["Metric Value"].replace(",", ""))
        except ValueError:  # n/a
            value = 0.0
        launch[row["Metric Name"]] = value * NANOSECONDS.get(row["Metric Unit"], 1) if row["Metric Name"] == TIME else value
    return [Launch(f["kernel"], int(f.get(GRID, 0)), f.get(TIME, 0) / 1e3, f.get(TENSOR, 0.0)) for _, f in sorted(found.items())]


def last_step(launches):
    """The launches of the last step; none where there are not two, whose ends tell what lies between them."""
    ends = [i + 1 for i, launch in enumerate(launches) if launch.kernel == LAST_OF_A_STEP]
    return launches[ends[-2]:ends[-1]] if len(ends) > 1 else []


def summed(launches):
    """Kernels by their time, the longest first."""
    groups = defaultdict(list)
    for launch in launches:
        groups[launch.kernel, launch.grid].append(launch)
    kernels = [Kernel(*key, len(group), sum(x.us for x in group), sum(x.tensor for x in group) / len(group)) for key, group in groups.items()]
    return sorted(kernels, key=lambda k: -k.us)


def by_function(kernels):
    """name without template arguments -> (launches, us of all)."""
    functions = defaultdict(lambda: (0, 0.0))
    for k in kernels:
        times, us = functions[name := k.kernel.split("<")[0]]
        functions[name] = times + k.times, us + k.us
    return dict(functions)


def write(path, kernels):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([Kernel._fields, *((k.kernel, k.grid, k.times, f"{k.us:.1f}", f"{k.tensor:.1f}") for k in kernels)])


def read(path):
    with open(path, newline="") as file:
        return [Kernel(k["kernel"], int(k["grid"]), int(k["times"]), float(k["us"]), float(k["tensor"])) for k in csv.DictReader(file)]


HEAD = ["kernel", "grid", "times", "us each", "us in all", "share", "tensor pipe"]


def rows(kernels, most=12):
    """The longest, and the rest in one row."""
    total = sum(k.us for k in kernels)
    lines = [[f"`{k.kernel}`", f"{k.grid:,}", k.times, f"{k.us / k.times:.0f}", f"{k.us:,.0f}", f"{100 * k.us / total:.1f} %", f"{k.tensor:.0f} %"]
             for k in kernels[:most]]
    rest = kernels[most:]
    if rest:
        us = sum(k.us for k in rest)
        lines.append([f"{len(rest)} more", "", sum(k.times for k in rest), "", f"{us:,.0f}", f"{100 * us / total:.1f} %", ""])
    return lines
