"""What the OpenAI API has and this server does not: each field with the values that ask for nothing.

Such a value is accepted, as clients send defaults along; any other one is refused by name, since an
option that changes an answer is never ignored. Knows no types and no HTTP.
"""

from collections.abc import Mapping, Sequence

IdleValues = Mapping[str, Sequence[object]]

_ABSENT = (None,)

_BOTH: IdleValues = {
    "service_tier": (None, "auto", "default"),
}
OF_COMPLETIONS: IdleValues = {
    **_BOTH,
    "best_of": (None, 1),
    "suffix": (None, ""),
}
OF_CHAT: IdleValues = {
    **_BOTH,
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": _ABSENT,
    "moderation": _ABSENT,
    "prediction": _ABSENT,
    "prompt_cache_options": _ABSENT,
    "prompt_cache_retention": (None, "in_memory"),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "web_search_options": _ABSENT,
    "store": (None, False),
}
OF_MESSAGES: IdleValues = {  # clients send an answer's message back with all its fields
    "annotations": (None, []),
    "audio": _ABSENT,
    "function_call": _ABSENT,
    "tool_calls": (None, []),
}
