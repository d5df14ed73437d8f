"""Evidence about a neuron -> the messages of a request, by templates that are files with a version and a hash.

A template (templates/*.md) has two parts, `# system` and `# user`, and names in double braces. What comes from a corpus
or from other labels is data of strangers: it stands between <evidence> and </evidence>, and in it angle brackets become
‹ and ›, the marks ⟦ and ⟧ become [ and ], line ends and control characters are escaped, so that no text can end the
evidence or forge a mark.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from atlas.derive.labelling.answers import Form
from atlas.derive.labelling.request import Messages

_NAME = re.compile(r"\{\{(\w+)\}\}")
_SAFE = str.maketrans({"<": "‹", ">": "›", "⟦": "[", "⟧": "]", "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_STEPS = 10


@dataclass(frozen=True)
class Template:
    """A prompt with names to be filled in."""

    name: str
    version: str
    system: str
    user: str
    hash: str

    @property
    def stamp(self) -> str:
        """What labels.prompt_version says: name, version and the hash of the file."""
        return f"{self.name}/{self.version}-{self.hash}"

    def render(self, values: Mapping[str, object]) -> Messages:
        """Fill in the names; every name of the template must be given."""
        return tuple((role, _filled(text, values)) for role, text in (("system", self.system), ("user", self.user)))


@cache
def template(name: str) -> Template:
    """One template of this package."""
    text = (files("atlas.derive.labelling") / "templates" / f"{name}.md").read_text(encoding="utf-8")
    head, _, rest = text.partition("\n# system\n")
    system, _, user = rest.partition("\n# user\n")
    version = head.partition("version:")[2].strip()
    return Template(name, version, system.strip(), user.strip(), hashlib.sha256(text.encode()).hexdigest()[:8])


def repair_text(fault: str, form: Form) -> str:
    """What is said to a model whose answer could not be read."""
    return _filled(template("repair").user, {"fault": safe(fault), "fields": form.described()})


def prompt_hash(messages: Messages) -> str:
    """Hash of a rendered prompt, for labels.prompt_hash."""
    return hashlib.sha256(repr(messages).encode()).hexdigest()[:16]


def safe(text: str, *, most: int | None = None) -> str:
    """Text of others as it may stand in the evidence, cut to `most` characters."""
    return _escaped(text if most is None or len(text) <= most else text[: most - 1] + "…")


def quoted(token: str) -> str:
    """A token as it may stand in the evidence, in quotes so that its blanks are seen."""
    return f'"{safe(token)}"'


def step_of(activation: float, extreme: float) -> int:
    """The activation in tenths of the strongest of its sign, 0 to 10; 0 for the other sign."""
    if extreme == 0 or activation * extreme <= 0:
        return 0
    return min(_STEPS, round(_STEPS * activation / extreme))


def marked(tokens: Sequence[str], activations: Sequence[float], extreme: float) -> str:
    """A text in which each token that fires is marked ⟦so⟧ with its step of 1 to 10."""
    steps = [step_of(activation, extreme) for activation in activations]
    return "".join([f"⟦{_escaped(t)}⟧{s}" if s else _escaped(t) for t, s in zip(tokens, steps, strict=True)])


@lru_cache(1 << 17)  # tokens come again and again
def _escaped(text: str) -> str:
    shown = text.translate(_SAFE)
    return shown if shown.isprintable() else "".join(map(_visible, shown))


def _visible(c: str) -> str:
    return f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else c


def _filled(text: str, values: Mapping[str, object]) -> str:
    return _NAME.sub(lambda found: str(values[found[1]]), text)
