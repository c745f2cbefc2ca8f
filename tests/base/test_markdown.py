import yaml

from sidtool.base.markdown import front_matter, model_index, with_dataset


def test_a_name_does_not_end_the_metadata() -> None:
    measured = model_index("a" * 65 + " --- b", "x", [("m", 1.0)])
    front = front_matter(license="mit", base_model=None, measured=measured)
    assert " ---\n" in front  # yaml has divided the name
    card = with_dataset(f"---\n{front}\n---\n\n# a\n", "org/data")
    written, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert body == "\n# a\n"
    assert yaml.safe_load(written) == yaml.safe_load(front) | {"datasets": ["org/data"]}
