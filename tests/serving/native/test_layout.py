"""The structs and constants that Python and the kernels share, as the C compiler lays them out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hotswap.serving.engine.pages import PAGE
from hotswap.serving.native import layout, library, sources
from tests.serving.native.compiling import compiled

STRUCTS = [
    layout.LinearStruct,
    layout.LoraLinearStruct,
    layout.LayerStruct,
    layout.ModelStruct,
    layout.AdapterRowsStruct,
    layout.SegmentStruct,
    layout.StepStruct,
]
LEVELS = ("PORTABLE", "AVX2", "AVX_VNNI", "AVX512_VNNI", "AVX512_BF16", "AMX")
CONSTANTS = {
    "TILE_N": layout.TILE_N,
    "GROUP": layout.GROUP,
    "HALF_GROUP": layout.HALF_GROUP,
    "MAX_PARTS": layout.MAX_PARTS,
    "LINEARS": len(layout.LINEARS),
    "PAGE": PAGE,
    **{name.upper(): index for index, name in enumerate(layout.LINEARS)},
    **{name: getattr(library, name) for name in LEVELS},
}
NUMBERS = {
    ctypes.c_int32: "int32_t",
    ctypes.c_int64: "int64_t",
    ctypes.c_float: "float",
}
POINTER_CLASS = 5  # what __builtin_classify_type says of pointers


def name_in_c(struct: Any) -> str:
    return struct.__name__.removesuffix("Struct")


def require(condition: str, subject: str) -> str:
    return f'_Static_assert({condition}, "{subject}");'


def claims(struct: Any) -> Iterator[str]:
    """C that compiles when the struct has these fields and no others, of these types and there."""
    name = name_in_c(struct)
    for field, kind in struct._fields_:
        here = f"(({name} *)0)->{field}"
        yield require(
            f"offsetof({name}, {field}) == {getattr(struct, field).offset}", f"place of {field}"
        )
        yield require(f"sizeof({here}) == {ctypes.sizeof(kind)}", f"size of {field}")
        yield require(type_of(here, kind), f"type of {field}")
    yield require(f"sizeof({name}) == {ctypes.sizeof(struct)}", "size of all")
    # A field that only C has would be left out here, which -Wextra reports.
    values = ", ".join(
        "{0}" if issubclass(kind, (ctypes.Array, ctypes.Structure)) else "0"
        for _, kind in struct._fields_
    )
    yield f"const {name} all = {{{values}}};"


def type_of(here: str, kind: Any) -> str:
    if issubclass(kind, ctypes.Array):
        return type_of(f"{here}[0]", kind._type_)
    if kind is ctypes.c_void_p:
        return f"__builtin_classify_type({here}) == {POINTER_CLASS}"
    if issubclass(kind, ctypes._Pointer):
        here, kind = f"*{here}", kind._type_
    name = NUMBERS.get(kind) or name_in_c(kind)
    return f"__builtin_types_compatible_p(__typeof__({here}), {name})"


def compile_lines(lines: Iterator[str] | list[str], directory: Path) -> None:
    source = directory / "claims.c"
    source.write_text("\n".join(["#include <stddef.h>", '#include "native.h"', *lines]))
    compiled(source, directory / "claims.o", "-c")


def test_every_struct_of_the_layout_is_compared() -> None:
    found = [value for name, value in vars(layout).items() if name.endswith("Struct")]
    assert found == STRUCTS


@pytest.mark.parametrize("struct", STRUCTS, ids=name_in_c)
def test_a_struct_has_the_fields_that_the_compiler_gives_it(struct: Any, tmp_path: Path) -> None:
    compile_lines(claims(struct), tmp_path)


def test_constants_have_their_values_in_c(tmp_path: Path) -> None:
    compile_lines([require(f"{name} == {at}", name) for name, at in CONSTANTS.items()], tmp_path)


def test_a_field_that_only_c_has_is_found(tmp_path: Path) -> None:
    class SegmentStruct(ctypes.Structure):
        _fields_ = layout.SegmentStruct._fields_[:-1]  # the last one would be padding

    assert ctypes.sizeof(SegmentStruct) < ctypes.sizeof(layout.SegmentStruct)
    with pytest.raises(AssertionError, match="missing initializer"):
        compile_lines(claims(SegmentStruct), tmp_path)


def test_a_library_of_other_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "src"
    changed.mkdir()
    for path in sources.SOURCES.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (changed / "types.h").write_text((changed / "types.h").read_text() + "\n")
    monkeypatch.setattr(sources, "SOURCES", changed)
    with pytest.raises(library.KernelsMissing, match="compiled of other sources"):
        library.load.__wrapped__()
