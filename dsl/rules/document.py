"""The rules' pages as one document: docs/rules.md, and the list of `mserve explain`."""

from mserve.dsl.rules import RULES, page_of

_HEAD = """\
# Rules

What `mserve check` finds, one section per rule. `mserve explain RULE` shows a section in the terminal. Written by
`python -m mserve.dsl.rules` from the rules' docstrings.
"""


def headline_of(rule: str) -> str:
    return page_of(rule).partition("\n")[0]


def rules_document() -> str:
    """Markdown, the rules in alphabetical order."""
    ordered = sorted(RULES)
    listed = "\n".join(f"- [`{rule}`](#{rule}): {headline_of(rule)}" for rule in ordered)
    sections = (f"## {rule}\n\n{_markdown(page_of(rule))}" for rule in ordered)
    return "\n".join([_HEAD, f"{listed}\n", "\n\n".join(sections)]) + "\n"


def _markdown(page: str) -> str:
    """A page with its examples, indented by four blanks, as blocks of code."""
    lines: list[str] = []
    for paragraph in page.split("\n\n"):
        if paragraph.startswith("    "):
            code = "\n".join(line.removeprefix("    ") for line in paragraph.splitlines())
            if lines and lines[-1].endswith("\n```"):  # an empty line inside an example
                lines[-1] = lines[-1].removesuffix("```") + f"\n{code}\n```"
            else:
                lines.append(f"```text\n{code}\n```")
        else:
            lines.append(paragraph)
    return "\n\n".join(lines)
