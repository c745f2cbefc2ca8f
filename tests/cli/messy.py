"""Messy shops: a catalog and events with unusual columns and problems that stop a build."""

from pathlib import Path

import numpy as np

N_ITEMS = 40


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
