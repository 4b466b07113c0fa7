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
from s1.errors import BadConfig, first_line

DOMAIN_SYSTEM = (
    "You sort questions into subjects. Given a question and a list of subjects with two-digit codes, choose "
    "the one subject that fits best, also where the question is of another science. Give your reason in a "
    "sentence or two. Then end with a line that holds the two-digit code and nothing else."
)

MSC = {
    "03": "Logic: formal proofs, sets, models, what can be computed or decided",
    "05": "Combinatorics: counting, graphs, arrangements, extremal questions",
    "06": "Ordered structures: partial orders, lattices, Boolean algebra",
    "08": "Universal algebra: operations and equations in abstract systems",
    "11": "Number theory: divisibility, primes, congruences, integer solutions",
    "12": "Fields and polynomials: roots, factors, field extensions, Galois theory",
    "13": "Commutative algebra: commutative rings, ideals, modules over them",
    "14": "Algebraic geometry: curves and varieties given by polynomials",
    "15": "Linear algebra: vectors, matrices, determinants, eigenvalues",
    "16": "Associative algebra: noncommutative rings, modules over them",
    "17": "Nonassociative algebra: Lie, Jordan and other such algebras",
    "18": "Categories: functors, homology in general",
    "19": "K-theory of rings and spaces",
    "20": "Groups: symmetry, permutations, finite and infinite groups",
    "22": "Continuous groups: groups with a topology, Lie groups",
    "26": "Real functions: limits, derivatives, integrals, inequalities in real variables",
    "28": "Measure: measurable sets, abstract integration",
    "30": "Complex functions: one complex variable, conformal maps, residues",
    "31": "Potentials: harmonic functions, Laplace's equation in theory",
    "32": "Several complex variables",
    "33": "Special functions: gamma, Bessel, elliptic, hypergeometric",
    "34": "Ordinary differential equations: one independent variable",
    "35": "Partial differential equations: heat, wave and other equations in several variables",
    "37": "Dynamical systems: iteration, chaos, long-term behaviour",
    "39": "Difference and functional equations: recurrences, unknown functions",
    "40": "Sequences and series: convergence, summation",
    "41": "Approximation: polynomials near functions, expansions, error terms",
    "42": "Fourier analysis: trigonometric series, wavelets",
    "43": "Harmonic analysis on groups",
    "44": "Transforms: Laplace, Fourier and other integral transforms at work",
    "45": "Integral equations",
    "46": "Function spaces: normed and topological vector spaces",
    "47": "Operators: linear and nonlinear maps between function spaces",
    "49": "Optimal control: minimizing functionals, variational problems",
    "51": "Geometry: triangles, circles, polygons, solids, coordinates",
    "52": "Convex and discrete geometry: polytopes, packings, lattice points, tilings",
    "53": "Differential geometry: curvature, surfaces, geodesics",
    "54": "Topology: open sets, continuity, compactness in general spaces",
    "55": "Algebraic topology: homotopy, homology of spaces",
    "57": "Manifolds: knots, low-dimensional and smooth topology",
    "58": "Analysis on manifolds: differential operators and maps on them",
    "60": "Probability: random variables, expectation, random processes",
    "62": "Statistics: estimation, tests, regression, experiments",
    "65": "Numerical analysis: algorithms for approximate computation, their errors",
    "68": "Computer science: algorithms, programs, data structures, machine learning",
    "70": "Mechanics: forces, motion and collisions of particles and rigid bodies",
    "74": "Deformable solids: stress, strain, elasticity, vibration of materials",
    "76": "Fluids: flow, pressure, buoyancy, gas dynamics",
    "78": "Optics and electromagnetism: light, fields, charges, waves",
    "80": "Thermodynamics: heat, temperature, engines, energy transfer",
    "81": "Quantum physics: particles, states, atoms, spectra",
    "82": "Statistical physics: matter made of many particles, phases",
    "83": "Relativity: space-time, gravitation",
    "85": "Astronomy: stars, planets, orbits, the universe",
    "86": "Earth science: climate, oceans, rocks, geography",
    "90": "Operations research: planning, scheduling, linear and integer programs",
    "91": "Games, economics, society: strategy, markets, finance, social questions, puzzles of people",
    "92": "Life science: biology, medicine, chemistry of life and other chemistry",
    "93": "Systems and control: feedback, stability of machines",
    "94": "Information: codes, signals, cryptography, circuits",
    "97": "Teaching: how mathematics is taught; everyday school arithmetic",
}
"""Two-digit codes of the Mathematics Subject Classification, which the paper uses, with names and remarks of our own:
the classification itself is CC-BY-NC-SA. The text before the colon becomes the `domain`."""


def read_domains(path: Path) -> dict[str, str]:
    """Another list of subjects, from a YAML file {two-digit code: "Name: what belongs there"}. Raises BadConfig."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: not a readable list of subjects ({first_line(error)}).") from None
    good = isinstance(data, dict) and data and all(isinstance(v, str) for v in data.values())
    domains = {f"{k:02d}" if isinstance(k, int) else str(k): v for k, v in data.items()} if good else {}
    if not good or not all(re.fullmatch(r"\d\d", k) for k in domains):
        raise BadConfig(
            f"{path}: not a list of subjects.", 'Write lines such as "51": Geometry, each with two digits.'
        )
    return domains


async def classify(
    questions: Mapping[str, str],
    classifier: Caller,
    cache: CallCache,
    *,
    domains: Mapping[str, str] = MSC,
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
