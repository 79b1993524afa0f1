"""Patterns of module names mean what PEFT means by them, and none can run for ever."""

from __future__ import annotations

import re
import resource
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotswap.registry.domain.patterns import (
    MAX_PATTERN_LENGTH,
    InvalidPattern,
    check_pattern,
    fits_end,
    fits_whole,
)

MODULES = [
    f"model.layers.{layer}.{block}"
    for layer in (0, 1, 12)
    for block in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "mlp.gate_up_proj")
]
PATTERNS = [
    "q_proj",
    r".*\.(q|k)_proj",
    r"model\.layers\.(0|1)\..*",
    "self_attn.q_proj",
    r"layers\.\d+\.mlp\.down_proj",
    r"[^.]+_proj",
    "model.layers.1.self_attn.k_proj",
    "a|q_proj",
    r"(?:.*?(?:vision|model).*?(?:self_attn|mlp).*?(?:q_proj|k_proj|down_proj).*?)",
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|down_proj)))",
    "",
    ".",
    "proj$",
    "^model.*",
]
# Python's own engine takes hours for each of these.
ENDLESS = [".*" * 10 + "x", "(a+)+$", "(.*)*x", "(.|.)*x", "([a-z_.0-9]+)*!", "(a|aa)+$"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("module", MODULES)
def test_patterns_mean_what_peft_means(pattern: str, module: str) -> None:
    check_pattern(pattern)
    assert fits_whole(pattern, module) == (re.fullmatch(pattern, module) is not None)
    assert fits_end(pattern, module) == (re.match(rf"(.*\.)?({pattern})$", module) is not None)


PARTS = st.sampled_from(
    ["a", "b", r"\.", ".", "[ab]", "[^a]", "(a|b)", "a*", "b+", ".*", "(ab)?", "a{1,2}", "|"]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(PARTS, max_size=8).map("".join), st.text("ab.", max_size=10))
def test_composed_patterns_mean_what_peft_means(pattern: str, module: str) -> None:
    assert fits_whole(pattern, module) == (re.fullmatch(pattern, module) is not None)
    assert fits_end(pattern, module) == (re.match(rf"(.*\.)?({pattern})$", module) is not None)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_no_pattern_runs_for_ever(pattern: str) -> None:
    code = (
        "import sys\n"
        "from hotswap.registry.domain.patterns import fits_end, fits_whole\n"
        "name = '.'.join(['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'] * 8)\n"
        "fits_end(sys.argv[1], name), fits_whole(sys.argv[1], name)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))

    done = subprocess.run([sys.executable, "-c", code, pattern], preexec_fn=limit, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "pattern",
    ["(", "(?=a)b", r"(a)\1", "(?<!a)b", "a{1001}", "a" * (MAX_PATTERN_LENGTH + 1), "\ud800"],
)
def test_what_cannot_be_matched_in_linear_time_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidPattern):
        check_pattern(pattern)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_is_matched_or_refused(pattern: str, module: str) -> None:
    try:
        check_pattern(pattern)
    except InvalidPattern:
        return
    fits_whole(pattern, module)
    fits_end(pattern, module)
