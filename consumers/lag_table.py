"""The lag table: how a person is told what the look from outside found."""

from datetime import UTC, datetime

from consumers import stall
from consumers.offsets import GroupLag, Position, failing, windows

_HEADS = ("partition", "committed", "end", "behind", "seconds", "last record handled", "mapping")


def lag_lines(found: GroupLag, now: float) -> list[str]:
    """Tell a group's lag as a person reads it: what matters first, then each partition."""
    lines = [_headline(found)]
    if not found.positions:
        return lines
    rows = [_HEADS, *(_row(one, now) for one in found.positions)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    for row in rows:
        cells = [
            # the last two are words, the others are numbers
            cell.ljust(width) if column > 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    lines += [
        f"  partition {one.partition}: retention deleted {one.lost:,} offsets before they were "
        "handled"
        for one in found.positions
        if one.lost
    ]
    lines += [
        f"  partition {one.partition} {_ends_early(one)}: the topic was created anew or cut off; "
        "reset the group's offsets to say where to go on"
        for one in found.positions
        if one.beyond
    ]
    for native_type, records, failures in failing(found):
        lines.append(
            f"  failing: {failures:,} of {records:,} {native_type} in the {stall.MINUTES} minutes "
            "before the last commits"
        )
    stalled = stall.stalled(windows(found))
    if stalled is not None:
        lines.append(
            f"  stalled: too much of {stalled} fails; mend the mapping, raise its REVISION and "
            f"start anew, or go on as it is: `python -m consumers resume {found.provider} "
            "--admin HOST:PORT` (the CONSUMER_ADMIN_LISTEN of each stalled process)"
        )
    return lines


def _headline(found: GroupLag) -> str:
    """Say in one sentence how late the events are, and whether anybody works on it."""
    if found.members is None:
        alive = f"nobody says who is in {found.group}"
    elif not found.members:
        alive = f"NOBODY is in {found.group}"
    else:
        members = "1 member" if found.members == 1 else f"{found.members} members"
        alive = f"{members} in {found.group} ({found.state})"
    name = found.provider or " on ".join(filter(None, (found.group, found.topic)))
    if not found.begun:
        return f"{name}: nothing was ever committed; {alive}"
    early = [one for one in found.positions if one.beyond]
    known = [one.records for one in found.positions if one.records is not None]
    waits = [one.seconds for one in found.positions if one.seconds is not None]
    silent = len(found.positions) - len(early) - len(known)
    if silent:
        behind = f"at least {sum(known):,} records behind (some partitions did not answer)"
    elif not sum(known):
        behind = "nothing waits"
    else:
        behind = f"{sum(known):,} records behind"
    if sum(known):
        oldest = f"the oldest waits {duration(max(waits))}" if waits else "nobody knows how long"
        behind = f"{behind}, {oldest}"
    if early:
        told = f"{found.topic}[{early[0].partition}] {_ends_early(early[0])}"
        if len(early) > 1:
            more = len(early) - 1
            told += f", and {more} more {'does' if more == 1 else 'do'} so"
        behind = f"{told}; elsewhere {behind}" if silent or sum(known) else told
    return f"{name}: {behind}; {alive}"


def _ends_early(one: Position) -> str:
    return f"ends at {one.end}, before the committed offset {one.committed}"


def _row(one: Position, now: float) -> tuple[str, ...]:
    last = "-"
    if one.last_record_at is not None:
        moment = datetime.fromtimestamp(one.last_record_at / 1000, UTC)
        ago = duration(max(0.0, now - one.last_record_at / 1000))
        last = f"{moment:%Y-%m-%d %H:%M:%SZ} ({ago} ago)"
    return (
        str(one.partition),
        "never" if one.committed is None else f"{one.committed:,}",
        "?" if one.end is None else f"{one.end:,}",
        "?" if one.records is None else f"{one.records:,}",
        "?" if one.seconds is None else f"{int(one.seconds):,}",
        last,
        "-" if one.mapping_revision is None else str(one.mapping_revision),
    )


def duration(seconds: float) -> str:
    """Tell a time in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {below}"
    return f"{whole // 60} min {whole % 60} s"
