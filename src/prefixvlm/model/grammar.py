"""What may be said, stage by stage, goes in; after any beginning of it, the token ids that may follow come out."""

from collections.abc import Sequence


class Grammar:
    """Texts of rounds: in each round one of some texts a stage, in the stages' order; a separator between rounds.

    stages: for each the texts as token ids. separator: ids between rounds; where there is one, rounds may be none, and
    without it there is one round. depth: the most tokens that max_rounds take, EOS included.
    """

    def __init__(
        self, stages: Sequence[Sequence[Sequence[int]]], eos_id: int, separator: Sequence[int] = (), max_rounds: int = 1
    ) -> None:
        if not all(stages) or not all(ids for texts in stages for ids in texts):
            raise ValueError("each stage of a grammar needs texts of at least one token each")
        every = [*stages, [separator]] if separator else list(stages)
        self._whole = [{tuple(ids) for ids in texts} for texts in every]
        self._following: list[dict[tuple[int, ...], dict[int, None]]] = []
        for texts in every:
            following: dict[tuple[int, ...], dict[int, None]] = {}
            for ids in texts:
                for length, token in enumerate(ids):
                    following.setdefault(tuple(ids[:length]), {})[token] = None
            self._following.append(following)
        self.num_stages, self.eos_id, self.may_be_none = len(stages), eos_id, bool(separator)
        self.max_rounds = max_rounds if separator else 1
        self.depth = self.max_rounds * sum(max(map(len, texts)) for texts in every) + 1
        self._at: dict[tuple[int, ...], frozenset[State]] = {(): frozenset({(0, 0, ())})}

    def following(self, beginning: Sequence[int]) -> list[int]:
        found: dict[int, None] = {}
        for rounds, stage, said in self._states(tuple(beginning)):
            ends = stage == self.num_stages and not said  # a round is whole
            if ends or (self.may_be_none and not beginning):
                found[self.eos_id] = None
            if not ends or rounds + 1 < self.max_rounds:
                found |= self._following[stage][said]
        return list(found)

    def _states(self, ids: tuple[int, ...]) -> "frozenset[State]":
        """Where one can be after these ids: one text may begin as another does, so in several places at once."""
        if ids not in self._at:
            states = set()
            for rounds, stage, said in self._states(ids[:-1]):
                if stage == len(self._whole) or (stage == self.num_stages and rounds + 1 >= self.max_rounds):
                    continue
                now = (*said, ids[-1])
                if now in self._following[stage]:
                    states.add((rounds, stage, now))
                if now in self._whole[stage]:
                    separated = stage == self.num_stages
                    states.add((rounds + 1, 0, ()) if separated else (rounds, stage + 1, ()))
            self._at[ids] = frozenset(states)
        return self._at[ids]


State = tuple[int, int, tuple[int, ...]]  # rounds that are whole, the stage, what is said of it
