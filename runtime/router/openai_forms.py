"""The form that a client asks an answer to have: `response_format`, and `structured_outputs` for what
the OpenAI API has no field for. Becomes a grammar; knows nothing of sampling.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mserve.runtime import grammar


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NamedSchema(_Form):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None  # an answer always keeps to its schema


class TextFormat(_Form):
    type: Literal["text"]


class JsonFormat(_Form):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(_Form):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")]


class StructuredOutputs(_Form):
    """Exactly one form: a JSON schema, a regular expression, texts to choose from, or a grammar in
    llguidance's variant of Lark's notation."""

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    grammar: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "StructuredOutputs":
        given = [form for form in (self.json_, self.regex, self.choice, self.grammar) if form]
        if len(given) != 1:
            raise ValueError("give one of json, regex, choice and grammar")
        return self


def grammar_of(wanted: TextFormat | JsonFormat | SchemaFormat | StructuredOutputs | None) -> str:
    """ "" where any text will do. Raises BadRequest for a form that cannot be followed."""
    match wanted:
        case None | TextFormat():
            return ""
        case JsonFormat():
            return grammar.grammar_of_schema({"type": "object"}, "response_format")
        case SchemaFormat():
            return grammar.grammar_of_schema(wanted.json_schema.schema_, "response_format")
        case StructuredOutputs():
            return _grammar_of_structured(wanted)


def _grammar_of_structured(wanted: StructuredOutputs) -> str:
    param = "structured_outputs"
    if wanted.json_ is not None:
        return grammar.grammar_of_schema(wanted.json_, param)
    if wanted.regex is not None:
        return grammar.grammar_of_regex(wanted.regex, param)
    if wanted.choice is not None:
        return grammar.grammar_of_choice(wanted.choice, param)
    assert wanted.grammar is not None, "one form was given"
    return grammar.grammar_of_rules(wanted.grammar, param)
