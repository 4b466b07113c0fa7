"""The domain of each question, by a classifier prompt over the Mathematics Subject Classification.

The protocol is the paper's (section 2.2): a model sees the question and a list of two-digit codes, explains, and ends
with one code. The list has the 61 codes that the authors used (without 00 and 01), described in our words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from s1.clients.call_cache import CallCache
from s1.clients.map_calls import Caller, Watch, map_readings, no_watch
from s1.config import read_yaml
from s1.errors import BadConfig

DOMAIN_SYSTEM = (
    "You sort questions into subjects. Given a question and a list of subjects with two-digit codes, choose "
    "the one subject that fits best, also where the question is of another science. Give your reason in a "
    "sentence or two. Then end with a line that holds the two-digit code and nothing else."
)

BUILT_IN = Path(__file__).with_name("msc.yaml")


def read_domains(path: Path = BUILT_IN) -> dict[str, str]:
    """A list of subjects, from a YAML file {two-digit code: "Name: what belongs there"}. Raises BadConfig."""
    data = read_yaml(path)
    domains = {f"{k:02d}" if isinstance(k, int) else str(k): v for k, v in data.items()}
    if not domains or not all(re.fullmatch(r"\d\d", k) and isinstance(v, str) for k, v in domains.items()):
        raise BadConfig(
            f"{path}: not a list of subjects.", 'Write lines such as "51": Geometry, each with two digits.'
        )
    return domains


async def classify(
    questions: Mapping[str, str],
    classifier: Caller,
    cache: CallCache,
    domains: Mapping[str, str],
    *,
    progress: Watch = no_watch,
) -> dict[str, str]:
    """The name of each question's domain, by id. Questions whose replies name no code are left out."""
    listed = "\n".join(f"{code} {title}" for code, title in sorted(domains.items()))

    def read(text: str) -> str | None:
        line = domains.get(read_code(text) or "")
        return None if line is None else domain_name(line)

    calls = {
        name: classifier.request(f"## Question\n{text}\n\n## Subjects\n{listed}", system=DOMAIN_SYSTEM)
        for name, text in questions.items()
    }
    return await map_readings(calls, read, classifier, cache, progress=progress)


def domain_name(line: str) -> str:
    """The text before the colon, or the whole line.

    >>> domain_name("Geometry: triangles, circles")
    'Geometry'
    """
    return line.split(":", 1)[0].strip()


def read_code(text: str) -> str | None:
    """The two digits at the end of the reply; emphasis marks and a full stop may follow."""
    found = re.search(r"(?<!\d)(\d\d)[\s*_.`)]*$", text)
    return found.group(1) if found else None
