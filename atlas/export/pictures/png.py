"""SVG -> PNG, drawn by resvg: one wheel without dependencies, with the fonts of this machine."""

from __future__ import annotations

from atlas.errors import InputError

ZOOM = 2.0  # 192 dots an inch: sharp at the width of a page
_MOST = 8000  # px; a taller or wider picture is drawn smaller: 8000 x 8000 take 256 MB
_PROBE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24"><text x="2" y="20" font-size="20" '
    "font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\">M</text></svg>"
)


def png(svg: str, *, width: float, height: float) -> bytes:
    """Draw an SVG of that size in px at twice the size.

    Raises InputError where resvg_py is not installed, and where no font is found: the text would be missing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise InputError(
            "--png needs resvg_py, which is not installed; pip install 'atlas-neurons[pictures]', or take --svg"
        ) from error
    blank = _PROBE.replace(">M<", "><")
    if bytes(resvg_py.svg_to_bytes(svg_string=_PROBE)) == bytes(resvg_py.svg_to_bytes(svg_string=blank)):
        raise InputError(
            "--png found no font on this machine, so text would be missing; install DejaVu Sans, or take --svg"
        )
    zoom = min(ZOOM, _MOST / max(width, height))
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom))
