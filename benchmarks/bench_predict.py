"""`make bench-predict`: pictures a second, processor and memory of both engines of `predict`, at growing numbers.

28×28 PNG files in a folder, answered by a process of its own for each engine and number; the two outputs are compared
byte by byte.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks import save, takes_out
from benchmarks.inputs import encoded, some_digits

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """import sys
from pathlib import Path
from pipelines import chosen, inputs, predict
if __name__ == "__main__":
    folder, output, model, engine = sys.argv[1:]
    predict.predict(inputs.find(folder), chosen.find(model), Path(output), engine)"""


@dataclass(frozen=True)
class Measured:
    """Seconds from the start of the process to its end; memory is the highest sum of proportional set sizes, in MiB."""

    engine: str
    pictures: int
    seconds: float
    pictures_per_second: float
    cpu_ms_per_picture: float
    memory: float
    processes: int


def measure(engine: str, folder: Path, count: int, model: Path, output: Path) -> Measured:
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), str(output), str(model), engine]
    begun = time.perf_counter()
    process = psutil.Popen(words, cwd=output.parent, env=os.environ | {"PYTHONPATH": str(ROOT)})
    used: dict[int, float] = {}
    memory, most = 0.0, 0
    while process.poll() is None:
        now, alive = 0.0, 0
        for each in family(process):
            try:
                times = each.cpu_times()
                now += each.memory_full_info().pss
            except psutil.Error:  # it has just ended
                continue
            used[each.pid] = times.user + times.system
            alive += 1
        memory, most = max(memory, now), max(most, alive)
        time.sleep(0.25)
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{engine} ended with {process.returncode}")
    return Measured(engine, count, seconds, count / seconds, 1_000 * sum(used.values()) / count, memory / 2**20, most)


def family(process: psutil.Popen) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def fill(folder: Path, count: int) -> None:
    """Digits that come with scikit-learn, over and over."""
    pictures = [encoded(image, "PNG") for image in some_digits(1_000)]
    for number in range(count):
        place = folder / f"{number // 1_000:03}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}.png").write_bytes(pictures[number % len(pictures)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a model.onnx of ours")
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    takes_out(parser)
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="digits-bench-") as name:
        for count in arguments.counts:
            folder = Path(name) / str(count)
            fill(folder, count)
            outputs = [Path(name) / f"{engine}-{count}.csv" for engine in ("local", "ray")]
            for engine, output in zip(("local", "ray"), outputs, strict=True):
                results.append(measure(engine, folder, count, arguments.model.resolve(), output))
                print(results[-1], flush=True)
            if outputs[0].read_bytes() != outputs[1].read_bytes():
                raise SystemExit(f"the engines' answers for {count} pictures differ")
    facts = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "same answers": True}
    save(arguments.out, "predict", {**facts, "results": [asdict(one) for one in results]})


if __name__ == "__main__":
    main()
