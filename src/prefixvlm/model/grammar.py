"""Grammars for constrained decoding: rounds of stages, each stage one of several texts."""

from collections.abc import Sequence


class Grammar:
    """Texts of rounds. A round has one text per stage, in the order of the stages; a separator stands between rounds.

    stages: the texts of each stage, as token ids. separator: ids between rounds; with one there may be no round at
    all, and without one there is exactly one. depth: the greatest number of tokens in max_rounds rounds, with EOS.
    """

    def __init__(
        self, stages: Sequence[Sequence[Sequence[int]]], eos_id: int, separator: Sequence[int] = (), max_rounds: int = 1
    ) -> None:
        if not all(stages) or not all(ids for texts in stages for ids in texts):
            raise ValueError("each stage of a grammar needs texts of at least one token each")
        stages_and_separator = [*stages, [separator]] if separator else list(stages)  # the separator as a last stage
        self._complete = [{tuple(ids) for ids in texts} for texts in stages_and_separator]
        # Tries as flat dictionaries from a beginning to its continuations; a dict of None is an ordered set.
        self._following: list[dict[tuple[int, ...], dict[int, None]]] = []
        for texts in stages_and_separator:
            following: dict[tuple[int, ...], dict[int, None]] = {}
            for ids in texts:
                for length, token in enumerate(ids):
                    following.setdefault(tuple(ids[:length]), {})[token] = None
            self._following.append(following)
        self.num_stages, self.eos_id, self.may_be_empty = len(stages), eos_id, bool(separator)
        self.max_rounds = max_rounds if separator else 1
        self.depth = self.max_rounds * sum(max(map(len, texts)) for texts in stages_and_separator) + 1
        self._states_after: dict[tuple[int, ...], frozenset[State]] = {(): frozenset({(0, 0, ())})}

    def following(self, beginning: Sequence[int]) -> list[int]:
        """Return the ids that may follow a beginning, the EOS included."""
        allowed: dict[int, None] = {}
        for rounds, stage, text in self._states(tuple(beginning)):
            round_ends = stage == self.num_stages and not text
            if round_ends or (self.may_be_empty and not beginning):
                allowed[self.eos_id] = None
            if not round_ends or rounds + 1 < self.max_rounds:
                allowed |= self._following[stage][text]
        return list(allowed)

    def _states(self, ids: tuple[int, ...]) -> "frozenset[State]":
        """Return the states in which the grammar can be after these ids."""
        # Several at once, as in a nondeterministic automaton: one text may be the beginning of another. Cached, since
        # decoding extends the same beginnings by a token at a time.
        if ids not in self._states_after:
            states = set()
            for rounds, stage, text in self._states(ids[:-1]):
                if stage == len(self._complete) or (stage == self.num_stages and rounds + 1 >= self.max_rounds):
                    continue
                extended = (*text, ids[-1])
                if extended in self._following[stage]:
                    states.add((rounds, stage, extended))
                if extended in self._complete[stage]:
                    separated = stage == self.num_stages
                    states.add((rounds + 1, 0, ()) if separated else (rounds, stage + 1, ()))
            self._states_after[ids] = frozenset(states)
        return self._states_after[ids]


State = tuple[int, int, tuple[int, ...]]  # complete rounds, current stage, beginning of the stage's text
