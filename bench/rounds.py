"""What benches that compare clusters share: rounds in which each comes first once, figures with their spread, tables."""
import json
import statistics
import time


class Progress:
    """say: prints a line."""

    def __init__(self, n, say):
        self.n, self.out, self.done, self.start = n, say, 0, time.monotonic()

    def say(self, text):
        self.done += 1
        left = (time.monotonic() - self.start) * (self.n - self.done) / self.done
        self.out(f"{self.done} of {self.n}, {left / 60:.1f} min to go: {text}")


def turned(values, n):
    n %= len(values)
    return values[n:] + values[:n]


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def print_table(head, rows):
    print("\n| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def in_words(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})" if ratios else "-"
