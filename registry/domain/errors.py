"""The registry's errors, each with its HTTP status and its stable code; the roots of all others.

    HotswapError                       500 internal_error
    ├── InvalidRequest                 400 invalid_request
    │   ├── InvalidReference               invalid_reference
    │   ├── InvalidDigest                  invalid_digest
    │   ├── InvalidManifest                invalid_manifest
    │   ├── InvalidBundle                  invalid_bundle
    │   │   └── UnsafeFile                 unsafe_file
    │   ├── InvalidPrompt                  invalid_prompt
    │   ├── DigestMismatch                 digest_mismatch
    │   ├── InvalidSettings                invalid_settings
    │   ├── InvalidFilter                  invalid_filter
    │   └── RequestTooLarge            413 request_too_large
    ├── Unauthenticated                401 unauthenticated
    ├── Forbidden                      403 forbidden
    ├── NotFound                       404 not_found
    │   ├── AdapterNotFound                adapter_not_found
    │   ├── VersionNotFound                version_not_found
    │   ├── VersionDeleted                 version_deleted
    │   ├── AliasNotFound                  alias_not_found
    │   ├── BlobNotFound                   blob_not_found
    │   └── TokenNotFound                  token_not_found
    ├── Conflict                       409 conflict
    │   ├── AliasConflict                  alias_conflict
    │   ├── NothingToRollBack              nothing_to_roll_back
    │   ├── PolicyViolation                policy_violation
    │   ├── VersionInUse                   version_in_use
    │   ├── VersionYanked                  version_yanked
    │   ├── SweepInProgress                sweep_in_progress
    │   ├── NameTaken                      name_taken
    │   ├── UploadInterrupted              upload_interrupted
    │   ├── TokenExists                    token_exists
    │   └── CursorAhead                    cursor_ahead
    ├── Untrusted                      422 untrusted
    │   └── SignatureInvalid               signature_invalid
    ├── ServerBusy                     429 server_busy
    ├── BlobCorrupted                  500 blob_corrupted
    └── Unavailable                    503 unavailable
        ├── StoreUnavailable               store_unavailable
        ├── StoreUnsuitable                store_unsuitable
        ├── StoreTooNew                    store_too_new
        ├── SchemaMismatch                 schema_mismatch
        ├── RegistryUnavailable            registry_unavailable
        └── NotAcknowledged                not_acknowledged

A layer above draws its own branches in its own `errors`. The HTTP handler writes `body()`; the
HTTP client rebuilds the same class with `from_body()`, or the nearest that its process has
imported, with code, status and fields as they came.
A message says what was asked, what was found and what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar


class HotswapError(Exception):
    """An error with a code that never changes, an HTTP status and fields for programs."""

    code: str = "internal_error"
    status: int = 500
    _by_code: ClassVar[dict[str, type[HotswapError]]] = {}

    def __init_subclass__(cls) -> None:
        if HotswapError._by_code.setdefault(cls.code, cls) is not cls:
            raise TypeError(f"two errors have the code {cls.code!r}")

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def body(self) -> dict[str, Any]:
        """The JSON body of the HTTP answer, in the form OpenAI clients read."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.fields.get("param"),
                "code": self.code,
                "fields": self.fields,
            }
        }

    @classmethod
    def from_body(cls, status: int, body: Any) -> HotswapError:
        """The error that `body()` described; a body of another form becomes a plain error."""
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return HotswapError(f"the server answered {status}: {str(body)[:500]}")
        code, fields = error.get("code"), error.get("fields")
        kind = cls._by_code.get(code) if isinstance(code, str) else None
        rebuilt = (kind or _nearest(status))(
            error["message"], **(fields if isinstance(fields, dict) else {})
        )
        if kind is None:
            rebuilt.status = status if status >= 400 else rebuilt.status  # 200: amid a stream
            rebuilt.code = code if isinstance(code, str) else rebuilt.code
        return rebuilt


def _nearest(status: int) -> type[HotswapError]:
    """What errors of one status have in common; those of other statuses have only the root."""
    shared = (
        InvalidRequest,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        ServerBusy,
        Unavailable,
    )
    return next((kind for kind in shared if kind.status == status), HotswapError)


class InvalidRequest(HotswapError):
    code = "invalid_request"
    status = 400


class InvalidReference(InvalidRequest):
    code = "invalid_reference"


class InvalidDigest(InvalidRequest):
    code = "invalid_digest"


class InvalidManifest(InvalidRequest):
    code = "invalid_manifest"


class InvalidBundle(InvalidRequest):
    code = "invalid_bundle"


class UnsafeFile(InvalidBundle):
    code = "unsafe_file"


class InvalidPrompt(InvalidRequest):
    code = "invalid_prompt"


class DigestMismatch(InvalidRequest):
    """Bytes that arrived are not the bytes that were announced."""

    code = "digest_mismatch"


class InvalidSettings(InvalidRequest):
    code = "invalid_settings"


class InvalidFilter(InvalidRequest):
    """A search's expression cannot be read; `column` counts from 1."""

    code = "invalid_filter"


class RequestTooLarge(InvalidRequest):
    """A request body is larger than the server accepts; nothing of it was kept."""

    code = "request_too_large"
    status = 413


class Unauthenticated(HotswapError):
    """No token came with the request, or one that is unknown, expired or revoked."""

    code = "unauthenticated"
    status = 401


class Forbidden(HotswapError):
    """The token is valid, but none of its scopes covers what was asked; names the missing one."""

    code = "forbidden"
    status = 403


class NotFound(HotswapError):
    code = "not_found"
    status = 404


class AdapterNotFound(NotFound):
    """Carries the names there are in its field `there_is`, which not everyone may read."""

    code = "adapter_not_found"

    def seen_by(self, may_read: Callable[[str], bool]) -> AdapterNotFound:
        """The same error without the names that the reader may not know."""
        names = self.fields.get("there_is") or []
        visible = [name for name in names if may_read(name)]
        message = self.message.replace(there_is(names), there_is(visible))
        return AdapterNotFound(message, **{**self.fields, "there_is": visible})


def there_is(names: Sequence[str]) -> str:
    return f"there is {', '.join(names)}" if names else "`hotswap ls` lists what there is"


class VersionNotFound(NotFound):
    code = "version_not_found"


class VersionDeleted(NotFound):
    """The version was deleted; the message says whether it can come back."""

    code = "version_deleted"


class AliasNotFound(NotFound):
    code = "alias_not_found"


class BlobNotFound(NotFound):
    code = "blob_not_found"


class TokenNotFound(NotFound):
    code = "token_not_found"


class Conflict(HotswapError):
    code = "conflict"
    status = 409


class AliasConflict(Conflict):
    """The alias was moved by someone else between the look and the move."""

    code = "alias_conflict"


class NothingToRollBack(Conflict):
    code = "nothing_to_roll_back"


class PolicyViolation(Conflict):
    """The alias is protected and the move does not meet its conditions; names each that fails."""

    code = "policy_violation"


class VersionInUse(Conflict):
    """An alias points to the version that was to be deleted."""

    code = "version_in_use"


class VersionYanked(Conflict):
    """No alias may move to a yanked version."""

    code = "version_yanked"


class SweepInProgress(Conflict):
    """A sweep is deleting what this push needs; the same push succeeds a moment later."""

    code = "sweep_in_progress"


class NameTaken(Conflict):
    """The name could be taken for another adapter's, which was there first."""

    code = "name_taken"


class UploadInterrupted(Conflict):
    """Another upload completed this one, or a sweep aborted it; the same push goes on with it."""

    code = "upload_interrupted"


class TokenExists(Conflict):
    """The name belongs to a token already; names are never used twice, or the log would lie."""

    code = "token_exists"


class CursorAhead(Conflict):
    """The log of events ends before the cursor: the store was put back. Followers start over."""

    code = "cursor_ahead"


class Untrusted(HotswapError):
    """What was asked for is not signed by a key that is trusted with it; names those that are."""

    code = "untrusted"
    status = 422


class SignatureInvalid(Untrusted):
    """A signature does not fit what it is said to sign."""

    code = "signature_invalid"


class ServerBusy(HotswapError):
    code = "server_busy"
    status = 429


class BlobCorrupted(HotswapError):
    """Stored bytes no longer have their digest; they are never handed on."""

    code = "blob_corrupted"


class Unavailable(HotswapError):
    code = "unavailable"
    status = 503


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class StoreUnsuitable(Unavailable):
    """The object store does not honour create-once writes, so versions could be lost."""

    code = "store_unsuitable"


class StoreTooNew(Unavailable):
    """The store has a format that only a newer release of hotswap can read."""

    code = "store_too_new"


class SchemaMismatch(Unavailable):
    """The catalog's tables are those of another version of hotswap."""

    code = "schema_mismatch"


class RegistryUnavailable(Unavailable):
    code = "registry_unavailable"


class NotAcknowledged(Unavailable):
    """Servers that follow the registry have not said in time that they applied a move."""

    code = "not_acknowledged"
