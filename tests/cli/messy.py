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


def _walks(users: int) -> list[tuple[int, int, int]]:
    """(user, item, step) of users who go through N_ITEMS items in steps of one."""
    rng = np.random.default_rng(5)
    walks = []
    for user in range(users):
        start = int(rng.integers(N_ITEMS))
        steps = range(int(rng.integers(4, 9)))
        walks += [(user, (start + step) % N_ITEMS, step) for step in steps]
    return walks


def _write(path: Path, lines: list[str], *, end: str = "\n", mark: bool = False) -> Path:
    text = end.join(lines) + end
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    return path


def garden(folder: Path) -> tuple[Path, Path]:
    """As a spreadsheet in German saves it: byte order marks, semicolons, decimal commas, days
    before months; titles are missing and an item is there twice."""
    items = ["Artikelnummer;Bezeichnung;Preis"]
    for n in range(N_ITEMS):
        title = f'Rose {n} "rot"' if n % 7 else ""
        items.append(f"G{n:03d};{title};{n},90")
    items.append("G003;Rose 3 nochmal;1,00")
    events = ["Kunde;Artikelnummer;Kaufdatum"]
    events += [f"K{user};G{item:03d};{13 + step}.03.2024" for user, item, step in _walks(30)]
    catalog = _write(folder / "artikel.csv", items, mark=True)
    return catalog, _write(folder / "kaeufe.csv", events, mark=True)


def parts(folder: Path) -> tuple[Path, Path]:
    """Ids that became decimal numbers, so that their zeros are lost, and milliseconds among
    seconds."""
    items = ["part_no,description,category"]
    items += [f"{n:05d},Bolt M{n},fasteners" for n in range(N_ITEMS)]
    events = ["client_id,part_no,epoch"]
    for user, item, step in _walks(30):
        moment = (1_700_000_000 + step * 86_400) * (1000 if user % 5 == 0 else 1)
        events.append(f"{100 + user}.0,{item}.0,{moment}")
    return _write(folder / "parts.csv", items), _write(folder / "orders.csv", events, end="\r\n")


def library(folder: Path) -> tuple[Path, Path]:
    """Tabs, headers with blanks, months before days, quotes inside of cells, and a loan of a book
    that is not in the catalog."""
    items = ["Book ID\tBook Title\tAuthor"]
    items += [f'{9_780_000 + n}\tNovel "{n}\tAuthor, {n % 5}' for n in range(N_ITEMS)]
    events = ["Reader\tBook ID\tBorrowed"]
    for user, item, step in _walks(30):
        events.append(f"r{user}\t{9_780_000 + item}\t03/{13 + step}/2024 10:0{step}")
    events.append("r1\t9799999\t03/30/2024 10:00")
    return _write(folder / "books.tsv", items), _write(folder / "loans.tsv", events)
