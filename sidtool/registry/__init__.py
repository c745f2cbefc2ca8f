"""Names and versions of bundles at any URL: references, publishing, tags and cards."""

from sidtool.registry.log import log
from sidtool.registry.publish import plan_push, pull, push, tag
from sidtool.registry.references import open_bundle

__all__ = ["log", "open_bundle", "plan_push", "pull", "push", "tag"]
