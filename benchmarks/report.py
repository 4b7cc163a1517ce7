"""What the benchmark found, for people: the results in, JSON, a Markdown table and a picture out."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks import save

HEAD = "| | requests/s, 1 | 32 | 128 connections | p50 / p99 at 32, ms | errors | CPU, ms | MB | ready, s | wrong |"
HARDEST = "FastAPI, same int8 model, 2 workers"
RULE = "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"


def write(results: dict[str, Any], out: Path) -> str:
    """Saves serving.json, serving.md and serving.png; gives the Markdown."""
    save(out, "serving", results)
    text = markdown(results)
    (out / "serving.md").write_text(text)
    plot(results, out / "serving.png")
    return text


def markdown(results: dict[str, Any]) -> str:
    machine, found = results["machine"], results["results"]
    lines = [
        "# Serving: measured beside its peers",
        "",
        f"`make bench` on {machine['date']}: {machine['cores']} × {machine['cpu']}, {machine['memory_gib']} GiB,"
        f" Python {machine['python']}; load from {machine['generator']}; the median of {results['rounds']}"
        f" interleaved rounds of {results['seconds']:g} s, after a warm-up. One set of weights ({results['weights']},"
        f" in {results['form']} form for all), the same pictures in turn and one reading of them for all; a load of"
        f" {machine['load_before']:.1f} before it began. CPU is the processor time of a request;"
        " “wrong” counts digits that differ from those of the full-precision model, among the ones that it is sure of.",
        "",
        "![Requests a second, and latency](serving.png)",
        "",
        "## One 28×28 PNG a request",
        "",
        HEAD,
        RULE,
        *(png_row(name, result) for name, result in found.items()),
        "",
        *round_by_round(found),
        *open_loop(found),
        "## One 640×480 JPEG photograph a request, 32 connections",
        "",
        "| | requests/s | p50, ms | p99, ms | errors | CPU a request, ms |",
        "|---|---:|---:|---:|---:|---:|",
        *(row(name, result["photo"][0]) for name, result in found.items() if "photo" in result),
        "",
        "## 64 PNG a request, 4 connections",
        "",
        "| | pictures/s | p50, ms | p99, ms | errors | CPU a picture, ms |",
        "|---|---:|---:|---:|---:|---:|",
        *(row(name, result["batch"][0]) for name, result in found.items() if "batch" in result),
        "",
        *ceilings(results),
        "## Versions",
        "",
        ", ".join(f"{name} {number}" for name, number in machine["versions"].items()) + ".",
        "",
    ]
    if results["failed"]:
        lines += ["## Left out", "", *(f"- {name}: {why}" for name, why in results["failed"].items()), ""]
    return "\n".join(lines)


def png_row(name: str, result: dict[str, Any]) -> str:
    by_count = {int(m["connections"]): m for m in result["png"]}
    rates = [spread(by_count[count]) if count in by_count else "" for count in (1, 32, 128)]
    middle = by_count.get(32, result["png"][-1])
    cells = [
        name,
        *rates,
        f"{middle['p50']:.1f} / {middle['p99']:.1f}",
        str(int(sum(m["errors"] for m in result["png"]))),
        f"{middle['cpu_ms']:.2f}",
        f"{result['memory']:.0f}",
        f"{result['ready_seconds']:.1f}",
        str(int(result["wrong"])),
    ]
    return "| " + " | ".join(cells) + " |"


def row(name: str, m: dict[str, Any]) -> str:
    cells = [name, spread(m), f"{m['p50']:.1f}", f"{m['p99']:.1f}", str(int(m["errors"])), f"{m['cpu_ms']:.2f}"]
    return "| " + " | ".join(cells) + " |"


def round_by_round(found: dict[str, Any]) -> list[str]:
    """How many times the requests of the hardest peer; within a round, as the machine's speed changes between them."""
    if not {"this service", HARDEST} <= found.keys():
        return []
    ratios = []
    for ours, its in zip(found["this service"]["png"], found[HARDEST]["png"], strict=True):
        each = [mine / other for mine, other in zip(ours["rates"], its["rates"], strict=True) if other]
        if each:
            ratio = f"{statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})"
            ratios.append(f"with {int(ours['connections'])} at once {ratio}")
    return [f"This service beside {HARDEST}, round by round: {', '.join(ratios)} times as many.", ""]


def open_loop(found: dict[str, Any]) -> list[str]:
    """One PNG a request at constant rates: p50 and p99 from when each was due, and the share not answered with 200."""
    rates = sorted({m["offered"] for result in found.values() for m in result.get("open", [])})
    if not rates:
        return []
    lines = [
        "## One 28×28 PNG a request at a constant rate",
        "",
        "Open loop: each request is due at its time whatever the server does, and its latency runs from that moment."
        " p50 / p99 in ms; in brackets the share that was refused, failed or still unanswered two seconds after the"
        " last one was due (their waiting time counts).",
        "",
        "| offered, requests/s | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |",
        "|---|" + "---:|" * len(rates),
    ]
    for name, result in found.items():
        cells = []
        for m in result["open"]:
            share = m["errors"] / (len(m["rates"]) * m["requests"])
            cells.append(f"{m['p50']:,.1f} / {m['p99']:,.1f}" + (f" ({share:.0%})" if m["errors"] else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def spread(m: dict[str, Any]) -> str:
    """The median rate, with the lowest and the highest."""
    if len(m["rates"]) == 1:
        return f"{m['rate']:,.0f}"
    return f"{m['rate']:,.0f} ({min(m['rates']):,.0f}–{max(m['rates']):,.0f})"


def ceilings(results: dict[str, Any]) -> list[str]:
    """What the HTTP stack and the model would allow together: cores ÷ (processor time of one + of the other)."""
    found, alone = results["results"], results["model_alone_cpu_ms"]
    null = next((result for name, result in found.items() if name.startswith("ceiling")), None)
    ours = found.get("this service")
    text = ", ".join(f"{size}: {cost:.3f}" for size, cost in alone.items())
    lines = ["## Ceilings", "", f"The int8 model alone, ms of processor for a picture by batch size: {text}.", ""]
    if null and ours:
        http = next((m for m in null["png"] if m["connections"] == 32), null["png"][-1])
        best = next((m for m in ours["png"] if m["connections"] == 32), ours["png"][-1])
        together = results["machine"]["cores"] * 1000 / (http["cpu_ms"] + min(alone.values()))
        lines += [
            f"The service with a model that does nothing: {http['cpu_ms']:.3f} ms of processor a request, imaging"
            f" included, {http['rate']:,.0f} requests/s at 32 connections. With both costs,"
            f" {results['machine']['cores']} cores that did nothing else would allow {together:,.0f}; the service"
            f" reaches {best['rate'] / together:.0%} of it beside the load generator.",
            "",
        ]
    return lines


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(results["results"])[::-1]
    rates = [next((m["rate"] for m in results["results"][n]["png"] if m["connections"] == 32), 0.0) for n in names]
    offered = {name: result["open"] for name, result in results["results"].items() if result.get("open")}
    heights = [len(names) + 2, *([9] if offered else [])]
    figure, panels = pyplot.subplots(
        len(heights), figsize=(9, 0.42 * sum(heights) + 0.6), height_ratios=heights, squeeze=False
    )
    axes = panels[0, 0]
    colours = [
        "#1f6f8b" if n.startswith("this service") else "#bbbbbb" if n.startswith("ceil") else "#c98a5a" for n in names
    ]
    axes.barh(names, rates, color=colours)
    for index, rate in enumerate(rates):
        axes.text(rate, index, f" {rate:,.0f}", va="center", fontsize=8)
    axes.set_xlabel("28×28 PNG requests a second, 32 connections (more is better)")
    axes.spines[["top", "right"]].set_visible(False)
    if offered:
        _p99_against_load(panels[1, 0], offered)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _p99_against_load(lines: Any, offered: dict[str, list[dict[str, Any]]]) -> None:
    for name, points in offered.items():
        ours = {"linewidth": 2.5, "linestyle": "-"} if name.startswith("this service") else {"linestyle": "--"}
        lines.plot([m["offered"] for m in points], [m["p99"] for m in points], marker="o", label=name, **ours)
    lines.set(
        xscale="log", yscale="log", xlabel="offered, 28×28 PNG requests a second", ylabel="p99, ms (less is better)"
    )
    lines.spines[["top", "right"]].set_visible(False)
    lines.legend(fontsize=7, bbox_to_anchor=(1, 1), loc="upper left")
