"""Which scope each route of the registry plane needs.

Digests are learnt by those who may read a name, so blobs ask only for the verb. Routes that learn
the name from the body ask here for the verb and themselves for the name
(`registry.http.auth.principal_of`).
"""

from __future__ import annotations

from hotswap.registry.domain.access import ADMIN
from hotswap.registry.http.rules import rule

REGISTRY_RULES = (
    rule("GET", "/v1/whoami", None),
    rule("HEAD", "/v1/blobs/[^/]+", "push"),
    rule("PUT", "/v1/blobs/[^/]+", "push"),
    rule("POST", "/v1/uploads(/finish)?", "push"),
    rule("GET HEAD", "/v1/blobs/[^/]+", "pull"),
    rule("GET", "/v1/manifests/[^/]+", "pull"),
    rule("GET", "/v1/(resolve|card)", "pull"),
    rule("GET", "/v1/verify", "pull", only_with_ref=True),  # the whole store: admin
    rule("GET", "/v1/(adapters|versions)", "pull"),
    # Who may only move sees no event, but learns how far the log has come.
    rule("GET", "/v1/events", "pull"),
    rule("GET", "/v1/events", "move"),
    rule("GET", "/v1/events", "release"),
    # Servers follow with `pull`, and say what they have applied. Who moves an alias waits for them.
    rule("POST DELETE", "/v1/servers/[^/]+", "pull"),
    rule("GET", "/v1/servers", "pull"),
    rule("GET", "/v1/servers", "move"),
    rule("GET", "/v1/servers", "release"),
    rule("GET", "/v1/adapters/{name}/aliases/[^/]+/(history|target)", "pull"),
    rule("GET", "/v1/adapters/{name}/(versions|aliases|states)", "pull"),
    rule("GET", "/v1/adapters/{name}/versions/[^/]+/signatures", "pull"),
    rule("POST", "/v1/adapters/{name}/versions", "push"),
    # Which of the two an alias needs is for the policy, and so for the route, to say.
    rule("POST", "/v1/adapters/{name}/aliases/{alias}(/rollback)?", "move"),
    rule("POST", "/v1/adapters/{name}/aliases/{alias}(/rollback)?", "release"),
    rule("POST", "/v1/adapters/{name}/versions/[^/]+/[a-z]+", ADMIN),
    rule("GET", "/v1/(audit|policy|verify|webhooks)", ADMIN),
    rule("GET POST", "/v1/tokens", ADMIN),
    rule("POST", "/v1/tokens/[^/]+/revoke", ADMIN),
)
