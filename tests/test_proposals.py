"""What generators answer, in all the forms that models give a list; and what is said against an item."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_agents.models.scripted.pools import propose
from aloe_agents.pools.items import read_pool
from aloe_agents.pools.proposals import LONGEST, Kind, objection, split
from tests.test_personas import AUTHORS, OWN

ITEMS = [
    "She is a 34-year-old diver. She has 2 cats. She lives in Lima.",
    "He is 51. He paints: oils, mostly. He owns a boat called 7 Seas.",
    "They keep bees. They never drink. They speak Welsh.",
]
AROUND = [
    ("", ""),
    ("Here are 3 new profiles:\n\n", ""),
    ("Sure! Here you go.\n\n", "\n\nLet me know if you want more."),
]
FORMS = {
    "lines": "\n".join(ITEMS),
    "blank lines": "\n\n".join(ITEMS),
    "numbered": "\n".join(f"{n}. {item}" for n, item in enumerate(ITEMS, 1)),
    "numbered with blank lines": "\n\n".join(f"{n}) {item}" for n, item in enumerate(ITEMS, 1)),
    "bold numbers": "\n\n".join(f"**{n}.** {item}" for n, item in enumerate(ITEMS, 1)),
    "headed": "\n\n".join(f"**Profile {n}:** {item}" for n, item in enumerate(ITEMS, 1)),
    "headings of their own": "\n\n".join(f"### Profile {n}\n{item}" for n, item in enumerate(ITEMS, 1)),
    "bullets": "\n".join(f"- {item}" for item in ITEMS),
    "stars": "\n".join(f"* {item}" for item in ITEMS),
    "facts as bullets": "\n\n".join(
        f"{n}.\n" + "\n".join(f"   - {fact}." for fact in item.rstrip(".").split(". "))
        for n, item in enumerate(ITEMS, 1)
    ),
    "facts as bullets, blank lines": "\n\n".join(
        "\n".join(f"- {fact}." for fact in item.rstrip(".").split(". ")) for item in ITEMS
    ),
    "windows": "\r\n".join(ITEMS),
}
DATA = {
    "JSON": json.dumps(ITEMS),
    "JSON in a fence": f"```json\n{json.dumps(ITEMS, indent=1)}\n```",
    "JSON of objects": json.dumps([{"id": n, "profile": item} for n, item in enumerate(ITEMS)]),
    "JSON of an object": json.dumps({"profiles": ITEMS}),
    "JSON lines": "\n".join(json.dumps({"text": item}) for item in ITEMS),
    "JSON of lists of facts": json.dumps([[f"{fact}." for fact in item.rstrip(".").split(". ")] for item in ITEMS]),
}


@pytest.mark.parametrize("around", AROUND, ids=["alone", "announced", "chatty"])
@pytest.mark.parametrize("form", FORMS)
def test_lists_of_every_form_are_cut_into_their_items(form: str, around: tuple[str, str]) -> None:
    text = around[0] + FORMS[form] + around[1]
    assert split(text) == ITEMS


@pytest.mark.parametrize("form", DATA)
def test_json_is_read_as_json(form: str) -> None:
    assert split(DATA[form]) == ITEMS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n ",
        "I cannot do that.",
        "She is 5. She has a cat.",
        "[]",
        "{}",
        "Here are 20 profiles:",
        "...\n---\n***",
    ],
)
def test_what_is_no_list_is_none(text: str) -> None:
    assert split(text) is None


@given(st.text(max_size=400))
def test_no_text_breaks_it(text: str) -> None:
    found = split(text)
    assert found is None or all(item.strip() == item and "\n" not in item for item in found)


@pytest.mark.parametrize("kind", ["profiles", "personalities"])
def test_hand_written_items_pass(kind: Kind) -> None:
    assert [objection(text, kind) for text in read_pool(OWN / f"{kind}.txt")[0]] == [None] * 20


@pytest.mark.skipif(not AUTHORS.exists(), reason="the authors' files are not here")
def test_the_authors_items_pass_but_for_one_that_tells_a_trait() -> None:
    said = [objection(text, "profiles") for text in read_pool(AUTHORS / "profile.jsonl")[0]]
    assert [reason for reason in said if reason] == ["traits in a profile"]
    assert not any(objection(text, "personalities") for text in read_pool(AUTHORS / "personality.jsonl")[0])


GOOD = read_pool(OWN / "profiles.txt")[0][0]
CALM = read_pool(OWN / "personalities.txt")[0][1]


@pytest.mark.parametrize(
    ("text", "kind", "examples", "said"),
    [
        ("She is 5.", "profiles", [], "too short"),
        ("She walks the dog. " * (LONGEST // 10), "profiles", [], "too long"),
        (
            "She is a very famous singer of popular songs from the deep south of the country",
            "profiles",
            [],
            "too few facts",
        ),
        (
            "She is a singer who is loved wherever people listen to the deep south's songs",
            "personalities",
            [],
            "too few traits",
        ),
        (" ".join(f"She has {n} of them." for n in range(30)), "profiles", [], "too many facts"),
        (" ".join(f"She is nice {n} times." for n in range(30)), "personalities", [], "too many traits"),
        (f"{GOOD} She is extremely outgoing.", "profiles", [], "traits in a profile"),
        (f"{GOOD} He's a very shy person.", "profiles", [], "traits in a profile"),
        (f"{GOOD} She is curious about comets.", "profiles", [], None),
        (f"{CALM} He is a 44-year-old nurse.", "personalities", [], "facts in a personality"),
        (f"{CALM} He has two dogs.", "personalities", [], "facts in a personality"),
        (f"{CALM} He lives in Oslo.", "personalities", [], "facts in a personality"),
        (GOOD.replace("67", "71"), "profiles", ["She sings.", GOOD], "echo of an example"),
        (GOOD, "profiles", ["She sings in a choir."], None),
    ],
)
def test_what_is_said_against_an_item(text: str, kind: Kind, examples: list[str], said: str | None) -> None:
    assert objection(text, kind, examples) == said


@pytest.mark.parametrize("kind", ["profiles", "personalities"])
def test_whatever_form_the_scripted_generator_takes_is_cut_into_as_many_as_were_asked_for(kind: str) -> None:
    examples = "\n".join(read_pool(OWN / f"{kind}.txt")[0][:5])
    for seed in range(60):
        answer = propose([f'<examples of="{kind}">\n{examples}\n</examples>\n\nWrite 20 new {kind}.'], seed)
        assert answer is not None
        assert len(split(answer) or ()) == 20, answer
