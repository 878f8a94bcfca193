"""A model card in Markdown: what a model is for, what it was made of, how good it is and where it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from maskrcnn.errors import plural
from maskrcnn.viz.report_errors import ERRORS
from maskrcnn.viz.report_figures import WORDS, Figures
from maskrcnn.viz.report_parts import number, percent, value_of, whole, with_interval
from maskrcnn.viz.tables import Table, in_markdown

#: Rows of a table, and kinds of mistakes, that a card has.
MOST_ROWS, MOST_PAIRS = 40, 5
NOT_STATED = "Not stated by whoever made this package."


@dataclass(frozen=True)
class ModelCard:
    """What a card says; words of its maker may be empty.

    use, licence: as its maker states them.
    started_from: names of weights -> their licence, empty where that is not stated.
    facts, data: name -> value, of the model and its training, and of the data.
    classes: name -> the score from which it is shown.
    best: figures without intervals, where there is no report.
    report: the json beside a page (``ReportFigures``); None: none was made of this checkpoint.
    pictures: (file in the package, what it shows).
    plugins: modules that the model needs besides maskrcnn.
    """

    name: str
    use: str
    licence: str
    started_from: Mapping[str, str]
    facts: Mapping[str, str]
    data: Mapping[str, str]
    classes: Mapping[str, float]
    best: Mapping[str, float] = field(default_factory=dict)
    report: Figures | None = None
    pictures: Sequence[tuple[str, str]] = ()
    plugins: Sequence[str] = ()

    def markdown(self) -> str:
        """The whole card."""
        parts = (
            ("", [f"# {in_markdown(self.name)}", *self._about()]),
            ("Intended use", self._use()),
            ("How to use it", self._how()),
            ("Licence", self._licences()),
            ("Data", [_table(("data", ""), self.data)] if self.data else [NOT_STATED]),
            ("Figures", [*self._figures()]),
            ("Known failures", [*self._failures()]),
            ("What it is made of", [_table(("model", ""), self.facts)]),
        )
        told = [text for title, texts in parts for text in ([f"## {title}"] if title else []) + texts]
        return "\n\n".join(told) + "\n"

    def _about(self) -> list[str]:
        shown = [f"![{in_markdown(words)}]({file})" for file, words in self.pictures]
        return [f"A model that finds {_listed(list(self.classes))} in images, made with maskrcnn.", *shown]

    def _use(self) -> list[str]:
        if self.use:
            return [in_markdown(self.use)]
        return [f"{NOT_STATED} It was trained to find {_listed(list(self.classes))} in images like its data."]

    def _how(self) -> list[str]:
        lines = ["```", f"maskrcnn predict IMAGE... --checkpoint {self.name}", "```"]
        lines += ["", "```python", "from maskrcnn import Model", ""]
        lines += [f'found = Model("{self.name}").predict("image.jpg")', "```"]
        told = ["\n".join(lines)]
        if self.plugins:
            names = ",".join(self.plugins)
            told.append(
                f"It needs {plural(len(self.plugins), 'Python module')} besides, which must be installed and"
                f" trusted: `--set plugins=[{names}]`."
            )
        rows = [(name, number(score, 2)) for name, score in list(self.classes.items())[:MOST_ROWS]]
        told.append(Table(("class", "shown from a score of"), rows).markdown())
        return [*told, *_more(len(self.classes))]

    def _licences(self) -> list[str]:
        told = [in_markdown(self.licence) if self.licence else NOT_STATED]
        for name, licence in self.started_from.items():
            known = f"whose licence is {in_markdown(licence)}" if licence else "whose licence is not stated"
            told.append(f"Training began from {in_markdown(name)}, {known}.")
        return told

    def _figures(self) -> Iterator[str]:
        found = self.report
        if found is None:
            if not self.best:
                yield "This checkpoint was not evaluated."
                return
            yield "Of the evaluation that chose this checkpoint; without a report there are no intervals."
            yield _table(("figure", ""), {name: number(value) for name, value in self.best.items()})
            return
        level, times = found["intervals"].get("level"), found["intervals"].get("resamples")
        told = f"On {plural(found['images'], 'image', spec=',')}, in [0, 1]."
        if times:
            told += f" In brackets: where a figure lies in {level:.0%} of {times:,} draws of as many images."
        yield told
        kinds = found["figures"]
        names = list(dict.fromkeys(name for named in kinds.values() for name in named))
        rows = [(n, *(with_interval(named.get(n)) for named in kinds.values())) for n in names]
        yield Table(("figure", *(WORDS.get(kind, kind) for kind in kinds)), rows).markdown()
        each = found["per_class"][found["kind"]]
        rows = [
            (entry["name"], whole(entry["ground_truth"]), with_interval(named.get("AP")))
            for entry, named in zip(found["classes"], each, strict=True)
        ][:MOST_ROWS]
        yield Table(("class", "objects", f"AP of {WORDS[found['kind']]}"), rows).markdown()
        yield from _more(len(found["classes"]))

    def _failures(self) -> Iterator[str]:
        found = self.report
        if found is None:
            yield (
                "Not known: no report of this checkpoint was at hand (`maskrcnn eval --report` writes one,"
                " `maskrcnn package --report` takes it)."
            )
            return
        lines = [*_failures(found)]
        yield "\n".join(f"- {line}" for line in lines) if lines else "The report shows none."


def _failures(found: Figures) -> Iterator[str]:
    """A line a kind of failure, the costliest first."""
    tide = found["tide"].get(found["kind"])
    errors = {} if tide is None else tide["errors"]
    costs = {name: entry["cost"] or 0.0 for name, entry in errors.items()}
    for name in sorted((n for n in costs if costs[n] > 0.001), key=lambda n: -costs[n]):
        cases = plural(errors[name]["count"], "case", spec=",")
        yield f"{name}: {ERRORS[name][0]} ({cases}; costs {costs[name]:.3f} of AP50)"
    each = zip(found["classes"], found["per_class"][found["kind"]], strict=True)
    known = [(value_of(named.get("AP")), entry["name"]) for entry, named in each]
    if len(known) > 1 and (worst := [(ap, name) for ap, name in known if ap is not None]):
        ap, name = min(worst)
        yield f"worst class: {in_markdown(name)}, AP {number(ap)}"
    for pair in (found["confusion"] or {"pairs": []})["pairs"][:MOST_PAIRS]:
        truth, taken = in_markdown(pair["truth"]), in_markdown(pair["predicted"])
        yield f"{truth} is taken for {taken}: {plural(pair['count'], 'case', spec=',')}"
    if found["objects"] is not None:
        small = [e for e in found["objects"]["sizes"] if e["count"]]
        if small:
            low = min(small, key=lambda e: (e["found"] or 0.0, e["low"]))
            sides = (
                f"{low['low']:g} px and more"
                if low["high"] is None
                else f"{low['low']:g} to {low['high']:g} px"
            )
            yield f"least found are objects of {sides}: {percent(low['found'])} of {whole(low['count'])}"
        if found["objects"]["border"]["count"]:
            border, inside = (percent(found["objects"][k]["found"]) for k in ("border", "inside"))
            yield f"at the image's border {border} of objects are found, inside {inside}"
    limits = found["limits"]
    if limits.get("images_at_cap"):
        yield f"{plural(limits['images_at_cap'], 'image')} had as many predictions as the model gives at most"
    if found["background"] is not None:
        empty = found["background"]
        one, several = "image without objects", "images without objects"
        images = plural(empty["images"], one, several)
        yield f"something is found on {empty['with_detections']} of {images}"


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    return Table(head, [*rows.items()], left=(0, 1)).markdown()


def _more(classes: int) -> list[str]:
    return [f"and {plural(classes - MOST_ROWS, 'more class')}"] if classes > MOST_ROWS else []


def _listed(names: Sequence[str]) -> str:
    shown = [in_markdown(name) for name in names[:8]]
    return ", ".join(shown) + (f" and {plural(len(names) - 8, 'more class')}" if len(names) > 8 else "")
