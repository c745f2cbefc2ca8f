"""The kinds of rewards by name, and sums of them as text."""

import numpy as np

from sidtool.base.errors import UsageError
from sidtool.training.reinforcement.rewards import hits
from sidtool.training.reinforcement.rewards.collaborative import open_memory
from sidtool.training.reinforcement.rewards.functions import function_reward
from sidtool.training.reinforcement.rewards.label import POSITIVE, open_labels
from sidtool.training.reinforcement.rewards.reward import Reward, RewardTerm

REWARDS: dict[str, Reward] = {
    "exact": Reward(hits.exact),
    "rank": Reward(hits.rank),
    "prefix": Reward(hits.prefix),
    "recall": Reward(of_lists=hits.list_recall),
    "ndcg": Reward(hits.ndcg, hits.list_ndcg),
    "value": Reward(hits.value, hits.list_value, needs_weights=True),
    "collaborative": Reward(open_input=open_memory),
    "label": Reward(open_input=open_labels, settings=(POSITIVE,)),
}


def parse_rewards(text: str, *, lists: bool = False) -> tuple[RewardTerm, ...]:
    """Parse `rank=1,prefix=0.5`: names of REWARDS of items or of lists, or functions as
    MODULE:FUNCTION, with weights; the weight is 1 if not given.

    Raises UsageError for an unknown or repeated name, a weight that is not a number other than 0,
    and a function that cannot be imported."""
    known = {name: kind for name, kind in REWARDS.items() if kind.applies_to(lists=lists)}
    terms: dict[str, RewardTerm] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = np.nan
        if not np.isfinite(weight) or weight == 0:
            raise UsageError(
                f"the weight of reward {name} is a number other than 0, not {number!r}"
            )
        if name in terms:
            raise UsageError(f"reward {name} is given twice")
        terms[name] = RewardTerm(name, weight, known.get(name) or function_reward(name, known))
    return tuple(terms.values())
