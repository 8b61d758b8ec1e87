"""Have one network trained by several processes of a Ray cluster together, with Ray Train."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.core import ranks
from attar.core.errors import AttarError
from attar.launch import slots

if TYPE_CHECKING:
    from attar.launch.worker import Order, Place

PATIENCE_SECONDS = 14 * 24 * 3600
"""How long processes that train together wait for one another; Ray sees it when one is lost."""
RAY_TRAIN = ".ray-train"
"""Folder in the run's folder, with the launch's name, for what Ray Train writes; removed at the end."""
WAIT_SECONDS = 15.0
"""How long to wait for free machines before saying so."""


def load() -> None:
    """Import Ray Train; raises AttarError if the packages that it needs are missing."""
    try:
        import ray.train.torch  # noqa: F401
    except ImportError:
        raise AttarError(
            "--execution.train-workers needs Ray Train, which plain ray lacks; install it by: pip install 'attar[ray]'"
        ) from None


def train(
    ray: Any,
    order: "Order",
    inbox: Any,
    job: tuple["Place", str],
    team: tuple[int, dict[str, float]],
    show: Callable[[], None],
    say: Callable[[str], object],
) -> None:
    """Have a job done by ``team`` processes; if one is lost, all begin again at the last checkpoint.

    ``job`` is the place of its call and its name; ``team`` the number of processes, and the CPUs and GPUs of each.
    Calls ``show`` every half second, and ``say`` with a sentence when machines are missing. Raises AttarError for an
    error that the user can fix, and when processes were lost too often; other errors as they are.
    """
    lost = 0
    while (error := _fit(ray, order, inbox, job, team, show, say)) is not None:
        lost += not was_announced(error)
        if lost > slots.RETRIES:
            raise slots.gave_up(job[1], "the training") from error


def was_announced(error: Exception) -> bool:
    """Return whether the machine of a lost process had announced its end; raises the error if no process was lost.

    Raises AttarError for an error of any process that the user can fix.
    """
    from ray.exceptions import RayError, RayTaskError
    from ray.train.v2._internal.exceptions import RayTrainError

    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    found = [*failures.values()] or [getattr(error, "controller_failure", error)]
    found = [getattr(each, "_base_exc", each) for each in found]  # what a process raised itself
    for each in found:
        if not isinstance(each, ranks.PeerLostError) and (sentence := slots.fixable(each)):
            raise AttarError(sentence) from None
    died = [each for each in found if isinstance(each, RayError | RayTrainError) and not isinstance(each, RayTaskError)]
    if not died and not all(map(_caused_by_loss, found)):
        raise error
    ends = [getattr(each, "health_check_failure", each) for each in died]
    return any(type(end).__name__ == "PreemptionError" or getattr(end, "preempted", False) for end in ends)


def _caused_by_loss(error: BaseException) -> bool:
    """Return whether a process failed only because another one was lost."""
    import torch.distributed

    if isinstance(error, ranks.PeerLostError | torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _fit(
    ray: Any,
    order: "Order",
    inbox: Any,
    job: tuple["Place", str],
    team: tuple[int, dict[str, float]],
    show: Callable[[], None],
    say: Callable[[str], object],
) -> Exception | None:
    """Run Ray Train once, and return its error."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from attar.launch import worker

    (place, name), (size, needs) = job, team
    gpus = needs["num_gpus"]
    trainer = TorchTrainer(
        worker.train_part,
        train_loop_config={
            "order": order, "inbox": inbox, "place": place, "name": name, "attempt": secrets.token_hex(8)
        },
        # Ranks exchange choices by gloo; gradients go through NCCL where it fits (ranks.device_group).
        torch_config=TorchConfig(backend="gloo", timeout_s=PATIENCE_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=size,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": needs["num_cpus"]} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(name=name, storage_path=str(folder(order))),
    )  # fmt: skip
    ended: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    # In the main thread, Ray Train would take over Ctrl-C.
    threading.Thread(target=fit, name="attar-train", daemon=True).start()
    look_at: float | None = time.monotonic() + WAIT_SECONDS
    while not ended.done():
        show()
        if look_at is not None and time.monotonic() >= look_at:
            look_at = time.monotonic() + WAIT_SECONDS
            groups = ray.util.placement_group_table().values()
            if any(group["state"] == "PENDING" and len(group["bundles"]) == size for group in groups):
                say(f"waiting for {size} places with {slots.wanted(needs)} each")
                look_at = None
    show()
    error = ended.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


def folder(order: "Order") -> Path:
    """Return the folder for what Ray Train writes in this launch."""
    return Path(order.out) / f"{RAY_TRAIN}-{order.launch}"
