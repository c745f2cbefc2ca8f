"""Write docs/tasks.md from the tasks and template files; `--check` fails if the page is stale."""

import sys
from pathlib import Path

from sidtool.examples.task import Task
from sidtool.examples.tasks import TASKS, TEXT_PROMPT_TASKS
from sidtool.model.prompt.frames import Templates

PAGE = Path(__file__).with_name("tasks.md")
HEAD = """# Training tasks

What `sidtool make-sft --task NAME=WEIGHT` makes training examples of; the option may be repeated. Written by `make docs`;
do not edit.

* **WEIGHT** 1 takes every example once, 0.5 half of them, 3 each in three templates. With `--max-tokens` weights are the
  tasks' shares of a token budget.
* **FIELD** in `FIELD-to-sid`, `sid-to-FIELD` and `prefix-to-FIELD` is any column of the catalog, as in `brand-to-sid`. The
  last three tasks need [fields of the split](feedback.md#tasks); their FIELD is a feedback.
* **A model recommends** from a history by `sequence` or `next-item`, whichever has the larger weight. Without these it
  uses `context-to-sid` or `next-item-by-FIELD`, whichever is named first, then `list`, then `title-history-to-sid`. It
  writes lists by `list` ([lists](lists.md)), and answers a text by the first of these: {text_tasks}.
* **The loss** is over the completion. `sequence` trains every SID of a history; `item-text` and `history-text` are running
  text in which every token is trained (continued pre-training).
* **Texts**: a history that exceeds `--max-length` loses its oldest items. Titles, columns and queries are cut between
  words at 400 characters, and are never tokenized as SID or special tokens, whatever they contain.
* **`--general FILE`** adds examples of the task `general-text` ([training](training.md#choosing-tasks)).

| task | one example per | prompt | completion | needs |
| --- | --- | --- | --- | --- |
"""
TEMPLATES = """
## Templates

The first template of each task, with `⏎` for a line break; the others are in `sidtool/model/prompt/templates`. A model
recommends, writes lists and predicts labels with the first template of the task, so each example of such a task is made
with it. Further copies, and the examples of other tasks, take the templates in turn.

| task | prompt | an item in it |
| --- | --- | --- |
"""
PER = {"event": "training event", "item": "item", "query": "query"}
SHOWN = {
    "sid": "SID",
    "list": "SIDs of the next items",
    "title": "title",
    "prefix": "first codes of the SID",
    "query": "query",
}


def shown(view: str, task: Task) -> str:
    """What a prompt or a completion shows, in words."""
    if view == "column":
        return task.column
    if view == "feedback":
        return "FIELD of the last item"
    history = task.of_users and view == task.source
    return f"history of {SHOWN[view]}s" if history else SHOWN[view]


def line(name: str, task: Task) -> str:
    """The line of a task in the table."""
    needs = "queries" if task.needs_queries else ""
    if task.needs_fields:
        needs = f"feedback `{task.feedback}`" if task.feedback else "fields of users or contexts"
    elif task.column:
        needs = f"column `{task.column}`"
    elif task.shows_title:
        needs = "titles"
    if task.is_sequence:
        cells = ("user", "", "SIDs of the history")
    elif task.target == "list":
        cells = ("list", shown(task.source, task), SHOWN[task.target])
    elif task.target == "text":
        cells = (task.per, "", "running text of SIDs and titles")
    else:
        prompt = shown(task.source, task)
        cells = (PER[task.per], prompt, SHOWN.get(task.target) or shown(task.target, task))
    return f"| {' | '.join((f'`{name}`', *cells, needs))} |"


def template(name: str) -> str:
    """The first template of a task, as a row."""
    of_task = Templates.of_task(name.lower())
    texts = (of_task.prompts[0], *of_task.items[:1])
    cells = [f"`{text}`".replace("\n", "⏎") for text in texts]
    return f"| `{name}` | {' | '.join((*cells, '')[:2])} |"


def page() -> str:
    """The whole page."""
    head = HEAD.format(text_tasks=", ".join(f"`{name}`" for name in TEXT_PROMPT_TASKS))
    table = "\n".join(line(name, task) for name, task in TASKS.items())
    templates = "\n".join(map(template, TASKS))
    return f"{head}{table}\n{TEMPLATES}{templates}\n"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
        sys.exit("docs/tasks.md is stale: run `make docs`" if stale else 0)
    PAGE.write_text(text, encoding="utf-8")
