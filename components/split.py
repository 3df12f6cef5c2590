from cowest_components import component


@component
def split(
    shards: int,
) -> list[str]:
    """Names the shards of the queries.

    Args:
        shards: Number of shards, 1 to 1000.

    Returns:
        Output: The shards, as 0/3, 1/3 and 2/3.
    """
    from cowest.fanout import shards as names

    return names(shards)
