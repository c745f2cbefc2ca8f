"""Names and versions of bundles and memories at any URL: references, publishing, tags and cards."""

from sidtool.registry.publish import plan_push, pull, push, tag
from sidtool.registry.references import open_bundle, open_memory
from sidtool.registry.version_log import log

__all__ = ["log", "open_bundle", "open_memory", "plan_push", "pull", "push", "tag"]
