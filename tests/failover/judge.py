"""What the records of a failover run mean: the figures of each round and of all, and the rules that must hold whatever the
machine does. Plain data; no process and no clock. Times are in seconds, figures are printed in milliseconds."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field

# failover_grace of the broker, and how much later an answer may be seen on a machine that has other work.
GRACE, ALLOWANCE = 1.0, 0.05
# From when until when about a switch the load generator must have been punctual, and children's pauses are looked at.
BEFORE, AFTER = 0.1, 1.5
PAUSE_BEFORE, PAUSE_AFTER = 1.0, 5.0


def quantile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else None


def ms(value):
    return "-" if value is None else "%.0f" % (value * 1000)


def spread(values, parts=(0.25, 0.5, 0.75, 1)):
    """Quartiles and the greatest, in ms."""
    return "/".join(ms(quantile(values, part)) for part in parts) if values else "-"


@dataclass
class Round:
    """One failover as a load has seen it: times after the first announcement of the switch."""

    kind: str
    fault: float
    switch: float
    old: int
    new: int
    # Of any child: the first write that was sent after the switch and acknowledged by the new master.
    first: float = None
    # Of each child: the same, from when it wanted to write, or from the switch if it did already.
    each: list = field(default_factory=list)
    # Of each child that had been idle: from its first write on.
    idle: list = field(default_factory=list)
    last_old: float = None
    # Writes that were sent after the switch and acknowledged by the old master: lost.
    sent_to_old: int = 0
    # Of each child, the longest time between two acknowledgements.
    pauses: list = field(default_factory=list)
    writes: int = 0
    # Elements that were popped since the run began.
    popped: int = 0
    lag: float = 0
    lag_p99: float = 0
    closes: dict = field(default_factory=dict)
    stats: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    undone: int = 0
    broken: list = field(default_factory=list)


def look(kind, fault, switch, record):
    """`switch` is when, from where and to where; `record` what a load has collected."""
    at, old, new = switch
    seen = Round(kind, fault, at, old, new)
    writes = sorted(record["writes"], key=lambda write: write[3])
    firsts = {}
    by_child = defaultdict(list)
    for child, wanted, sent, acked, port in writes:
        by_child[child].append((sent, acked, port))
        if port == new and sent > at and child not in firsts:
            firsts[child] = (acked - at, acked - max(at, wanted))
    seen.first = min((first for first, _ in firsts.values()), default=None)
    seen.each = [wait for child, (_, wait) in firsts.items() if not child.startswith("idle")]
    seen.idle = [served - began for began, served in record.get("idle", ())]
    from_old = [(sent - at, acked - at) for _, _, sent, acked, port in writes if port == old]
    seen.last_old = max((acked for _, acked in from_old), default=None)
    seen.sent_to_old = sum(sent > 0 for sent, _ in from_old)
    busy = [one for child, one in by_child.items() if not child.startswith("idle")]
    seen.pauses = [longest_pause(one, fault - PAUSE_BEFORE, at + PAUSE_AFTER) for one in busy]
    late = [lag for when, lag in record.get("late", ()) if at - BEFORE <= when <= at + AFTER]
    seen.lag, seen.lag_p99 = max(late, default=0), quantile(late, 0.99) or 0
    seen.closes, seen.errors = record.get("closes", {}), record.get("errors", {})
    seen.undone, seen.writes, seen.popped = record["undone"], len(writes), record.get("popped", 0)
    seen.broken = list(record["faults"])
    return seen


def longest_pause(writes, begin, end):
    """Between two acknowledgements of one child."""
    times = [acked for _, acked, _ in writes if begin <= acked <= end]
    return max((after - before for before, after in zip(times, times[1:])), default=0)


def judge(seen, record):
    """The rules; what breaks them goes to `broken`. Only for children of the broker."""
    writes = record["writes"]
    from_new = [acked for _, _, _, acked, port in writes if port == seen.new]
    if not from_new:
        seen.broken.append("no write on the new master")
    since = min(from_new, default=float("inf"))
    end = seen.switch + GRACE + ALLOWANCE + seen.lag
    late = [acked - seen.switch for _, _, _, acked, port in writes if port == seen.old and acked > end]
    if late:
        seen.broken.append("%d answers of the old master after the grace, the last %s ms after the switch" % (len(late), ms(max(late))))
    others = sum(port not in (seen.old, seen.new) for *_, port in writes)
    if others:
        seen.broken.append("%d writes on the third server" % others)
    # Whoever hears from the new master proves that the broker has left the old one.
    after = [child for child, _, sent, _, port in writes if port != seen.new and sent > since]
    if after:
        seen.broken.append("%d writes of %d children went to another master than one before" % (len(after), len(set(after))))
    moved = set()
    for child, _, _, _, port in sorted(writes, key=lambda write: write[3]):
        if port == seen.new:
            moved.add(child)
        elif child in moved:
            seen.broken.append("%s is back on the old master" % child)
    for error, times in seen.errors.items():
        # on_upstream_loss = close: such a child is closed instead.
        if "BROKER" in error:
            seen.broken.append("%d times %s" % (times, error))


def line(number, seen, peers):
    """A round in one line."""
    closed = " ".join("%s %d" % pair for pair in sorted(seen.closes.items())) or "none"
    parts = [
        "%2d %-8s switch after %s" % (number, seen.kind, ms(seen.switch - seen.fault)),
        "first new %s, each p50/p99/max %s, idle p50/max %s" % (
            ms(seen.first), spread(seen.each, (0.5, 0.99, 1)), spread(seen.idle, (0.5, 1))),
        "last old %s, sent to it %d" % (ms(seen.last_old), seen.sent_to_old),
        "pause p50/max %s" % spread(seen.pauses, (0.5, 1)),
        "closed: " + closed,
        "lag p99/max %s/%s" % (ms(seen.lag_p99), ms(seen.lag)),
        "redis-py: first new %s, last old %s, sent to it %d" % (ms(peers.first), ms(peers.last_old), peers.sent_to_old),
    ]
    return "; ".join(parts) + "".join("\n   BROKEN " + what for what in seen.broken)


COLUMNS = (
    "kind", "rounds", "first write on the new master", "each writer p50/p99/max", "idle child p50/max", "last old",
    "longest pause p50/max", "closed", "redis-py: first", "redis-py: last old", "redis-py: sent to old",
)


def row(kind, pairs):
    """Of all rounds of a kind: quartiles and the greatest of the first write, the rest as the head says."""
    own, peers = [seen for seen, _ in pairs], [seen for _, seen in pairs]

    def known(values):
        return [value for value in values if value is not None]

    def joined(name):
        return [value for seen in own for value in getattr(seen, name)]

    return (
        kind, str(len(own)), spread(known(seen.first for seen in own)),
        spread(joined("each"), (0.5, 0.99, 1)), spread(joined("idle"), (0.5, 1)),
        ms(max(known(seen.last_old for seen in own), default=None)), spread(joined("pauses"), (0.5, 1)),
        counted(joined_counts(seen.closes for seen in own)), spread(known(seen.first for seen in peers)),
        ms(max(known(seen.last_old for seen in peers), default=None)), str(sum(seen.sent_to_old for seen in peers)),
    )


def report(pairs):
    """The table of all rounds, and what was counted, as lines."""
    kinds = list(dict.fromkeys(seen.kind for seen, _ in pairs))
    rows = [row(kind, [pair for pair in pairs if pair[0].kind == kind]) for kind in kinds] + [row("all", pairs)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, *rows)]
    lines[1:1] = ["|" + "---|" * len(COLUMNS)]
    lines.append("")
    own, peers = [seen for seen, _ in pairs], [seen for _, seen in pairs]
    closes, errors, stats = (joined_counts(getattr(seen, name) for seen in own) for name in ("closes", "errors", "stats"))
    within = sum(seen.first is not None and seen.first <= 0.05 for seen in own)
    lines += [
        "Times in ms after the first +switch-master; the first write as quartiles and greatest.",
        "checked: %d writes through the broker, %d elements popped, %d writes of redis-py" % (
            sum(seen.writes for seen in own), max(seen.popped for seen in own), sum(seen.writes for seen in peers)),
        "first write on the new master within 50 ms: %d of %d rounds" % (within, len(own)),
        "how late the load generator was about the switches: p99 %s, at most %s"
        % (ms(statistics.median(seen.lag_p99 for seen in own)), ms(max(seen.lag for seen in own))),
        "writes sent after the switch that the old master acknowledged: %d through the broker, %d of redis-py" % (
            sum(seen.sent_to_old for seen in own), sum(seen.sent_to_old for seen in peers)),
        "acknowledged writes that the new master does not know: %d through the broker, %d of redis-py" % (
            sum(seen.undone for seen in own), sum(seen.undone for seen in peers)),
        "connections ended: " + counted(closes),
        "the broker's totals: " + counted(stats),
        "error replies: " + counted(errors),
    ]
    return lines


def joined_counts(parts):
    total = defaultdict(int)
    for part in parts:
        for name, value in part.items():
            total[name] += value
    return total


def counted(totals):
    return ", ".join("%s %d" % pair for pair in sorted(totals.items()) if pair[1]) or "none"
