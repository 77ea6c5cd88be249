"""Pools in other people's forms, broken lines, holding out, and a review that can be undone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aloe_agents.errors import ConfigError
from aloe_agents.pools.items import Item, folder_of, read_items, read_pool, write_items
from aloe_agents.pools.review import Review, reviewed
from aloe_agents.pools.similarity import Vectors, centred
from aloe_agents.pools.split import held_out

ITEMS = [Item(text=f"She keeps {what}.", id=f"{n:05d}", source="seed") for n, what in enumerate(("bees", "cats"), 1)]


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("a.csv", 'id,profile\n1,"one, two"\n2,three\n', None),
        ("a.csv", '\ufeffpersona,other\r\n"one, two",x\r\nthree,y\r\n', None),
        ("a.tsv", "text\tn\none, two\t1\nthree\t2\n", None),
        ("a.csv", 'a,b\nx,"one, two"\ny,three\n', "b"),
        ("a.json", '["one, two", "three"]', None),
        ("a.json", '[{"persona": "one, two"}, {"persona": "three"}]', None),
        ("a.json", '"one, two"\n"three"\n', None),
        (
            "a.jsonl",
            '{"input persona": "one, two", "synthesized text": "x"}\n{"input persona": "three"}\n',
            "input persona",
        ),
        ("a.jsonl", '{"profile": "one, two", "personality": "x"}\n{"profile": "three"}\n', "profile"),
        ("a.txt", "one, two\n\nthree\n", None),
        ("a.TSV", "text\tn\none, two\t1\nthree\t2\n", None),
    ],
)
def test_whatever_holds_texts_is_read(tmp_path: Path, name: str, text: str, field: str | None) -> None:
    assert read_pool(written(tmp_path / name, text), field=field) == (["one, two", "three"], [])


def test_parquet_is_read_or_says_what_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        file.write_bytes(b"PAR1")
        with pytest.raises(ConfigError, match=r"needs pyarrow: pip install 'aloe-agents\[parquet\]'"):
            read_pool(file)
        return
    pyarrow.parquet.write_table(pyarrow.table({"persona": ["one", "two"], "n": [1, 2]}), file)
    assert read_pool(file) == (["one", "two"], [])
    file.write_bytes(b"PAR1 no more")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        read_pool(file)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '"one"\n{oops\n"two"\n7\n', "line 2 is not JSON: .*and 1 more; skip_bad leaves them out"),
        (
            "a.jsonl",
            '{"text": "x", "persona": "y"}\n',
            "holds text and persona, but an item is one text: name its field",
        ),
        ("a.csv", "name,age\nAnn,5\n", "line 2: the item is missing or empty: it has no field called text, profile"),
        ("a.csv", 'text\n""\n', "line 2: the item is missing or empty"),
        ("a.csv", "text\nA nurse, likes tea\n", "line 2 has 2 cells, but the header has 1: put its texts in quotes"),
        ("a.csv", "text,n\n", "holds no item"),
        ("a.json", "[]", "holds no item"),
        ("a.json", "[1]", "item 1: the item is a number, not text"),
        ("a.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "line 2: the id 'a' is taken by line 1"),
    ],
)
def test_what_is_no_item_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = written(tmp_path / name, text)
    with pytest.raises(ConfigError, match=said) as refused:
        read_pool(file)
    assert str(refused.value).startswith(str(file)) and "\n" not in str(refused.value)


def test_a_field_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 2 has no field 'profile' \(it has name, age\)"):
        read_pool(written(tmp_path / "a.csv", "name,age\nAnn,5\n"), field="profile")


def test_broken_lines_are_left_out_on_request_and_each_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", '"one"\n{oops\n"two"\n7\n""\n')
    items, remarks = read_pool(file, skip_bad=True)
    assert items == ["one", "two"]
    assert [remark.split(" is ")[0] for remark in remarks] == [
        f"{file}, line 2",
        f"{file}, line 4: the item",
        f"{file}, line 5: the item",
    ]
    assert all(remark.endswith("; left out") for remark in remarks)


def test_a_pool_that_is_written_is_read_back(tmp_path: Path) -> None:
    write_items(tmp_path / "deep/pool.jsonl", ITEMS)
    assert read_items(tmp_path / "deep/pool.jsonl") == (ITEMS, [])
    assert folder_of(tmp_path / "pool.jsonl") == tmp_path / "pool.pool"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_items(tmp_path / "deep/pool.jsonl/below.jsonl", ITEMS)


# --- holding out -----------------------------------------------------------------------------------------------------


def vectors(count: int, seed: int = 0) -> Vectors:
    return centred(np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32))


def test_what_is_held_out_is_unlike_all_that_stays() -> None:
    rows, of = vectors(60), [Item(text=str(n), id=str(n)) for n in range(60)]
    chosen = held_out(8, of, 0.6, rows, "profiles")
    stay = np.setdiff1d(np.arange(60), chosen)
    assert len(set(chosen)) == 8 and (rows[chosen] @ rows[stay].T).max() <= 0.6
    assert chosen == held_out(8, of, 0.6, rows, "profiles")


@pytest.mark.parametrize(
    ("count", "at_most", "said"),
    [
        (
            10,
            0.0,
            r"pool of profiles is too small to hold 10 of them out: only \d of its 60 items are at most 0 similar",
        ),
        (60, 1.0, "it has 60 items, and some must stay for training"),
    ],
)
def test_a_pool_too_small_is_refused(count: int, at_most: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        held_out(count, [Item(text=str(n), id=str(n)) for n in range(60)], at_most, vectors(60), "profiles")


# --- review ----------------------------------------------------------------------------------------------------------


def test_decisions_are_applied_kept_and_undone(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    items = [*ITEMS, Item(text="He sings.", id="00003")]
    write_items(pool, items)
    review = Review(pool, folder_of(pool))
    assert review.open() == items and review.undo() is None
    review.decide(items[0], "drop")
    review.decide(items[1], "edit", "She keeps two cats.")
    review.decide(items[2], "keep")
    assert read_pool(pool)[0] == ["She keeps two cats.", "He sings."]
    again = Review(pool, folder_of(pool))  # another day
    assert again.items == items and again.open() == []
    assert again.undo() == items[2] and again.open() == [items[2]]
    assert again.undo() == items[1] and again.undo() == items[0] and again.undo() is None
    assert read_items(pool)[0] == items
    assert len((folder_of(pool) / "review.jsonl").read_bytes().splitlines()) == 6, "nothing is forgotten"


def test_a_decision_is_about_a_text_though_another_has_its_id_now(tmp_path: Path) -> None:
    pool, folder = tmp_path / "pool.jsonl", tmp_path / "pool.pool"
    write_items(pool, [Item(text=text, id=f"{n:05d}") for n, text in enumerate(("one", "two", "three"), 1)])
    first = Review(pool, folder)
    first.decide(first.items[1], "drop")
    first.decide(first.items[2], "edit", "tree")
    write_items(pool, [Item(text=text, id=f"{n:05d}") for n, text in enumerate(("one", "four", "three", "five"), 1)])
    again = Review(pool, folder)
    assert [(item.id, item.text) for item in again.items] == [
        ("00001", "one"), ("00002", "four"), ("00003", "three"), ("00004", "five"), ("00005", "two"),
    ]  # fmt: skip
    again.decide(again.items[0], "keep")
    assert [item.text for item in read_items(pool)[0]] == ["one", "four", "tree", "five"]


def test_a_pool_that_is_written_anew_keeps_its_decisions(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    write_items(pool, ITEMS)
    Review(pool, folder_of(pool)).decide(ITEMS[0], "drop")
    assert reviewed([*ITEMS, Item(text="He sings.", id="00003")], folder_of(pool))[0] == ITEMS[1]
    (folder_of(pool) / "review.jsonl").write_text(json.dumps({"item": 3}))
    with pytest.raises(ConfigError, match="line 1 is not a decision"):
        Review(pool, folder_of(pool))
