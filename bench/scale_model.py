"""The time of a pass over rows on many machines, from five numbers of the machines and network.

One pass: the client sends the parameters to every worker; each worker adds up its rows; then the
gradients are added in a tree of fan-in F, whose last node is the client. With n rows over W workers
and P = K (d + 1) parameters:

    seconds(W) = fixed_seconds
               + tasks * task_seconds                           the scheduler, one after the other
               + latency + W * 8 P / bandwidth                  down: the sender's link is shared
               + ceil(n / W) * row_seconds                      the worker with the most rows
               + levels * (latency + itemsize * P / bandwidth)  up

The client's link is shared by what goes to all workers, one message after the other, so that their
sums come back one after the other, too: each finds the link of its node free, as long as it is not
longer than what went down. Nodes of a level work side by side.
"""

import math
from dataclasses import dataclass

FLOAT64 = 8
FLOAT32 = 4
#: Bytes per second.
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}
#: Seconds from one machine to another, in one direction, for a message of no length.
LATENCY = 100e-6
FAN_INS = (2, 8, 32, 256)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Network:
    """What a message and a task cost.

    Attributes
    ----------
    latency : float
        Seconds of a message of no length.
    bandwidth : float
        Bytes per second of the link of each machine, each way.
    task_seconds : float
        What the scheduler does for each task, one after the other.
    fixed_seconds : float
        What a pass costs however few tasks it has.
    """

    latency: float = LATENCY
    bandwidth: float = 1.25e9
    task_seconds: float = 0.0
    fixed_seconds: float = 0.0


@dataclass(frozen=True)
class Task:
    """What is fitted, and how fast a worker is.

    Attributes
    ----------
    n_samples, n_features, n_classes : int
    row_seconds : float
        Of one worker, for value and gradient at one row.
    itemsize : int
        Bytes of a number that travels up; parameters travel down as float64.
    """

    n_samples: int
    n_features: int
    n_classes: int
    row_seconds: float
    itemsize: int = FLOAT64

    @property
    def down_bytes(self) -> int:
        """Bytes of the parameters."""
        return FLOAT64 * self.n_classes * (self.n_features + 1)

    @property
    def up_bytes(self) -> int:
        """Bytes of one gradient."""
        return self.itemsize * self.n_classes * (self.n_features + 1)


def levels(n_workers: int, fan_in: int) -> list[int]:
    """Return the number of nodes of each level that adds sums up; the last one is the client."""
    nodes = [math.ceil(n_workers / fan_in)]
    while nodes[-1] > 1:
        nodes.append(math.ceil(nodes[-1] / fan_in))
    return nodes


def n_tasks(n_workers: int, fan_in: int) -> int:
    """Return the tasks of a pass: one for each worker, and the nodes below the client."""
    return n_workers + sum(levels(n_workers, fan_in)[:-1])


def pass_bytes(task: Task, n_workers: int, fan_in: int) -> int:
    """Return the bytes that a pass sends, over all links: down, and up the tree."""
    return n_workers * task.down_bytes + n_tasks(n_workers, fan_in) * task.up_bytes


def pass_seconds(task: Task, network: Network, n_workers: int, fan_in: int) -> float:
    """Return the seconds of a pass, as the formula of the module has them."""
    kernel = math.ceil(task.n_samples / n_workers) * task.row_seconds
    down = network.latency + n_workers * task.down_bytes / network.bandwidth
    up = len(levels(n_workers, fan_in)) * (network.latency + task.up_bytes / network.bandwidth)
    tasks = n_tasks(n_workers, fan_in) * network.task_seconds
    return network.fixed_seconds + kernel + down + up + tasks


def break_even_rows(task: Task, network: Network, n_workers: int, fan_in: int) -> float:
    """Return the rows from which workers are faster than one of them without a network."""
    overhead = pass_seconds(
        Task(0, task.n_features, task.n_classes, 0.0, task.itemsize), network, n_workers, fan_in
    )
    return overhead / (task.row_seconds * (1.0 - 1.0 / n_workers))
