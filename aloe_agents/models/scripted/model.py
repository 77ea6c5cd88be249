"""A stand-in for a language model: tables and rules that answer the built-in prompts, the same way every time.

1. A reply is a pure function of the seeds and the messages; its draws are the bytes of a digest of both.
2. The part is read off the prompt's tags: a persona alone is played, one with a ``<conversation>`` is compared with
   it, one with an ``<answer>`` judges it; ``<revealed>`` asks for a tailored answer, no tag for a polite one;
   ``<examples>`` and ``<sketch>`` ask for members of a pool (``pools``).
3. A profile is cut into facts, its sentences and their plain clauses. A fact keeps the profile's words and is turned
   round into what its owner says (She has -> I have) and is told (you have).
4. Style is a table: the words by which a personality names a trait, what its owner says, what suits its owner.

It understands nothing: text that its tables do not fit is said as it stands, and four characters count as a token.
No text makes it raise, and its work grows no faster than the text.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, TypeVar, cast

from aloe_agents.model import Call, ChatMessage, Completion
from aloe_agents.models.scripted import pools
from aloe_agents.text import telling_words

T = TypeVar("T")

_READ, _LONGEST, _MOST = 12_000, 240, 48  # of a persona's text: characters read, those of a fact, and facts kept

# Trait, beginnings of words that name it, what its owner says (before the rest if it ends in a colon), what suits.
_TABLE = """
sociable | outgoing|socia|gregarious|extrover|charism|charm | The more the merrier! / You should've come! | Count me in!
reserved | reserved|introver|shy|quiet|alone|modest|humble | Enough about me. / Nothing special. | Whenever you like.
witty | wit\\b|witty|humor|funny|joke|playful|jovial|fun- | I laugh at my own jokes. 😄 / Here all week. | Good one! 😄
sarcastic | sarcas|ironic|cynic | Oh, thrilling, I know. 🙄 / Hold the applause. | Riveting, obviously. 🙄
curious | curio|inquisitive|open-minded|question | Ever wondered about that? / Tell me all of it. | Makes you wonder!
blunt | blunt|straightforward|candid|assertive|honest|direct|speak | No sugar-coating. / Straight up: | Fair enough.
optimistic | optimis|positiv|cheerful|bright side|hopeful | Life's good! ☀️ / It'll work out! | Only good things! ☀️
anxious | anxious|worr|nervous|sensitiv|cautious|perfectionis | I hope that's not silly... / Is it weird? | No worries.
organised | organi|method|meticul|detail|plan|punctual|strateg|responsib | First things first: / Noted. | Step by step.
driven | driven|ambiti|disciplin|diligent|determin|hardw|resilien|dedicat | No days off. / Onwards! 💪 | Keep at it! 💪
empathetic | empath|compassion|caring|nurtur|listen|emotional | I feel for people. 💛 / It touched me. | I feel that. 💛
loyal | loyal|dependab|reliab|trust|support|generous|kind|consider | Call me anytime. / Friends first. | Count on me.
adventurous | adventur|explor|thrill|daring | Who needs a map? / Next adventure, please! 🧭 | Adventure awaits! 🧭
spontaneous | spontan|impulsiv|whim|flexib|adapt|versat|easy-going | On a whim! / No plan. ✌️ | Why not today? ✌️
creative | creativ|imaginati|innovativ|inventive|vision|dream|resource | Picture this: / Ideas! 🎨 | Imagine that! 🎨
rational | analytic|logic|rational|pragmat|practical|objectiv | Logically: / Cause and effect. | Makes perfect sense.
calm | calm|patien|stoic|composed|grace|diplomat|harmon|peace | All in good time. / No rush. 🍵 | Take your time. 🍵
enthusiastic | enthus|energ|vibrant|passion|excit|exub | I'm so excited!! 🎉 / Best thing ever! | How great is that!! 🎉
reflective | reflect|thoughtful|introspec|philosop|insight|intuit|percep | Food for thought. / I wonder... | How deep.
confident | confid|leader|decisive|bold|independ|stubborn | Obviously I've got this. 😎 / Trust me. | You've got this. 😎
eloquent | articulate|eloquent|communicat|persuasive | Let me put it this way: / In a word, splendid. | Beautifully put.
"""
_ROWS = [row.split(" | ") for row in _TABLE.strip().splitlines()]
_KEYWORD = re.compile("|".join(rf"(?P<{name}>\b(?:{words}))" for name, words, _, _ in _ROWS))
# Whose a profile is, by the first pronoun in it: subject 0, possessive 1, object 2, reflexive 3.
_PRONOUNS = {
    "he": {"he": 0, "his": 1, "him": 2, "himself": 3},
    "she": {"she": 0, "her": 1, "herself": 3},
    "they": {"they": 0, "their": 1, "them": 2, "themselves": 3},
    "he/she": {"he/she": 0, "his/her": 1, "him/her": 2, "himself/herself": 3},
    "i": {"i": 0, "my": 1, "me": 2, "myself": 3},
}
_TURNED = (("I", "my", "me", "myself"), ("you", "your", "you", "yourself"))
_VERBS = {"is": "am are", "am": "am are", "are": "am are", "was": "was were", "were": "was were", "has": "have have"}
_VERBS |= {"hasn": "haven haven", "doesn": "don don", "does": "do do", "goes": "go go"}
_ENDING = re.compile(r"(?<=\w\w)ies$|(?<=ss|sh|ch)es$|(?<=x)es$|(?<![su])s$")
_ADVERBS = "also|always|currently|even|frequently|just|never|now|often|rarely|really|regularly|sometimes|still|usually"
# After "and" these are verbs; other words that end in -s may be nouns.
_SAFE = "is|was|has|enjoys|loves|likes|owns|holds|collects|speaks|teaches|studies|spends|participates|attends|wants"
_SAFE += "|(?:bakes|brews|cooks|designs|grows|hosts|lives|makes|plays|runs|shares|sings|volunteers|works|writes) \\w+"
_CUT = re.compile(rf" who (?=(?:(?:{_ADVERBS}) )?\w+s\b)|(?:,? and|,) (?=(?:(?:{_ADVERBS}) \w+s|{_SAFE})\b)")
_RELATIVE = re.compile(r"\b(?:who|that|which|where|whose|when|while)\b")
_IS_A = re.compile(r"\S+(?: is|['’]s) an? ")
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\bDr\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bSt\.) ")
_OWNER = {word: whose for whose, words in _PRONOUNS.items() for word in words}
_WORD = re.compile(r"[^\W\d_]+(?:/[^\W\d_]+)?(?:['’][a-z]{1,2}\b)?")
_NO_NOUN = re.compile(r"\s*(?:$|[^\s\w]|(?:and|or|to|in|on|at|with|for|but|from|as|who|when|because)\b)")
_TELLING = re.compile(r"(?!none[ \t]*[^\w \t])(?=.*[^\W_])", re.IGNORECASE | re.DOTALL)  # words, no "None: ..."
_BY_A = re.compile(r"^A:(.*(?:\n(?![AB]:).*)*)", re.MULTILINE)

_GREETINGS = ("Hey!", "Hi there!", "Hello you!", "Guess what!")
_REACTIONS = ("Ha, yes!", "Right?", "Exactly.", "Fair point.", "You get it.", "Hmm, maybe.")
_AGAIN = ("I keep saying it, I know.", "Still true, by the way.", "Back to what I told you.")
_ASIDES = (*_GREETINGS, *_REACTIONS, *_AGAIN, "Good question!")
_TAKE_UP = (("Love that ", "!"), ("I can just see it: ", "."), ("Of course, ", "!"), ("It so suits you that ", "."))
_BRING_BACK = (("It goes well with how ", "."), ("No surprise, since ", "."), ("I haven't forgotten that ", "."))
_POLITE = ("Sounds nice.", "Thanks for sharing!", "Interesting!", "I see what you mean.", "How lovely.", "Got it.")
_FOLLOW_UP = ("How can I help?", "What would you like to talk about?", "Many feel the same.", "Do tell me more.")


class Fact(NamedTuple):
    """One thing a profile says: its whole sentence, its own words, as its owner says it, as its owner is told it."""

    sentence: str
    text: str
    said: str
    told: str
    words: frozenset[str]


Facts = tuple[Fact, ...]
Manner = tuple[tuple[str, list[str], list[str]], ...]  # a sentence, what it makes its owner say, what suits them
TRAITS = {name: (said.split(" / "), suits.split(" / ")) for name, _, said, suits in _ROWS}


@dataclass(frozen=True, slots=True)
class ScriptedModel:
    """The stand-in as a chat model; a call takes ``latency`` seconds. Give another ``seed`` another ``name``, too.

    An ``adaptive`` one answers a plain dialogue with what its user has told and shown so far; others answer everybody
    the same.
    """

    name: str = "scripted"
    latency: float = 0.0
    seed: int = 0
    adaptive: bool = False

    async def chat(self, call: Call) -> Completion:
        if self.latency > 0:
            await asyncio.sleep(self.latency)
        return complete(call.messages, call.sampling, self.seed, self.adaptive)


def complete(
    messages: Sequence[ChatMessage], sampling: Mapping[str, object], seed: int = 0, adaptive: bool = False
) -> Completion:
    """The reply, with ``seed``, ``stop`` and ``max_tokens`` of the sampling obeyed and its tokens estimated."""
    text = reply(messages, f"{seed} {sampling.get('seed')}", adaptive)
    stop = sampling.get("stop") or ()
    for ending in (stop,) if isinstance(stop, str) else cast(Sequence[str], stop):
        text = text.partition(ending)[0] if ending else text
    limit = cast(int | None, sampling.get("max_completion_tokens") or sampling.get("max_tokens"))
    kept = text[: 4 * limit] if limit else text
    return Completion(
        text=kept,
        finish_reason="stop" if len(kept) == len(text) else "length",
        prompt_tokens=sum(tokens(message["content"]) + 4 for message in messages),
        completion_tokens=tokens(kept),
    )


def tokens(text: str) -> int:
    """An estimate of how many tokens ``text`` is."""
    return (len(text) + 3) // 4


def reply(messages: Sequence[ChatMessage], seed: int | str = 0, adaptive: bool = False) -> str:
    """What the stand-in says to ``messages``."""
    system = messages[0]["content"] if messages and messages[0]["role"] in ("system", "developer") else ""
    heard = [message["content"] for message in messages if message["role"] == "user"] or [""]
    if (proposed := pools.propose(heard, seed)) is not None:
        return proposed
    frame, asked = (system, heard[0]) if "<profile>" in system else (heard[0], heard[0].rpartition("</personality>")[2])
    if "<profile>" in frame and "<personality>" in frame:
        head, _, tail = frame.rpartition("<personality>")
        facts = _facts(head.partition("<profile>")[2].rpartition("</profile>")[0])
        manner = _manner(tail.rpartition("</personality>")[0])
        answer, conversation = asked.rfind("</answer>"), asked.rfind("</conversation>")
        if answer > conversation:  # whatever a text quotes, the tag around it closes last
            return _judge(facts, manner, asked[:answer].rpartition("<answer>")[2])
        if conversation >= 0:
            return _induce(facts, manner, asked[:conversation].partition("<conversation>")[2])
        own = [message["content"] for message in messages if message["role"] == "assistant"]
        return _play(facts, manner, own, heard[-1], _draws(messages, seed))
    message, tag, hint = heard[-1].rpartition("<revealed>")
    if adaptive and not tag:
        return _answer(heard[-1], *_gathered(heard), _draws(messages, seed))
    head, _, personality = (hint.rpartition("</revealed>")[0] if tag else "").rpartition("Personalities:")
    facts = _facts(head.partition("Profile:")[2])
    known = () if facts and facts[0].text == "None" else facts
    return _answer(message, known, _manner(personality), _draws(messages, seed))


def _play(facts: Facts, manner: Manner, own: Sequence[str], heard: str, draws: Iterator[int]) -> str:
    """The user: tells a fact or two that it has not told yet, or an old one when none is left."""
    before = " ".join(["", *own])
    left = [fact for fact in facts if not _stands(fact.said, before)]
    said = [] if own else [_pick(draws, _GREETINGS)]
    if own and next(draws) % 3 == 0:
        said = ["Good question!" if "?" in heard else _pick(draws, _REACTIONS)]
    if left:
        told = [left.pop(next(draws) % min(3, len(left)))]
        told += left[:1] if next(draws) % 4 == 0 else []
    else:
        told = [_pick(draws, facts)] if facts else []
        said.append(_pick(draws, _AGAIN) if facts else "Nothing much going on here today.")
    marks = dict.fromkeys(_pick(draws, _pick(draws, manner)[1]) for _ in range(1 + (next(draws) % 4 == 0)) if manner)
    end = "!" if any("!" in mark for mark in marks) else "."
    said += [mark for mark in marks if mark[-1] == ":"] + [fact.said + end for fact in told]
    return " ".join(said + [mark for mark in marks if mark[-1] != ":"])


def _induce(facts: Facts, manner: Manner, conversation: str) -> str:
    """What A has said of the persona: facts that stand in A's messages as A says them, traits whose marker is used."""
    heard = " ".join(["", *" ".join(_BY_A.findall(conversation)).split()])
    told = [fact for fact in facts if _stands(fact.said, heard)]
    partly = {fact.sentence for fact in facts if fact not in told}
    profile = dict.fromkeys(fact.text if fact.sentence in partly else fact.sentence for fact in told)
    shown = [sentence for sentence, said, _ in manner if any(mark in heard for mark in said)]
    parts = [". ".join(part) + "." if part else "None" for part in (profile, shown)]
    return f"Profile: {parts[0]}\nPersonalities: {parts[1]}"


def _gathered(heard: Sequence[str]) -> tuple[Facts, Manner]:
    """What a user has told of themselves in these messages, and the traits whose markers they used."""
    text = " ".join(heard)
    shown = tuple((name, said, suits) for name, (said, suits) in TRAITS.items() if any(mark in text for mark in said))
    for mark in (*_ASIDES, *(mark for _, said, _ in shown for mark in said)):
        text = text.replace(mark, " ")
    return tuple(fact for fact in _facts(text) if not fact.told.startswith("you said ")), shown


def _answer(message: str, facts: Facts, manner: Manner, draws: Iterator[int]) -> str:
    """A polite answer to anybody; of somebody known, it takes up the fact nearest to the message, a few more, style."""
    near = frozenset(telling_words(message))
    known = sorted(facts, key=lambda fact: -len(fact.words & near))
    if known:
        before, after = _pick(draws, _TAKE_UP)
        said, turn = f"{before}{known[0].told}{after}", next(draws)
        for nth in range(turn, turn + min(2, len(known) // 3)):
            before, after = _BRING_BACK[nth % len(_BRING_BACK)]
            said += f" {before}{known[1 + nth % (len(known) - 1)].told}{after}"
    else:
        said = f"{_pick(draws, _POLITE)} {_pick(draws, _FOLLOW_UP)}"
    return " ".join([said, *dict.fromkeys(_pick(draws, _pick(draws, manner)[2]) for _ in range(2) if manner)])


def _judge(facts: Facts, manner: Manner, answer: str) -> str:
    """1, and 1 more for each fact (of three) most of whose telling words the answer holds, and for a trait's marker."""
    words = frozenset(telling_words(answer))
    taken = sum(bool(fact.words) and len(fact.words & words) >= 0.6 * len(fact.words) for fact in facts)
    style = any(mark in answer for _, said, suits in manner for mark in (*suits, *said))
    return str(1 + min(3, taken) + style)


def _stands(said: str, text: str) -> bool:
    """Whether ``said`` stands in ``text``, which begins with a space, as a sentence of its own."""
    return f" {said}." in text or f" {said}!" in text


def _draws(messages: Sequence[ChatMessage], seed: int | str) -> Iterator[int]:
    """Bytes, more of them than a reply draws, that are the same for the same seed and messages everywhere."""
    text = "\0".join([str(seed), *(part for message in messages for part in (message["role"], message["content"]))])
    return iter(blake2b(text.encode("utf-8", "surrogatepass")).digest())


def _pick(draws: Iterator[int], options: Sequence[T]) -> T:
    return options[next(draws) % len(options)]


@lru_cache(maxsize=512)
def _manner(personality: str) -> Manner:
    """The sentences of a personality that name a trait, each with one that no sentence before it has, if it can."""
    manner: dict[str, str] = {}
    for sentence in _sentences(personality)[:_MOST]:
        if named := [str(found.lastgroup) for found in _KEYWORD.finditer(sentence.lower())]:
            manner[sentence] = next((name for name in named if name not in manner.values()), named[0])
    return tuple((sentence, *TRAITS[name]) for sentence, name in manner.items())


@lru_cache(maxsize=512)
def _facts(profile: str) -> Facts:
    """The facts of a profile in its order, each once."""
    whose = next((_OWNER[word] for word in re.split(r"[^\w/]+", profile[:_READ].lower()) if word in _OWNER), "he")
    found = {fact.said: fact for sentence in _sentences(profile)[:_MOST] for fact in _clauses(sentence, whose)}
    return tuple(found.values())[:_MOST]


def _sentences(text: str) -> list[str]:
    """The sentences of a text without their stops; overlong ones in pieces, labels of an induction unmarked."""
    text = text[:_READ].replace("*", "").replace("Profile:", "Profile").replace("Personalities:", "Personalities")
    found = [part for line in text.splitlines() for part in _SENTENCE.split(" ".join(line.split()))]
    pieces = (part[at : at + _LONGEST].strip(" -•.!?…;:,") for part in found for at in range(0, len(part), _LONGEST))
    return [piece for piece in pieces if _TELLING.match(piece)]


@lru_cache(maxsize=4096)
def _clauses(sentence: str, whose: str) -> Facts:
    """The facts of a sentence: its clauses where it begins with its subject, otherwise itself."""
    subject = re.split(r"[^\w/]", sentence, maxsplit=1)[0]
    pieces, start = [], 0
    for cut in _CUT.finditer(sentence) if subject.lower() in ("he", "she", "they", "he/she") else ():
        mine = not _RELATIVE.search(sentence, start, cut.start())  # a verb after that may be somebody else's
        if mine and (cut[0] != " who " or _IS_A.match(sentence, start)):
            pieces.append(sentence[start : cut.start()])
            start = cut.end()
    texts = [f"{subject} {piece}" if nth else piece for nth, piece in enumerate([*pieces, sentence[start:]])]
    said, told = ([_in_person(text, whose, person) for text in texts] for person in (0, 1))
    return tuple(
        Fact(sentence, *fact)
        for fact in zip(texts, said, told, (frozenset(telling_words(text)) for text in texts), strict=True)
    )


def _in_person(text: str, whose: str, person: int) -> str:
    """What the owner of ``text`` says (0) or is told (1): pronouns exchanged, verbs of their subject conjugated."""
    done, at, verb_next = "", 0, False
    for found in _WORD.finditer(text):
        word, mark, tail = found[0].lower().replace("’", "'").partition("'")
        kind = _PRONOUNS[whose].get(word)
        if kind is not None:
            new = _TURNED[person][2 if word == "her" and _NO_NOUN.match(text, found.end()) else kind]
            had = text.startswith((" been", " got"), found.end())  # he's been, he's married
            tail = ("ve" if had else ("m", "re")[person]) if tail in ("s", "m", "re") else tail
            verb_next = kind == 0 and not mark
        elif verb_next and word not in _ADVERBS.split("|") and not word.endswith("ly"):
            base = found[0] if whose in ("they", "i") else _ENDING.sub(lambda end: "y" if end[0] == "ies" else "", word)
            new, verb_next = _VERBS[word].split()[person] if word in _VERBS else base, False
        else:
            continue
        done, at = f"{done}{text[at : found.start()]}{new}{mark}{tail}", found.end()
    done = (done + text[at:]).replace("I am ", "I'm ").replace("you are ", "you're ")
    first = done[:1].lower() if person else done[:1].upper()
    return f"you said “{text}”" if person and done == text else first + done[1:]
