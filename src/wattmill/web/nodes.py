"""Numbers of nodes in paths of the admin API: as large as a database's integers; others lead nowhere."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class _NodeConvertor(Convertor[int]):
    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


NODE = "{node:wattmill_node}"
"""In the path of a `Route`; `request.path_params["node"]` is the number."""

register_url_convertor("wattmill_node", _NodeConvertor())
