"""Engines that count."""

from segrefine.engines import Closing


class Counting(Closing):
    """An engine that counts the samples of its batches."""

    def __init__(self, engine) -> None:
        self.engine, self.spec, self.samples = engine, engine.spec, 0

    def __call__(self, feeds, **options):
        self.samples += len(next(iter(feeds.values())))
        return self.engine(feeds, **options)

    def close(self) -> None:
        self.engine.close()


def count_samples(engines):
    """The engines of a pipeline, each of which counts the samples that it is given."""
    return {name: Counting(engine) for name, engine in engines.engines.items()}
