"""The names of the formats that `prepare` reads."""

from typing import Literal

Source = Literal[
    "amazon-2014", "amazon-2018", "amazon-2023", "movielens", "recbole", "kuairand", "table"
]
