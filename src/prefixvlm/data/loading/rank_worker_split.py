"""Which rank and which loader worker make which batches."""

from torch.utils.data import get_worker_info


def train_batches_of_rank(first_step: int, num_steps: int, rank: int, world: int) -> range:
    """The numbers of a rank's batches among those of all ranks: of each step's `world` batches the rank-th."""
    return range(first_step * world + rank, num_steps * world, world)


def eval_starts_of_rank(num_samples: int, batch_size: int, rank: int, world: int) -> range:
    """The first samples of a rank's batches: batches are dealt out in turn, so ranks differ by one batch at most."""
    return range(rank * batch_size, num_samples, world * batch_size)


def batches_of_worker() -> slice:
    """The batches of its rank that this worker process makes: every num_workers-th; all in the main process."""
    # The worker asks for itself alone. Rank and world size come from the main process, because a worker that is
    # spawned has no process group, and would take itself for rank 0 of 1.
    worker = get_worker_info()
    return slice(worker.id, None, worker.num_workers) if worker else slice(None)
