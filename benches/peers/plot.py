"""The medians as bars, with least and most as a line: SVG, written by hand."""

from html import escape

from report import TABLES, summary

# What is drawn: measure, figure, heading. Longer is better on the left, shorter on the right.
PANELS = [
    ("requests-32", "direct", "requests, 32 connections: ratio to direct"),
    ("requests-32", "cpu", "CPU us of both proxies for a request, 32 connections"),
    ("requests-256", "direct", "requests, 256 connections: ratio to direct"),
    ("requests-256", "cpu", "CPU us of both proxies for a request, 256 connections"),
    ("bulk-1", "direct", "bulk, 1 stream: ratio to direct"),
    ("bulk-1", "cpu", "bulk, 1 stream: CPU s/GB"),
    ("bulk-16", "direct", "bulk, 16 streams: ratio to direct"),
    ("bulk-16", "cpu", "bulk, 16 streams: CPU s/GB"),
    ("connections", "rate", "new client connections a second"),
    ("paced", "cpu", "CPU us of both proxies for a request, 2,000 a second"),
    ("hops", "rate", "new hops a second"),
    ("idle", "kb_a", "KB for a connection at rest, A"),
]
BAR, GAP, LABEL, LENGTH, MARGIN, COLUMNS = 16, 6, 110, 260, 20, 2
OURS, PEER = "#1a6b8f", "#a8b3ba"


def panel(numbers, kinds, measure, figure, heading):
    """One set of bars; its height."""
    rows = [(kind.name, numbers[kind.name][measure][figure]) for kind in kinds
            if measure in numbers.get(kind.name, {})]
    longest = max((row["most"] for _, row in rows), default=0) or 1
    decimals = next((d for name, _, d in TABLES[measure][1] if name == figure), 2)
    yield f'<text x="0" y="12" font-weight="bold">{escape(heading)}</text>'
    for at, (name, row) in enumerate(rows):
        y = 22 + at * (BAR + GAP)
        scale = LENGTH / longest
        least, middle, most = (max(0.0, row[key]) * scale for key in ("least", "median", "most"))
        colour = OURS if name == "countersign" else PEER
        yield f'<text x="{LABEL - 6}" y="{y + 12}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect x="{LABEL}" y="{y}" width="{middle:.1f}" height="{BAR}" fill="{colour}"/>'
        yield (f'<line x1="{LABEL + least:.1f}" x2="{LABEL + most:.1f}" y1="{y + BAR / 2}" y2="{y + BAR / 2}" '
               f'stroke="#333"/>')
        yield f'<text x="{LABEL + LENGTH + 6}" y="{y + 12}">{row["median"]:,.{decimals}f}</text>'


def draw(samples, kinds):
    """The whole picture."""
    numbers = summary(samples)
    shown = [p for p in PANELS if any(p[0] in numbers.get(kind.name, {}) for kind in kinds)]
    width, height = LABEL + LENGTH + 90, 22 + len(kinds) * (BAR + GAP) + 24
    rows = -(-len(shown) // COLUMNS)
    total = (COLUMNS * width + 2 * MARGIN, rows * height + 2 * MARGIN)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}" '
             f'font-family="sans-serif" font-size="11">',
             '<rect width="100%" height="100%" fill="white"/>']
    for at, (measure, figure, heading) in enumerate(shown):
        x, y = MARGIN + at % COLUMNS * width, MARGIN + at // COLUMNS * height
        parts.append(f'<g transform="translate({x},{y})">')
        parts += panel(numbers, kinds, measure, figure, heading)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])
