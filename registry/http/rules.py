"""Which scope each route needs: one table, and what is asked of a principal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hotswap.registry.domain.access import ADMIN, Principal, Verb


@dataclass(frozen=True, slots=True)
class _Rule:
    methods: str
    path: re.Pattern[str]
    verb: Verb
    only_with_ref: bool = False


def _rule(methods: str, path: str, verb: Verb, *, only_with_ref: bool = False) -> _Rule:
    """`{name}` and `{alias}` match as the routes' own parameters do."""
    pattern = path.replace("{name}", "(?P<name>.+)").replace("{alias}", "(?P<alias>[^/]+)")
    return _Rule(methods, re.compile(pattern), verb, only_with_ref)


# The first rule that matches decides; what no rule names needs `admin`. Digests are learnt by
# those who may read a name, so blobs ask only for the verb. Routes that learn the name from the
# body ask here for the verb and themselves for the name (`registry.http.auth.principal_of`).
_RULES: Sequence[_Rule] = (
    _rule("HEAD", "/v1/blobs/[^/]+", "push"),
    _rule("PUT", "/v1/blobs/[^/]+", "push"),
    _rule("POST", "/v1/uploads(/finish)?", "push"),
    _rule("GET HEAD", "/v1/blobs/[^/]+", "pull"),
    _rule("GET", "/v1/manifests/[^/]+", "pull"),
    _rule("GET", "/v1/(resolve|card)", "pull"),
    _rule("GET", "/v1/verify", "pull", only_with_ref=True),  # the whole store: admin
    _rule("GET", "/v1/(adapters|versions)", "pull"),
    # Who may only move sees no event, but learns how far the log has come.
    _rule("GET", "/v1/events", "pull"),
    _rule("GET", "/v1/events", "move"),
    _rule("GET", "/v1/events", "release"),
    # Servers follow with `pull`, and say what they have applied. Who moves an alias waits for them.
    _rule("POST DELETE", "/v1/servers/[^/]+", "pull"),
    _rule("GET", "/v1/servers", "pull"),
    _rule("GET", "/v1/servers", "move"),
    _rule("GET", "/v1/servers", "release"),
    _rule("GET", "/v1/adapters/{name}/aliases/[^/]+/(history|target)", "pull"),
    _rule("GET", "/v1/adapters/{name}/(versions|aliases|states)", "pull"),
    _rule("GET", "/v1/adapters/{name}/versions/[^/]+/signatures", "pull"),
    _rule("POST", "/v1/adapters/{name}/versions", "push"),
    # Which of the two an alias needs is for the policy, and so for the route, to say.
    _rule("POST", "/v1/adapters/{name}/aliases/{alias}(/rollback)?", "move"),
    _rule("POST", "/v1/adapters/{name}/aliases/{alias}(/rollback)?", "release"),
    # A file belongs to the token that sent it; a job asks for `push` on the name that it makes.
    _rule("GET POST", "/v1/files", "push"),
    _rule("GET DELETE", "/v1/files/[^/]+(/content)?", "push"),
    _rule("GET POST", "/v1/fine_tuning/jobs(/[^/]+(/[a-z]+)?)?", "push"),
    _rule("POST", "/v1/(chat/)?completions", "infer"),
    _rule("GET", "/v1/models(/.*)?", "infer"),
)


# Says nothing about adapters: who one is, how the server is, how its API looks.
PUBLIC = frozenset({"/health", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"})


# Any valid token may ask who it is.
ANY_TOKEN = frozenset({"/v1/whoami"})


def authorize(principal: Principal, method: str, path: str, ref_name: str | None) -> None:
    """Raises Forbidden unless the principal may use the route; `ref_name` is the adapter's name
    in the query `ref`, if there is one."""
    if path in ANY_TOKEN:
        return
    verbs = [
        rule
        for rule in _RULES
        if method in rule.methods.split()
        and rule.path.fullmatch(path)
        and (ref_name is not None or not rule.only_with_ref)
    ]
    if not verbs:
        principal.require(ADMIN)
        return
    wanted: list[tuple[Verb, str | None]] = [
        (rule.verb, _target(rule, path, ref_name)) for rule in verbs
    ]
    if not any(principal.allows(verb, target) for verb, target in wanted):
        verb, target = wanted[0]
        principal.require(verb, target)


def _target(rule: _Rule, path: str, ref_name: str | None) -> str | None:
    found = rule.path.fullmatch(path)
    groups = found.groupdict() if found else {}
    name = groups.get("name")
    if name is None:
        return ref_name
    return f"{name}@{groups['alias']}" if groups.get("alias") else name
