"""The bundle and the base model of the tests of models."""

from tests.model.conftest import base as base
from tests.model.conftest import bundle as bundle
from tests.model.conftest import one_thread as one_thread
