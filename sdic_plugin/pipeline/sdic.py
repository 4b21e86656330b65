"""SDICPipeline: a real photo in, its inversion and edits out (SDIC, arXiv 2312.07079)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import torch
import torch.nn.functional as F
from diffusers.utils.doc_utils import replace_example_docstring
from PIL import Image
from torch import nn

from sdic_plugin.edits.base import Code, code_rows, strengths_per_image
from sdic_plugin.edits.loader import Strength
from sdic_plugin.errors import SDICError
from sdic_plugin.images.processor import ImageInput, SDICImageProcessor
from sdic_plugin.models import DICN, DIPN, E4EEncoder, FeatureTransport, StyleGAN2Generator
from sdic_plugin.models.dicn import feature_rows
from sdic_plugin.models.stylegan2 import FeatureHook
from sdic_plugin.pipeline.auto_mask import AutoMask
from sdic_plugin.pipeline.checks import (
    check_choice,
    check_components,
    check_exchange,
    check_inversion,
)
from sdic_plugin.pipeline.networks import SDICNetworks
from sdic_plugin.pipeline.options import CallOptions, EditOptions, LatentsInput, MaskInput
from sdic_plugin.pipeline.output import SDICInversion, SDICPipelineOutput
from sdic_plugin.pipeline.refinement import refine
from sdic_plugin.pipeline.rendering import (
    begun_pass,
    check_finite,
    check_is_latents,
    compensation_weight,
    feature_hook,
    find_mask,
    latents_tensor,
    latents_to_render,
    module_key,
    styles_tensors,
    styles_to_render,
)
from sdic_plugin.pipeline.subject_check import (
    ADVICE,
    ADVICE_WITH_EYES,
    SubjectReference,
    find_unlike,
    subject_logger,
    warning_of,
)
from sdic_plugin.utils.ranges import check_compensation

if TYPE_CHECKING:
    pass

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
FEATURE_EDITS = ("continuous", "official")
EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from sdic_plugin import SDICPipeline

        >>> pipe = SDICPipeline.from_pretrained("cats64")
        >>> inversion = pipe.invert("cat.png")
        >>> pipe.edit(inversion, edits={"warmth": 1.5}).images[0].save("warm.png")
        ```
"""


class SDICPipeline(SDICNetworks):
    """Inverts photos and edits them, keeping both the photo's detail and the edit's effect.

    Once per photo, `invert` runs the encoder, one full generator pass, DIPN, DICN and a pass up to the hook; a DICN
    that looks again costs the layers after the hook for each look. After that, every rendering (`edit`) costs one
    generator pass.

    Args:
        encoder: e4e, finds W+ latents.
        dipn: Predicts what the initial reconstruction lost.
        dicn: Puts it back into latents and features.
        generator: StyleGAN2.
        feature_edit: Default rule for the features of an edit: "continuous" (strength 0 is exactly the inversion) or
            "official" (as published).
        alignment: Where the subject's landmarks lie in the pictures the model was trained on, as
            `AlignmentTemplate.to_dict` gives it; None if unknown.
        subject: What the model's own kind of picture is like, as `learn_subject` measures it; None if unknown, then
            photos of something else are not warned of.
        transport: Lets the photo's detail follow edits by the continuous rule; None leaves it where it is.

    Raises:
        SDICError: If a component is of the wrong class, lacks weights, or the components do not fit each other.
    """

    image_processor: SDICImageProcessor

    def __init__(
        self,
        encoder: E4EEncoder,
        dipn: DIPN,
        dicn: DICN,
        generator: StyleGAN2Generator,
        feature_edit: str = "continuous",
        alignment: dict[str, Any] | None = None,
        subject: dict[str, Any] | None = None,
        transport: FeatureTransport | None = None,
    ) -> None:
        check_choice("feature_edit", feature_edit, FEATURE_EDITS)
        super().__init__(encoder, dipn, dicn, generator, transport)
        self.register_to_config(feature_edit=feature_edit, alignment=alignment)
        self._subject: SubjectReference | None = None
        if subject is not None:  # else models are saved as before there was this
            self._subject = SubjectReference.from_dict(subject)
            self.register_to_config(subject=subject)
        self.image_processor = SDICImageProcessor(*self.image_size)

    # Another generator on the same latents.

    def with_generator(self, generator: StyleGAN2Generator) -> SDICPipeline:
        """Return a pipeline that renders with another generator on the same latents, such as a fine-tuned one.

        Photos are still inverted with this pipeline's generator, which the encoder, DIPN and DICN know; inversions of
        either pipeline serve both. Its features replace the other's at the hook as an edit's do, so `compensation=0`
        renders the other generator alone. All networks are shared, edits are copied.

        Args:
            generator: The other one, with the same number of styles, style width, resolution and hook.

        Raises:
            CheckpointError: If it does not fit.
        """
        check_components(generator=generator)
        check_exchange(self.generator, generator)
        if getattr(self, "_all_hooks", []):
            raise SDICError(
                "The pipeline's networks are offloaded to the CPU, and another generator cannot be added to those: "
                "call with_generator on a pipeline that is not offloaded."
            )
        nn.Module.to(generator, self.generator.device, self.generator.dtype)
        swapped = type(self)(
            encoder=self.encoder,
            dipn=self.dipn,
            dicn=self.dicn,
            generator=generator,
            feature_edit=self.config.feature_edit,
            alignment=self.config.alignment,
            subject=self.config.get("subject"),
            transport=self.transport,
        )
        swapped._inverting_generator = self.inverting_generator
        swapped.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return swapped.with_edits(self.get_list_edits(), self.get_active_edits())

    # Inputs.

    def check_inputs(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        latents: LatentsInput | None = None,
        edits: Mapping[str, Strength] | None = None,
        feature_edit: str | None = None,
        compensation: float = 1.0,
        output_type: str = "pil",
    ) -> None:
        """Raise SDICError, naming what was given and what is needed, unless the arguments of a call make sense."""
        if image is None:
            raise SDICError("No image was given: pass a PIL image, path, array or tensor, or a list of them.")
        self.check_edit_inputs(latents, edits, feature_edit, compensation, output_type)

    def check_edit_inputs(
        self,
        latents: LatentsInput | None = None,
        edits: Mapping[str, Strength] | None = None,
        feature_edit: str | None = None,
        compensation: float = 1.0,
        output_type: str = "pil",
    ) -> None:
        """Raise SDICError, as `check_inputs` does, unless the arguments of `edit` make sense."""
        check_choice("output_type", output_type, OUTPUT_TYPES)
        check_choice("feature_edit", feature_edit or self.config.feature_edit, FEATURE_EDITS)
        check_compensation(compensation)
        self.check_strengths({} if edits is None else edits)
        if latents is None:
            return
        needed = [self.generator.num_styles, self.generator.config.style_width]
        shape = list(latents_tensor("latents", latents).shape)
        if len(shape) != 3 or shape[1:] != needed:
            raise SDICError(
                f"The latents have shape {shape}, but [batch, {needed[0]}, {needed[1]}] is needed: one "
                "row per style of this generator."
            )

    # The steps of an inversion.

    def prepare_image(self, image: ImageInput | Sequence[ImageInput]) -> torch.Tensor:
        """Turn photos of any kind into the encoder's input, [B, 3, H, W] in [-1, 1]."""
        return self.image_processor.preprocess(image)

    @torch.no_grad()
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Find W+ latents [B, num_styles, D] of prepared images [B, 3, H, W] in [-1, 1]."""
        return self.encoder(image.to(self._execution_device))

    @torch.no_grad()
    def compensate(self, image: torch.Tensor, latents: torch.Tensor) -> SDICInversion:
        """Predict what `latents` lost of the image and put it back (method, section 4, steps 2 to 4).

        Args:
            image: Prepared images, [B, 3, H, W] in [-1, 1].
            latents: W+, [B, num_styles, D].
        """
        device = self._execution_device
        image, latents = image.to(device), latents.to(device)
        # 2. Initial reconstruction and its features.
        generator = self.inverting_generator
        first = generator(latents)
        # 3. Discrepancy.
        discrepancy = self.dipn(image, self.shrink_initial(first.image))
        # 4. Compensation.
        config = generator.config
        first_row, _ = feature_rows(config.content_rows, config.resolution, config.feature_resolution)
        compensated = self.dicn(discrepancy, first.features, latents, first_row=first_row)
        features, latents_after = compensated.compensated_features, compensated.compensated_latents
        # Once per photo, so that an edit is one pass: what the hook gives for the compensated latents.
        styles = generator.styles(latents_after)
        reference = generator(styles=styles, stop_at_features=True)
        begun = (reference.features, reference.skip_image)
        for look in range(len(self.dicn.looks)):
            rendered = generator(styles=styles, features=features, start_at_features=begun)
            rendering = self.shrink_initial(rendered.image)
            features = self.dicn.look_again(image, discrepancy, rendering, features, first_row, look)
        inversion = SDICInversion(
            image=image,
            latents=latents,
            initial=first.image,
            features=first.features,
            discrepancy=discrepancy,
            compensated_latents=latents_after,
            compensated_features=features,
            reference_features=reference.features,
            reference_skip_image=reference.skip_image,
            generator_id=generator.config.generator_id,
        )
        return self._with_transport_at_rest(inversion)

    def _with_transport_at_rest(self, inversion: SDICInversion) -> SDICInversion:
        """Compute what an edit would otherwise compute each time."""
        if self.transport is None:
            return inversion
        compensated, reference = inversion.compensated_features, inversion.reference_features
        at_rest = self.transport(compensated, reference, torch.zeros_like(reference))
        return dataclasses.replace(inversion, transport_at_rest=at_rest, transport_key=module_key(self.transport))

    def shrink_initial(self, initial: torch.Tensor) -> torch.Tensor:
        """Clamp a rendering [B, 3, R, R], resize to the encoder's width, and cut to its picture: [B, 3, h, S]."""
        width, resolution = self.encoder.config.image_size, self.generator.config.resolution
        square = F.interpolate(initial.clamp(-1, 1), size=(width, width), mode="bilinear", align_corners=False)
        rows = self.output_rows
        return square[:, :, rows.start * width // resolution : rows.stop * width // resolution]

    @torch.no_grad()
    def invert(
        self,
        image: ImageInput | Sequence[ImageInput],
        latents: LatentsInput | None = None,
        batch_size: int = 8,
        refine_steps: int = 0,
        check_subject: bool = True,
    ) -> SDICInversion:
        """Invert photos; do this once per photo, then call `edit` as often as you like.

        Args:
            image: A PIL image, path, array or tensor in [0, 1] (or uint8), or a list of them.
            latents: W+ [B, num_styles, D] to start from, instead of the encoder's; a tensor or array.
            batch_size: Images per pass; more photos show a progress bar.
            refine_steps: Steps of an optimisation on top (see `sdic_plugin.pipeline.refinement`): each costs about
                three passes of the generator, brings more detail back, and leaves edits a little less room.
            check_subject: Log a warning of photos that look unlike the pictures the model was trained on, where it
                knows what those are like (see `subject_warning`); photos with `latents` of yours are not judged.
        """
        latents = None if latents is None else latents_tensor("latents", latents)
        self.check_inputs(image, latents=latents)
        if refine_steps < 0:
            raise SDICError(f"refine_steps is {refine_steps}, but must be 0 or more.")
        images = self.prepare_image(image)
        if latents is not None and len(latents) != len(images):
            raise SDICError(f"{len(latents)} latents were given for {len(images)} images: give one each.")
        if latents is not None:
            check_finite("latents", [latents])
        parts = []
        for rows in self._batches(len(images), batch_size):
            found = self.encode(images[rows]) if latents is None else latents[rows].float()
            part = self.compensate(images[rows], found)
            parts.append(part if refine_steps == 0 else self.refine(part, refine_steps))
        self.maybe_free_model_hooks()
        inversion = parts[0] if len(parts) == 1 else SDICInversion.cat(parts)
        warning = self.subject_warning(inversion) if check_subject and latents is None else None
        if warning is not None:
            subject_logger.warning(warning)
        return inversion

    @torch.no_grad()
    def refine(self, inversion: SDICInversion, steps: int) -> SDICInversion:
        """Optimise an inversion for `steps` steps; see `sdic_plugin.pipeline.refinement`."""
        refined = refine(self.inverting_generator, inversion.to(self._execution_device), self.shrink_initial, steps)
        return self.with_latents(refined, refined.compensated_latents)

    @torch.no_grad()
    def with_latents(self, inversion: SDICInversion, latents: LatentsInput) -> SDICInversion:
        """Return an inversion with other compensated latents [B, num_styles, D], such as means over a video.

        It is then what edits start from: its compensated features stay, what depends on the latents is renewed.
        """
        latents = latents_tensor("latents", latents).to(inversion.compensated_latents)
        reference = self.inverting_generator(latents, stop_at_features=True)
        return self._with_transport_at_rest(
            dataclasses.replace(
                inversion,
                compensated_latents=latents,
                reference_features=reference.features,
                reference_skip_image=reference.skip_image,
            )
        )

    def load_inversion(self, path: str | os.PathLike[str]) -> SDICInversion:
        """Read an inversion that `SDICInversion.save` wrote onto this pipeline's device, if it belongs to it.

        Raises:
            CheckpointError: If the file is no inversion, is damaged, or was made with another generator.
        """
        inversion = SDICInversion.load(path, self._execution_device)
        self.check_inversion(inversion)
        return inversion

    def check_inversion(self, inversion: SDICInversion) -> None:
        """Raise CheckpointError, as `edit` does, unless an inversion belongs to this pipeline."""
        check_inversion(inversion, self.inverting_generator, self.image_size)

    # Photos of something else.

    def learn_subject(self, image: ImageInput | Sequence[ImageInput], batch_size: int = 8) -> SubjectReference:
        """Measure what the model's own kind of picture is like, so that `invert` warns of others; `save` keeps it.

        Args:
            image: 50 aligned pictures or more that the networks were not trained on, as for `invert`; some hundred
                give a better threshold.
            batch_size: Pictures per pass.

        Raises:
            SDICError: If there are too few pictures, or they are all alike.
        """
        images = self.prepare_image(image)
        initial = []
        with torch.no_grad():
            for rows in self._batches(len(images), batch_size):
                rendered = self.inverting_generator(self.encode(images[rows])).image
                initial.append(self.shrink_initial(rendered).float().cpu())
        self.maybe_free_model_hooks()
        self._subject = SubjectReference.measure(images.float().cpu(), torch.cat(initial))
        self.register_to_config(subject=self._subject.to_dict())
        return self._subject

    @torch.no_grad()
    def find_unlike(self, inversion: SDICInversion) -> list[int]:
        """Which photos of an inversion look unlike the model's own kind; none where the model has no reference."""
        if self._subject is None:
            return []
        return find_unlike(self._subject, inversion.image, self.shrink_initial(inversion.initial))

    def subject_warning(self, inversion: SDICInversion, advice: str | None = None) -> str | None:
        """Return a sentence where photos look unlike the pictures the model was trained on, else None.

        Args:
            inversion: What `invert` returned for photos, from the encoder's latents.
            advice: What to do; by default for code.
        """
        found = self.find_unlike(inversion)
        usual = ADVICE if self.config.alignment is None else ADVICE_WITH_EYES
        return warning_of(found, len(inversion), advice or usual) if found else None

    # Rendering: one generator pass each.

    @overload
    def edit(
        self,
        inversion: SDICInversion,
        edits: Mapping[str, Strength] | None = None,
        *,
        output_type: Literal["pil"] = "pil",
        return_dict: Literal[True] = True,
        **options: Unpack[EditOptions],
    ) -> SDICPipelineOutput[list[Image.Image]]: ...

    @overload
    def edit(
        self,
        inversion: SDICInversion,
        edits: Mapping[str, Strength] | None = None,
        *,
        output_type: Literal["pt", "latent"],
        return_dict: Literal[True] = True,
        **options: Unpack[EditOptions],
    ) -> SDICPipelineOutput[torch.Tensor]: ...

    @overload
    def edit(
        self,
        inversion: SDICInversion,
        edits: Mapping[str, Strength] | None = None,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Unpack[EditOptions],
    ) -> SDICPipelineOutput[Any] | tuple[Any]: ...

    @torch.no_grad()
    def edit(
        self,
        inversion: SDICInversion,
        edits: Mapping[str, Strength] | None = None,
        latents: LatentsInput | None = None,
        latents_from: str = "compensated",
        styles: Sequence[LatentsInput] | None = None,
        feature_edit: str | None = None,
        compensation: float = 1.0,
        mask: MaskInput | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        batch_size: int = 8,
    ) -> SDICPipelineOutput[Any] | tuple[Any]:
        """Render an inversion, edited or not, in one generator pass per image.

        Args:
            inversion: What `invert` returned.
            edits: Strength by name of loaded edits; a sequence gives one strength per image, of one image as many
                pictures as strengths. None takes the active ones (`set_edits`), `{}` none.
            latents: Edited W+ [B, num_styles, D] from any tool, a tensor or array, rendered as given; named edits come
                on top.
            styles: Edited StyleSpace from any tool, one tensor or array [B or 1, C_i] per modulated layer (see
                `generator.styles`), instead of latents; named edits in StyleSpace come on top.
            latents_from: What `latents` are an edit of: "compensated" (`inversion.compensated_latents`) or "initial"
                (`inversion.latents`; the difference is then added to the compensated ones).
            feature_edit: "continuous" or "official"; None for the pipeline's default.
            compensation: How much of the photo's detail to put back, in [0, 1]; 0 is the plain edited latents.
            mask: Image or array [H, W] in [0, 1] that scales the compensation: 1 trusts the photo, 0 the edit. "auto"
                (or an `AutoMask` with settings of your own) finds where the edit acts, which costs one more pass.
            output_type: "pil", "np", "pt" or "latent" (the W+ latents instead of images).
            return_dict: Return an `SDICPipelineOutput` rather than a tuple.
            batch_size: Images per pass; more show a progress bar.
        """
        edits = self._active_edits if edits is None else edits
        # 1. Check inputs.
        latents = None if latents is None else latents_tensor("latents", latents)
        self.check_edit_inputs(latents, edits, feature_edit, compensation, output_type)
        self.check_inversion(inversion)
        inversion = one_per_strength(inversion.to(self._execution_device), edits)
        # 2. Edited latents, or StyleSpace.
        code = self.edited_code(inversion, edits, latents, latents_from, styles)
        if output_type == "latent":
            self.maybe_free_model_hooks()
            return _returned(check_is_latents(code), return_dict)
        # 3. The rule at the hook. Without an edit there is nothing to follow: both rules are then the inversion.
        changed = bool(edits) or latents is not None or styles is not None
        rule = (feature_edit or self.config.feature_edit) if changed else "continuous"
        # 4. How much of the compensation stays where.
        if isinstance(mask, str) and mask == "auto":
            mask = AutoMask()
        automatic, given = (mask, None) if isinstance(mask, AutoMask) else (None, mask)
        weight = self._compensation_weight(compensation, given, len(inversion))
        # 5. One generator pass per image, and one more for an automatic mask.
        parts = []
        for rows in self._batches(len(inversion), batch_size):
            part, part_code = inversion[rows], code_rows(code, rows)
            part_weight = weight[rows] if isinstance(weight, torch.Tensor) and len(weight) > 1 else weight
            if automatic is not None:
                part_weight = part_weight * self.find_mask(part, part_code, automatic)
            hook = self.feature_hook(part, rule, part_weight)
            parts.append(self.synthesize(part_code, hook, self.begun_pass(part, part_code)))
        # 6. Pictures.
        rendered = parts[0] if len(parts) == 1 else torch.cat(parts)
        images = self.image_processor.postprocess(rendered, output_type)
        self.maybe_free_model_hooks()
        return _returned(images, return_dict)

    # The steps of an edit.

    def edited_code(
        self,
        inversion: SDICInversion,
        edits: Mapping[str, Strength] | None = None,
        latents: LatentsInput | None = None,
        latents_from: str = "compensated",
        styles: Sequence[LatentsInput] | None = None,
    ) -> Code:
        """Return what an edit renders: W+ latents [B, num_styles, D], or StyleSpace, one [B, C_i] per modulated layer.

        Arguments as for `edit`.
        """
        check_choice("latents_from", latents_from, ("compensated", "initial"))
        if styles is None:
            given = None if latents is None else latents_tensor("latents", latents)
            return self.apply_edits(latents_to_render(inversion, given, latents_from), edits or {})
        if latents is not None:
            raise SDICError("Both latents and styles were given, but styles stand in for latents: give one.")
        if latents_from != "compensated":
            raise SDICError(
                f"Both styles and latents_from={latents_from!r} were given, but styles are rendered as they are: "
                "leave latents_from out."
            )
        rows = styles_to_render(inversion, styles_tensors(styles))
        return self.apply_style_edits([row.to(self.generator.dtype) for row in rows], edits or {})

    def feature_hook(
        self, inversion: SDICInversion, rule: str, weight: float | torch.Tensor, transport: bool = True
    ) -> FeatureHook:
        """Return what the generator does at the hook; see `sdic_plugin.pipeline.rendering.feature_hook`."""
        return feature_hook(inversion, rule, weight, self.transport if transport else None)

    def begun_pass(self, inversion: SDICInversion, code: Code) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the inversion knows of the pass that renders a code: all up to the hook, if the edit begins after it.

        Args:
            inversion: The photos' inversion.
            code: As `edited_code` gives it.

        Returns:
            For `synthesize`; None where the edit changes layers before the hook, or the generator is another.
        """
        return None if self._inverting_generator is not None else begun_pass(self.generator, inversion, code)

    @torch.no_grad()
    def synthesize(
        self,
        latents: Code,
        features: FeatureHook | None = None,
        begun: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Render latents to images [B, 3, H, W], unclamped, cut to the picture's rows.

        Args:
            latents: W+ [B, num_styles, D], or StyleSpace, a list of [B, C_i] per modulated layer.
            features: Stands in for the hook's features, as in `StyleGAN2Generator`.
            begun: `start_at_features` of `StyleGAN2Generator`.
        """
        code: dict[str, Any] = {"latents": latents} if isinstance(latents, torch.Tensor) else {"styles": latents}
        return self.generator(**code, features=features, start_at_features=begun).image[:, :, self.output_rows]

    @torch.no_grad()
    def find_mask(self, inversion: SDICInversion, code: Code, settings: AutoMask | None = None) -> torch.Tensor:
        """Find where an edit leaves the picture alone: one pass, which edits the initial reconstruction.

        Args:
            inversion: The photos' inversion.
            code: What the edit renders, as `edited_code` gives it.
            settings: None for the defaults.

        Returns:
            [B, 1, r, r] in [0, 1]: 1 where all compensation stays, 0 where none does.
        """
        return find_mask(self.generator, inversion, code, settings or AutoMask())

    def _compensation_weight(
        self, compensation: float, mask: ImageInput | Sequence[ImageInput] | None, batch: int
    ) -> float | torch.Tensor:
        weight = compensation_weight(self.generator, self.image_processor, compensation, mask, batch)
        if isinstance(weight, torch.Tensor):
            weight = weight.to(self._execution_device, self.generator.dtype)
        return weight

    def _batches(self, count: int, batch_size: int) -> Iterable[slice]:
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise SDICError(f"batch_size is {batch_size!r}, but must be a whole number, at least 1.")
        batches = [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        return self.progress_bar(batches) if len(batches) > 1 else batches

    # Both in one call.

    @overload
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        edits: Mapping[str, Strength] | None = None,
        *,
        output_type: Literal["pil"] = "pil",
        return_dict: Literal[True] = True,
        **options: Unpack[CallOptions],
    ) -> SDICPipelineOutput[list[Image.Image]]: ...

    @overload
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        edits: Mapping[str, Strength] | None = None,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Unpack[CallOptions],
    ) -> SDICPipelineOutput[Any] | tuple[Any]: ...

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput] | None = None,
        edits: Mapping[str, Strength] | None = None,
        latents: LatentsInput | None = None,
        feature_edit: str | None = None,
        compensation: float = 1.0,
        mask: MaskInput | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        batch_size: int = 8,
    ) -> SDICPipelineOutput[Any] | tuple[Any]:
        """Invert photos and edit them; without edits, return the inversions.

        Args:
            image: A PIL image, path, array or tensor in [0, 1] (or uint8), or a list of them.
            edits: Strength by name of loaded edits; a sequence gives one strength per image. None takes the active
                ones.
            latents: W+ [B, num_styles, D] that replace the encoder's; a tensor or array.
            feature_edit: "continuous" or "official"; None for the pipeline's default.
            compensation: How much of the photo's detail to put back, in [0, 1].
            mask: Image or array [H, W] in [0, 1] that scales the compensation, or "auto"; see `edit`.
            generator: A torch random generator, taken as every diffusers pipeline takes it; nothing here is random
                (the generator's noise is fixed), so it has no effect.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Return an `SDICPipelineOutput` rather than a tuple.
            batch_size: Images per pass.

        Returns:
            The rendered images; see `SDICPipelineOutput`.

        Examples:
        """  # noqa: D414
        # 1. Check inputs.
        self.check_inputs(image, latents, edits, feature_edit, compensation, output_type)
        assert image is not None  # or it had been refused
        # 2. Invert.
        inversion = self.invert(image, latents=latents, batch_size=batch_size)
        # 3. Render.
        return self.edit(
            inversion,
            edits=edits,
            feature_edit=feature_edit,
            compensation=compensation,
            mask=mask,
            output_type=output_type,
            return_dict=return_dict,
            batch_size=batch_size,
        )


def _returned(images: Any, return_dict: bool) -> SDICPipelineOutput[Any] | tuple[Any]:
    return SDICPipelineOutput(images=images) if return_dict else (images,)


def one_per_strength(inversion: SDICInversion, edits: Mapping[str, Strength] | None) -> SDICInversion:
    """Repeat an inversion of one image for edits that name several strengths; others stay as they are."""
    counts = [len(strengths_per_image(name, strength)) for name, strength in (edits or {}).items()]
    return inversion.repeat(max(counts)) if len(inversion) == 1 and counts and max(counts) > 1 else inversion
