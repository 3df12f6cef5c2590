"""Gives the tasks of a pipeline what a profile says: KFP's calls for each of its settings."""

from typing import Any

from kfp import kubernetes

from cowest.profiles import Profile, Step, seconds

SHM = "/dev/shm"  # noqa: S108 - a mount, and no temporary file
"""Path of the shared memory in a container."""
WAITED_FOR = {
    "COWEST_STORE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "MLFLOW_S3_ENDPOINT_URL",
}
"""Variables without which no step may start, since none would miss them: it would pay for answers
that nobody keeps, or ask public AWS for a bucket that lies elsewhere."""
NEVER = 365 * 24 * 3600
"""Seconds after a step's first try at which Argo ends its retries, where nothing bounds them."""


def place(task: Any, name: str, profile: Profile) -> Any:
    """Gives a task what the profile says of the step `name`, and returns it.

    KFP's cache is off, because it sees neither the code nor the content of files. The call store
    and the turn's key prevent repeated work instead.
    """
    step = profile.step(name)
    task.set_caching_options(False)
    image = step.image or profile.image
    if image is not None:
        task.set_container_image(image)
    if profile.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.pull_secrets))
    # Labels that Kubernetes recommends, so that the pods of a turn can be selected.
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "cowest")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", name.replace("_", "-"))
    _resources(task, step)
    _nodes(task, step)
    _storage(task, step)
    _environment(task, step)
    if step.retry is not None and step.retry.times:
        # Argo kills a retry that runs at this time. What a pod waits for a node counts too, so no
        # sum of timeouts would do where nobody asks for a bound; KFP's own is an hour.
        within = NEVER if step.retry.within is None else seconds(step.retry.within)
        task.set_retry(
            step.retry.times,
            backoff_duration=f"{seconds(step.retry.wait)}s",
            backoff_factor=step.retry.factor,
            backoff_max_duration=f"{within}s",
        )
    if step.timeout is not None:
        kubernetes.set_timeout(task, seconds(step.timeout))
    return task


def _resources(task: Any, step: Step) -> None:
    if step.cpu is not None:
        task.set_cpu_request(step.cpu)
    if step.cpu_limit is not None:
        task.set_cpu_limit(step.cpu_limit)
    if step.memory is not None:
        task.set_memory_request(step.memory)
    if step.memory_limit is not None:
        task.set_memory_limit(step.memory_limit)
    if step.accelerator is not None:
        task.set_accelerator_type(step.accelerator.type)
        task.set_accelerator_limit(step.accelerator.count)


def _nodes(task: Any, step: Step) -> None:
    for label, value in sorted(step.node_selector.items()):
        kubernetes.add_node_selector(task, label, value)
    for one in step.tolerations:
        kubernetes.add_toleration(
            task,
            key=one.key,
            operator=one.operator,
            value=one.value,
            effect=one.effect,
            toleration_seconds=one.seconds,
        )


def _storage(task: Any, step: Step) -> None:
    for name, volume in sorted(step.volumes.items()):
        kubernetes.add_ephemeral_volume(
            task,
            volume_name=name,
            mount_path=volume.mount,
            access_modes=["ReadWriteOnce"],
            size=volume.size,
            storage_class_name=volume.storage_class,
        )
    for name, claim in sorted(step.claims.items()):
        kubernetes.mount_pvc(task, name, claim.mount, claim.sub_path)
    if step.shm is not None:
        mount = {"mount_path": SHM, "medium": "Memory", "size_limit": step.shm}
        kubernetes.empty_dir_mount(task, "shm", **mount)


def _environment(task: Any, step: Step) -> None:
    for name, value in sorted(step.env.items()):
        task.set_env_variable(name, value)
    if step.nproc is not None:
        task.set_env_variable("COWEST_NPROC", str(step.nproc))
    # A pod whose secret is not there waits for it for ever, and says nothing. The steps name what
    # they lack, but for WAITED_FOR.
    for name, keys in sorted(step.secrets.items()):
        optional = WAITED_FOR.isdisjoint(keys.values())
        kubernetes.use_secret_as_env(task, name, dict(keys), optional=optional)
    for name, keys in sorted(step.config_maps.items()):
        optional = WAITED_FOR.isdisjoint(keys.values())
        kubernetes.use_config_map_as_env(task, name, dict(keys), optional=optional)
