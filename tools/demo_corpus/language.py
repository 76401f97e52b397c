"""Grammar of the demo language: random sentences as signs and as the English they mean.

Signed order is time, object, subject, verb, modal, negation, question word; English order is
English. A sequence of signs has one translation. Properties come before the noun they belong to,
numbers and owners behind it, and a property behind a noun is what the sentence says of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator


@dataclass(frozen=True)
class Sentence:
    """One sentence in both languages."""

    signs: tuple[str, ...]
    english: str


@dataclass(frozen=True)
class NounPhrase:
    """A subject or object, signed and spoken."""

    signs: tuple[str, ...]
    words: str
    person: str
    """`i`, `it` or `they`: which form its verb takes."""


@dataclass(frozen=True)
class Verb:
    """The forms of an English verb."""

    base: str
    third: str
    past: str
    ing: str


PLURALS = {
    "teacher": "teachers", "doctor": "doctors", "mother": "mothers", "father": "fathers",
    "friend": "friends", "child": "children", "dog": "dogs", "cat": "cats", "horse": "horses",
    "bird": "birds", "apple": "apples", "egg": "eggs", "cake": "cakes", "book": "books",
    "letter": "letters", "car": "cars", "house": "houses", "flower": "flowers",
    "shirt": "shirts", "school": "schools", "garden": "gardens", "city": "cities",
}  # fmt: skip
PEOPLE = ("TEACHER", "DOCTOR", "MOTHER", "FATHER", "FRIEND", "CHILD")
ANIMALS = ("DOG", "CAT", "HORSE", "BIRD")
PLACES = ("SCHOOL", "GARDEN", "CITY")
FOOD = ("APPLE", "EGG", "CAKE")
GOODS = ("BOOK", "CAR", "HOUSE", "FLOWER", "SHIRT", *FOOD)
NOUNS = (*PEOPLE, *ANIMALS, *GOODS, "LETTER", *PLACES)
VERBS = {
    "SEE": Verb("see", "sees", "saw", "seeing"),
    "BUY": Verb("buy", "buys", "bought", "buying"),
    "EAT": Verb("eat", "eats", "ate", "eating"),
    "GIVE": Verb("give", "gives", "gave", "giving"),
    "READ": Verb("read", "reads", "read", "reading"),
    "WASH": Verb("wash", "washes", "washed", "washing"),
    "DRAW": Verb("draw", "draws", "drew", "drawing"),
    "SELL": Verb("sell", "sells", "sold", "selling"),
    "FIND": Verb("find", "finds", "found", "finding"),
    "HAVE": Verb("have", "has", "had", "having"),
    "GO": Verb("go", "goes", "went", "going"),
    "SAY": Verb("say", "says", "said", "saying"),
    "WANT": Verb("want", "wants", "wanted", "wanting"),
}
OBJECTS = {
    "SEE": (*PEOPLE, *ANIMALS, *PLACES, "HOUSE", "CAR"),
    "BUY": (*GOODS, *ANIMALS),
    "EAT": FOOD,
    "READ": ("BOOK", "LETTER"),
    "WASH": ("CAR", "SHIRT", "HOUSE", *ANIMALS, "CHILD", "APPLE"),
    "DRAW": (*ANIMALS, "HOUSE", "FLOWER", "CAR", *PEOPLE),
    "SELL": (*GOODS, "HORSE", "DOG"),
    "FIND": (*ANIMALS, *GOODS, "LETTER", "CHILD"),
    "HAVE": (*GOODS, *ANIMALS, "FRIEND", "GARDEN"),
}
GIFTS = (*GOODS[:1], *GOODS[3:], "LETTER", "DOG", "CAT")
LOOKS = ("BIG", "SMALL", "OLD", "RED")
FEELINGS = ("HAPPY", "SICK", "HUNGRY")
TIMES = {
    "YESTERDAY": "yesterday",
    "TOMORROW": "tomorrow",
    "NOW": "now",
    "EVERY-DAY": "every day",
}
NUMBERS = {"TWO": "two", "THREE": "three", "MANY": "many"}
PRONOUNS = {"I": "I", "YOU": "you", "WE": "we"}
SOCIAL = {"HELLO": "Hello", "THANKS": "Thank you", "PLEASE": "Please"}
ALONE = {
    "NOT": "No.", "WHO": "Who?", "WHAT": "What?", "WHERE": "Where?", "WHY": "Why?",
    "ASK": "Really?", "HELLO": "Hello!", "THANKS": "Thank you!", "PLEASE": "Please!",
    "I": "Me.", "YOU": "You.", "WE": "Us.", "MY": "Mine.", "CAN": "I can.", "MUST": "I must.",
}  # fmt: skip


def pick(rng: Rng, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def noun_phrase(rng: Rng, noun: str, *, subject: bool, extra: float) -> NounPhrase:
    """A noun, with probability `extra` given a property, a number or an owner."""
    word = noun.lower()
    article = f"the {word}" if subject else with_article(word)
    if not chance(rng, extra):
        return NounPhrase((noun,), article, "it")
    kind = pick(rng, ("look", "number", "owner"))
    if kind == "look":
        look = pick(rng, LOOKS)
        words = f"{look.lower()} {word}"
        return NounPhrase((look, noun), f"the {words}" if subject else with_article(words), "it")
    if kind == "number":
        number = pick(rng, tuple(NUMBERS))
        words = f"{NUMBERS[number]} {PLURALS[word]}"
        return NounPhrase((noun, number), f"the {words}" if subject else words, "they")
    return NounPhrase((noun, "MY"), f"my {word}", "it")


def subject_phrase(rng: Rng, *, nouns: tuple[str, ...] = PEOPLE, extra: float = 0.15) -> NounPhrase:
    if chance(rng, 0.35):
        pronoun = pick(rng, tuple(PRONOUNS))
        return NounPhrase((pronoun,), PRONOUNS[pronoun], "i" if pronoun == "I" else "they")
    return noun_phrase(rng, pick(rng, nouns), subject=True, extra=extra)


def be(person: str, time: str) -> str:
    if time == "YESTERDAY":
        return "were" if person == "they" else "was"
    if time == "TOMORROW":
        return "will be"
    return {"i": "am", "it": "is", "they": "are"}[person]


def auxiliary(person: str, time: str) -> str:
    """The helper that negation and questions need: did, will, am/is/are, do or does."""
    if time == "NOW":
        return be(person, time)
    tensed = {"YESTERDAY": "did", "TOMORROW": "will"}
    return tensed.get(time, "does" if person == "it" else "do")


def bare(verb: Verb, time: str) -> str:
    """The form behind an auxiliary."""
    return verb.ing if time == "NOW" else verb.base


def finite(verb: Verb, person: str, time: str) -> str:
    if time == "NOW":
        return f"{be(person, time)} {verb.ing}"
    if time == "TOMORROW":
        return f"will {verb.base}"
    if time == "YESTERDAY":
        return verb.past
    return verb.third if person == "it" else verb.base


def finish(words: str, mark: str) -> str:
    return words[0].upper() + words[1:] + mark


def place_time(words: str, time: str, subject: NounPhrase) -> str:
    """English puts time first before a pronoun, otherwise last."""
    if not time:
        return words
    if subject.signs[0] in PRONOUNS:
        return f"{TIMES[time]} {words}"
    return f"{words} {TIMES[time]}"


def draw_time(rng: Rng, *, now: bool = True, probability: float = 0.6) -> str:
    if not chance(rng, probability):
        return ""
    return pick(rng, tuple(TIMES) if now else ("YESTERDAY", "TOMORROW", "EVERY-DAY"))


def time_signs(time: str) -> tuple[str, ...]:
    return (time,) if time else ()


def draw_action(rng: Rng) -> tuple[str, str]:
    """A transitive verb and a noun that it goes with."""
    verb = pick(rng, tuple(OBJECTS))
    return verb, pick(rng, OBJECTS[verb])


def one_sign(rng: Rng) -> Sentence:
    verbs = tuple(VERBS)
    every = (*NOUNS, *verbs, *LOOKS, *FEELINGS, *TIMES, *NUMBERS, *ALONE)
    sign = pick(rng, every)
    if sign in ALONE:
        return Sentence((sign,), ALONE[sign])
    if sign in NOUNS:
        return Sentence((sign,), finish(with_article(sign.lower()), "."))
    if sign in VERBS:
        return Sentence((sign,), f"To {VERBS[sign].base}.")
    words = {**TIMES, **NUMBERS}.get(sign, sign.lower())
    return Sentence((sign,), finish(words, "."))


def thing(rng: Rng) -> Sentence:
    phrase = noun_phrase(rng, pick(rng, NOUNS), subject=False, extra=1.0)
    return Sentence(phrase.signs, finish(phrase.words, "."))


def greeting(rng: Rng) -> Sentence:
    social, person = pick(rng, ("HELLO", "THANKS")), pick(rng, PEOPLE)
    if chance(rng, 0.5):
        return Sentence((social, person), f"{SOCIAL[social]}, {person.lower()}!")
    return Sentence((social, person, "MY"), f"{SOCIAL[social]}, my {person.lower()}!")


def statement(rng: Rng) -> Sentence:
    verb, noun = draw_action(rng)
    subject = subject_phrase(rng, nouns=(*PEOPLE, "DOG", "CAT") if verb == "FIND" else PEOPLE)
    target = noun_phrase(rng, noun, subject=False, extra=0.4)
    time = draw_time(rng, now=verb not in ("SEE", "HAVE", "FIND"))
    negated = chance(rng, 0.25)
    form = finite(VERBS[verb], subject.person, time)
    if negated:
        form = f"{auxiliary(subject.person, time)} not {bare(VERBS[verb], time)}"
    words = place_time(f"{subject.words} {form} {target.words}", time, subject)
    signs = (*time_signs(time), *target.signs, *subject.signs, verb)
    return Sentence((*signs, "NOT") if negated else signs, finish(words, "."))


def wish(rng: Rng) -> Sentence:
    verb, noun = draw_action(rng)
    subject = subject_phrase(rng)
    target = noun_phrase(rng, noun, subject=False, extra=0.25)
    modal, negated = pick(rng, ("WANT", "CAN", "MUST")), chance(rng, 0.25)
    base = VERBS[verb].base
    if modal == "WANT":
        wants = "wants" if subject.person == "it" else "want"
        does = "does" if subject.person == "it" else "do"
        form = f"{does} not want to {base}" if negated else f"{wants} to {base}"
    else:
        form = f"{modal.lower()}{(' not' if modal == 'MUST' else 'not') * negated} {base}"
    signs = (*target.signs, *subject.signs, verb, modal)
    words = f"{subject.words} {form} {target.words}"
    return Sentence((*signs, "NOT") if negated else signs, finish(words, "."))


def property_of(rng: Rng) -> Sentence:
    noun = pick(rng, NOUNS)
    alive = noun in PEOPLE or noun in ANIMALS
    phrase = noun_phrase(rng, noun, subject=True, extra=0.3)
    if alive and chance(rng, 0.3):
        phrase = subject_phrase(rng)
    pronoun = phrase.signs[0] in PRONOUNS
    options = (*LOOKS, *FEELINGS) if alive and not pronoun else FEELINGS if alive else LOOKS
    quality = pick(rng, tuple(q for q in options if q not in phrase.signs))
    time = draw_time(rng, now=False, probability=0.4)
    negated = chance(rng, 0.25)
    verb = be(phrase.person, time)
    if negated:
        verb = "will not be" if time == "TOMORROW" else f"{verb} not"
    words = place_time(f"{phrase.words} {verb} {quality.lower()}", time, phrase)
    signs = (*time_signs(time), *phrase.signs, quality)
    return Sentence((*signs, "NOT") if negated else signs, finish(words, "."))


def location(rng: Rng) -> Sentence:
    """Where somebody is, or goes."""
    place = pick(rng, PLACES)
    subject = subject_phrase(rng, nouns=(*PEOPLE, *ANIMALS), extra=0.3)
    time, negated = draw_time(rng), chance(rng, 0.2)
    signs = (*time_signs(time), place, *subject.signs)
    if chance(rng, 0.5):
        helper = be(subject.person, time)
        form = helper.replace("will", "will not") if "will" in helper else f"{helper} not"
        words = f"{subject.words} {form if negated else helper} in the {place.lower()}"
    else:
        signs = (*signs, "GO")
        form = f"{auxiliary(subject.person, time)} not {bare(VERBS['GO'], time)}"
        form = form if negated else finite(VERBS["GO"], subject.person, time)
        words = f"{subject.words} {form} to the {place.lower()}"
    words = place_time(words, time, subject)
    return Sentence((*signs, "NOT") if negated else signs, finish(words, "."))


def gift(rng: Rng) -> Sentence:
    present = noun_phrase(rng, pick(rng, GIFTS), subject=False, extra=0.2)
    subject = subject_phrase(rng, extra=0.0)
    receiver = pick(rng, tuple(p for p in (*PEOPLE, "DOG") if p not in subject.signs))
    time = draw_time(rng)
    form = finite(VERBS["GIVE"], subject.person, time)
    words = f"{subject.words} {form} the {receiver.lower()} {present.words}"
    signs = (*time_signs(time), *present.signs, receiver, *subject.signs, "GIVE")
    return Sentence(signs, finish(place_time(words, time, subject), "."))


def question(rng: Rng) -> Sentence:
    """What, where, why, or a question for yes or no."""
    verb, noun = draw_action(rng)
    subject = subject_phrase(rng, extra=0.1)
    time = draw_time(rng, now=verb not in ("SEE", "HAVE", "FIND"), probability=0.5)
    word = pick(rng, ("WHAT", "WHERE", "WHY", "ASK"))
    target = noun_phrase(rng, noun, subject=word in ("WHERE", "WHY"), extra=0.15)
    helper = auxiliary(subject.person, time)
    words = f"{helper} {subject.words} {bare(VERBS[verb], time)}"
    signs = (*subject.signs, verb, word)
    if word != "WHAT":
        words, signs = f"{words} {target.words}", (*target.signs, *signs)
    if word != "ASK":
        words = f"{word.lower()} {words}"
    if time:
        words = f"{words} {TIMES[time]}"
    return Sentence((*time_signs(time), *signs), finish(words, "?"))


def who_question(rng: Rng) -> Sentence:
    verb, noun = draw_action(rng)
    target = noun_phrase(rng, noun, subject=False, extra=0.3)
    time = draw_time(rng, now=verb not in ("SEE", "HAVE", "FIND"))
    words = f"who {finite(VERBS[verb], 'it', time)} {target.words}"
    if time:
        words = f"{words} {TIMES[time]}"
    return Sentence((*time_signs(time), *target.signs, verb, "WHO"), finish(words, "?"))


def request(rng: Rng) -> Sentence:
    verb, noun = draw_action(rng)
    if verb in ("HAVE", "SEE"):
        verb, noun = "GO", pick(rng, PLACES)
    target = noun_phrase(rng, noun, subject=True, extra=0.0 if verb == "GO" else 0.3)
    negated = chance(rng, 0.3)
    words = f"please {'do not ' * negated}{VERBS[verb].base} {'to ' * (verb == 'GO')}{target.words}"
    signs = (*target.signs, verb, *(("NOT",) * negated), "PLEASE")
    return Sentence(signs, finish(words, "!"))


def quotation(rng: Rng) -> Sentence:
    social = pick(rng, (*SOCIAL, "WHY", "WHO", "WHERE", "NOT"))
    spoken = f"{SOCIAL[social]}!" if social in SOCIAL else ALONE[social]
    subject = subject_phrase(rng, nouns=PEOPLE, extra=0.2)
    time = draw_time(rng, now=False)
    form = finite(VERBS["SAY"], subject.person, time)
    words = place_time(f"{subject.words} {form}", time, subject)
    signs = (*time_signs(time), social, *subject.signs, "SAY")
    return Sentence(signs, finish(f'{words}: "{spoken}"', ""))


SHORT: tuple[Callable[[Rng], Sentence], ...] = (thing, thing, thing, greeting)
LONG: tuple[tuple[Callable[[Rng], Sentence], float], ...] = (
    (statement, 0.24),
    (wish, 0.12),
    (property_of, 0.14),
    (location, 0.12),
    (gift, 0.08),
    (question, 0.13),
    (who_question, 0.06),
    (request, 0.06),
    (quotation, 0.05),
)


def draw_long(rng: Rng) -> Sentence:
    """A whole sentence, mostly of three to six signs."""
    weights = np.array([weight for _, weight in LONG])
    makers = [make for make, _ in LONG]
    return makers[int(rng.choice(len(makers), p=weights / weights.sum()))](rng)


def draw_short(rng: Rng) -> Sentence:
    """Two or three signs that are no whole sentence."""
    return SHORT[int(rng.integers(len(SHORT)))](rng)
