"""Requests that are computed together: each gets what it would get alone, and no group is larger than a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segrefine import Segmenter
from segrefine.assets import demo_gs_bundle
from segrefine.errors import PromptError, SettingsError
from segrefine.runtime.batching import Company, PhraseBatching, PhraseRequest, group_by_company
from segrefine.runtime.segmentation import Segmentation

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def batching() -> Iterator[PhraseBatching]:
    with Segmenter.from_bundle(demo_gs_bundle(), threads=1) as segment:
        yield PhraseBatching(segment)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1.5)), max_size=12))
def test_groups_have_one_key_and_fit_into_a_batch(given_companies: list[tuple[int, float]]) -> None:
    requests = [PhraseRequest(image=IMAGE, phrases=["x"]) for _ in given_companies]
    companies = {
        request: Company(key=key, share=share) for request, (key, share) in zip(requests, given_companies, strict=True)
    }
    groups = group_by_company(companies)
    assert sorted(map(id, sum(groups, []))) == sorted(map(id, requests))
    for group in groups:
        assert len({companies[request].key for request in group}) == 1
        assert len(group) == 1 or sum(companies[request].share for request in group) <= 1


def test_each_request_gets_its_own_and_errors_stay_with_theirs(batching: PhraseBatching) -> None:
    told: list[str] = []
    good = PhraseRequest(image=IMAGE, phrases=["the fox", "the car"], progress=lambda stage, _: told.append(stage))
    again = PhraseRequest(image=IMAGE.copy(), phrases=["the tree"])
    flat = PhraseRequest(image=IMAGE[:40], phrases=["the fox"], seed=3)
    empty, none = (PhraseRequest(image=IMAGE, phrases=phrases) for phrases in ([" "], []))
    unseeded = PhraseRequest(image=IMAGE, phrases=["the fox"], seed=-1)
    odd = PhraseRequest(image=IMAGE[:0], phrases=["the fox"])
    first, second, third, *failed, last = batching.run([good, again, flat, empty, none, odd, unseeded])
    assert [type(each) for each in failed[:2]] == [PromptError, PromptError] and isinstance(failed[2], Exception)
    assert isinstance(last, SettingsError) and "sample" in told
    for request, result in ((good, first), (again, second), (flat, third)):
        assert isinstance(result, Segmentation)
        alone = batching.segment(request.image, request.phrases, seed=request.seed)
        assert [each.phrase for each in result.segments] == list(request.phrases)
        for each, other in zip(result.segments, alone.segments, strict=True):
            np.testing.assert_allclose(each.probability, other.probability, atol=1e-4)
