from .measure import near_items as near_items
from .measure import neighbor_preservation as neighbor_preservation
from .report import CodebookReport as CodebookReport
from .report import CollisionCounts as CollisionCounts
from .report import Policy as Policy
