"""Instructions that decide which comes next."""

from __future__ import annotations

import re

import numpy as np

from benchmarks.sass.machine import ALL, I64, Group, Meeting, Step, Warp
from benchmarks.sass.operands import I32, Operands


class Control(Operands):
    def jump(self, address: int) -> int:
        return self.machine.index_of[address]

    def do_nop(self) -> Step:
        return lambda warp, group: None

    do_yield = do_nop
    # Fences, and what goes with them: the machine's memory is in order.
    do_membar = do_errbar = do_cgaerrbar = do_cctl = do_nop

    def do_bra(self) -> Step:
        assert self.instruction.target is not None
        target = self.jump(self.instruction.target)
        if "DIV" in self.how:  # where the warp is not together
            return lambda warp, group: None if group.full else target
        guard = self.predicate(self.instruction.guard or "PT")
        conditions = [self.predicate(text) for text in self.operands if re.fullmatch(r"!?U?P[0-7T]", text)]
        if len(conditions) != len(self.operands):
            raise self.unknown()

        def step(warp: Warp, group: Group) -> int | None:
            taken = group.mask & guard(warp)
            for condition in conditions:
                taken = taken & condition(warp)
            if not taken.any():
                return None
            if not (group.mask & ~taken).any():
                return target
            warp.ready.append(Group(target, taken, dict(group.meetings), False))
            group.mask = group.mask & ~taken
            group.full = False
            return None

        return step

    def do_brx(self) -> Step:
        text = self.operands[0].split()
        a = self.word(text[0])
        offset = int(text[1], 0) + self.instruction.address + 16

        def step(warp: Warp, group: Group) -> int:
            targets = a(warp).view(I32).astype(I64) + offset
            different = np.unique(targets[group.mask])
            for target in different[1:]:
                mask = group.mask & (targets == target)
                warp.ready.append(Group(self.jump(int(target)), mask, dict(group.meetings), False))
            if len(different) > 1:
                group.mask, group.full = group.mask & (targets == different[0]), False
            return self.jump(int(different[0]))

        return step

    do_brxu = do_brx

    do_call = do_bra

    def do_ret(self) -> Step:
        a = self.word(self.operands[0])

        def step(warp: Warp, group: Group) -> int:
            [address] = np.unique(a(warp)[group.mask])
            return self.jump(int(address))

        return step

    def do_exit(self) -> Step:
        guard = self.predicate(self.instruction.guard or "PT")

        def step(warp: Warp, group: Group) -> int | None:
            leaving = group.mask & guard(warp)
            if not leaving.any():
                return None
            warp.alive &= ~leaving
            for meeting in group.meetings.values():
                meeting.members &= ~leaving
                warp.settle(meeting, group)
            group.mask = group.mask & ~leaving
            group.full = False
            return None if group.mask.any() else -1

        return step

    def do_bssy(self) -> Step:
        name = self.operands[0]

        def step(warp: Warp, group: Group) -> None:
            group.meetings[name] = Meeting(group.mask.copy())

        return step

    def do_break(self) -> Step:
        name, guard = self.operands[-1], self.predicate(self.instruction.guard or "PT")

        def step(warp: Warp, group: Group) -> None:
            meeting = group.meetings[name]
            meeting.members &= ~(group.mask & guard(warp))
            warp.settle(meeting, group)

        return step

    def do_bsync(self) -> Step:
        name = self.operands[0]

        def step(warp: Warp, group: Group) -> int:
            meeting = group.meetings[name]
            meeting.arrived |= group.mask
            meeting.at = group.at + 1
            warp.settle(meeting, group)
            return -1

        return step

    def do_warpsync(self) -> Step:
        def step(warp: Warp, group: Group) -> int | None:
            if group.mask.sum() == warp.alive.sum():
                return None
            meeting = warp.together.setdefault(group.at, Meeting(warp.alive.copy(), group.at + 1))
            meeting.members &= warp.alive
            meeting.arrived |= group.mask
            warp.settle(meeting, group)
            return -1

        return step

    def do_bar(self) -> Step:
        vote = self.predicate(self.operands[1]) if "RED" in self.how else None
        if vote is not None and "OR" not in self.how:
            raise self.unknown()

        def step(warp: Warp, group: Group) -> int:
            votes = vote(warp).copy() if vote is not None else ~ALL
            group.at += 1
            warp.at_barrier.append((group, votes))
            return -1

        return step

    def do_b2r(self) -> Step:
        put = self.put_predicate(self.operands[1] if len(self.operands) > 1 else "PT")
        return lambda warp, group: put(warp, group, warp.voted)
