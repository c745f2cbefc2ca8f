"""A messy shop: a catalog and orders with unusual columns and every kind of problem."""

from pathlib import Path

import numpy as np

from tests.data.tables.files import write_table

N_ITEMS, N_CUSTOMERS = 40, 24
KINDS = ("lamp", "soap", "novel", "kettle")


def messy_shop(folder: Path) -> tuple[Path, Path]:
    """`catalog.csv` (sku,name,long_desc,brand,price) and `orders.csv` (customer,sku,bought_at)."""
    rng = np.random.default_rng(3)
    skus = [f"K-{number:03d}" for number in range(N_ITEMS)]
    rows = [
        (sku, f"{KINDS[n % 4]} {n}", f"A {KINDS[n % 4]}, quite good.", f"brand {n % 3}", f"{n}.90")
        for n, sku in enumerate(skus)
    ]
    rows[7] = (skus[7], "", "no name", "brand 1", "")  # no title
    rows.append((skus[3], "lamp 3 again", "", "", ""))  # a repeated id
    rows.append((f" {skus[5]}", "soap 5", "", "", ""))  # an id with a blank
    rows.append(("", "nothing", "", "", ""))  # no id
    names = ("sku", "name", "long_desc", "brand", "price")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    catalog = write_table(folder / "catalog.csv", {name: list(cells) for name, cells in columns})
    orders = []
    for customer in range(N_CUSTOMERS):
        start = int(rng.integers(N_ITEMS))
        for step in range(int(rng.integers(4, 9))):
            sku = skus[(start + step) % N_ITEMS]
            orders.append((f"c{customer}", sku, f"2026-01-{1 + step:02d} 10:00"))
    orders = [orders[place] for place in rng.permutation(len(orders))]
    orders.append(orders[0])  # twice
    orders.append(("c0", "K-999", "2026-01-09"))  # an unknown item
    orders.append(("", skus[0], "2026-01-09"))  # no customer
    orders.append(("c1", skus[1], "soon"))  # no time
    orders.append(("c2", skus[2], "1767700000"))  # a number among dates
    orders.append(("once", f"{skus[4]} ", "2026-01-09"))  # one event, and a blank
    names = ("customer", "sku", "bought_at")
    columns = zip(names, zip(*orders, strict=True), strict=True)
    events = write_table(folder / "orders.csv", {name: list(cells) for name, cells in columns})
    return catalog, events
