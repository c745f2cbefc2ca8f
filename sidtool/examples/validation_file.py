"""The file of validation users, many lines at once."""

from json.encoder import encode_basestring
from pathlib import Path

import numpy as np

from sidtool.data.split import PackedExamples, ranges, write_examples
from sidtool.examples.blocks import LinePart, LineTexts, line_by_line, line_part
from sidtool.examples.event_columns import BLOCK


def write_validation(path: Path, examples: PackedExamples) -> None:
    """Write the lines of `write_examples`."""
    if examples.store.has_fields or (examples.targets.lengths > 1).any():
        write_examples(path, examples)
        return
    texts = LineTexts()
    users = texts.add(f'{{"user": {encode_basestring(user)}' for user in examples.store.users)
    items = list(map(encode_basestring, examples.names))
    first_items = texts.add([f', "history": [{item}' for item in items])
    next_items = texts.add([f", {item}" for item in items])
    targets = texts.add([f'], "item": {item}' for item in items])
    no_history = texts.add([', "history": ['])
    distinct, position_of = np.unique(examples.positions, return_inverse=True)
    positions = texts.add([f', "position": {position}}}\n' for position in distinct.tolist()])
    with path.open("wb") as stream:
        for start, stop in ranges(examples.histories.lengths, BLOCK):
            part = examples.take(slice(start, stop))
            sizes = part.histories.lengths
            history = part.histories.joined + np.int64(next_items)
            is_empty = sizes == 0
            oldest = (np.cumsum(sizes) - sizes)[~is_empty]
            history[oldest] += first_items - next_items
            parts = [
                line_part(part.user_codes + np.int64(users)),
                LinePart(is_empty, np.full(int(is_empty.sum()), no_history)),
                LinePart(sizes, history),
                line_part(part.items + np.int64(targets)),
                line_part(position_of[start:stop] + positions),
            ]
            stream.write(texts.joined(line_by_line(parts)))
