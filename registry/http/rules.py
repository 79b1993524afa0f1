"""Which scope each route needs. Names no route itself: every plane brings the rules of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hotswap.registry.domain.access import ADMIN, Principal, Verb

# Says nothing about adapters: how the server is, how its API looks.
PUBLIC = frozenset({"/health", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"})


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Whoever has `verb` on the name or the alias in the path may use the methods there.

    Without a verb any valid token may.
    """

    methods: frozenset[str]
    path: re.Pattern[str]
    verb: Verb | None
    only_with_ref: bool = False

    def names(self, method: str, path: str) -> bool:
        return method in self.methods and self.path.fullmatch(path) is not None

    def target(self, path: str, ref_name: str | None) -> str | None:
        """What the verb is needed on: the path's name or alias, or else the query's `ref`."""
        match = self.path.fullmatch(path)
        groups = match.groupdict() if match else {}
        name = groups.get("name")
        if name is None:
            return ref_name
        return f"{name}@{groups['alias']}" if groups.get("alias") else name


def rule(methods: str, path: str, verb: Verb | None, *, only_with_ref: bool = False) -> AccessRule:
    """`path` is a pattern; `{name}` and `{alias}` match as the routes' own parameters do."""
    pattern = path.replace("{name}", "(?P<name>.+)").replace("{alias}", "(?P<alias>[^/]+)")
    return AccessRule(frozenset(methods.split()), re.compile(pattern), verb, only_with_ref)


class Rules:
    """The rules of all planes: one that is met is enough; what no rule names needs `admin`."""

    def __init__(self, rules: Iterable[AccessRule]) -> None:
        self._rules = tuple(rules)

    def naming(self, method: str, path: str) -> list[AccessRule]:
        return [rule for rule in self._rules if rule.names(method, path)]

    def authorize(self, principal: Principal, method: str, path: str, ref_name: str | None) -> None:
        """Raises Forbidden unless the principal may use the route; `ref_name` is the adapter's
        name in the query `ref`, if there is one."""
        wanted: list[tuple[Verb, str | None]] = []
        for rule in self.naming(method, path):
            if rule.only_with_ref and ref_name is None:
                continue
            if rule.verb is None:
                return
            wanted.append((rule.verb, rule.target(path, ref_name)))
        if not any(principal.allows(verb, target) for verb, target in wanted):
            verb, target = wanted[0] if wanted else (ADMIN, None)
            principal.require(verb, target)
