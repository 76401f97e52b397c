"""One tiny corpus for all tests of this folder."""

import pytest

from tests.helpers.tiny_corpus import TinyCorpus, make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TinyCorpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"))
