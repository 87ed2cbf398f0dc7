"""Small data for the loop."""

import pytest
from toys import sixty_pairs


@pytest.fixture
def pairs():
    return sixty_pairs()
