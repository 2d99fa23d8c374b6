"""Bars in groups, with their spread, as SVG."""
import html

WIDTH, TOP, PLOT, BOTTOM, LEFT = 860, 44, 260, 60, 44
COLOURS = ("#9aa0a6", "#5f6368", "#8ab4f8", "#4285f4", "#fbbc04", "#f29900", "#34a853", "#a142f4", "#ee675c")


def text(x, y, words, anchor="middle", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{html.escape(words)}</text>'


def line(x1, y1, x2, y2, colour):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def svg(title, groups):
    """groups: {text: {name: {"median", "min", "max"}}}. A name has the same colour in all groups."""
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    most = max((s["max"] for bars in groups.values() for s in bars.values()), default=1) * 1.08
    bottom = TOP + PLOT

    def y(value):
        return bottom - PLOT * value / most

    parts = [text(WIDTH / 2, 20, title, size=15)]
    for k in range(int(most * 4) + 1):
        parts += [line(LEFT, y(k / 4), WIDTH, y(k / 4), "#000" if k == 4 else "#ddd"), text(LEFT - 6, y(k / 4) + 4, f"{k / 4:g}", "end")]
    group_width = (WIDTH - LEFT) / max(len(groups), 1)
    for g, (label, bars) in enumerate(groups.items()):
        width = min(group_width * 0.9 / max(len(names), 1), 60)
        left = LEFT + group_width * (g + 0.5) - width * len(names) / 2
        parts.append(text(left + width * len(names) / 2, bottom + 18, label))
        for name, s in bars.items():
            x, middle = left + width * names.index(name), left + width * (names.index(name) + 0.5)
            parts.append(f'<rect x="{x + 1:.1f}" y="{y(s["median"]):.1f}" width="{width - 2:.1f}" height="{bottom - y(s["median"]):.1f}" '
                         f'fill="{COLOURS[names.index(name) % len(COLOURS)]}"/>')
            parts += [line(middle, y(s["min"]), middle, y(s["max"]), "#000"), text(middle, y(s["max"]) - 4, f"{s['median']:.2f}", size=10)]
    for i, name in enumerate(names):
        x = LEFT + (WIDTH - LEFT) * i / len(names)
        parts += [f'<rect x="{x:.1f}" y="{bottom + 34}" width="12" height="12" fill="{COLOURS[i % len(COLOURS)]}"/>', text(x + 16, bottom + 45, name, "start")]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" font-family="sans-serif">\n'
            '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n")
