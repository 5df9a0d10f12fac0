"""YAML as people read it: version 1.2's words for numbers, and one kind of error for whatever is wrong.

PyYAML follows version 1.1, in which ``no`` is a boolean, ``1:30`` is ninety, ``010`` is eight, ``1e-3`` is a text and
``2020-01-01`` is a date. Here a plain word is a number, true, false or null, or else a text; keys are texts, and given
once; nothing holds itself.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

_MOST_VALUES = 1_000_000


class YamlError(ValueError):
    """A text that is not YAML, or more than this project reads of it."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a word, not a list or a mapping", key_node.start_mark
                )
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
            if key_node.tag != "tag:yaml.org,2002:merge":
                key_node.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """A decimal number, with as many digits as Python takes."""
        try:
            return int(node.value)
        except ValueError:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} digits", node.start_mark
            ) from None


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


# None of version 1.1's.
_Loader.yaml_implicit_resolvers = {}
_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", "[-+]?[0-9]+", "-+0123456789")
_resolve("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+0123456789.")
_resolve("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")
_resolve("null", "~|null|Null|NULL|", "~nN")
_Loader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile("^$")))
_resolve("merge", "<<", "<")
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def load_yaml(text: str) -> Any:
    """The value that a text stands for.

    Raises:
        YamlError: it stands for none, or for one that holds itself, is nested too deeply or is too large.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        _require_finite(value, (), [_MOST_VALUES])
    except RecursionError:
        raise YamlError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise YamlError(str(error)) from None
    return value


def _require_finite(value: Any, above: tuple[int, ...], left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise YamlError(f"it holds more than {_MOST_VALUES} values")
    if not isinstance(value, dict | list | set):
        return
    if id(value) in above:
        raise YamlError("it holds itself by an alias")
    for inner in value.values() if isinstance(value, dict) else value:
        _require_finite(inner, (*above, id(value)), left)
