"""Reading params.yaml and overlays, more strictly than a YAML library: repeated keys are refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crossflow.core.errors import CrossflowError

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML in which a repeated key is an error: PyYAML itself silently takes the last.

    ruamel.yaml is not used, because it reads some words unlike snakemake's PyYAML: 1e3 as a number, and a model called
    n as False (by the rules of YAML 1.1) or yes as a text (by those of 1.2).
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; its own keys take precedence over those merged by ``<<``, as usual."""
        places = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        keys = [self.construct_object(place) for place in places]
        for key, place in zip(keys, places, strict=True):
            if keys.count(key) > 1:
                raise CrossflowError(
                    f"{place.start_mark.name}, line {place.start_mark.line + 1}: duplicate key {key!r}."
                )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            content = _Loader(file).get_single_data()
    except OSError as error:
        raise CrossflowError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise CrossflowError(f"{path} is not text in UTF-8 (byte {error.start}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise CrossflowError(
            f"{path}{place}: invalid YAML ({getattr(error, 'problem', None) or 'see its first line'})."
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # A value that does not fit its tag, such as a date with month 13; or thousands of nested brackets.
        reason = str(error).partition("\n")[0]
        raise CrossflowError(f"{path}: invalid YAML ({reason}).") from error
    if not isinstance(content, dict):
        raise CrossflowError(f"{path} has no keys: settings as in params.yaml were expected.")
    return content


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Overlay settings as snakemake does: mappings are merged key by key, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def read_config(path: Path, overlay: Path | None = None) -> dict[str, Any]:
    """Read params.yaml and, if given, an overlay.

    Raises:
        CrossflowError: a file cannot be read, is invalid YAML, or repeats a key.
    """
    config = _read_yaml(path)
    return config if overlay is None else _laid_over(config, _read_yaml(overlay))
