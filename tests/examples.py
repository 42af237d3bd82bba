"""How many examples the property tests try: the same few in `make test`, more and new ones in `make test-all`."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100
_SEARCH = 4
"""How many times as many examples a search tries."""

settings.register_profile("same", derandomize=True, deadline=None, max_examples=_USUAL)
settings.register_profile("search", derandomize=False, deadline=None, max_examples=_SEARCH * _USUAL, print_blob=True)
settings.load_profile("same")  # `--hypothesis-profile search` is loaded after this, and before any test is imported


def examples(usual: int) -> int:
    """The number of examples to try, where `usual` are tried in `make test`."""
    return max(1, usual * settings().max_examples // _USUAL)
