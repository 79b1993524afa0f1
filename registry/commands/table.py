"""The registry's commands: where each stands on the command line, and in which module."""

from __future__ import annotations

from hotswap.registry.commands.tree import CommandTable, Group, Lazy

DAILY, VERSIONS, OPERATION, ACCESS = "Every day", "Adapters", "Operation", "Access"
_HERE = "hotswap.registry.commands"

TABLE = CommandTable(
    commands={
        "push": Lazy(
            f"{_HERE}.push:push", "Make the PEFT adapter SOURCE a version of NAME.", DAILY
        ),
        "pull": Lazy(
            f"{_HERE}.adapters:pull",
            "Write the adapter REF into the new DIRECTORY, every file verified.",
            DAILY,
        ),
        "ls": Lazy(
            f"{_HERE}.listing:ls",
            "List the adapters, the versions of NAME, or those a filter holds for.",
            DAILY,
        ),
        "show": Lazy(
            f"{_HERE}.adapters:show",
            "Show what the adapter REF is: its base, shape, files and metrics.",
            DAILY,
        ),
        "rollback": Lazy(
            f"{_HERE}.aliases:rollback",
            "Move the alias REF (team/sql@prod) back to an earlier version.",
            DAILY,
        ),
        "alias set": Lazy(
            f"{_HERE}.aliases:set_alias", "Point the alias REF (team/sql@prod) to version NUMBER."
        ),
        "alias history": Lazy(
            f"{_HERE}.aliases:history",
            "List every move of the alias REF (team/sql@prod), oldest first.",
        ),
        "alias at": Lazy(
            f"{_HERE}.aliases:at",
            "Tell which version the alias REF (team/sql@prod) pointed to at TIME.",
        ),
        "adapter diff": Lazy(
            f"{_HERE}.compare:diff",
            "Show what differs from the version A to the version B: config, metrics, data and"
            " weights.",
        ),
        "adapter yank": Lazy(
            f"{_HERE}.states:yank",
            "Let no alias move to the version REF (team/sql:7); it can still be pulled.",
        ),
        "adapter unyank": Lazy(f"{_HERE}.states:unyank", "Take the yank of REF (team/sql:7) back."),
        "adapter delete": Lazy(
            f"{_HERE}.states:delete",
            "Delete the version REF (team/sql:7); refused while an alias points to it.",
        ),
        "adapter undelete": Lazy(
            f"{_HERE}.states:undelete", "Bring the deleted version REF (team/sql:7) back."
        ),
        "store serve": Lazy(f"{_HERE}.adapters:serve", "Serve the registry alone over HTTP."),
        "store verify": Lazy(
            f"{_HERE}.upkeep:verify",
            "Re-hash the files of the adapter REF, or all that is stored; status 1 for damage.",
        ),
        "store sweep": Lazy(f"{_HERE}.upkeep:sweep", "Delete what nothing refers to any more."),
        "store events": Lazy(
            f"{_HERE}.events:events",
            "Print what happened, oldest first: pushes, alias moves, changes of state.",
        ),
        "store migrate": Lazy(
            f"{_HERE}.catalog:migrate",
            "Bring the catalog's tables to what this version of hotswap needs.",
        ),
        "store rebuild": Lazy(
            f"{_HERE}.catalog:rebuild",
            "Make the catalog again from the object store alone: versions, aliases and their"
            " history.",
        ),
        "server ls": Lazy(
            f"{_HERE}.servers:ls",
            "List the servers that follow the registry, and which event each has applied.",
        ),
        "server webhooks": Lazy(
            f"{_HERE}.events:webhooks",
            "List the webhooks: how far each has come, and how its last attempt ended.",
        ),
        "token create": Lazy(
            f"{_HERE}.access:create",
            "Make the token NAME.",
        ),
        "token ls": Lazy(f"{_HERE}.access:ls", "List every token ever made, without its secret."),
        "token revoke": Lazy(
            f"{_HERE}.access:revoke",
            "Make the token NAME worthless, for good; its name is not used again.",
        ),
        "key new": Lazy(
            f"{_HERE}.release:new", "Make an Ed25519 key in the new FILE and print its public key."
        ),
        "key show": Lazy(f"{_HERE}.release:show", "Print the public key of the key in FILE."),
        "whoami": Lazy(
            f"{_HERE}.whoami:whoami",
            "Print which token is used, what it may do, and until when.",
            ACCESS,
        ),
        "audit": Lazy(
            f"{_HERE}.access:audit",
            "Print who changed what, oldest first; with --json one entry a line, for export.",
            ACCESS,
        ),
    },
    groups={
        "adapter": Group("Compare, withdraw and export versions.", VERSIONS),
        "alias": Group("Move aliases, and see where they have pointed.", VERSIONS, default="set"),
        "store": Group("Serve, check and clean what is stored.", OPERATION),
        "server": Group("See what follows the registry.", OPERATION),
        "token": Group(
            "Make, list and revoke tokens. From the first one on, every request needs one.", ACCESS
        ),
        "key": Group("Make and look at keys that sign versions and alias moves.", ACCESS),
    },
    renamed={
        "registry": "store serve",
        "history": "alias history",
        "served": "alias at",
        "servers": "server ls",
        "diff": "adapter diff",
        "yank": "adapter yank",
        "unyank": "adapter unyank",
        "delete": "adapter delete",
        "undelete": "adapter undelete",
        "verify": "store verify",
        "sweep": "store sweep",
        "events": "store events",
        "migrate": "store migrate",
        "rebuild": "store rebuild",
        "webhooks": "server webhooks",
    },
)
