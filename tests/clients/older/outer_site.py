"""The site that the outer tests started, as a plugin of pytest: a second conftest.py would be taken for the outer one."""

import os

import pytest


@pytest.fixture
def base_url():
    return os.environ["GALERNE_URL"] + "/v1"


@pytest.fixture
def api_key():
    return os.environ["GALERNE_API_KEY"]


@pytest.fixture
def model():
    return os.environ["GALERNE_MODEL"]
