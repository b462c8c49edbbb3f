"""Requests as an OpenAPI description allows them, as hypothesis strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import orjson
import yaml
from hypothesis import strategies as st

METHODS = ("get", "post", "put", "patch", "delete")
Schema = Mapping[str, Any]
Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to send: *fields* without a token, *body* None for none."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    open_to_all: bool = False


class Description:
    """An OpenAPI description in *file*; *formats* gives the values of formats that are not OpenAPI's own."""

    def __init__(self, file: Path, formats: Mapping[str, Sequence[str]]) -> None:
        self._document = yaml.safe_load(file.read_text())
        self._formats = formats

    @property
    def paths(self) -> Mapping[str, Schema]:
        """What is described, by path template."""
        paths: Mapping[str, Schema] = self._document["paths"]
        return paths

    @property
    def operations(self) -> list[tuple[str, str]]:
        """Every path template with each of its methods, in upper case."""
        return [(path, method.upper()) for path, item in self.paths.items() for method in METHODS if method in item]

    def requests(self) -> st.SearchStrategy[Asked]:
        """Return what gives any request to any operation."""
        return st.sampled_from(self.operations).flatmap(lambda operation: _request(self, *operation))

    def requests_to(self, path: str, method: str) -> st.SearchStrategy[Asked]:
        """Return what gives any request to one operation."""
        return _request(self, path, method)

    def resolved(self, node: Schema) -> Schema:
        """Return what *node* refers to, or itself."""
        while reference := node.get("$ref"):
            found: Any = self._document
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node

    def values(self, schema: Schema) -> Strategy:
        """Return what gives the values that *schema* allows."""
        found = self.resolved(schema)
        if "enum" in found:
            return st.sampled_from(found["enum"])
        if "oneOf" in found:
            return st.one_of([self.values(each) for each in found["oneOf"]])
        return self._typed(found)

    def _typed(self, schema: Schema) -> Strategy:
        match schema["type"]:
            case "array":
                return st.lists(self.values(schema["items"]), max_size=schema["maxItems"])
            case "object":
                each = {name: self.values(of) for name, of in schema["properties"].items()}
                required = {name: each.pop(name) for name in schema.get("required", ())}
                return st.fixed_dictionaries(required, optional=each)
            case "integer":
                return st.integers(schema["minimum"], schema["maximum"])
            case "string":
                return st.sampled_from(self._formats[schema["format"]])
            case kind:
                return {"boolean": st.booleans(), "null": st.none()}[kind]


@st.composite
def _request(draw: st.DrawFn, description: Description, path: str, method: str) -> Asked:
    item = description.paths[path]
    operation = item[method.lower()]
    parameters = [
        description.resolved(each) for each in (*item.get("parameters", ()), *operation.get("parameters", ()))
    ]
    required = [each for each in parameters if each.get("required")]
    optional = [each for each in parameters if not each.get("required")]
    sent = draw(st.lists(st.sampled_from(optional), max_size=4, unique_by=_name)) if optional else []
    fields, query = [], []
    target = path
    for parameter in (*required, *sent):
        name, value = parameter["name"], draw(description.values(parameter["schema"]))
        for each in value if isinstance(value, list) else [value]:
            match parameter["in"]:
                case "path":
                    target = target.replace(f"{{{name}}}", quote(each, safe=""))
                case "query":
                    query.append(f"{quote_plus(name)}={quote_plus(str(each))}")
                case _:
                    fields.append((name, each))
    body = None
    if contents := operation.get("requestBody", {}).get("content"):
        kind = draw(st.sampled_from(sorted(contents)))
        value = draw(description.values(contents[kind]["schema"]))
        body = value.encode() if isinstance(value, str) else orjson.dumps(value)
        fields.append(("Content-Type", kind))
    if query:
        target += f"?{'&'.join(query)}"
    return Asked(method, target, tuple(fields), body, open_to_all=operation.get("security") == [])


def _name(parameter: Schema) -> str:
    return str(parameter["name"])
