"""`python -m mserve.dsl.rules > docs/rules.md`"""

from mserve.dsl.rules.document import rules_document

if __name__ == "__main__":
    print(rules_document(), end="")
