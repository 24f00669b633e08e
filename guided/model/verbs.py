"""What a model does with photos; the work is done in `guided.tasks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from guided.guide import Guide, Term, project
from guided.model.request import Request
from guided.solvers import Solver

if TYPE_CHECKING:
    from guided.model.drawing import Progress
    from guided.model.model import Model
    from guided.model.result import Result
    from guided.tasks.between import Inverted
    from guided.tasks.edited import Edited
    from guided.tasks.editing import Edit, Observe
    from guided.tasks.faithful import Target
    from guided.tasks.masks import Mask
    from guided.tasks.methods import Method
    from guided.tasks.photo import Source


class Verbs:
    """The part of `Model` that edits. Arguments that `generate` has too mean what they mean there."""

    def edit(
        self,
        photo: Source | Sequence[Source],
        prompts: str | Sequence[str] | None = None,
        *,
        strength: float | None = None,
        faithful: Target | None = None,
        mask: Mask | None = None,
        by: Method | None = None,
        tiles: bool = False,
        n: int = 1,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        negative: str | int | None = None,
        solver: Solver | str | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> Edited:
        """Edit a photo, or several of one size, of any mode and depth: SDEdit (Meng et al. 2022), or by inversion.

        photo: a file, its bytes, a PIL picture, or an array (H, W[, C]) of uint8 or uint16. strength: in [0, 1], how
        far the photo is carried back to noise, as flow time: 0 returns it without an evaluation, 1 draws anew (at the
        model's own size that is `generate`, bit for bit); 0.6 by default. Whatever it is, exactly `steps` steps are
        made. mask: white may change, black comes back bit for bit; between, each pixel is edited at its share of the
        strength. A picture, a file, "alpha" (what is transparent may change, and is opaque then), a box (left, top,
        right, bottom), or the corners of a polygon.

        faithful: in place of a strength what the edit is to reach, `tasks.Changed(0.1)`, a share of the pixels, or
        `tasks.Psnr(28)`, in dB; one photo, at up to twice the cost. by: `tasks.Inversion`, `Exact`, `DDPMInversion`,
        `FlowEdit` or `PromptToPrompt`, told what the photo shows, with a strength of its own by default. tiles: work
        on a larger photo at its own size, window by window; else at the model's, see `guided.tasks.stage`.
        Each record says what the edit did: see `guided.tasks.metrics.report`. Raises ValueError for what is impossible.
        """
        from guided.tasks import Edit

        request = Request(prompts, n, labels, steps, guide, w, negative, None, solver, None, seed, batch)
        return self._edited(Edit(photo, request, strength, mask, by=by, faithful=faithful, tiles=tiles))

    def inpaint(
        self,
        photo: Source | Sequence[Source],
        prompts: str | Sequence[str] | None = None,
        *,
        mask: Mask,
        strength: float = 1.0,
        resample: int = 1,
        observe: Observe = project,
        n: int = 1,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        negative: str | int | None = None,
        solver: Solver | str | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> Edited:
        """Paint what a mask frees, with a model that was never trained to: see `edit`.

        resample: how often each part of the path is walked; above 1 it is RePaint (Lugmayr et al. 2022), at about as
        many times the cost. observe: how the model learns of what is kept, a function of an operator and its
        measurement that gives a term: `guide.project`, or `lambda A, y: guide.pigdm(A, y, 0.05, 0.25)`.
        """
        from guided.tasks import Edit

        request = Request(prompts, n, labels, steps, guide, w, negative, None, solver, None, seed, batch)
        return self._edited(Edit(photo, request, strength, mask, None, resample, observe, "inpaint"))

    def outpaint(
        self,
        photo: Source | Sequence[Source],
        prompts: str | Sequence[str] | None = None,
        *,
        expand: tuple[int, int, int, int],
        strength: float = 1.0,
        resample: int = 1,
        observe: Observe = project,
        n: int = 1,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        negative: str | int | None = None,
        solver: Solver | str | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> Edited:
        """Paint beyond the borders: expand = (left, top, right, bottom) pixels; below strength 1 from the edge.

        Else as `inpaint`; the photo itself comes back bit for bit, in the middle of a larger one.
        """
        from guided.tasks import Edit

        request = Request(prompts, n, labels, steps, guide, w, negative, None, solver, None, seed, batch)
        return self._edited(Edit(photo, request, strength, None, expand, resample, observe, "inpaint"))

    def variations(
        self,
        photo: Source,
        prompts: str | None = None,
        n: int = 4,
        *,
        strength: float = 0.5,
        labels: str | int | None = None,
        steps: int | None = None,
        w: float | None = None,
        seed: int = 0,
    ) -> Edited:
        """n pictures near a photo: `edit` with n seeds, without a prompt (for a model of prompts: of the empty one)."""
        model = cast("Model", self)
        blank = prompts is None and labels is None and "text" in model.encoders
        return self.edit(
            photo, "" if blank else prompts, n=n, strength=strength, labels=labels, steps=steps, w=w, seed=seed
        )

    def translate(
        self,
        photo: Source | Sequence[Source],
        prompts: str | Sequence[str] | None = None,
        *,
        task: str | None = None,
        mask: Mask | None = None,
        expand: tuple[int, int, int, int] | None = None,
        n: int = 1,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        solver: Solver | str | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> Edited:
        """Change a photo as a network was taught to (Saharia et al. 2022, Palette): colour it, fill it, restore it.

        task: one of the model's, as "colourise" or "jpeg"; None where it has but one. mask: see `edit`; a task with
        holes paints what it frees, another task changes nothing else. expand = (left, top, right, bottom): pixels to
        paint beyond the borders. Words are no must. A large photo is restored at its own size, window by window, where
        its task is local; a colouriser works at the model's size and leaves the photo its finer detail. The picture
        comes back in RGB. Raises ValueError for what the model was not taught.
        """
        from guided.tasks import Translate, translating

        request = Request(prompts, n, labels, steps, guide, w, None, None, solver, None, seed, batch)
        return self._last(translating.run(cast("Model", self), Translate(photo, request, task, mask, expand)))

    def upscale(
        self,
        photo: Source | Sequence[Source],
        prompts: str | Sequence[str] | None = None,
        *,
        scale: int | None = None,
        exact: bool = False,
        level: float = 0.0,
        n: int = 1,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        guide: Guide | Term | str | None = None,
        w: float | None = None,
        solver: Solver | str | None = None,
        seed: int = 0,
        batch: int | None = None,
    ) -> Edited:
        """Make a photo larger (Saharia et al. 2021, SR3), window by window where it is large; mode, depth, alpha stay.

        scale: the network's own factor, a power of it, or a divisor of one. exact: the means of its squares are the
        photo's pixels, to rounding. level: noise (or blur) put on the photo first, as in training; more makes the
        network invent more. Raises ValueError for a network that was not taught to enlarge.
        """
        from guided.tasks import Upscale, upscaling

        request = Request(prompts, n, labels, steps, guide, w, None, None, solver, None, seed, batch)
        return self._last(upscaling.run(cast("Model", self), Upscale(photo, request, scale, exact, level)))

    def invert(
        self,
        photo: Source | Sequence[Source],
        prompts: str | Sequence[str] | None = None,
        *,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        solver: Solver | str | None = None,
        refinements: int = 1,
    ) -> Inverted:
        """The noise of a photo, or of several of one size, from which this model, told what they show, draws them.

        They are seen at the model's size, see `guided.tasks.stage`. refinements: see `ode.invert`.
        """
        from guided.tasks import between

        sources = photo if isinstance(photo, list | tuple) else [cast("Source", photo)]
        model = cast("Model", self)
        w = 1.0 if model.conditional else None
        return between.invert(model, sources, Request(prompts, 1, labels, steps, w=w, solver=solver), refinements)

    def interpolate(
        self,
        a: Source,
        b: Source,
        prompts: str | Sequence[str] | None = None,
        n: int = 5,
        *,
        labels: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        solver: Solver | str | None = None,
    ) -> Result:
        """n pictures from photo a to photo b along the noise sphere (Song et al. 2021, DDIM), at the model's size.

        prompts or labels: what both show, or one for each, heard by the nearer half. The first and the last picture are
        the photos again, as nearly as the solver inverts.
        """
        from guided.tasks import between

        between.check(n)
        ends = self.invert([a, b], prompts, labels=labels, steps=steps, solver=solver)
        return between.interpolate(cast("Model", self), ends, n)

    def editing(self, edit: Edit) -> Iterator[Progress]:
        """`edit` as a generator, for those who watch: yields after every move; the last value holds the result."""
        from guided.tasks import run

        return run(cast("Model", self), edit)

    def _edited(self, edit: Edit) -> Edited:
        return self._last(self.editing(edit))

    def _last(self, moves: Iterator[Progress]) -> Edited:
        result = None
        for progress in moves:
            result = progress.result
        return cast("Edited", result)
