"""Jobs that wait for the model, and which of them run together."""

import threading

from tierline.serve.job import Job

MOST_WAITING = 256
_GATHER_S = 0.02  # what is sent at the same moment is to share its passes


class Queue:
    """Who waits, in the order of arrival. Every method may be called from any thread."""

    def __init__(self, batch: int, context: int, images: int = 0) -> None:
        """At most `batch` jobs run together, of at most `context` tokens each in the cache and with at most
        `images` in all. The images of as many jobs again may wait.
        """
        self._batch, self._context, self._images = batch, context, images
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self.closed = False

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)

    def put(self, job: Job) -> bool:
        """Let `job` wait; return whether there was room for it."""
        with self._changed:
            images = len(job.images) + sum(len(j.images) for j in self._waiting)
            if self.closed or len(self._waiting) >= MOST_WAITING:
                return False
            if job.images and images > self.waiting_images:
                return False
            self._waiting.append(job)
            self._changed.notify_all()
            return True

    @property
    def waiting_images(self) -> int:
        """The most images that may wait."""
        return self._images * self._batch

    def take(self) -> list[Job]:
        """Wait for jobs and return those that run together next, none once the queue is closed.

        The first that waits is always among them. Sequences of a batch are as long as its longest prompt and
        its longest answer together, so who would make it too long waits for the next.
        """
        with self._changed:
            while not self.closed:
                self._waiting = [job for job in self._waiting if not job.cancelled]
                if self._waiting:
                    self._changed.wait_for(self._is_settled, _GATHER_S)
                    return self._group()
                self._changed.wait()
        return []

    def close(self) -> list[Job]:
        """Take no more jobs, and return those that still waited."""
        with self._changed:
            self.closed = True
            left, self._waiting = self._waiting, []
            self._changed.notify_all()
            return left

    def _is_settled(self) -> bool:
        return self.closed or len(self._waiting) >= self._batch

    def _group(self) -> list[Job]:
        group: list[Job] = []
        for job in self._waiting:
            together = [*group, job]
            tokens = max(len(j.ids) for j in together) + max(j.request.new for j in together)
            images = sum(len(j.images) for j in together)
            fits = tokens <= self._context and images <= self._images
            if len(together) <= self._batch and (not group or fits):
                group = together
        self._waiting = [job for job in self._waiting if job not in group]
        return group
