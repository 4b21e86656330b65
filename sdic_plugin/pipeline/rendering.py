"""What an edit renders, and what the generator does at the hook meanwhile (method, section 4, steps 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from sdic_plugin.edits.base import Code
from sdic_plugin.edits.loader import Strength
from sdic_plugin.errors import EditError, SDICError
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.dicn import feature_rows
from sdic_plugin.models.stylegan2 import FeatureHook
from sdic_plugin.pipeline.auto_mask import AutoMask
from sdic_plugin.pipeline.output import SDICInversion


class RenderingMixin:
    """Gives a pipeline with a `generator` and edits the pieces of its `edit`."""

    generator: StyleGAN2Generator
    image_size: tuple[int, int]
    output_rows: slice

    def edited_code(
        self,
        inversion: SDICInversion,
        edits: Mapping[str, Strength] | None = None,
        latents: torch.Tensor | None = None,
        latents_from: str = "compensated",
        styles: Sequence[torch.Tensor] | None = None,
    ) -> Code:
        """Return what an edit renders: W+ latents [B, num_styles, D], or StyleSpace, one [B, C_i] per modulated layer.

        Arguments as for `edit`.
        """
        self._check_choice("latents_from", latents_from, ("compensated", "initial"))
        if styles is not None:
            if latents is not None:
                raise SDICError("Both latents and styles were given, but styles stand in for latents: give one.")
            return self.apply_style_edits([style.to(inversion.latents.device) for style in styles], edits or {})
        edited = inversion.compensated_latents
        if latents is not None:
            if len(latents) not in (1, len(inversion)):
                raise SDICError(f"{len(latents)} latents were given for {len(inversion)} images: give one each.")
            latents = latents.to(edited).expand_as(edited)
            edited = latents if latents_from == "compensated" else edited + (latents - inversion.latents)
        return self.apply_edits(edited, edits or {})

    @staticmethod
    def _check_is_latents(code: Code) -> torch.Tensor:
        if not isinstance(code, torch.Tensor):
            raise EditError(
                'output_type is "latent", but an edit acts in StyleSpace, which W+ latents cannot hold: ask for '
                "images, or take `edited_code`."
            )
        return code

    @staticmethod
    def feature_hook(
        inversion: SDICInversion, rule: str, weight: float | torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what the generator does at the hook (method, section 4, step 6).

        Args:
            inversion: The photo's inversion.
            rule: "continuous" or "official".
            weight: Compensation times mask, a number or [B or 1, 1, r, r].
        """
        reference = inversion.reference_features if rule == "continuous" else inversion.features

        def follow_edit(features: torch.Tensor) -> torch.Tensor:
            full = inversion.compensated_features + (features - reference)
            return torch.lerp(features, full.to(features.dtype), weight)

        return follow_edit

    def begun_pass(self, inversion: SDICInversion, code: Code) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the inversion knows of the pass that renders a code: all up to the hook, if the edit begins after it.

        Args:
            inversion: The photos' inversion.
            code: As `edited_code` gives it.

        Returns:
            For `synthesize`; None where the edit changes layers before the hook, or the generator is another.
        """
        generator, own = self.generator, inversion.compensated_latents
        skip_image, features = inversion.reference_skip_image, inversion.reference_features
        if skip_image is None or self._inverting_generator is not None or features.dtype != generator.dtype:
            return None
        if isinstance(code, torch.Tensor):
            rows = generator.rows_before_hook
            same = torch.equal(code[:, :rows], own[:, :rows])
        else:
            pairs = zip(code[: generator.styles_before_hook], generator.styles(own), strict=False)
            same = all(torch.equal(style, before) for style, before in pairs)
        return (features, skip_image) if same else None

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
        code = {"latents": latents} if isinstance(latents, torch.Tensor) else {"styles": latents}
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
        if isinstance(code, torch.Tensor):
            edited = self.generator(inversion.latents + (code - inversion.compensated_latents))
        else:
            pairs = zip(*map(self.generator.styles, (inversion.latents, inversion.compensated_latents)), strict=True)
            moved = [initial + (style - own) for style, (initial, own) in zip(code, pairs, strict=True)]
            edited = self.generator(styles=moved)
        size = self.generator.config.feature_resolution
        return (settings or AutoMask()).keep(edited.image, inversion.initial, size).to(self.generator.dtype)

    def _compensation_weight(self, compensation: float, mask: object, batch: int) -> float | torch.Tensor:
        """Combine compensation and mask to a number, or to a map [B or 1, 1, r, r] at the hook."""
        if mask is None:
            return float(compensation)
        config = self.generator.config
        size = config.feature_resolution
        first, last = feature_rows(config.content_rows, config.resolution, size)
        weight = SDICImageProcessor(*self.image_size).preprocess_mask(mask, last - first, size, batch)
        # Beyond the picture's rows it goes on as at the edge, so that a mask of zeros is no compensation at all.
        weight = F.pad(weight, (0, 0, first, size - last), mode="replicate")
        return (compensation * weight).to(self._execution_device, self.generator.dtype)
